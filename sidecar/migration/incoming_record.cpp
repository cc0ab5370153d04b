#include "sidecar/migration/incoming_record.hpp"

#include <unistd.h>

#include <filesystem>

#include "sidecar/host/limits.hpp"

namespace sidecar {

using core::Json;
using core::Result;

namespace {

std::string incoming_record_path(Paths const& paths, std::string const& guest) {
    return paths.state(guest) + "/incoming.json";
}

}  // namespace

Result<> IncomingRecord::write(Paths const& paths, std::string const& guest) const {
    Json created = Json::array();
    for (auto const& image : images) created.add(image.to_json());
    Json by_command = Json::array();
    for (auto const& disk : made_disks)
        by_command.add(Json::object({{"name", disk.name}, {"bytes", disk.bytes}}));
    auto made = Json::object({{"migration_id", migration_id},
                              {"description", description.to_json()},
                              {"images", created},
                              {"tpm", tpm},
                              {"made_disks", by_command},
                              {"owned", owned},
                              {"nbd_port", nbd_port},
                              {"ram_port", ram_port},
                              {"tunnel_port", tunnel_port},
                              {"generation", static_cast<std::int64_t>(generation)},
                              {"left_in", left_in},
                              {"qmp_socket", qmp_socket}});
    if (qemu) qemu->add_to(made);
    return write_durably(incoming_record_path(paths, guest), made.dump_pretty() + "\n");
}

Result<IncomingRecord> IncomingRecord::from_json(Json const& json) {
    IncomingRecord made;
    made.migration_id = json["migration_id"].text_or("");
    TRY(made.description, Description::from_json(json["description"]));
    TRY(made.images, images_from_json(json["images"]));
    made.tpm = json["tpm"].boolean_or(false);
    made.made_disks = made_disks_from_json(json["made_disks"]);
    made.owned = json["owned"].boolean_or(false);
    made.nbd_port = static_cast<int>(json["nbd_port"].integer_or(0));
    made.ram_port = static_cast<int>(json["ram_port"].integer_or(0));
    made.tunnel_port = static_cast<int>(json["tunnel_port"].integer_or(0));
    made.generation = static_cast<unsigned>(json["generation"].integer_or(0));
    made.left_in = json["left_in"].text_or("");
    if (!made.left_in.empty()) TRY_VOID(check_guest_name(made.left_in));  // part of a file's name
    made.qmp_socket = json["qmp_socket"].text_or("");
    made.qemu = core::ProcessIdentity::from_json(json);
    return made;
}

Result<std::vector<storage::DestinationImage>> IncomingRecord::images_from_json(Json const& list) {
    std::vector<storage::DestinationImage> images;
    for (auto const& one : list.elements()) {
        TRY(auto image, storage::DestinationImage::from_json(one));
        images.push_back(std::move(image));
    }
    return images;
}

std::vector<MadeDisk> IncomingRecord::made_disks_from_json(Json const& list) {
    std::vector<MadeDisk> disks;
    for (auto const& one : list.elements()) {
        disks.push_back(
            {one["name"].text_or(""), static_cast<std::uint64_t>(one["bytes"].integer_or(0))});
    }
    return disks;
}

bool IncomingRecord::exists(Paths const& paths, std::string const& guest) {
    return access(incoming_record_path(paths, guest).c_str(), F_OK) == 0;
}

Result<Json> IncomingRecord::read(Paths const& paths, std::string const& guest) {
    if (!exists(paths, guest)) return Json();
    TRY(auto const text, read_file(incoming_record_path(paths, guest), limits::manifest_bytes_max));
    return Json::parse(text);
}

Result<> IncomingRecord::remove(Paths const& paths, std::string const& guest) {
    auto const path = incoming_record_path(paths, guest);
    std::error_code error;
    if (std::filesystem::remove(path, error); error) {
        return core::fail_errno(error.value(), "cannot remove {}", path);
    }
    return {};
}

}  // namespace sidecar
