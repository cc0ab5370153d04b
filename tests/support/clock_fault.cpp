// LD_PRELOAD for other programs: the time of day is CLOCK_FAULT_S seconds ahead, as on a host whose
// clock was never set.
#include <sys/syscall.h>
#include <sys/time.h>
#include <unistd.h>

#include <cstdlib>
#include <ctime>

namespace {

long offset_s() {
    char const* const text = std::getenv("CLOCK_FAULT_S");
    return text == nullptr ? 0 : std::strtol(text, nullptr, 10);
}

}  // namespace

extern "C" int clock_gettime(clockid_t clock, timespec* now) {
    auto const done = static_cast<int>(syscall(SYS_clock_gettime, clock, now));
    bool const of_day = clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE;
    if (done == 0 && of_day) now->tv_sec += offset_s();
    return done;
}

extern "C" int gettimeofday(timeval* now, void*) {
    timespec precise{};
    auto const done = clock_gettime(CLOCK_REALTIME, &precise);
    *now = {precise.tv_sec, precise.tv_nsec / 1000};
    return done;
}

extern "C" time_t time(time_t* into) {
    timespec precise{};
    (void)clock_gettime(CLOCK_REALTIME, &precise);
    if (into != nullptr) *into = precise.tv_sec;
    return precise.tv_sec;
}
