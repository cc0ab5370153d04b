// What a network is, as a value: checked, and kept as JSON.
#include <algorithm>
#include <charconv>

#include "netmove/network.hpp"
#include "netmove/tap.hpp"

namespace netmove {

using core::Errc;
using core::fail;
using core::Json;
using core::Result;

namespace {

// Letters first, so that no tool takes a name for an option or a number; nft takes these as they
// are.
constexpr std::string_view name_letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ";
constexpr std::string_view name_others = "0123456789-_.";

// Below it, the field is a length (IEEE 802.3), and LLC follows, in which anything may be carried.
constexpr unsigned ether_type_min = 0x0600;
constexpr unsigned ether_type_max = 0xffff;
// The protocols themselves; and tags, after which another EtherType follows: 802.1Q, 802.1ad, and
// those that were in use before it.
constexpr std::uint16_t never_allowed[] = {0x0800, 0x0806, 0x86dd, 0x8100,
                                           0x88a8, 0x9100, 0x9200, 0x9300};

Result<int> number_in(std::string_view text, int low, int high) {
    int value = 0;
    auto const [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
    if (error != std::errc() || end != text.data() + text.size() || value < low || value > high) {
        return fail(Errc::invalid, "`{}` is not a number from {} to {}", text, low, high);
    }
    return value;
}

Result<> check_name(std::string const& network) {
    bool const good = !network.empty() && network.size() <= network_name_max &&
                      name_letters.contains(network.front()) && !network.starts_with("w-") &&
                      std::ranges::all_of(network, [](char c) {
                          return name_letters.contains(c) || name_others.contains(c);
                      });
    if (good) return {};
    return fail(Errc::invalid,
                "`{}` is not a valid name of a network: use at most {} letters, digits, `-`, `_` "
                "and `.`, a "
                "letter first, and not `w-` (wires are called so)",
                network, network_name_max);
}

Json texts(std::vector<std::string> const& all) {
    auto list = Json::array();
    for (auto const& text : all) list.add(text);
    return list;
}

}  // namespace

std::string_view name(Protocol protocol) { return protocol == Protocol::ipv4 ? "IPv4" : "IPv6"; }

Result<HostAddress> HostAddress::parse(std::string const& text) {
    auto const slash = text.find('/');
    if (slash == std::string::npos) {
        return fail(Errc::invalid,
                    "`{}` has no prefix length: write 192.0.2.1/24 or 2001:db8::1/64", text);
    }
    TRY(auto const address, Address::parse(text.substr(0, slash)));
    if (!address.is_host() || address.is_link_local()) {
        return fail(Errc::invalid, "{} cannot be the address of a host", address.text());
    }
    TRY(auto const length,
        number_in(std::string_view(text).substr(slash + 1), 1, address.is_ipv4() ? 32 : 128));
    return HostAddress{address, length};
}

std::string HostAddress::text() const {
    return fmt::format("{}/{}", address.text(), prefix_length);
}

Result<std::uint16_t> parse_ether_type(std::string const& text) {
    std::string_view digits = text;
    if (digits.starts_with("0x") || digits.starts_with("0X")) digits.remove_prefix(2);
    unsigned value = 0;
    auto const [end, error] =
        std::from_chars(digits.data(), digits.data() + digits.size(), value, 16);
    if (error != std::errc() || end != digits.data() + digits.size() || value < ether_type_min ||
        value > ether_type_max) {
        return fail(Errc::invalid,
                    "`{}` is no EtherType: write it as 0x88cc, from {:#06x} to {:#06x}", text,
                    ether_type_min, ether_type_max);
    }
    auto const type = static_cast<std::uint16_t>(value);
    if (std::ranges::find(never_allowed, type) != std::end(never_allowed)) {
        return fail(Errc::invalid,
                    "the EtherType {:#06x} cannot be allowed: a network passes one Internet "
                    "protocol, and nothing that would hide the other (VLAN tags)",
                    type);
    }
    return type;
}

std::string NetworkDefinition::wire() const {
    // The end of a long name says more than its beginning. Another wire that gets the same name is
    // found out by its MAC address.
    auto const from = uplink.size() > network_name_max ? uplink.size() - network_name_max : 0;
    return "w-" + uplink.substr(from);
}

Result<> NetworkDefinition::validate() const {
    TRY_VOID(check_name(name));
    if (!uplink.empty()) TRY_VOID(check_interface_name(uplink));
    if (uplink == name) {
        return fail(Errc::invalid, "the network {} cannot have the name of its uplink", name);
    }
    if (!native && !addresses.empty()) {
        return fail(Errc::invalid,
                    "a parallel network is the guests': the host has no address in it; leave "
                    "--address out, or make a native one (--native)");
    }
    if (addresses.size() > network_list_max || allowed.size() > network_list_max) {
        return fail(Errc::invalid, "a network has at most {} addresses and {} EtherTypes",
                    network_list_max, network_list_max);
    }
    for (auto const& entry : addresses) {
        if (entry.address.is_ipv4() == (protocol == Protocol::ipv4)) continue;
        return fail(Errc::invalid, "{} is not an address of an {} network", entry.text(),
                    netmove::name(protocol));
    }
    return {};
}

Json NetworkDefinition::to_json() const {
    std::vector<std::string> address_texts;
    for (auto const& entry : addresses) address_texts.push_back(entry.text());
    std::vector<std::string> type_texts;
    for (auto const type : allowed) type_texts.push_back(fmt::format("{:#06x}", type));
    return Json::object({{"name", name},
                         {"protocol", protocol == Protocol::ipv4 ? "ipv4" : "ipv6"},
                         {"role", native ? "native" : "parallel"},
                         {"addresses", texts(address_texts)},
                         {"uplink", uplink},
                         {"shared_uplink", shared_uplink},
                         {"allowed", texts(type_texts)}});
}

Result<NetworkDefinition> NetworkDefinition::from_json(Json const& json) {
    NetworkDefinition made;
    TRY(made.name, json.text("name"));
    TRY(auto const protocol_text, json.text("protocol"));
    if (protocol_text != "ipv4" && protocol_text != "ipv6") {
        return fail(Errc::invalid, "`{}` is not a protocol of a network", protocol_text);
    }
    made.protocol = protocol_text == "ipv4" ? Protocol::ipv4 : Protocol::ipv6;
    TRY(auto const role, json.text("role"));
    made.native = role == "native";
    for (auto const& entry : json["addresses"].elements()) {
        TRY(auto const address, HostAddress::parse(entry.text_or("")));
        made.addresses.push_back(address);
    }
    TRY(made.uplink, json.text("uplink"));
    TRY(made.shared_uplink, json.boolean("shared_uplink"));
    for (auto const& entry : json["allowed"].elements()) {
        TRY(auto const type, parse_ether_type(entry.text_or("")));
        made.allowed.push_back(type);
    }
    TRY_VOID(made.validate());
    return made;
}

Json NetworkRecord::to_json() const {
    auto made = Json::object({{"definition", definition.to_json()},
                              {"mac", mac.text()},
                              {"rules", rules},
                              {"made_from", made_from}});
    if (uplink_before) {
        made.set("uplink_before", Json::object({{"up", uplink_before->up},
                                                {"disable_ipv6", uplink_before->disable_ipv6},
                                                {"addr_gen_mode", uplink_before->addr_gen_mode}}));
    }
    return made;
}

Result<NetworkRecord> NetworkRecord::from_json(Json const& json) {
    NetworkRecord made;
    TRY(made.definition, NetworkDefinition::from_json(json["definition"]));
    TRY(auto const mac_text, json.text("mac"));
    TRY(made.mac, MacAddress::parse(mac_text));
    TRY(made.rules, json.text("rules"));
    TRY(made.made_from, json.text("made_from"));
    if (auto const before = json["uplink_before"]; before.is_object()) {
        made.uplink_before.emplace();
        TRY(made.uplink_before->up, before.boolean("up"));
        TRY(made.uplink_before->disable_ipv6, before.text("disable_ipv6"));
        TRY(made.uplink_before->addr_gen_mode, before.text("addr_gen_mode"));
    }
    return made;
}

}  // namespace netmove
