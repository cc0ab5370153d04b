// PacketLine: a long line that loses packets, for kernels without netem. Two taps, one in each of
// two network namespaces, and a thread that carries frames between them, each delayed by half a
// round trip. Unlike with DelayLine, slow start, windows and retransmissions are the kernel's own
// TCP. Invariant: frames of one direction keep their order. Frames are lost at random, or because
// the line is full; both are counted.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <string>
#include <thread>

#include "core/fd.hpp"

namespace lab {

class PacketLine {
public:
    static constexpr char const* near_address = "10.79.0.1";
    static constexpr char const* far_address = "10.79.0.2";

    /// `loss`: the share of frames that never arrive, in each direction.
    PacketLine(std::string const& near_netns, std::string const& far_netns,
               std::chrono::microseconds round_trip, double loss);
    /// Removes the taps.
    ~PacketLine();
    PacketLine(PacketLine const&) = delete;
    PacketLine& operator=(PacketLine const&) = delete;

    /// No frame arrives at either end until release().
    void hold();
    void release();
    [[nodiscard]] std::uint64_t carried() const { return carried_; }
    [[nodiscard]] std::uint64_t lost() const { return lost_; }
    /// The part of them that was lost because the line was full.
    [[nodiscard]] std::uint64_t overflowed() const { return overflowed_; }

private:
    void wake();
    void run(std::chrono::microseconds one_way, double loss);

    core::Fd keep_converged_;
    core::Fd far_;
    core::Fd wake_;
    std::atomic<bool> held_ = false;
    std::atomic<bool> over_ = false;
    std::atomic<std::uint64_t> carried_ = 0;
    std::atomic<std::uint64_t> lost_ = 0;
    std::atomic<std::uint64_t> overflowed_ = 0;
    std::thread thread_;
};

}  // namespace lab
