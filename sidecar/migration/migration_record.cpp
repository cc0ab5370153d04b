#include "sidecar/migration/migration_record.hpp"

#include <unistd.h>

#include <filesystem>

#include "sidecar/host/limits.hpp"

namespace sidecar {

using core::Json;
using core::Result;

namespace {

std::string migration_record_path(Paths const& paths, std::string const& guest) {
    return paths.state(guest) + "/migration.json";
}

}  // namespace

Result<> MigrationRecord::write() const {
    auto made = Json::object({{"migration_id", context_.migration_id},
                              {"options", context_.options.to_json()},
                              {"description", context_.description.to_json()}});
    if (!throttle_.is_null()) made.set("throttle", throttle_);
    if (!ram_settings_.is_null()) made.set("ram_settings", ram_settings_);
    if (!dns_.is_null()) made.set("dns", dns_);
    return write_durably(migration_record_path(context_.guest.paths, context_.guest.name),
                         made.dump_pretty() + "\n");
}

Result<> MigrationRecord::note_throttle(Json found) {
    throttle_ = std::move(found);
    return write();
}

Result<> MigrationRecord::note_ram_settings(Json found) {
    ram_settings_ = std::move(found);
    return write();
}

Result<> MigrationRecord::note_dns(Json found) {
    dns_ = std::move(found);
    return write();
}

void MigrationRecord::remove() const {
    std::error_code ignored;
    std::filesystem::remove(migration_record_path(context_.guest.paths, context_.guest.name),
                            ignored);
}

Result<Json> MigrationRecord::read(Paths const& paths, std::string const& guest) {
    auto const path = migration_record_path(paths, guest);
    if (access(path.c_str(), F_OK) != 0) return Json();
    TRY(auto const text, read_file(path, limits::manifest_bytes_max));
    return Json::parse(text);
}

}  // namespace sidecar
