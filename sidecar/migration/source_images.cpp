#include "sidecar/migration/source_images.hpp"

#include <sys/stat.h>

#include <filesystem>

#include "core/log.hpp"
#include "qmp/command_line.hpp"
#include "sidecar/guest/description.hpp"
#include "sidecar/guest/left_devices.hpp"
#include "sidecar/host/journal.hpp"
#include "sidecar/migration/migration_record.hpp"
#include "storage/block_device.hpp"
#include "storage/stale_image.hpp"

namespace sidecar {

using core::Errc;
using core::fail;
using core::Result;

namespace {

/// The disks of the migration that the guest's sidecar recorded; none if it recorded another.
Result<std::vector<std::string>> recorded_images(Paths const& paths, std::string const& guest,
                                                 std::string const& migration_id) {
    std::vector<std::string> images;
    TRY(auto const record, MigrationRecord::read(paths, guest));
    if (record.is_null() || record["migration_id"].text_or("") != migration_id) return images;
    TRY(auto const description, Description::from_json(record["description"]));
    for (auto const& disk : description.disks) images.push_back(disk.path);
    for (auto const& disk : description.shared) images.push_back(disk.path);
    return images;
}

/// Whether both names refer to the same file, or to the same place if there is no file.
bool same_image(std::string const& one, std::string const& other) {
    auto const first = storage::image_file(one);
    auto const second = storage::image_file(other);
    if (first == second || storage::is_same_device(first, second)) return true;
    struct stat a{};
    struct stat b{};
    return stat(first.c_str(), &a) == 0 && stat(second.c_str(), &b) == 0 && a.st_dev == b.st_dev &&
           a.st_ino == b.st_ino;
}

/// After a reboot a stale device is writable again.
Result<> check_not_left(Paths const& paths, std::string const& image) {
    auto const guest = guest_that_left(paths, image);
    if (!guest) return {};
    return fail(Errc::refused,
                "{} is the stale disk of {}, which moved away from this host: it is not started; "
                "if the device is to be used for something else, remove {} and `blockdev --setrw "
                "{}`",
                image, *guest, left_devices_path(paths, *guest), image);
}

Result<> check_not_in_doubt(Paths const& paths, std::string const& image) {
    std::error_code error;
    for (auto const& entry : std::filesystem::directory_iterator(paths.state_directory, error)) {
        auto const guest = entry.path().filename().string();
        auto const last = Journal::peek(entry.path().string());
        auto const* source = last ? last->source() : nullptr;
        if (source == nullptr || source->record != SourceEntry::Record::committed) continue;
        auto const images = recorded_images(paths, guest, last->migration_id);
        if (!images) {
            core::log::warning("guest={} {}", guest, images.error().sentence());
            continue;
        }
        for (auto const& path : *images) {
            bool const same = same_image(path, image) ||
                              same_image(storage::leaving_path(path, last->migration_id), image);
            if (!same) continue;
            return fail(Errc::refused,
                        "{} is a disk of {}, whose migration to {} (migration_id {}) is in doubt: "
                        "the guest may run there; ask that host, then `sidecar resolve {}`",
                        image, guest, source->peer, last->migration_id, guest);
        }
    }
    return {};
}

}  // namespace

Result<> restore_recorded_images(Paths const& paths, std::string const& guest,
                                 std::string const& migration_id) {
    TRY(auto const images, recorded_images(paths, guest, migration_id));
    return storage::restore_images(images, migration_id);
}

Result<> check_no_stale_image(Paths const& paths, std::vector<std::string> const& argv) {
    auto const line = qmp::CommandLine::parse(argv);
    if (!line) return {};  // the launch refuses it, with its own message
    for (auto const& disk : line->disks()) {
        if (!disk.local || disk.file_name.empty()) continue;
        if (storage::has_stale_name(disk.file_name)) {
            return fail(Errc::refused,
                        "{} is the stale disk of a guest that moved away, or is moving (its name "
                        "contains the migration_id): it is not started",
                        disk.file_name);
        }
        TRY_VOID(check_not_left(paths, disk.file_name));
        TRY_VOID(check_not_in_doubt(paths, disk.file_name));
    }
    return {};
}

}  // namespace sidecar
