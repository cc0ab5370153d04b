// Qmp: a small blocking QMP client, independent of the program's own. Tests use it to inspect a
// QEMU, and the benchmarks to drive the peer. One thread, one connection.
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
        std::int64_t timestamp_us = 0;  ///< QEMU's own timestamp, from the machine's wall clock.
    };

    /// The longest wait for a reply or an event, unless the caller gives another limit.
    static constexpr Milliseconds reply_limit = 30s;

    /// Waits until the socket accepts, connects, and leaves negotiation mode.
    explicit Qmp(fs::path const& socket, Milliseconds limit = reply_limit);

    /// The reply's `return`. Throws on an error from QEMU, on silence, and at the end of the
    /// connection.
    core::Json execute(std::string const& command, core::Json arguments = {});
    /// The text of QEMU's error; empty when the command succeeded.
    std::string refusal(std::string const& command, core::Json arguments = {});
    /// The first event of that name that has not been taken yet; earlier events stay for later.
    Event wait_event(std::string const& name, Milliseconds limit = reply_limit);
    /// The first event for which `wanted` is true.
    Event wait_event_if(std::string const& what, std::function<bool(Event const&)> const& wanted,
                        Milliseconds limit = reply_limit);
    /// Drops the events that have arrived.
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
