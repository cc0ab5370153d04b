// Flood: a bulk TCP stream through the guest's echo, in both directions at once, as fast as the
// guest takes it. Used by the benchmark of handovers. Invariant: every byte that comes back is
// compared with the byte that was sent.
#pragma once

#include <atomic>
#include <cstdint>
#include <string>
#include <thread>
#include <vector>

#include "core/fd.hpp"
#include "tests/support/lab.hpp"

namespace bench {

class Flood {
public:
    static constexpr int port = 7001;  ///< The witness's TCP echo.

    /// Connects from the client. Throws when no server answers.
    Flood(lab::Lab const& net, std::string const& address);
    ~Flood();
    Flood(Flood const&) = delete;
    Flood& operator=(Flood const&) = delete;

    /// The client's port of this session.
    [[nodiscard]] std::string local_port() const;
    /// Ends the stream. Throws when the session ended earlier, or a byte came back wrong.
    void finish();

    /// Bytes that came back; after finish().
    [[nodiscard]] std::uint64_t received() const { return received_; }
    /// The rate of the bytes that came back, from that moment on for `span_ms`; after finish().
    [[nodiscard]] double bytes_per_second(double from_ms, double span_ms) const;
    /// How long after `from_ms` the first span of `window_ms` begins in which the rate was at least
    /// `wanted` bytes per second; -1: never.
    [[nodiscard]] double reached_after_ms(double from_ms, double wanted, double window_ms) const;
    /// The longest time before that moment without a byte; after finish().
    [[nodiscard]] double longest_silence_ms(double before_ms) const;

private:
    /// The number of bytes that had come back at a moment of the wall clock.
    struct Mark {
        double at_ms;
        std::uint64_t bytes;
    };
    void run();
    [[nodiscard]] bool take();
    [[nodiscard]] bool give();
    [[nodiscard]] double bytes_at(double at_ms) const;

    core::Fd socket_;
    std::string pattern_;
    std::uint64_t sent_ = 0;
    std::vector<Mark> marks_;
    std::uint64_t received_ = 0;
    std::string wrong_;
    std::atomic<bool> over_ = false;
    std::thread thread_;
};

}  // namespace bench
