// Before a program of others (LD_PRELOAD): fdatasync fails with EIO while the file exists that
// FLUSH_FAULT names, as on a disk that cannot write what it had taken.
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>

extern "C" int fdatasync(int fd) {
    char const* const trigger = std::getenv("FLUSH_FAULT");
    if (trigger == nullptr || access(trigger, F_OK) != 0) {
        return static_cast<int>(syscall(SYS_fdatasync, fd));
    }
    errno = EIO;
    return -1;
}
