// GiveWay: this process behind the others of its machine, for a while. Used by the source's
// driver, so that a guest does not feel that its disk is copied.
#pragma once

#include <optional>

namespace core {

/// While it lives, this thread has a nice value higher by `steps` (19 at most), and what it starts
/// as well. Where the kernel shares the processor out by session (sched(7), "The autogroup
/// feature"), a nice value says nothing to other sessions: there the session gets the same steps,
/// if this process leads it, as a service does. Nothing happens where it could not come back: that
/// takes CAP_SYS_NICE or RLIMIT_NICE.
class GiveWay {
public:
    explicit GiveWay(int steps);
    ~GiveWay();
    GiveWay(GiveWay const&) = delete;
    GiveWay& operator=(GiveWay const&) = delete;

private:
    std::optional<int> before_;
    std::optional<int> session_before_;
};

}  // namespace core
