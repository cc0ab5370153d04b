#include "core/priority.hpp"

#include <fcntl.h>
#include <sched.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdio>
#include <string>

#include "core/fd.hpp"
#include "core/log.hpp"

namespace core {

namespace {

constexpr int nice_max = 19;
constexpr char const* session_path = "/proc/self/autogroup";

/// The nice value of this process's session, if it is for this process alone to say; none also
/// where the kernel knows no such thing.
std::optional<int> session_nice() {
    if (getsid(0) != getpid()) return {};
    Fd const file(::open(session_path, O_RDONLY | O_CLOEXEC));
    std::array<char, 64> text{};
    if (!file || ::read(file.get(), text.data(), text.size() - 1) <= 0) return {};
    int value = 0;
    if (std::sscanf(text.data(), "/autogroup-%*d nice %d", &value) != 1) return {};
    return value;
}

bool set_session_nice(int value) {
    Fd const file(::open(session_path, O_WRONLY | O_CLOEXEC));
    auto const text = std::to_string(value);
    return file && ::write(file.get(), text.data(), text.size()) > 0;
}

/// How many of this thread's ScopedRealtime live: guests move at the same time. `ahead_before` is
/// the policy to come back to, if the first of them changed anything.
thread_local int ahead = 0;
thread_local std::optional<int> ahead_before;

bool set_policy(int policy, int priority) {
    sched_param parameter{};
    parameter.sched_priority = priority;
    return sched_setscheduler(0, policy, &parameter) == 0;
}

}  // namespace

ScopedNice::ScopedNice(int steps) {
    errno = 0;
    int const before = getpriority(PRIO_PROCESS, 0);
    if (before == -1 && errno != 0) return;
    // One step the other way shows whether we may come back. At the very top it would show nothing.
    if (before == PRIO_MIN || setpriority(PRIO_PROCESS, 0, before - 1) != 0) return;
    before_ = before;
    (void)setpriority(PRIO_PROCESS, 0, std::min(before + steps, nice_max));
    auto const session = session_nice();
    if (session && set_session_nice(std::min(*session + steps, nice_max))) {
        session_before_ = session;
    }
}

ScopedNice::~ScopedNice() {
    if (before_ && setpriority(PRIO_PROCESS, 0, *before_) != 0) {
        log::warning("the nice value could not be set back to {}: {}", *before_, errno);
    }
    if (session_before_ && !set_session_nice(*session_before_)) {
        log::warning("the session's nice value could not be set back to {}: {}", *session_before_,
                     errno);
    }
}

ScopedRealtime::ScopedRealtime() {
    if (ahead++ > 0) return;
    int const before = sched_getscheduler(0) & ~SCHED_RESET_ON_FORK;
    // A real-time priority that an administrator has set stays.
    if (before == SCHED_FIFO || before == SCHED_RR) return;
    if (set_policy(SCHED_RR | SCHED_RESET_ON_FORK, sched_get_priority_min(SCHED_RR))) {
        ahead_before = before;
    }
}

ScopedRealtime::~ScopedRealtime() {
    if (--ahead > 0 || !ahead_before) return;
    // With RLIMIT_RTPRIO alone (without CAP_SYS_NICE) SCHED_RESET_ON_FORK cannot be cleared again.
    if (!set_policy(*ahead_before, 0) && !set_policy(*ahead_before | SCHED_RESET_ON_FORK, 0)) {
        log::warning("the scheduling policy could not be set back to {}: {}", *ahead_before, errno);
    }
    ahead_before.reset();
}

}  // namespace core
