// Qmp: a small blocking QMP client, independent of the program's own, through which tests look at a
// QEMU and the benchmarks drive their peer. One thread, one connection.
#pragma once

#include <deque>
#include <string>

#include "tests/support/command.hpp"

namespace lab {

class Qmp {
public:
    struct Event {
        std::string name;
        core::Json data;
        std::int64_t timestamp_us = 0;  ///< QEMU's own, of the machine's wall clock.
    };

    /// Longest wait for a reply or an event where the caller names no other.
    static constexpr Milliseconds reply_limit = 30s;

    /// Connects (waiting until the socket accepts) and leaves negotiation mode.
    explicit Qmp(fs::path const& socket, Milliseconds limit = reply_limit);

    /// The reply's `return`. Throws on QEMU's error, on silence and on a closed connection.
    core::Json execute(std::string const& command, core::Json arguments = {});
    /// The text of QEMU's error; empty when the command succeeded.
    std::string refusal(std::string const& command, core::Json arguments = {});
    /// The first event of that name that has not been taken yet; those before it stay for later.
    Event wait_event(std::string const& name, Milliseconds limit = reply_limit);
    /// The first event for which `wanted` is true.
    Event wait_event_if(std::string const& what, std::function<bool(Event const&)> const& wanted,
                        Milliseconds limit = reply_limit);
    /// Forgets the events that have arrived.
    void forget_events();
    std::string status();  ///< query-status: running, paused, ...

private:
    core::Json exchange(std::string const& command, core::Json arguments);
    void send_line(std::string const& line);
    core::Json read_message(std::chrono::steady_clock::time_point until);
    void keep_event(core::Json const& message);

    core::Fd socket_;
    std::string received_;
    std::deque<Event> events_;
    int next_id_ = 0;
};

}  // namespace lab
