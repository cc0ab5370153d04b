#include "sidecar/channel/protocol.hpp"

#include "netmove/adjacency.hpp"
#include "netmove/tap.hpp"
#include "sidecar/channel/wire_values.hpp"

namespace sidecar::protocol {

using namespace values;

namespace {

// In the order of Verb.
constexpr std::array verbs = {
    std::string_view("migrate"),
    std::string_view("set"),
    std::string_view("cancel"),
    std::string_view("resolve"),
    std::string_view("status"),
    std::string_view("replicate"),
    std::string_view("replicate_stop"),
    std::string_view("release"),
    std::string_view("peer"),
    std::string_view("progress"),
    std::string_view("check"),
    std::string_view("survey"),
    std::string_view("heard"),
    std::string_view("find_shared"),
    std::string_view("prepare"),
    std::string_view("send_file"),
    std::string_view("reexport"),
    std::string_view("hash_file"),
    std::string_view("hash"),
    std::string_view("fire"),
    std::string_view("frames"),
    std::string_view("return_frames"),
    std::string_view("conntrack"),
    std::string_view("seal"),
    std::string_view("commit"),
    std::string_view("abort"),
    std::string_view("replicate_begin"),
    std::string_view("replicate_complete"),
    std::string_view("replicate_hand_over"),
    std::string_view("replicate_forget"),
    std::string_view("vtep_prepare"),
    std::string_view("vtep_repoint_fdb"),
    std::string_view("anchor_probe"),
    std::string_view("anchor_prepare"),
    std::string_view("anchor_point"),
    std::string_view("anchor_keep"),
    std::string_view("anchor_stand_in"),
    std::string_view("anchor_end_stand_in"),
    std::string_view("anchor_end_away"),
    std::string_view("anchor_where"),
    std::string_view("anchor_offer"),
    std::string_view("anchor_receive"),
    std::string_view("anchor_leave"),
    std::string_view("anchor_return"),
    std::string_view("anchor_list"),
    std::string_view("anchor_release"),
};
static_assert(verbs.size() == static_cast<std::size_t>(Verb::anchor_release) + 1);

Result<> check_version(Json const& json) {
    if (json["hello"].text_or("") != "sidecar") {
        return fail(Errc::protocol, "the first message is not the hello of a sidecar");
    }
    auto const theirs = json["version"].integer_or(0);
    if (theirs == version) return {};
    return fail(Errc::refused,
                "version {} of the protocol here, version {} there: use the same release", version,
                theirs);
}

}  // namespace

std::string_view name(Verb verb) { return verbs[static_cast<std::size_t>(verb)]; }
std::string_view name(Role role) { return roles[static_cast<std::size_t>(role)]; }
std::string_view name(Owner owner) { return owners[static_cast<std::size_t>(owner)]; }
std::string_view name(ConsistencyKind kind) {
    return consistency_kinds[static_cast<std::size_t>(kind)];
}
std::optional<ConsistencyKind> consistency_kind_from(std::string_view name) {
    return by_name<ConsistencyKind>(consistency_kinds, name);
}
std::optional<Verb> verb_from(std::string_view name) { return by_name<Verb>(verbs, name); }

bool may_ask(Role role, Verb verb) {
    auto const between = [verb](Verb first, Verb last) { return verb >= first && verb <= last; };
    switch (role) {
        case Role::command:
            return between(Verb::migrate, Verb::peer);
        case Role::source:
            return between(Verb::check, Verb::abort);
        case Role::replication_source:
            return between(Verb::replicate_begin, Verb::replicate_forget);
        case Role::vtep_source:
            return between(Verb::vtep_prepare, Verb::vtep_repoint_fdb);
        case Role::anchor_source:
            return between(Verb::anchor_probe, Verb::anchor_end_away);
        case Role::local:
            return between(Verb::anchor_probe, Verb::anchor_release);
        case Role::sidecar:
            return verb == Verb::progress;
        case Role::destination:
            return false;
    }
    return false;
}

Features const& our_features() {
    static Features const all = {
        Feature::verify,        Feature::base,         Feature::conntrack,
        Feature::replicate,     Feature::vtep,         Feature::anchor,
        Feature::local_address, Feature::stand_in,     Feature::shared_storage,
        Feature::stopped_guest, Feature::block_device, Feature::anchor_release,
        Feature::anchor_vxlan,  Feature::guest_files};
    return all;
}

Json Hello::to_json() const {
    return Json::object({{"hello", "sidecar"},
                         {"version", version},
                         {"guest", guest},
                         {"migration_id", migration_id},
                         {"role", name(role)},
                         {"features", features_json(features)}});
}

Result<Hello> Hello::from_json(Json const& json) {
    TRY_VOID(check_version(json));
    Hello made;
    TRY(made.guest, json.text("guest"));
    TRY(made.migration_id, json.text("migration_id"));
    TRY_VOID(check_guest_name(made.guest));
    TRY_VOID(check_guest_name(made.migration_id));
    TRY(made.role, remote_role(json));
    TRY(made.features, features_from(json));
    return made;
}

Json Welcome::to_json() const {
    return Json::object(
        {{"hello", "sidecar"}, {"version", version}, {"features", features_json(features)}});
}

Result<Welcome> Welcome::from_json(Json const& json) {
    TRY_VOID(check_version(json));
    Welcome made;
    TRY(made.features, features_from(json));
    return made;
}

Json Refusal::to_json() const { return Json::object({{"refused", why}}); }

std::optional<Refusal> Refusal::from_json(Json const& json) {
    if (!json["refused"].is_string()) return {};
    return Refusal{*sentence(json, "refused")};
}

Json CheckAnswer::to_json() const {
    Json ends = Json::array();
    for (auto const& end : vxlan) ends.add(end ? end->to_json() : Json());
    Json here = Json::array();
    for (bool const one : anchored_here) here.add(Json(one));
    Json lines = Json::array();
    for (auto const& line : warnings) lines.add(line);
    Json not_here = Json::array();
    for (bool const one : missing_files) not_here.add(Json(one));
    return Json::object({{"vxlan", ends},
                         {"missing_files", not_here},
                         {"host_id", host.id},
                         {"host_name", host.name},
                         {"has_registry", has_registry},
                         {"anchored_here", here},
                         {"data_port", data.port},
                         {"data_ports", data.range.text()},
                         {"warnings", lines},
                         {"tunnel_port", tunnel_port}});
}

Result<CheckAnswer> CheckAnswer::from_json(Json const& json) {
    TRY(auto const ends, list(json, "vxlan", interfaces_max));
    CheckAnswer made;
    for (auto const& one : ends) {
        auto& end = made.vxlan.emplace_back();
        if (one.is_null()) continue;
        TRY(end, netmove::VxlanEnd::from_json(one));
    }
    // An older release sends none of these.
    if (json.has("host_id")) {
        TRY(auto id, words(json, "host_id", name_bytes_max));
        TRY(auto name, words(json, "host_name", name_bytes_max));
        TRY(made.host, checked_identity(std::move(id), std::move(name)));
    }
    made.has_registry = json["has_registry"].boolean_or(false);
    if (json.has("warnings")) {
        TRY(auto const lines, list(json, "warnings", warnings_max));
        for (auto const& line : lines) {
            made.warnings.push_back(line.text_or("").substr(0, words_bytes_max));
        }
    }
    if (json.has("missing_files")) {
        TRY(auto const answers, list(json, "missing_files", limits::guest_files_max));
        for (auto const& one : answers) made.missing_files.push_back(one.boolean_or(false));
    }
    if (json.has("data_port")) {
        TRY(auto const port, within(json, "data_port", 1, port_max));
        made.data.port = static_cast<int>(port);
        TRY(auto const range, words(json, "data_ports", name_bytes_max));
        TRY(made.data.range, core::PortRange::parse(range));
    }
    if (!json.has("tunnel_port")) return made;  // of an earlier release
    TRY(auto const here, list(json, "anchored_here", interfaces_max));
    for (auto const& one : here) made.anchored_here.push_back(one.boolean_or(false));
    TRY(auto const port, within(json, "tunnel_port", 0, port_max));
    made.tunnel_port = static_cast<int>(port);
    return made;
}

Json Check::to_json() const {
    auto made = Json::object({{"description", description}});
    if (probe) made.set("probe", probe->to_json());
    return made;
}

Result<Check> Check::from_json(Json const& json) {
    Check made;
    TRY(made.description, object(json, "description"));
    if (!json.has("probe")) return made;
    TRY(made.probe, netmove::tunnel::Key::from_json(json["probe"]));
    return made;
}

Json BridgePlace::to_json() const {
    return Json::object({{"bridge", bridge}, {"subnets", array_of(subnets)}, {"listens", listens}});
}

Result<BridgePlace> BridgePlace::from_json(Json const& json) {
    constexpr std::size_t subnets_max = 64;
    BridgePlace made;
    TRY(made.bridge, words(json, "bridge", name_bytes_max));
    TRY(made.subnets, names(json, "subnets", subnets_max));
    made.listens = json["listens"].boolean_or(false);
    return made;
}

Json SurveyAnswer::to_json() const { return Json::object({{"places", array_of(places)}}); }

Result<SurveyAnswer> SurveyAnswer::from_json(Json const& json) {
    SurveyAnswer made;
    TRY(made.places, parsed<BridgePlace>(json, "places", interfaces_max));
    return made;
}

Json Survey::to_json() const {
    return Json::object({{"bridges", array_of(bridges)}, {"number", number}});
}

Result<Survey> Survey::from_json(Json const& json) {
    Survey made;
    TRY(made.bridges, names(json, "bridges", interfaces_max));
    for (auto const& bridge : made.bridges) TRY_VOID(netmove::check_interface_name(bridge));
    TRY(auto const number,
        within(json, "number", 0, static_cast<std::int64_t>(netmove::adjacency_number_max)));
    made.number = static_cast<std::uint64_t>(number);
    return made;
}

Json HeardAnswer::to_json() const {
    Json made = Json::array();
    for (bool const one : bridges) made.add(one);
    return Json::object({{"bridges", made}});
}

Result<HeardAnswer> HeardAnswer::from_json(Json const& json) {
    HeardAnswer made;
    TRY(auto const elements, list(json, "bridges", interfaces_max));
    for (auto const& one : elements) made.bridges.push_back(one.boolean_or(false));
    return made;
}

Json Endpoints::to_json() const {
    Json zeroes = Json::array();
    for (auto const bytes : zero_bytes) zeroes.add(Json(static_cast<std::int64_t>(bytes)));
    return Json::object({{"nbd_port", nbd_port},
                         {"ram_port", ram_port},
                         {"exports", array_of(exports)},
                         {"generation", generation},
                         {"tunnel_port", tunnel_port},
                         {"zero_bytes", zeroes}});
}

Result<Endpoints> Endpoints::from_json(Json const& json) {
    Endpoints made;
    TRY(auto const nbd, within(json, "nbd_port", 0, port_max));
    TRY(auto const ram, within(json, "ram_port", 1, port_max));
    TRY(made.exports, names(json, "exports", exports_max));
    TRY(auto const generation, within(json, "generation", 0, limits::qemu_restarts_max));
    made.nbd_port = static_cast<int>(nbd);
    made.ram_port = static_cast<int>(ram);
    made.generation = static_cast<unsigned>(generation);
    if (json.has("zero_bytes")) {
        TRY(auto const zeroes, list(json, "zero_bytes", exports_max));
        for (auto const& bytes : zeroes) {
            made.zero_bytes.push_back(
                static_cast<std::uint64_t>(std::max<std::int64_t>(bytes.integer_or(0), 0)));
        }
    }
    if (!json.has("tunnel_port")) return made;  // of an earlier release
    TRY(auto const tunnel, within(json, "tunnel_port", 0, port_max));
    made.tunnel_port = static_cast<int>(tunnel);
    return made;
}

Json Prepare::to_json() const {
    return Json::object({{"description", description},
                         {"key", key},
                         {"tunnels", array_of(tunnels)},
                         {"anchor_port", anchor_port}});
}

Result<Prepare> Prepare::from_json(Json const& json) {
    Prepare made;
    TRY(made.description, object(json, "description"));
    TRY(made.key, key_or_none(json));
    if (!json.has("tunnels")) return made;  // of an earlier release
    TRY(made.tunnels, parsed<netmove::tunnel::Key>(json, "tunnels", interfaces_max));
    TRY(auto const port, within(json, "anchor_port", 0, port_max));
    made.anchor_port = static_cast<int>(port);
    return made;
}

Json HashFileAnswer::to_json() const {
    return Json::object({{"sha256", sha256}, {"done_bytes", done_bytes}});
}

Result<HashFileAnswer> HashFileAnswer::from_json(Json const& json) {
    HashFileAnswer made;
    TRY(made.sha256, words(json, "sha256", name_bytes_max));
    TRY(made.done_bytes, count(json, "done_bytes"));
    return made;
}

Json HashFile::to_json() const {
    return Json::object({{"path", path}, {"offset", offset}, {"length", length}});
}

Result<HashFile> HashFile::from_json(Json const& json) {
    HashFile made;
    TRY(made.path, json.text("path"));
    TRY(auto const offset, within(json, "offset", 0, number_max));
    TRY(made.length, count(json, "length"));
    if (made.path.empty() || made.path.front() != '/') {
        return fail(Errc::protocol, "the path {} is not absolute", made.path);
    }
    if (made.length > limits::compared_part_bytes_max ||
        offset % static_cast<std::int64_t>(limits::compared_block_bytes) != 0) {
        return fail(Errc::protocol, "{} bytes at {} are not a part of a file", made.length, offset);
    }
    made.offset = static_cast<std::uint64_t>(offset);
    return made;
}

Json HashAnswer::to_json() const { return Json::object({{"hash", hash}}); }

Result<HashAnswer> HashAnswer::from_json(Json const& json) {
    HashAnswer made;
    TRY(made.hash, words(json, "hash", name_bytes_max));
    return made;
}

Json Hash::to_json() const {
    Json numbers = Json::array();
    for (auto const& range : ranges) numbers.add(range.offset).add(range.length);
    return Json::object({{"disk", static_cast<std::uint64_t>(disk)}, {"ranges", numbers}});
}

Result<Hash> Hash::from_json(Json const& json) {
    Hash made;
    TRY(auto const disk, within(json, "disk", 0, storage::limits::disks_max - 1));
    TRY(auto const numbers, list(json, "ranges", 2 * storage::limits::hash_request_ranges_max));
    made.disk = static_cast<std::size_t>(disk);
    if (numbers.empty() || numbers.size() % 2 != 0) {
        return fail(Errc::protocol, "{} numbers are not ranges of a disk", numbers.size());
    }
    for (std::size_t i = 0; i + 1 < numbers.size(); i += 2) {
        auto const offset = numbers[i].integer_or(-1);
        auto const length = numbers[i + 1].integer_or(-1);
        if (offset < 0 || length <= 0) {
            return fail(Errc::protocol, "a range to hash has no offset or no length");
        }
        made.ranges.push_back(
            {static_cast<std::uint64_t>(offset), static_cast<std::uint64_t>(length), false});
    }
    return made;
}

Json Fire::to_json() const {
    auto made = Json::object(
        {{"interfaces", array_of(interfaces)}, {"downtime_limit_ms", downtime_limit_ms}});
    if (moved_ms_ago) {
        Json times = Json::array();
        for (auto const one : *moved_ms_ago) times.add(one);
        made.set("moved_ms_ago", times);
    }
    return made;
}

Result<Fire> Fire::from_json(Json const& json) {
    Fire made;
    TRY(made.interfaces, parsed<netmove::GuestInterface>(json, "interfaces", interfaces_max));
    TRY(auto const limit, within(json, "downtime_limit_ms", limits::downtime_limit_min_ms,
                                 limits::downtime_limit_max_ms));
    made.downtime_limit_ms = static_cast<int>(limit);
    if (!json.has("moved_ms_ago")) return made;
    TRY(auto const times, list(json, "moved_ms_ago", limits::mac_moves_max));
    constexpr auto window_ms = std::chrono::milliseconds(limits::mac_moves_window).count();
    auto& moved = made.moved_ms_ago.emplace();
    for (auto const& one : times) {
        auto const ago = one.integer_or(-1);
        if (ago < 0 || ago > window_ms) {
            return fail(Errc::protocol, "`moved_ms_ago` is not of the last {} ms", window_ms);
        }
        moved.push_back(ago);
    }
    return made;
}

Json FireAnswer::to_json() const { return Json::object({{"took_us", took_us}}); }

Result<FireAnswer> FireAnswer::from_json(Json const& json) {
    FireAnswer made;
    TRY(made.took_us, count(json, "took_us"));
    return made;
}

Json FramesAnswer::to_json() const { return Json::object({{"taken", taken}}); }

Result<FramesAnswer> FramesAnswer::from_json(Json const& json) {
    FramesAnswer made;
    TRY(made.taken, count(json, "taken"));
    return made;
}

Json Frames::to_json() const {
    return Json::object({{"nic", static_cast<std::uint64_t>(nic)}, {"first", first}});
}

Result<Frames> Frames::from_json(Json const& json, Bytes bytes) {
    Frames made;
    TRY(auto const nic, within(json, "nic", 0, interfaces_max - 1));
    TRY(made.first, count(json, "first"));
    made.nic = static_cast<std::size_t>(nic);
    made.bytes = std::move(bytes);
    return made;
}

Json ReturnFramesAnswer::to_json() const {
    Json list_of_parts = Json::array();
    for (auto const& part : parts) {
        list_of_parts.add(Json::object({{"nic", static_cast<std::uint64_t>(part.nic)},
                                        {"size", static_cast<std::uint64_t>(part.size)}}));
    }
    return Json::object({{"parts", list_of_parts}, {"more", more}});
}

Result<ReturnFramesAnswer> ReturnFramesAnswer::from_json(Json const& json, Bytes bytes) {
    ReturnFramesAnswer made;
    TRY(auto const all, list(json, "parts", interfaces_max));
    std::size_t total = 0;
    for (auto const& one : all) {
        TRY(auto const nic, within(one, "nic", 0, interfaces_max - 1));
        TRY(auto const size, within(one, "size", 0, limits::message_bytes_max));
        made.parts.push_back({static_cast<std::size_t>(nic), static_cast<std::size_t>(size)});
        total += made.parts.back().size;
    }
    if (total != bytes.size()) {
        return fail(Errc::protocol, "{} bytes of frames came, {} were announced", bytes.size(),
                    total);
    }
    TRY(made.more, json.boolean("more"));
    made.bytes = std::move(bytes);
    return made;
}

Json ReturnFrames::to_json() const { return Json::object({{"last", last}}); }

Result<ReturnFrames> ReturnFrames::from_json(Json const& json) {
    ReturnFrames made;
    TRY(made.last, json.boolean("last"));
    return made;
}

Json TrackingReport::to_json() const {
    Json failures = Json::array();
    for (auto const& one : failed) {
        failures.add(Json::object({{"why", one.why}, {"entries", one.entries}}));
    }
    return Json::object(
        {{"restored", restored}, {"failed", failures}, {"gateways", array_of(gateways)}});
}

Result<TrackingReport> TrackingReport::from_json(Json const& json) {
    TrackingReport made;
    TRY(made.restored, count(json, "restored"));
    TRY(auto const failures, list(json, "failed", 2 * limits::conntrack_reasons_max));
    for (auto const& one : failures) {
        auto& failure = made.failed.emplace_back();
        TRY(failure.why, sentence(one, "why"));
        TRY(failure.entries, count(one, "entries"));
    }
    TRY(made.gateways, names(json, "gateways", limits::conntrack_gateways_max));
    return made;
}

Json Conntrack::to_json() const {
    auto made = Json::object({{"entries", array_of(entries)}, {"gone", array_of(gone)}});
    if (interfaces) {
        made.set("interfaces", array_of(*interfaces)).set("gateways", array_of(gateways));
    }
    return made;
}

Result<Conntrack> Conntrack::from_json(Json const& json) {
    Conntrack made;
    if (json.has("interfaces")) {
        TRY(made.interfaces, parsed<netmove::GuestInterface>(json, "interfaces", interfaces_max));
        TRY(made.gateways, names(json, "gateways", limits::conntrack_gateways_max));
    }
    TRY(made.entries, list(json, "entries", netmove::conntrack_batch_max));
    TRY(made.gone, parsed<netmove::ConntrackKey>(json, "gone", netmove::conntrack_batch_max));
    return made;
}

Json FramesReport::to_json() const {
    return Json::object(
        {{"replayed", replayed}, {"waited", waited}, {"late", late}, {"lost", lost}});
}

Result<FramesReport> FramesReport::from_json(Json const& json) {
    FramesReport made;
    TRY(made.replayed, count(json, "replayed"));
    TRY(made.waited, count(json, "waited"));
    TRY(made.late, count(json, "late"));
    TRY(made.lost, count(json, "lost"));
    return made;
}

Json Verdict::to_json() const {
    auto made = Json::object({{"owner", name(owner)},
                              {"why", why},
                              {"frames", frames.to_json()},
                              {"conntrack", conntrack.to_json()}});
    if (resume_to_answer_ms) made.set("resume_to_answer_ms", *resume_to_answer_ms);
    return made;
}

Result<Verdict> Verdict::from_json(Json const& json) {
    Verdict made;
    TRY(made.owner, owner_of(json, "owner"));
    TRY(made.why, sentence(json, "why"));
    TRY(made.frames, FramesReport::from_json(json["frames"]));
    TRY(made.conntrack, TrackingReport::from_json(json["conntrack"]));
    if (json.has("resume_to_answer_ms")) {
        made.resume_to_answer_ms = json["resume_to_answer_ms"].number_or(0);
    }
    return made;
}

Json Commit::to_json() const { return Json::object({{"frames", array_of(frames)}}); }

Result<Commit> Commit::from_json(Json const& json) {
    TRY(auto const counts, list(json, "frames", interfaces_max));
    Commit made;
    for (auto const& one : counts) {
        if (one.integer_or(-1) < 0) return fail(Errc::protocol, "COMMIT counts no frames");
        made.frames.push_back(static_cast<std::uint64_t>(one.integer_or(0)));
    }
    return made;
}

}  // namespace sidecar::protocol
