#include "core/priority.hpp"

#include <sys/resource.h>

#include <algorithm>
#include <cerrno>

#include "core/log.hpp"

namespace core {

namespace {

constexpr int nice_max = 19;

}  // namespace

GiveWay::GiveWay(int steps) {
    errno = 0;
    int const before = getpriority(PRIO_PROCESS, 0);
    if (before == -1 && errno != 0) return;
    // One step the other way tells whether we may come back. At the very top it would tell nothing.
    if (before == PRIO_MIN || setpriority(PRIO_PROCESS, 0, before - 1) != 0) return;
    before_ = before;
    (void)setpriority(PRIO_PROCESS, 0, std::min(before + steps, nice_max));
}

GiveWay::~GiveWay() {
    if (before_ && setpriority(PRIO_PROCESS, 0, *before_) != 0) {
        log::warning("the nice value could not be set back to {}: {}", *before_, errno);
    }
}

}  // namespace core
