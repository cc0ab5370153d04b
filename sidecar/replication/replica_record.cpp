#include "sidecar/replication/replica_record.hpp"

#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <ctime>

#include "sidecar/host/limits.hpp"

namespace sidecar {

using core::Deadline;
using core::Errc;
using core::fail;
using core::fail_errno;
using core::Json;
using core::Result;
using core::Task;

namespace {

std::string replica_record_path(Paths const& paths, std::string const& guest) {
    return paths.state(guest) + "/replica.json";
}

Json pairs_to_json(std::vector<std::pair<std::string, std::string>> const& pairs) {
    Json list = Json::array();
    for (auto const& [from, to] : pairs) list.add(Json::array({from, to}));
    return list;
}

std::vector<std::pair<std::string, std::string>> pairs_from_json(Json const& json) {
    std::vector<std::pair<std::string, std::string>> pairs;
    for (auto const& pair : json.elements()) {
        auto const both = pair.elements();
        if (both.size() == 2) pairs.emplace_back(both[0].text_or(""), both[1].text_or(""));
    }
    return pairs;
}

Json texts_to_json(std::vector<std::string> const& texts) {
    Json list = Json::array();
    for (auto const& text : texts) list.add(text);
    return list;
}

std::vector<std::string> texts_from_json(Json const& json) {
    std::vector<std::string> texts;
    for (auto const& text : json.elements()) texts.push_back(text.text_or(""));
    return texts;
}

unsigned number_of(Json const& json) {
    return static_cast<unsigned>(std::max<std::int64_t>(0, json.integer_or(0)));
}

}  // namespace

Json ReplicaPoint::to_json() const {
    return Json::object({{"number", static_cast<std::int64_t>(number)},
                         {"taken_at", taken_at},
                         {"copied_bytes", copied_bytes},
                         {"consistency", protocol::name(consistency.kind)},
                         {"why", consistency.why}});
}

unsigned ReplicaRecord::previous() const {
    if (overlays.empty()) return 0;
    return overlays.size() == 1 ? base : overlays[overlays.size() - 2];
}

storage::ChainDisk ReplicaRecord::disk(std::size_t index) const {
    auto const& disk = description.disks[index];
    return {images[index].path, disk.format, copy_id, disk.virtual_bytes};
}

Json ReplicaRecord::status() const {
    Json list = Json::array();
    auto const now = static_cast<std::int64_t>(std::time(nullptr));
    for (auto const& point : points) {
        auto one = point.to_json();
        one.set("age_s", now - point.taken_at);
        list.add(one);
    }
    auto made = Json::object({{"points", list}, {"replication_id", replication_id}});
    if (failed_over_at != 0) made.set("failed_over_at", failed_over_at);
    if (handed_over != 0) made.set("handed_over", true);
    return made;
}

Json ReplicaRecord::to_json() const {
    Json image_list = Json::array();
    for (auto const& image : images) image_list.add(image.to_json());
    Json overlay_list = Json::array();
    for (auto const number : overlays) overlay_list.add(static_cast<std::int64_t>(number));
    Json point_list = Json::array();
    for (auto const& point : points) point_list.add(point.to_json());
    return Json::object({{"replication_id", replication_id},
                         {"copy_id", copy_id},
                         {"description", description.to_json()},
                         {"map_paths", pairs_to_json(maps.paths)},
                         {"map_bridges", pairs_to_json(maps.bridges)},
                         {"programs", texts_to_json(maps.programs)},
                         {"allowed_paths", texts_to_json(maps.allowed_paths)},
                         {"allowed_bridges", texts_to_json(maps.allowed_bridges)},
                         {"allowed_devices", texts_to_json(maps.allowed_devices)},
                         {"map_addresses", pairs_to_json(maps.addresses)},
                         {"images", image_list},
                         {"base", static_cast<std::int64_t>(base)},
                         {"overlays", overlay_list},
                         {"points", point_list},
                         {"chosen", static_cast<std::int64_t>(chosen)},
                         {"failed_over_at", failed_over_at},
                         {"handed_over", static_cast<std::int64_t>(handed_over)}});
}

Result<ReplicaRecord> ReplicaRecord::from_json(Json const& json) {
    ReplicaRecord made;
    TRY(made.replication_id, json.text("replication_id"));
    TRY(made.copy_id, json.text("copy_id"));
    TRY_VOID(check_guest_name(made.copy_id));  // it becomes part of file names
    TRY(made.description, Description::from_json(json["description"]));
    made.maps = {pairs_from_json(json["map_paths"]),       pairs_from_json(json["map_bridges"]),
                 texts_from_json(json["programs"]),        texts_from_json(json["allowed_paths"]),
                 texts_from_json(json["allowed_bridges"]), texts_from_json(json["allowed_devices"]),
                 pairs_from_json(json["map_addresses"])};
    for (auto const& one : json["images"].elements()) {
        TRY(auto image, storage::OwnedFile::from_json(one));
        made.images.push_back(std::move(image));
    }
    if (made.images.size() != made.description.disks.size()) {
        return fail(Errc::protocol, "it names {} images for {} disks", made.images.size(),
                    made.description.disks.size());
    }
    made.base = number_of(json["base"]);
    for (auto const& one : json["overlays"].elements()) made.overlays.push_back(number_of(one));
    for (auto const& one : json["points"].elements()) {
        made.points.push_back({number_of(one["number"]), one["taken_at"].integer_or(0),
                               static_cast<std::uint64_t>(one["copied_bytes"].integer_or(0)),
                               Consistency::from_json(one)});
    }
    made.chosen = number_of(json["chosen"]);
    made.failed_over_at = json["failed_over_at"].integer_or(0);
    made.handed_over = number_of(json["handed_over"]);
    return made;
}

Result<std::optional<ReplicaRecord>> ReplicaRecord::read(Paths const& paths,
                                                         std::string const& guest) {
    auto const path = replica_record_path(paths, guest);
    if (access(path.c_str(), F_OK) != 0) return std::optional<ReplicaRecord>();
    TRY(auto const text, read_file(path, limits::manifest_bytes_max));
    auto parsed = Json::parse(text);
    auto record = parsed ? from_json(*parsed) : std::unexpected(parsed.error());
    if (!record) return std::unexpected(std::move(record.error()).while_doing("reading " + path));
    return std::optional<ReplicaRecord>(std::move(*record));
}

Result<> ReplicaRecord::write(Paths const& paths, std::string const& guest) const {
    return write_durably(replica_record_path(paths, guest), to_json().dump_pretty() + "\n");
}

Result<> ReplicaRecord::remove(Paths const& paths, std::string const& guest) {
    auto const path = replica_record_path(paths, guest);
    if (unlink(path.c_str()) < 0 && errno != ENOENT) {
        return fail_errno(errno, "cannot remove {}", path);
    }
    return {};
}

Task<Result<>> fold_replica(core::Loop& loop, Paths paths, std::string guest, ReplicaRecord& record,
                            std::size_t keep, Deadline deadline) {
    while (record.overlays.size() > keep) {
        auto const oldest = record.overlays.front();
        auto const above = record.overlays.size() > 1 ? record.overlays[1] : 0;
        for (std::size_t i = 0; i < record.images.size(); ++i) {
            CO_TRY_VOID(
                co_await storage::fold_point(loop, record.disk(i), oldest, above, deadline));
        }
        record.base = oldest;
        record.overlays.erase(record.overlays.begin());
        CO_TRY_VOID(record.write(paths, guest));
    }
    for (std::size_t i = 0; i < record.images.size(); ++i) {
        CO_TRY_VOID(storage::remove_points(record.disk(i), record.overlays));
    }
    co_return Result<>{};
}

}  // namespace sidecar
