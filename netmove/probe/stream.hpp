// The prober's side of `sidecar probe`: a numbered UDP stream (ProbeStream) and a TCP session of
// numbered lines (ProbeSession) to one address. Used by probe.cpp, which runs them beside each
// other. Invariant: what leaves is timed by absolute deadlines, so it never drifts; and what
// this program or this host was late with is counted apart from what the network did.
#pragma once

#include <memory>
#include <string>

#include "core/fd.hpp"
#include "core/loop.hpp"
#include "core/sync.hpp"
#include "netmove/address.hpp"
#include "netmove/probe/account.hpp"
#include "netmove/probe/socket.hpp"

namespace netmove {

struct ProbeSettings {
    /// A G.711 call, as in Harney et al., "The efficacy of live virtual machine migrations over the
    /// internet" (VTDC 2007): 210 bytes every 20 ms.
    core::Clock::duration period = core::milliseconds{20};
    std::size_t bytes = 210;  ///< Of UDP's payload.
    std::uint16_t port = probe_port;
    bool tcp = true;
};

/// What this host did to its own measurement.
struct ProbeHiccups {
    core::Clock::duration late_max{};  ///< The longest that a probe left after its time.
    std::uint64_t skipped = 0;  ///< Probes whose time was over for more than 1 s: never made.
    std::uint64_t unsent = 0;  ///< The kernel had no room to send: never numbered.
    std::uint64_t refused = 0;  ///< Sends and receives that failed: no route, ICMP errors.
    std::uint64_t overflowed = 0;  ///< Answers that our socket had no room for: lost here.
};

/// When the next of something is due that happens every period.
class ProbePace {
public:
    explicit ProbePace(core::Clock::duration period) : period_(period) {}
    [[nodiscard]] core::Clock::time_point next() const { return next_; }
    /// Whether one is due now; it is then taken.
    bool take(core::Clock::time_point now, ProbeHiccups& hiccups);

private:
    core::Clock::duration period_;
    core::Clock::time_point next_ = core::Clock::now();
};

class ProbeStream {
public:
    static core::Result<std::unique_ptr<ProbeStream>> open(core::Loop& loop, Address const& address,
                                                           ProbeSettings const& settings);
    /// Sends until `deadline`, or until the account is full.
    core::Task<void> send(core::Deadline deadline);
    /// Takes answers until stopped.
    core::Task<void> receive(std::stop_token token);
    /// After the last probe: waits for answers under way, as long as some come, and asks what the
    /// echo knows. Ends when it has told, or gives up: after 3 s of silence, 16 s at most.
    core::Task<void> conclude();

    [[nodiscard]] ProbeAccount& account() { return account_; }
    [[nodiscard]] ProbeHiccups const& hiccups() const { return hiccups_; }

private:
    ProbeStream(core::Loop& loop, ProbeSettings const& settings, core::Fd socket);
    void send_one();
    bool take_one(std::span<std::byte> room);
    [[nodiscard]] int transmit(ProbeDatagram const& datagram);

    core::Loop& loop_;
    ProbeSettings settings_;
    core::Fd socket_;
    std::uint64_t session_;
    ProbePace pace_;
    ProbeAccount account_;
    ProbeHiccups hiccups_;
    std::vector<std::byte> room_;
    core::Event progress_;  ///< An answer came.
};

/// What became of the TCP session, or of the ones after it.
struct ProbeTcpFigures {
    std::uint64_t sessions = 0;  ///< That were made.
    std::uint64_t ended = 0;  ///< By reset, by the other side, or by a wrong line.
    std::uint64_t failed = 0;  ///< Attempts to connect that failed.
    std::uint64_t sent = 0;  ///< Lines.
    std::uint64_t answered = 0;
    std::uint64_t wrong = 0;  ///< Lines that came back otherwise than they went.
    std::uint64_t held_back = 0;  ///< Lines never made, since 64 KiB waited to be sent already.
    std::uint64_t retransmitted = 0;  ///< Segments, by our kernel (tcpi_total_retrans).
    ArrivalGap stall{};  ///< Between two arrivals, over all sessions.
};

class ProbeSession {
public:
    ProbeSession(core::Loop& loop, Address const& address, ProbeSettings const& settings);
    /// Connects, again after an end, sends and takes lines until stopped.
    core::Task<void> run(std::stop_token token);
    /// No further line; waits up to 1 s until all are answered.
    core::Task<void> conclude();
    [[nodiscard]] ProbeTcpFigures const& figures() const { return figures_; }

private:
    core::Task<void> one_session(std::stop_token token);
    core::Task<void> write_lines(int fd, std::stop_token token);
    core::Task<core::Result<>> read_lines(int fd, std::stop_token token);
    core::Result<> flush(int fd);
    core::Result<> take_lines(std::string& text);

    core::Loop& loop_;
    SocketAddress address_;
    ProbePace pace_;
    ProbeTcpFigures figures_;
    ProbeHiccups hiccups_;  ///< Of the lines' pace; the stream's tell the same of this host.
    std::string waiting_;  ///< To be sent.
    std::uint64_t next_line_ = 0;  ///< To be sent in this session.
    std::uint64_t next_back_ = 0;  ///< To come back in this session.
    bool greeted_ = false;
    bool concluding_ = false;
    core::Event progress_;
};

}  // namespace netmove
