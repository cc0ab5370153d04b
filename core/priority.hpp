// ScopedNice and ScopedRealtime: this process gets less processor time than others, or more, for
// a while. Used by the drivers: a guest shall not feel that its disk is copied, and one that is
// stopped shall not wait for a processor that others have.
#pragma once

#include <optional>

namespace core {

/// While it lives, this thread has a nice value higher by `steps` (19 at most), and what it starts
/// as well. Where the kernel shares the processor out by session (sched(7), "The autogroup
/// feature"), a nice value says nothing to other sessions: there the session gets the same steps,
/// if this process leads it, as a service does. Nothing happens where it could not come back: that
/// takes CAP_SYS_NICE or RLIMIT_NICE.
class ScopedNice {
public:
    explicit ScopedNice(int steps);
    ~ScopedNice();
    ScopedNice(ScopedNice const&) = delete;
    ScopedNice& operator=(ScopedNice const&) = delete;

private:
    std::optional<int> before_;
    std::optional<int> session_before_;
};

/// While one lives, this thread has the least of the real-time priorities (SCHED_RR, sched(7)): it
/// need not wait for a processor that a program without one has. What it starts does not get it.
/// For a time that is short, and mostly waiting. Nothing happens where that is not allowed: it
/// takes CAP_SYS_NICE or RLIMIT_RTPRIO.
class ScopedRealtime {
public:
    ScopedRealtime();
    ~ScopedRealtime();
    ScopedRealtime(ScopedRealtime const&) = delete;
    ScopedRealtime& operator=(ScopedRealtime const&) = delete;
};

}  // namespace core
