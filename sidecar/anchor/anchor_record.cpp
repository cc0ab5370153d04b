#include "sidecar/anchor/anchor_record.hpp"

#include <algorithm>
#include <array>
#include <filesystem>

#include "sidecar/host/limits.hpp"

namespace sidecar {

using core::Errc;
using core::fail;
using core::Json;
using core::Result;
using netmove::MacAddress;

namespace {

constexpr std::string_view home_suffix = ".home.json";
constexpr std::string_view far_suffix = ".far.json";
constexpr std::int64_t recorded_port_max = 65535;
// In the order of HomeRecord::Kind.
constexpr std::array<std::string_view, 3> kinds = {"guests_tap", "stand_in", "vxlan"};
// In the order of FarRecord::Release::State.
constexpr std::array<std::string_view, 3> release_states = {"wanted", "asking", "released"};

std::string file_of(Paths const& paths, std::string const& guest, MacAddress const& mac,
                    std::string_view suffix) {
    auto digits = mac.text();
    std::erase(digits, ':');
    return fmt::format("{}/{}-{}{}", paths.anchors(), guest, digits, suffix);
}

Result<MacAddress> recorded_mac(Json const& json, std::string_view key) {
    TRY(auto const text, json.text(key));
    return MacAddress::parse(text);
}

Result<int> recorded_number(Json const& json, std::string_view key, std::int64_t least,
                            std::int64_t most) {
    TRY(auto const number, json.integer(key));
    if (number < least || number > most) {
        return fail(Errc::invalid, "`{}` is {}, not between {} and {}", key, number, least, most);
    }
    return static_cast<int>(number);
}

Result<std::string> recorded_guest(Json const& json) {
    TRY(auto name, json.text("guest"));
    TRY_VOID(check_guest_name(name));
    return name;
}

core::ProcessIdentity holder_from(Json const& json) {
    return core::ProcessIdentity::from_json(json["holder"]);
}

Json holder_json(core::ProcessIdentity const& holder) {
    auto made = Json::object();
    holder.add_to(made);
    return made;
}

}  // namespace

Json AnchorTap::to_json() const {
    auto made = Json::object({{"name", name},
                              {"queues", queues},
                              {"vnet_hdr", vnet_hdr},
                              {"mac", mac.text()},
                              {"mtu", mtu},
                              {"queue_length", queue_length},
                              {"bridge", bridge}});
    if (port) made.set("port", port->to_json());
    return made;
}

Result<AnchorTap> AnchorTap::from_json(Json const& json) {
    constexpr int mtu_max = 65'535;
    constexpr int queue_length_max = 1 << 20;
    AnchorTap made;
    TRY(made.name, json.text("name"));
    TRY_VOID(netmove::check_interface_name(made.name));
    TRY(made.queues, recorded_number(json, "queues", 1, netmove::tap_queues_max));
    TRY(made.vnet_hdr, json.boolean("vnet_hdr"));
    TRY(made.mac, recorded_mac(json, "mac"));
    TRY(made.mtu, recorded_number(json, "mtu", 0, mtu_max));
    TRY(made.queue_length, recorded_number(json, "queue_length", 0, queue_length_max));
    TRY(made.bridge, json.text("bridge"));
    if (!made.bridge.empty()) TRY_VOID(netmove::check_interface_name(made.bridge));
    if (json.has("port")) {
        TRY(made.port, netmove::PortSettings::from_json(json["port"]));
    }
    return made;
}

HomeRecord::Tunnel const* HomeRecord::tunnel(std::uint64_t id) const {
    auto const at =
        std::ranges::find_if(tunnels, [id](Tunnel const& one) { return one.key.id == id; });
    return at == tunnels.end() ? nullptr : &*at;
}

std::string_view name(HomeRecord::Kind kind) { return kinds[static_cast<std::size_t>(kind)]; }

std::string_view name(FarRecord::Release::State state) {
    return release_states[static_cast<std::size_t>(state)];
}

Json HomeRecord::to_json() const {
    Json list = Json::array();
    for (auto const& one : tunnels) {
        auto tunnel = Json::object({{"key", one.key.to_json()},
                                    {"peer", one.peer.text()},
                                    {"migration_id", one.migration_id}});
        if (one.vxlan) tunnel.set("vxlan", one.vxlan->to_json());
        list.add(tunnel);
    }
    auto made = Json::object({{"kind", name(kind)},
                              {"guest", guest},
                              {"mac", mac.text()},
                              {"tap", tap.to_json()},
                              {"was_persistent", was_persistent},
                              {"tunnels", list},
                              {"current", netmove::tunnel_id_text(current)},
                              {"since_ms", since_ms},
                              {"holder", holder_json(holder)}});
    if (interface) made.set("interface", interface->to_json());
    if (ending) made.set("ending", true);
    return made;
}

namespace {

/// A record of before stand-ins has none.
Result<HomeRecord::Kind> kind_from(Json const& json) {
    auto const at = std::ranges::find(kinds, json["kind"].text_or("guests_tap"));
    if (at != kinds.end()) return static_cast<HomeRecord::Kind>(at - kinds.begin());
    return fail(Errc::invalid, "`kind` is none of the kinds of anchors");
}

Result<netmove::GuestInterface> stood_in_for(Json const& json, MacAddress const& mac) {
    TRY(auto interface, netmove::GuestInterface::from_json(json["interface"]));
    if (interface.mac == mac && !interface.bridge.empty()) return interface;
    return fail(Errc::invalid, "its interface is another one");
}

}  // namespace

Result<HomeRecord> HomeRecord::from_json(Json const& json) {
    HomeRecord made;
    TRY(made.kind, kind_from(json));
    TRY(made.guest, recorded_guest(json));
    TRY(made.mac, recorded_mac(json, "mac"));
    TRY(made.tap, AnchorTap::from_json(json["tap"]));
    if (made.is_stand_in()) {
        TRY(made.interface, stood_in_for(json, made.mac));
    }
    TRY(made.was_persistent, json.boolean("was_persistent"));
    if (json["tunnels"].size() > anchor_tunnels_max) {
        return fail(Errc::invalid, "it has more than {} tunnels", anchor_tunnels_max);
    }
    for (auto const& one : json["tunnels"].elements()) {
        Tunnel tunnel;
        TRY(tunnel.key, netmove::tunnel::Key::from_json(one["key"]));
        TRY(auto const peer, one.text("peer"));
        TRY(tunnel.peer, netmove::tunnel::Endpoint::parse(peer));
        TRY(tunnel.migration_id, one.text("migration_id"));
        if (one.has("vxlan")) {
            TRY(tunnel.vxlan, netmove::AnchorVxlan::from_json(one["vxlan"]));
        }
        if (made.is_vxlan() != tunnel.vxlan.has_value()) {
            return fail(Errc::invalid, "a tunnel of it is of another plane");
        }
        made.tunnels.push_back(std::move(tunnel));
    }
    TRY(made.current, netmove::tunnel_id_from(json, "current"));
    if (made.current != 0 && made.tunnel(made.current) == nullptr) {
        return fail(Errc::invalid, "the tunnel in use is none of its tunnels");
    }
    TRY(made.since_ms, json.integer("since_ms"));
    made.ending = json["ending"].boolean_or(false);
    made.holder = holder_from(json);
    return made;
}

std::uint32_t anchor_name_hash(std::string const& guest, MacAddress const& mac) {
    constexpr std::uint32_t prime = 16'777'619;
    std::uint32_t hash = 2'166'136'261;
    auto const add = [&hash](unsigned byte) { hash = (hash ^ byte) * prime; };
    for (char const letter : guest) add(static_cast<unsigned char>(letter));
    for (auto const byte : mac.bytes) add(byte);
    return hash;
}

MacAddress anchor_mac(std::uint8_t kind, std::uint32_t hash) {
    MacAddress mac;
    mac.bytes = {0x02, kind};
    for (std::size_t byte = 0; byte < sizeof hash; ++byte) {
        mac.bytes[2 + byte] = static_cast<std::uint8_t>(hash >> (8 * byte));
    }
    return mac;
}

std::optional<netmove::LocalAddress> FarRecord::local_address() const {
    constexpr std::uint8_t kind = 0x5d;
    if (!local) return {};
    auto const hash = anchor_name_hash(guest, mac);
    netmove::LocalAddress made;
    made.bridge = tap.bridge;
    made.tunnel_tap = tap.name;
    made.port = fmt::format("sap{:08x}", hash);
    made.end = fmt::format("sal{:08x}", hash);
    made.end_mac = anchor_mac(kind, hash);
    made.guest_mac = mac;
    made.guest_addresses = local->guest_addresses;
    made.mtu = tap.mtu;
    made.number = local->number;
    made.choice = local->choice;
    return made;
}

namespace {

Json local_json(FarRecord::Local const& local) {
    Json list = Json::array();
    for (auto const& address : local.guest_addresses) list.add(address.text());
    return Json::object({{"choice", local.choice.to_json()},
                         {"guest_addresses", list},
                         {"number", std::int64_t{local.number}}});
}

Result<FarRecord::Local> local_from(Json const& json) {
    FarRecord::Local made;
    TRY(made.choice, netmove::LocalChoice::from_json(json["choice"]));
    if (json["guest_addresses"].size() > netmove::interface_addresses_max) {
        return fail(Errc::invalid, "it has too many addresses of the guest");
    }
    for (auto const& one : json["guest_addresses"].elements()) {
        TRY(auto const address, netmove::Address::parse(one.text_or("")));
        made.guest_addresses.push_back(address);
    }
    constexpr std::int64_t first = netmove::local_number_first;
    TRY(int const number,
        recorded_number(json, "number", first, first + netmove::local_numbers_max - 1));
    made.number = static_cast<std::uint32_t>(number);
    return made;
}

Json release_json(FarRecord::Release const& release) {
    return Json::object({{"state", name(release.state)},
                         {"at_ms", release.at_ms},
                         {"home", release.home},
                         {"gateways", release.gateways.to_json()}});
}

Result<FarRecord::Release> release_from(Json const& json) {
    FarRecord::Release made;
    auto const at = std::ranges::find(release_states, json["state"].text_or(""));
    if (at == release_states.end()) {
        return fail(Errc::invalid, "`state` is none of the states of a release");
    }
    made.state = static_cast<FarRecord::Release::State>(at - release_states.begin());
    TRY(made.at_ms, json.integer("at_ms"));
    TRY(made.home, json.text("home"));
    TRY(made.gateways, netmove::HomeGateways::from_json(json["gateways"]));
    return made;
}

}  // namespace

Json FarRecord::to_json() const {
    auto made = Json::object({{"guest", guest},
                              {"mac", mac.text()},
                              {"migration_id", migration_id},
                              {"tap", tap.to_json()},
                              {"key", key.to_json()},
                              {"anchor_port", anchor_port},
                              {"since_ms", since_ms},
                              {"holder", holder_json(holder)}});
    if (local) made.set("local", local_json(*local));
    if (release) made.set("release", release_json(*release));
    if (!home_bridge.empty()) made.set("home_bridge", home_bridge);
    if (home_port) made.set("home_port", home_port->to_json());
    if (vxlan) made.set("vxlan", vxlan->to_json());
    return made;
}

Result<FarRecord> FarRecord::from_json(Json const& json) {
    FarRecord made;
    TRY(made.guest, recorded_guest(json));
    TRY(made.mac, recorded_mac(json, "mac"));
    TRY(made.migration_id, json.text("migration_id"));
    TRY(made.tap, AnchorTap::from_json(json["tap"]));
    TRY(made.key, netmove::tunnel::Key::from_json(json["key"]));
    TRY(made.anchor_port, recorded_number(json, "anchor_port", 0, recorded_port_max));
    TRY(made.since_ms, json.integer("since_ms"));
    made.holder = holder_from(json);
    if (json.has("local")) {
        TRY(made.local, local_from(json["local"]));
    }
    if (json.has("vxlan")) {
        TRY(made.vxlan, netmove::AnchorVxlan::from_json(json["vxlan"]));
    }
    if (json.has("release")) {
        TRY(made.release, release_from(json["release"]));
    }
    if (json.has("home_bridge")) {
        TRY(made.home_bridge, json.text("home_bridge"));
        TRY_VOID(netmove::check_interface_name(made.home_bridge));
    }
    if (json.has("home_port")) {
        TRY(made.home_port, netmove::PortSettings::from_json(json["home_port"]));
    }
    return made;
}

std::string record_path(Paths const& paths, HomeRecord const& record) {
    return file_of(paths, record.guest, record.mac, home_suffix);
}

std::string record_path(Paths const& paths, FarRecord const& record) {
    return file_of(paths, record.guest, record.mac, far_suffix);
}

Result<AnchorRecords> read_records(Paths const& paths) {
    AnchorRecords all;
    std::error_code error;
    std::filesystem::directory_iterator const entries(paths.anchors(), error);
    if (error == std::errc::no_such_file_or_directory) return all;
    if (error) return core::fail_errno(error.value(), "cannot list {}", paths.anchors());
    auto const read = [&all](std::string const& path) -> Result<> {
        TRY(auto const text, read_file(path, limits::manifest_bytes_max));
        TRY(auto const json, Json::parse(text));
        if (path.ends_with(home_suffix)) {
            TRY(auto record, HomeRecord::from_json(json));
            all.homes.push_back(std::move(record));
        } else {
            TRY(auto record, FarRecord::from_json(json));
            all.fars.push_back(std::move(record));
        }
        return {};
    };
    for (auto const& entry : entries) {
        auto const path = entry.path().string();
        bool const ours = path.ends_with(home_suffix) || path.ends_with(far_suffix);
        if (!ours || all.homes.size() + all.fars.size() >= anchor_records_max) continue;
        auto done = read(path);
        if (!done) all.unreadable.push_back(std::move(done.error()).while_doing("reading " + path));
    }
    return all;
}

Result<std::vector<FarRecord>> far_records(Paths const& paths, std::string const& guest) {
    TRY(auto all, read_records(paths));
    std::erase_if(all.fars, [&guest](FarRecord const& one) { return one.guest != guest; });
    return std::move(all.fars);
}

}  // namespace sidecar
