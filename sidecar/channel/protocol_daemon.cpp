// protocol.hpp: the parts that do not belong to a migration: replication, VTEPs,
// the control socket.
#include "sidecar/channel/protocol.hpp"
#include "sidecar/channel/protocol_vtep.hpp"
#include "sidecar/channel/wire_values.hpp"

namespace sidecar::protocol {

using namespace values;

namespace {

constexpr std::int64_t point_max = std::numeric_limits<std::int32_t>::max();
/// Interfaces of one guest: as many as its description may have.
constexpr std::size_t moves_max = interfaces_max;

Result<unsigned> point(Json const& json, std::string_view key, std::int64_t least) {
    TRY(auto const value, within(json, key, least, point_max));
    return static_cast<unsigned>(value);
}

}  // namespace

Json ReplicateBeginAnswer::to_json() const {
    return Json::object({{"number", number},
                         {"full", full},
                         {"nbd_port", nbd_port},
                         {"exports", array_of(exports)}});
}

Result<ReplicateBeginAnswer> ReplicateBeginAnswer::from_json(Json const& json) {
    ReplicateBeginAnswer made;
    TRY(made.number, point(json, "number", 1));
    TRY(made.full, json.boolean("full"));
    TRY(auto const port, within(json, "nbd_port", 1, port_max));
    TRY(made.exports, names(json, "exports", exports_max));
    made.nbd_port = static_cast<int>(port);
    return made;
}

Json ReplicateBegin::to_json() const {
    return Json::object({{"description", description}, {"base", base}, {"key", key}});
}

Result<ReplicateBegin> ReplicateBegin::from_json(Json const& json) {
    ReplicateBegin made;
    TRY(made.description, object(json, "description"));
    TRY(made.base, point(json, "base", 0));
    TRY(made.key, key_or_none(json));
    return made;
}

Json ReplicateComplete::to_json() const {
    return Json::object({{"number", number},
                         {"age_ms", age_ms},
                         {"bytes", bytes},
                         {"consistency", name(consistency)},
                         {"why", why}});
}

Result<ReplicateComplete> ReplicateComplete::from_json(Json const& json) {
    ReplicateComplete made;
    TRY(made.number, point(json, "number", 1));
    TRY(made.age_ms, count(json, "age_ms"));
    TRY(made.bytes, count(json, "bytes"));
    TRY(made.consistency, consistency_of(json, "consistency"));
    TRY(made.why, sentence(json, "why"));
    return made;
}

Json ReplicateHandOver::to_json() const { return Json::object({{"number", number}}); }

Result<ReplicateHandOver> ReplicateHandOver::from_json(Json const& json) {
    ReplicateHandOver made;
    TRY(made.number, point(json, "number", 1));
    return made;
}

Json VtepPrepareAnswer::to_json() const { return Json::object({{"devices", devices}}); }

Result<VtepPrepareAnswer> VtepPrepareAnswer::from_json(Json const& json) {
    VtepPrepareAnswer made;
    TRY(made.devices, sentence(json, "devices"));
    return made;
}

Json VtepPrepare::to_json() const { return Json::object({{"moves", array_of(moves)}}); }

Result<VtepPrepare> VtepPrepare::from_json(Json const& json) {
    VtepPrepare made;
    TRY(made.moves, parsed<netmove::VxlanMove>(json, "moves", moves_max));
    return made;
}

Json VtepRepointFdbAnswer::to_json() const { return Json::object({{"changed", changed}}); }

Result<VtepRepointFdbAnswer> VtepRepointFdbAnswer::from_json(Json const& json) {
    VtepRepointFdbAnswer made;
    TRY(made.changed, json.boolean("changed"));
    return made;
}

Json VtepRepointFdb::to_json() const {
    return Json::object({{"moves", array_of(moves)}, {"to", name(to)}});
}

Result<VtepRepointFdb> VtepRepointFdb::from_json(Json const& json) {
    VtepRepointFdb made;
    TRY(made.moves, parsed<netmove::VxlanMove>(json, "moves", moves_max));
    TRY(made.to, owner_of(json, "to"));
    return made;
}

Result<Migrate> Migrate::from_json(Json const& json) {
    Migrate made;
    made.options.resume = json["resume"].boolean_or(false);
    if (made.options.resume) return made;
    TRY(made.options, MigrateOptions::from_json(json));
    return made;
}

Json SetAnswer::to_json() const {
    return Json::object({{"bandwidth", bandwidth},
                         {"downtime_limit_ms", downtime_limit_ms},
                         {"converge_limit_s", converge_limit_s}});
}

Result<SetAnswer> SetAnswer::from_json(Json const& json) {
    SetAnswer made;
    TRY(made.bandwidth, count(json, "bandwidth"));
    TRY(auto const limit,
        within(json, "downtime_limit_ms", 0, std::numeric_limits<std::int32_t>::max()));
    made.downtime_limit_ms = static_cast<int>(limit);
    TRY(auto const converge,
        within(json, "converge_limit_s", 0, std::numeric_limits<std::int32_t>::max()));
    made.converge_limit_s = static_cast<int>(converge);
    return made;
}

Result<Set> Set::from_json(Json const& json) {
    Set made;
    TRY(made.changes, MigrationChanges::from_json(json));
    return made;
}

Json Resolve::to_json() const { return Json::object({{"to", name(to)}}); }

Result<Resolve> Resolve::from_json(Json const& json) {
    Resolve made;
    TRY(made.to, owner_of(json, "to"));
    return made;
}

Json ReplicateAnswer::to_json() const {
    return Json::object({{"points_are", points_are}, {"point", point}});
}

Result<ReplicateAnswer> ReplicateAnswer::from_json(Json const& json) {
    ReplicateAnswer made;
    TRY(made.points_are, sentence(json, "points_are"));
    made.point = json["point"];
    return made;
}

Result<Replicate> Replicate::from_json(Json const& json) {
    Replicate made;
    TRY(made.settings, ReplicationSettings::from_json(json));
    return made;
}

Json ReplicateStop::to_json() const { return Json::object({{"forget", forget}}); }

Result<ReplicateStop> ReplicateStop::from_json(Json const& json) {
    ReplicateStop made;
    TRY(made.forget, json.boolean("forget"));
    return made;
}

Json Peer::to_json() const {
    return Json::object({{"migration_id", migration_id},
                         {"from", from},
                         {"role", name(role)},
                         {"features", features_json(features)}});
}

Result<Peer> Peer::from_json(Json const& json) {
    Peer made;
    TRY(made.migration_id, json.text("migration_id"));
    TRY_VOID(check_guest_name(made.migration_id));
    TRY(made.from, words(json, "from", name_bytes_max));
    TRY(made.role, remote_role(json));
    TRY(made.features, features_from(json));
    return made;
}

}  // namespace sidecar::protocol
