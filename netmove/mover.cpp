#include "netmove/mover.hpp"

#include <algorithm>
#include <charconv>

#include "netmove/routes_mover.hpp"
#include "netmove/tap.hpp"

namespace netmove {

using core::Errc;
using core::fail;
using core::Json;
using core::Result;

namespace {

// RFC 791's and Linux's smallest MTU, and the largest a tap takes.
constexpr int mtu_min = 68;
constexpr int mtu_max = 65'521;
constexpr int vlan_max = 4094;
constexpr int vni_max = (1 << 24) - 1;
// QEMU's own ids are shorter; this one is shown in messages.
constexpr std::size_t netdev_size_max = 128;

Result<int> integer_between(Json const& json, std::string_view key, int low, int high) {
    TRY(auto const value, json.integer(key));
    if (value < low || value > high) {
        return fail(Errc::protocol, "{} is {}, not between {} and {}", key, value, low, high);
    }
    return static_cast<int>(value);
}

Result<GuestAddress> address_from(Json const& json) {
    TRY(auto const text, json.text("address"));
    TRY(auto const address, Address::parse(text));
    if (!address.is_host()) {
        return fail(Errc::protocol, "{} cannot be the address of a guest", address.text());
    }
    TRY(auto const vlan, integer_between(json, "vlan", 0, vlan_max));
    return GuestAddress{address, static_cast<std::uint16_t>(vlan)};
}

/// The errors of parsing name their member; here they become ones of the protocol.
template <class T>
Result<T> as_protocol(Result<T> result, std::string_view member) {
    if (result) return result;
    return fail(Errc::protocol, "a guest's interface with a bad {}: {}", member,
                result.error().sentence());
}

Result<std::string> name_from(Json const& json, std::string_view key, bool may_be_empty) {
    TRY(auto name, json.text(key));
    if (!(may_be_empty && name.empty())) TRY_VOID(check_interface_name(name));
    return name;
}

Result<std::string> network_from(Json const& json) {
    auto network = json["network"].text_or("");  // a source of before networks says nothing
    if (network.empty() || network == "ipv4" || network == "ipv6") return network;
    return fail(Errc::protocol, "`{}` is not a protocol of a network", network);
}

Result<std::string> netdev_from(Json const& json) {
    TRY(auto netdev, json.text("netdev"));
    bool const printable = std::ranges::all_of(
        netdev, [](unsigned char character) { return character > ' ' && character < 0x7f; });
    if (netdev.size() > netdev_size_max || !printable) {
        return fail(Errc::protocol, "it is longer than {} characters, or has strange ones",
                    netdev_size_max);
    }
    return netdev;
}

Result<MacAddress> mac_from(Json const& json) {
    TRY(auto const text, json.text("mac"));
    TRY(auto const mac, MacAddress::parse(text));
    if (!mac.is_unicast())
        return fail(Errc::protocol, "{} is not a unicast MAC address", mac.text());
    return mac;
}

Result<std::vector<GuestAddress>> addresses_from(Json const& json) {
    auto const list = json["addresses"];
    if (!list.is_array()) return fail(Errc::protocol, "the list is missing");
    if (list.size() > interface_addresses_max) {
        return fail(Errc::protocol, "{} are more than {}", list.size(), interface_addresses_max);
    }
    std::vector<GuestAddress> out;
    for (auto const& element : list.elements()) {
        TRY(auto const address, address_from(element));
        out.push_back(address);
    }
    return out;
}

/// A source of before routed taps has none.
Result<bool> routed_from(Json const& json) {
    if (!json.has("routed")) return false;
    TRY(bool const routed, json.boolean("routed"));
    if (routed && !json["bridge"].text_or("").empty()) {
        return fail(Errc::protocol, "it is in a bridge as well");
    }
    return routed;
}

Result<std::uint32_t> renewals_from(Json const& json) {
    if (!json.has("renewals")) return std::uint32_t{0};
    TRY(int const renewals, integer_between(json, "renewals", 0, guest_renewals_max));
    return static_cast<std::uint32_t>(renewals);
}

/// A source of before EVPN has none.
Result<bool> evpn_from(Json const& json) {
    if (!json.has("evpn")) return false;
    return json.boolean("evpn");
}

Result<std::optional<AnchorMove>> anchor_from(Json const& json) {
    if (json.is_null()) return std::optional<AnchorMove>{};
    TRY(auto move, AnchorMove::from_json(json));
    return std::optional(move);
}

Result<std::optional<VxlanEnd>> vxlan_from(Json const& json) {
    if (json.is_null()) return std::optional<VxlanEnd>{};
    TRY(auto end, VxlanEnd::from_json(json));
    return std::optional(std::move(end));
}

}  // namespace

Json VxlanEnd::to_json() const {
    return Json::object({{"vni", static_cast<std::int64_t>(vni)},
                         {"local", local ? local->text() : ""},
                         {"learning", learning},
                         {"evpn", evpn}});
}

Result<VxlanEnd> VxlanEnd::from_json(Json const& json) {
    VxlanEnd out;
    TRY(int const vni, integer_between(json, "vni", 0, vni_max));
    out.vni = static_cast<std::uint32_t>(vni);
    TRY(out.learning, json.boolean("learning"));
    if (json.has("evpn")) {
        TRY(out.evpn, json.boolean("evpn"));
    }
    TRY(auto const local, json.text("local"));
    if (local.empty()) return out;
    TRY(auto const address, Address::parse(local));
    if (!address.is_host())
        return fail(Errc::protocol, "{} cannot be the address of a host", local);
    out.local = address;
    return out;
}

std::string tunnel_id_text(std::uint64_t id) { return fmt::format("{:016x}", id); }

Result<std::uint64_t> tunnel_id_from(Json const& json, std::string_view key) {
    constexpr std::size_t digits = 16;
    TRY(auto const text, json.text(key));
    std::uint64_t id = 0;
    auto const [end, error] = std::from_chars(text.data(), text.data() + text.size(), id, 16);
    if (error != std::errc() || end != text.data() + text.size() || text.size() != digits ||
        tunnel_id_text(id) != text) {
        return fail(Errc::protocol, "`{}` is no id of a tunnel", key);
    }
    return id;
}

Json AnchorMove::to_json() const {
    auto made = Json::object({{"from", tunnel_id_text(from)}, {"to", tunnel_id_text(to)}});
    if (local) made.set("local", local->to_json());
    if (!home_bridge.empty()) made.set("home_bridge", home_bridge);
    if (vxlan) made.set("vxlan", vxlan->to_json());
    return made;
}

Result<AnchorMove> AnchorMove::from_json(Json const& json) {
    AnchorMove out;
    TRY(out.from, tunnel_id_from(json, "from"));
    TRY(out.to, tunnel_id_from(json, "to"));
    if (json.has("local")) {
        TRY(out.local, LocalChoice::from_json(json["local"]));
    }
    if (json.has("home_bridge")) {
        TRY(out.home_bridge, name_from(json, "home_bridge", false));
    }
    if (json.has("vxlan")) {
        TRY(out.vxlan, AnchorVxlan::from_json(json["vxlan"]));
    }
    return out;
}

Json GuestInterface::to_json() const {
    auto list = Json::array();
    for (auto const& [address, vlan] : addresses) {
        list.add(Json::object({{"address", address.text()}, {"vlan", static_cast<int>(vlan)}}));
    }
    auto made = Json::object({{"netdev", netdev},
                              {"tap", tap},
                              {"bridge", bridge},
                              {"routed", routed},
                              {"renewals", static_cast<std::int64_t>(renewals)},
                              {"evpn", evpn},
                              {"network", network},
                              {"mac", mac.text()},
                              {"mtu", mtu},
                              {"queues", queues},
                              {"vnet_hdr", vnet_hdr},
                              {"router", router},
                              {"addresses", list}});
    if (vxlan_source) made.set("vxlan_source", vxlan_source->to_json());
    if (vxlan_destination) made.set("vxlan_destination", vxlan_destination->to_json());
    if (anchor) made.set("anchor", anchor->to_json());
    if (port) made.set("port", port->to_json());
    return made;
}

Result<GuestInterface> GuestInterface::from_json(Json const& json) {
    GuestInterface out;
    TRY(out.netdev, as_protocol(netdev_from(json), "netdev"));
    TRY(out.tap, as_protocol(name_from(json, "tap", false), "tap"));
    TRY(out.bridge, as_protocol(name_from(json, "bridge", true), "bridge"));
    TRY(out.routed, as_protocol(routed_from(json), "routed"));
    TRY(out.renewals, as_protocol(renewals_from(json), "renewals"));
    TRY(out.network, as_protocol(network_from(json), "network"));
    TRY(out.vxlan_source, as_protocol(vxlan_from(json["vxlan_source"]), "vxlan_source"));
    TRY(out.vxlan_destination,
        as_protocol(vxlan_from(json["vxlan_destination"]), "vxlan_destination"));
    TRY(out.evpn, as_protocol(evpn_from(json), "evpn"));
    TRY(out.anchor, as_protocol(anchor_from(json["anchor"]), "anchor"));
    TRY(out.mac, as_protocol(mac_from(json), "mac"));
    TRY(out.mtu, as_protocol(integer_between(json, "mtu", mtu_min, mtu_max), "mtu"));
    TRY(out.queues, as_protocol(integer_between(json, "queues", 1, tap_queues_max), "queues"));
    TRY(out.vnet_hdr, as_protocol(json.boolean("vnet_hdr"), "vnet_hdr"));
    TRY(out.router, as_protocol(json.boolean("router"), "router"));
    TRY(out.addresses, as_protocol(addresses_from(json), "addresses"));
    if (json.has("port")) {
        TRY(out.port, PortSettings::from_json(json["port"]));
    }
    return out;
}

void MoverSet::add(std::unique_ptr<Mover> mover, std::size_t interface) {
    movers_.push_back(std::move(mover));
    interfaces_.push_back(interface);
}

void MoverSet::update(std::size_t interface, GuestInterface const& now) {
    for (std::size_t index = 0; index < movers_.size(); ++index) {
        if (interfaces_[index] == interface) movers_[index]->update(now);
    }
}

core::Task<Result<>> MoverSet::prepare(core::Deadline deadline) {
    for (std::size_t i = 0; i < movers_.size(); ++i) {
        auto prepared = co_await movers_[i]->prepare(deadline);
        if (prepared) continue;
        for (std::size_t back = i; back > 0; --back) (void)movers_[back - 1]->rollback();
        co_return std::unexpected(std::move(prepared.error()));
    }
    co_return Result<>{};
}

Result<> MoverSet::fire() {
    fired_.clear();
    for (auto const& mover : movers_) {
        auto const began = core::Clock::now();
        auto result = mover->fire();
        fired_.push_back(
            {std::string(mover->name()), began, core::Clock::now() - began, mover->moves()});
        if (result) continue;
        // This one too: it may have done half of it. What is undone badly is worth less than why.
        for (std::size_t back = fired_.size(); back > 0; --back)
            (void)movers_[back - 1]->rollback();
        fired_.clear();
        return std::unexpected(std::move(result.error()));
    }
    return {};
}

bool MoverSet::may_release() const {
    return std::ranges::all_of(movers_, [](auto const& mover) { return mover->may_release(); });
}

Result<> MoverSet::release() {
    Result<> first;
    for (auto const& mover : movers_) {
        auto result = mover->release();
        if (!result && first) first = std::move(result);
    }
    return first;
}

core::Task<Result<>> MoverSet::settle(core::Deadline deadline) {
    Result<> first;
    for (auto const& mover : movers_) {
        auto result = co_await mover->settle(deadline);
        if (!result && first) first = std::move(result);
    }
    co_return first;
}

Result<> MoverSet::rollback() {
    fired_.clear();
    Result<> first;
    for (auto mover = movers_.rbegin(); mover != movers_.rend(); ++mover) {
        auto result = (*mover)->rollback();
        if (!result && first) first = std::move(result);
    }
    return first;
}

bool MoverSet::is_back() const {
    return std::ranges::all_of(movers_, [](auto const& mover) { return mover->is_back(); });
}

std::optional<core::Clock::time_point> MoverSet::fired_at() const {
    if (fired_.empty()) return std::nullopt;
    return fired_.back().at + fired_.back().took;
}

}  // namespace netmove
