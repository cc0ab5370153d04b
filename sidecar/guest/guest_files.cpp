#include "sidecar/guest/guest_files.hpp"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <climits>
#include <cstring>

#include "core/fd.hpp"
#include "sidecar/guest/description.hpp"
#include "sidecar/guest/destination_line.hpp"
#include "sidecar/guest/image_header.hpp"
#include "sidecar/host/limits.hpp"
#include "storage/image.hpp"

namespace sidecar {

using core::Errc;
using core::fail;
using core::Json;
using core::Result;

namespace {

constexpr std::string_view loaded_word = "loaded";
constexpr std::string_view image_word = "image";
/// Of `what` and `not_copied`, which quote an option.
constexpr std::size_t sentence_bytes_max = 4096;

bool is_base(Description const& description, std::string const& path) {
    return std::ranges::any_of(description.disks, [&](MovedDisk const& disk) {
        return std::ranges::find(disk.bases, path, &Base::path) != disk.bases.end();
    });
}

/// Why a copy of the file alone would not do; empty: it would.
Result<std::string> what_else_it_needs(std::string const& path, std::string const& format) {
    core::Fd const file(open(path.c_str(), O_PATH | O_CLOEXEC));
    if (!file) return core::fail_errno(errno, "cannot read {}", path);
    auto const as = format == "raw"     ? qmp::ImageFormat::raw
                    : format == "qcow2" ? qmp::ImageFormat::qcow2
                                        : qmp::ImageFormat::probed;
    TRY(auto const header, read_image_header(file, as));
    if (!header.backing_file.empty())
        return "its backing file " + header.backing_file + " would be missing too: put both there";
    if (header.names_other_files) return std::string("it names other files: convert it");
    return std::string();
}

/// Where `migrate` says that nothing is copied.
std::string not_allowed(MigrateOptions const& options) {
    if (options.no_copy) return "--no-copy says so";
    if (!options.with_storage) return "that needs --with-storage";
    return {};
}

/// None: there is no such regular file here.
Result<std::optional<GuestFile>> look_at_file(GuestFile::Kind kind, std::string what,
                                              std::string path) {
    struct stat status{};
    if (stat(path.c_str(), &status) < 0 || !S_ISREG(status.st_mode))
        return std::optional<GuestFile>();
    GuestFile file{.kind = kind, .what = std::move(what), .path = std::move(path)};
    TRY(file.identity, storage::identity_of(file.path));
    TRY(file.access, storage::access_of(file.path));
    TRY(file.allocated_bytes, storage::allocated_bytes(file.path));
    file.bytes = file.identity.bytes;
    return std::optional(std::move(file));
}

Result<> check_present(GuestFile const& file, std::string const& path) {
    struct stat status{};
    if (access(path.c_str(), R_OK) != 0 || stat(path.c_str(), &status) < 0) {
        return fail(Errc::refused, "{} ({}) cannot be read on the destination: {}", file.what, path,
                    std::strerror(errno));
    }
    if (!S_ISREG(status.st_mode)) {
        return fail(Errc::refused, "{} on the destination is no file, and {} on the source is one",
                    path, file.what);
    }
    auto const bytes = static_cast<std::uint64_t>(status.st_size);
    if (bytes == file.bytes || file.kind == GuestFile::Kind::loaded) return {};
    return fail(Errc::refused,
                "{} on the destination is not {} of the source: it has {} bytes there and {} on "
                "the source; remove or rename it there, or map the source's path to another one "
                "(`serve --map-path`)",
                path, file.what, bytes, file.bytes);
}

}  // namespace

Json GuestFile::to_json() const {
    return Json::object({{"kind", kind == Kind::loaded ? loaded_word : image_word},
                         {"what", what},
                         {"path", path},
                         {"bytes", bytes},
                         {"allocated_bytes", allocated_bytes},
                         {"copied", copied},
                         {"not_copied", not_copied},
                         {"sha256", sha256},
                         {"access", access.to_json()}});
}

Result<GuestFile> GuestFile::from_json(Json const& json) {
    GuestFile made;
    TRY(auto const kind, json.text("kind"));
    if (kind != loaded_word && kind != image_word)
        return fail(Errc::protocol, "`{}` is no kind of a guest's file", kind);
    made.kind = kind == loaded_word ? Kind::loaded : Kind::image;
    TRY(made.what, json.text("what"));
    TRY(made.path, json.text("path"));
    TRY(made.not_copied, json.text("not_copied"));
    TRY(made.sha256, json.text("sha256"));
    TRY(made.copied, json.boolean("copied"));
    TRY(auto const bytes, json.integer("bytes"));
    TRY(auto const allocated, json.integer("allocated_bytes"));
    TRY(made.access, storage::FileAccess::from_json(json["access"]));
    bool const is_path = made.path.starts_with('/') && made.path.size() < PATH_MAX;
    if (!is_path || bytes < 0 || allocated < 0 || made.what.size() > sentence_bytes_max ||
        made.not_copied.size() > sentence_bytes_max) {
        return fail(Errc::protocol, "a file that the guest reads is described in no possible way");
    }
    made.bytes = static_cast<std::uint64_t>(bytes);
    made.allocated_bytes = static_cast<std::uint64_t>(allocated);
    return made;
}

Result<std::vector<GuestFile>> guest_files_of(Description const& description,
                                              MigrateOptions const& options) {
    TRY(auto const line, flattened(description));
    std::vector<GuestFile> files;
    auto const add = [&](GuestFile::Kind kind, std::string what, std::string const& name,
                         std::string const& format) -> Result<> {
        auto path = absolute(name, description.working_directory);
        bool const known = std::ranges::find(files, path, &GuestFile::path) != files.end();
        if (known || is_base(description, path) || files.size() >= limits::guest_files_max)
            return {};
        TRY(auto file, look_at_file(kind, std::move(what), std::move(path)));
        if (!file) return {};
        file->not_copied = not_allowed(options);
        if (file->not_copied.empty() && kind == GuestFile::Kind::image) {
            TRY(file->not_copied, what_else_it_needs(file->path, format));
        }
        file->copied = file->not_copied.empty();
        files.push_back(std::move(*file));
        return {};
    };
    for (auto const& disk : line.disks()) {
        bool const only_read = disk.read_only || disk.cdrom;
        if (!disk.local || !only_read || disk.firmware || disk.file_name.empty()) continue;
        TRY_VOID(add(GuestFile::Kind::image, "the read-only image of " + disk.id, disk.file_name,
                     disk.format));
    }
    for (auto const& file : line.files()) {
        if (!file.for_guest) continue;
        TRY_VOID(add(GuestFile::Kind::loaded, fmt::format("the file of `{}`", file.option),
                     file.path, ""));
    }
    return files;
}

bool is_missing(HostMaps const& maps, GuestFile const& file,
                std::vector<storage::DestinationImage> const& leftovers) {
    auto const path = map_path(maps, file.path);
    struct stat status{};
    if (lstat(path.c_str(), &status) < 0) return errno == ENOENT;
    return std::ranges::any_of(leftovers, [&](storage::DestinationImage const& image) {
        return image.path() == path && image.file.is_there().value_or(false);
    });
}

Result<> check_guest_files(HostMaps const& maps, Description const& description,
                           std::vector<storage::DestinationImage> const& leftovers) {
    for (auto const& file : description.files) {
        auto const path = map_path(maps, file.path);
        if (!is_missing(maps, file, leftovers)) {
            TRY_VOID(check_present(file, path));
            continue;
        }
        if (file.copied) continue;
        return fail(Errc::refused, "{} ({}) is missing on the destination, and is not copied: {}",
                    file.what, path, file.not_copied);
    }
    return {};
}

}  // namespace sidecar
