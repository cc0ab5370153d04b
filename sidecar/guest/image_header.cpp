#include "sidecar/guest/image_header.hpp"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <string_view>

namespace sidecar {

using core::fail_errno;
using core::Result;
using qmp::ImageFormat;

namespace {

// docs/interop/qcow2.txt of QEMU.
constexpr std::string_view qcow2_magic = "QFI\xfb";
constexpr std::size_t backing_offset_at = 8;
constexpr std::size_t backing_size_at = 16;
constexpr std::size_t version_at = 4;
constexpr std::size_t incompatible_features_at = 72;  ///< Since version 3.
constexpr std::uint64_t external_data_file = 1U << 2;
constexpr std::size_t backing_name_bytes_max = 1023;  ///< The format's own limit.
constexpr std::size_t header_bytes = 80;

std::uint64_t big_endian(std::string_view bytes, std::size_t at, std::size_t size) {
    std::uint64_t value = 0;
    for (auto const byte : bytes.substr(at, size)) {
        value = value << 8 | static_cast<unsigned char>(byte);
    }
    return value;
}

Result<std::string> read_at(core::Fd const& file, std::uint64_t offset, std::size_t size) {
    std::string bytes(size, '\0');
    auto const got = pread(file.get(), bytes.data(), size, static_cast<off_t>(offset));
    if (got < 0) return fail_errno(errno, "cannot read the header of an image");
    bytes.resize(static_cast<std::size_t>(got));
    return bytes;
}

/// Formats that QEMU would find by itself, and that name extents or backing files. A descriptor of
/// VMDK is a text: comments, blank lines, and then its version.
bool is_other_format(std::string_view bytes) {
    constexpr auto beginnings = std::to_array<std::string_view>(
        {"KDMV", "COWD", std::string_view("QED\0", 4), "#", " ", "\r", "\n", "version="});
    for (auto const beginning : beginnings) {
        if (bytes.starts_with(beginning)) return true;
    }
    return false;
}

}  // namespace

Result<ImageHeader> read_image_header(core::Fd const& file, ImageFormat format) {
    ImageHeader header;
    if (format == ImageFormat::none || format == ImageFormat::raw) return header;
    // O_PATH opened nothing yet. The link in /proc is the file itself, whatever its name is now.
    core::Fd const readable(open(("/proc/self/fd/" + std::to_string(file.get())).c_str(),
                                 O_RDONLY | O_CLOEXEC | O_NONBLOCK));
    if (!readable) return fail_errno(errno, "cannot read the header of an image");
    struct stat entry{};
    if (fstat(readable.get(), &entry) < 0 || S_ISDIR(entry.st_mode)) return header;
    TRY(auto const bytes, read_at(readable, 0, header_bytes));
    if (!bytes.starts_with(qcow2_magic) || bytes.size() < backing_size_at + 4) {
        header.names_other_files = format == ImageFormat::probed && is_other_format(bytes);
        return header;
    }
    bool const has_features = big_endian(bytes, version_at, 4) >= 3 && bytes.size() == header_bytes;
    if (has_features) {
        header.names_other_files =
            (big_endian(bytes, incompatible_features_at, 8) & external_data_file) != 0;
    }
    auto const offset = big_endian(bytes, backing_offset_at, 8);
    auto const size = big_endian(bytes, backing_size_at, 4);
    if (offset == 0) return header;
    // QEMU does not open an image with a longer name, or with one that is beyond its end.
    if (size == 0 || size > backing_name_bytes_max || offset >> 62 != 0) return header;
    TRY(header.backing_file, read_at(readable, offset, size));
    return header;
}

}  // namespace sidecar
