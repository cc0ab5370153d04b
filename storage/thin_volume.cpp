#include "storage/thin_volume.hpp"

#include <fcntl.h>
#include <linux/dm-ioctl.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <optional>
#include <sstream>

#include "core/fd.hpp"
#include "storage/limits.hpp"

namespace storage {

using core::Deadline;
using core::fail_errno;
using core::Fd;
using core::Result;
using core::Task;

namespace {

/// One target with its parameters; tables of thin volumes have one short line.
constexpr std::size_t answer_bytes = 16 * 1024;

/// The parameters of the device's one target of type thin; none: it is something else, or the
/// kernel has no device-mapper. `flags`: DM_STATUS_TABLE_FLAG, or 0 for its status.
std::optional<std::string> thin_target(dev_t number, unsigned flags) {
    Fd const control(open("/dev/mapper/control", O_RDWR | O_CLOEXEC));
    if (!control) return {};
    alignas(dm_ioctl) std::array<char, answer_bytes> answer{};
    dm_ioctl request{};
    request.version[0] = DM_VERSION_MAJOR;
    request.data_size = answer_bytes;
    request.data_start = sizeof request;
    request.flags = flags;
    request.dev = number;
    std::memcpy(answer.data(), &request, sizeof request);
    if (ioctl(control.get(), DM_TABLE_STATUS, answer.data()) < 0) return {};
    std::memcpy(&request, answer.data(), sizeof request);
    dm_target_spec target{};
    bool const whole = request.data_start <= answer_bytes - sizeof target &&
                       (request.flags & DM_BUFFER_FULL_FLAG) == 0;
    if (!whole || request.target_count != 1) return {};
    std::memcpy(&target, answer.data() + request.data_start, sizeof target);
    if (std::string_view(target.target_type) != "thin") return {};
    auto const* const text = answer.data() + request.data_start + sizeof target;
    auto const room = static_cast<std::size_t>(answer.data() + answer_bytes - text);
    return std::string(text, strnlen(text, room));
}

std::vector<std::string> words_in(std::string const& text) {
    std::istringstream stream(text);
    std::vector<std::string> words;
    for (std::string word; stream >> word;) words.push_back(word);
    return words;
}

}  // namespace

bool is_empty_thin(std::string const& table, std::string const& status) {
    // A third word is the device of which what is not mapped is read.
    auto const mapped = words_in(status);
    return words_in(table).size() == 2 && mapped.size() == 2 && mapped[0] == "0" &&
           mapped[1] == "-";
}

Task<Result<bool>> empty_thin_volume(core::Loop& loop, std::string path, Deadline deadline) {
    struct stat status{};
    if (stat(path.c_str(), &status) < 0) co_return fail_errno(errno, "cannot look at {}", path);
    auto const table = thin_target(status.st_rdev, DM_STATUS_TABLE_FLAG);
    if (!table) co_return false;
    Fd const device(open(path.c_str(), O_RDWR | O_CLOEXEC | O_NONBLOCK));
    std::uint64_t bytes = 0;
    if (!device || ioctl(device.get(), BLKGETSIZE64, &bytes) < 0) {
        co_return fail_errno(errno, "cannot open the device {}", path);
    }
    for (std::uint64_t done = 0; done < bytes; done += limits::zero_device_piece_bytes) {
        if (deadline.passed() || deadline.stopped()) co_return false;
        std::array<std::uint64_t, 2> range{done,
                                           std::min(bytes - done, limits::zero_device_piece_bytes)};
        if (ioctl(device.get(), BLKDISCARD, range.data()) < 0) co_return false;
        co_await loop.next_turn();
    }
    auto const mapped = thin_target(status.st_rdev, 0);
    co_return mapped&& is_empty_thin(*table, *mapped);
}

}  // namespace storage
