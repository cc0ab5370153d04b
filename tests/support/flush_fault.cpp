// LD_PRELOAD for other programs: fdatasync fails with EIO while the file named by FLUSH_FAULT
// exists, like a disk that cannot write data that it has accepted.
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
