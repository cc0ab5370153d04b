#include "sidecar/channel/protocol_anchor.hpp"

#include "netmove/tap.hpp"
#include "sidecar/channel/wire_values.hpp"

namespace sidecar::protocol {

using namespace values;

namespace {

// As GuestInterface accepts them.
constexpr std::int64_t anchored_mtu_min = 68;
constexpr std::int64_t anchored_mtu_max = 65'521;

Result<std::string> anchored_guest(Json const& json, std::string_view key = "guest") {
    TRY(auto name, json.text(key));
    TRY_VOID(check_guest_name(name));
    return name;
}

Result<netmove::MacAddress> anchored_mac(Json const& json) {
    TRY(auto const text, json.text("mac"));
    TRY(auto const mac, netmove::MacAddress::parse(text));
    if (!mac.is_unicast()) return fail(Errc::protocol, "{} is no station's", text);
    return mac;
}

Result<std::vector<AnchorEnd>> anchor_ends(Json const& json) {
    return parsed<AnchorEnd>(json, "ends", interfaces_max);
}

Result<int> anchor_port_of(Json const& json, std::string_view key) {
    TRY(auto const port, within(json, key, 0, port_max));
    return static_cast<int>(port);
}

/// An interface that a stand-in takes the place of: it is in a bridge.
Result<netmove::GuestInterface> stood_in_for(Json const& json) {
    TRY(auto interface, netmove::GuestInterface::from_json(json));
    if (!interface.bridge.empty()) return interface;
    return fail(Errc::protocol, "a stand-in for an interface that is in no bridge");
}

Json guest_and_ends(std::string const& guest, std::vector<AnchorEnd> const& ends) {
    return Json::object({{"guest", guest}, {"ends", array_of(ends)}});
}

}  // namespace

Json AnchorEnd::to_json() const {
    auto made = Json::object(
        {{"mac", mac.text()}, {"id", netmove::tunnel_id_text(id)}, {"tap", tap}, {"mtu", mtu}});
    if (key) made.set("key", key->to_json());
    if (stand_in) made.set("stand_in", stand_in->to_json());
    if (!home_bridge.empty()) made.set("home_bridge", home_bridge);
    if (home_port) made.set("home_port", home_port->to_json());
    if (vxlan) made.set("vxlan", vxlan->to_json());
    if (!local) return made;
    Json list = Json::array();
    for (auto const& address : addresses) list.add(address.text());
    return made.set("local", local->to_json()).set("addresses", list);
}

Result<AnchorEnd> AnchorEnd::from_json(Json const& json) {
    AnchorEnd made;
    TRY(made.mac, anchored_mac(json));
    TRY(made.id, netmove::tunnel_id_from(json, "id"));
    TRY(made.tap, json.text("tap"));
    if (!made.tap.empty()) TRY_VOID(netmove::check_interface_name(made.tap));
    TRY(auto const mtu, within(json, "mtu", anchored_mtu_min, anchored_mtu_max));
    made.mtu = static_cast<int>(mtu);
    if (json.has("key")) {
        TRY(made.key, netmove::tunnel::Key::from_json(json["key"]));
    }
    if (json.has("stand_in")) {
        TRY(made.stand_in, stood_in_for(json["stand_in"]));
        if (made.stand_in->mac != made.mac) {
            return fail(Errc::protocol, "a stand-in for another interface");
        }
    }
    if (json.has("home_bridge")) {
        TRY(made.home_bridge, json.text("home_bridge"));
        TRY_VOID(netmove::check_interface_name(made.home_bridge));
    }
    if (json.has("home_port")) {
        TRY(made.home_port, netmove::PortSettings::from_json(json["home_port"]));
    }
    if (json.has("vxlan")) {
        TRY(made.vxlan, netmove::AnchorVxlan::from_json(json["vxlan"]));
    }
    if (!json.has("local")) return made;
    TRY(made.local, netmove::LocalChoice::from_json(json["local"]));
    TRY(auto const list, names(json, "addresses", netmove::interface_addresses_max));
    for (auto const& text : list) {
        TRY(auto const address, netmove::Address::parse(text));
        if (!address.is_host()) return fail(Errc::protocol, "{} is no station's", text);
        made.addresses.push_back(address);
    }
    return made;
}

Json AnchorPath::to_json() const {
    return Json::object({{"round_trip_us", round_trip_us}, {"datagram_max", datagram_max}});
}

Result<AnchorPath> AnchorPath::from_json(Json const& json) {
    AnchorPath made;
    TRY(made.round_trip_us, count(json, "round_trip_us"));
    TRY(made.datagram_max, count(json, "datagram_max"));
    return made;
}

Json AnchorProbe::to_json() const {
    return Json::object({{"guest", guest}, {"peer", peer.text()}, {"key", key.to_json()}});
}

Result<AnchorProbe> AnchorProbe::from_json(Json const& json) {
    AnchorProbe made;
    TRY(made.guest, anchored_guest(json));
    TRY(auto const peer, words(json, "peer", name_bytes_max));
    TRY(made.peer, netmove::tunnel::Endpoint::parse(peer));
    TRY(made.key, netmove::tunnel::Key::from_json(json["key"]));
    return made;
}

Json AnchorPrepare::to_json() const {
    return guest_and_ends(guest, ends).set("migration_id", migration_id).set("peer", peer.text());
}

Result<AnchorPrepare> AnchorPrepare::from_json(Json const& json) {
    AnchorPrepare made;
    TRY(made.guest, anchored_guest(json));
    TRY(made.migration_id, anchored_guest(json, "migration_id"));
    TRY(auto const peer, words(json, "peer", name_bytes_max));
    TRY(made.peer, netmove::tunnel::Endpoint::parse(peer));
    TRY(made.ends, anchor_ends(json));
    for (auto const& end : made.ends) {
        if (!end.key) return fail(Errc::protocol, "an anchor's tunnel without its key");
    }
    return made;
}

Json AnchorPoint::to_json() const { return guest_and_ends(guest, ends); }

Result<AnchorPoint> AnchorPoint::from_json(Json const& json) {
    AnchorPoint made;
    TRY(made.guest, anchored_guest(json));
    TRY(made.ends, anchor_ends(json));
    return made;
}

Json AnchorKeep::to_json() const { return guest_and_ends(guest, ends); }

Result<AnchorKeep> AnchorKeep::from_json(Json const& json) {
    AnchorKeep made;
    TRY(made.guest, anchored_guest(json));
    TRY(made.ends, anchor_ends(json));
    return made;
}

Json AnchorStandInAnswer::to_json() const {
    return Json::object({{"port", port}, {"path", path.to_json()}});
}

Result<AnchorStandInAnswer> AnchorStandInAnswer::from_json(Json const& json) {
    AnchorStandInAnswer made;
    TRY(made.port, anchor_port_of(json, "port"));
    TRY(made.path, AnchorPath::from_json(json["path"]));
    return made;
}

Json AnchorStandIn::to_json() const {
    return Json::object({{"guest", guest},
                         {"interfaces", array_of(interfaces)},
                         {"destination_id", destination_id},
                         {"peer", peer.text()},
                         {"key", key.to_json()}});
}

Result<AnchorStandIn> AnchorStandIn::from_json(Json const& json) {
    AnchorStandIn made;
    TRY(made.guest, anchored_guest(json));
    TRY(auto const elements, list(json, "interfaces", interfaces_max));
    for (auto const& one : elements) {
        TRY(auto interface, stood_in_for(one));
        made.interfaces.push_back(std::move(interface));
    }
    TRY(made.destination_id, words(json, "destination_id", name_bytes_max));
    TRY(auto const peer, words(json, "peer", name_bytes_max));
    TRY(made.peer, netmove::tunnel::Endpoint::parse(peer));
    TRY(made.key, netmove::tunnel::Key::from_json(json["key"]));
    return made;
}

Json AnchorEndStandIn::to_json() const { return guest_and_ends(guest, ends); }

Result<AnchorEndStandIn> AnchorEndStandIn::from_json(Json const& json) {
    AnchorEndStandIn made;
    TRY(made.guest, anchored_guest(json));
    TRY(made.ends, anchor_ends(json));
    return made;
}

Json AnchorEndAway::to_json() const { return guest_and_ends(guest, ends); }

Result<AnchorEndAway> AnchorEndAway::from_json(Json const& json) {
    AnchorEndAway made;
    TRY(made.guest, anchored_guest(json));
    TRY(made.ends, anchor_ends(json));
    return made;
}

Json AnchorWhereAnswer::End::to_json() const {
    return Json::object({{"mac", mac.text()}, {"id", netmove::tunnel_id_text(id)}, {"home", home}});
}

Result<AnchorWhereAnswer::End> AnchorWhereAnswer::End::from_json(Json const& json) {
    End made;
    TRY(made.mac, anchored_mac(json));
    TRY(made.id, netmove::tunnel_id_from(json, "id"));
    TRY(made.home, words(json, "home", name_bytes_max));
    return made;
}

Json AnchorWhereAnswer::to_json() const {
    return Json::object({{"serve_port", serve_port}, {"ends", array_of(ends)}});
}

Result<AnchorWhereAnswer> AnchorWhereAnswer::from_json(Json const& json) {
    AnchorWhereAnswer made;
    TRY(made.serve_port, anchor_port_of(json, "serve_port"));
    TRY(made.ends, parsed<End>(json, "ends", interfaces_max));
    return made;
}

Json AnchorWhere::to_json() const { return Json::object({{"guest", guest}}); }

Result<AnchorWhere> AnchorWhere::from_json(Json const& json) {
    AnchorWhere made;
    TRY(made.guest, anchored_guest(json));
    return made;
}

Json AnchorOfferAnswer::to_json() const {
    Json list_of_here = Json::array();
    for (bool const one : here) list_of_here.add(Json(one));
    return Json::object({{"port", port}, {"here", list_of_here}});
}

Result<AnchorOfferAnswer> AnchorOfferAnswer::from_json(Json const& json) {
    AnchorOfferAnswer made;
    TRY(made.port, anchor_port_of(json, "port"));
    TRY(auto const elements, list(json, "here", interfaces_max));
    for (auto const& one : elements) made.here.push_back(one.boolean_or(false));
    return made;
}

Json AnchorOffer::to_json() const {
    auto made = guest_and_ends(guest, ends);
    if (probe) made.set("probe", probe->to_json());
    return made;
}

Result<AnchorOffer> AnchorOffer::from_json(Json const& json) {
    AnchorOffer made;
    TRY(made.guest, anchored_guest(json));
    TRY(made.ends, anchor_ends(json));
    if (!json.has("probe")) return made;
    TRY(made.probe, netmove::tunnel::Key::from_json(json["probe"]));
    return made;
}

Json AnchorReceiveAnswer::to_json() const {
    return Json::object({{"port", port}, {"bridges", array_of(bridges)}});
}

Result<AnchorReceiveAnswer> AnchorReceiveAnswer::from_json(Json const& json) {
    AnchorReceiveAnswer made;
    TRY(made.port, anchor_port_of(json, "port"));
    TRY(made.bridges, names(json, "bridges", interfaces_max));
    for (auto const& bridge : made.bridges) TRY_VOID(netmove::check_interface_name(bridge));
    return made;
}

Json AnchorReceive::to_json() const {
    return guest_and_ends(guest, ends)
        .set("migration_id", migration_id)
        .set("anchor_port", anchor_port);
}

Result<AnchorReceive> AnchorReceive::from_json(Json const& json) {
    AnchorReceive made;
    TRY(made.guest, anchored_guest(json));
    TRY(made.migration_id, anchored_guest(json, "migration_id"));
    TRY(made.anchor_port, anchor_port_of(json, "anchor_port"));
    TRY(made.ends, anchor_ends(json));
    return made;
}

Json AnchorLeave::to_json() const {
    return Json::object({{"guest", guest}, {"migration_id", migration_id}});
}

Result<AnchorLeave> AnchorLeave::from_json(Json const& json) {
    AnchorLeave made;
    TRY(made.guest, anchored_guest(json));
    TRY(made.migration_id, json.text("migration_id"));
    if (!made.migration_id.empty()) TRY_VOID(check_guest_name(made.migration_id));
    return made;
}

Json AnchorReturn::to_json() const { return Json::object({{"guest", guest}}); }

Result<AnchorReturn> AnchorReturn::from_json(Json const& json) {
    AnchorReturn made;
    TRY(made.guest, anchored_guest(json));
    return made;
}

Json AnchorRelease::to_json() const { return Json::object({{"guest", guest}, {"force", force}}); }

Result<AnchorRelease> AnchorRelease::from_json(Json const& json) {
    AnchorRelease made;
    TRY(made.guest, anchored_guest(json));
    TRY(made.force, json.boolean("force"));
    return made;
}

}  // namespace sidecar::protocol
