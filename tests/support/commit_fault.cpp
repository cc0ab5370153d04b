// LD_PRELOAD for a sidecar: a step around COMMIT fails while the file named by COMMIT_FAULT_FILE
// exists. COMMIT_FAULT selects the step: `write`, the write of the record (EROFS); `sync`, every
// sync of the journal from that record on (EIO); `mark`, the last rename of the stale images
// (EBUSY).
#include <fcntl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <string_view>

namespace {

bool fails(std::string_view what) {
    char const* const kind = std::getenv("COMMIT_FAULT");
    char const* const trigger = std::getenv("COMMIT_FAULT_FILE");
    return kind != nullptr && trigger != nullptr && what == kind && access(trigger, F_OK) == 0;
}

bool committed = false;  // this process has written the record

}  // namespace

extern "C" ssize_t pwrite(int fd, void const* data, size_t length, off_t at) {
    std::string_view const text(static_cast<char const*>(data), length);
    if (text.find("committed") != std::string_view::npos) {
        committed = true;
        if (fails("write")) {
            errno = EROFS;
            return -1;
        }
    }
    return syscall(SYS_pwrite64, fd, data, length, at);
}
extern "C" ssize_t pwrite64(int fd, void const* data, size_t length, off_t at) {
    return pwrite(fd, data, length, at);
}

extern "C" int fdatasync(int fd) {
    if (!committed || !fails("sync")) return static_cast<int>(syscall(SYS_fdatasync, fd));
    errno = EIO;
    return -1;
}

extern "C" int renameat2(int from_directory, char const* from, int to_directory, char const* to,
                         unsigned flags) noexcept {
    if (std::string_view(to).find(".moved-") == std::string_view::npos || !fails("mark")) {
        return static_cast<int>(
            syscall(SYS_renameat2, from_directory, from, to_directory, to, flags));
    }
    errno = EBUSY;
    return -1;
}
