#include "netmove/local_choice.hpp"

#include <algorithm>

#include "netmove/tap.hpp"

namespace netmove {

using core::Errc;
using core::fail;
using core::Json;
using core::Result;

bool covers(HostAddress const& subnet, Address const& address) {
    if (subnet.address.family() != address.family()) return false;
    auto const network = subnet.address.bytes();
    auto const bytes = address.bytes();
    auto const length = static_cast<std::size_t>(subnet.prefix_length);
    for (std::size_t bit = 0; bit < length && bit < 8 * bytes.size(); ++bit) {
        auto const mask = 0x80U >> bit % 8;
        if ((network[bit / 8] & mask) != (bytes[bit / 8] & mask)) return false;
    }
    return true;
}

std::optional<Address> LocalChoice::of(Address::Family family) const {
    auto const at = std::ranges::find(addresses, family, &Address::family);
    return at == addresses.end() ? std::nullopt : std::optional(*at);
}

Result<> LocalChoice::validate() const {
    if (addresses.empty()) return fail(Errc::invalid, "no local address is given");
    for (auto const& address : addresses) {
        if (!address.is_host() || address.is_link_local()) {
            return fail(Errc::invalid, "{} cannot be the local address of a guest", address.text());
        }
        if (std::ranges::count(addresses, address.family(), &Address::family) > 1) {
            return fail(Errc::invalid, "a guest can have one local address of each family");
        }
        for (auto const& subnet : home) {
            if (!covers(subnet, address)) continue;
            return fail(Errc::invalid,
                        "the local address {} is in {}, the guest's home network: name one of the "
                        "destination's network",
                        address.text(), subnet.text());
        }
    }
    if (home.size() > home_subnets_max) {
        return fail(Errc::invalid, "a home network of more than {} subnets", home_subnets_max);
    }
    if (release_when_idle && !new_sessions) {
        return fail(Errc::invalid,
                    "--release-when-idle needs --new-sessions=local: sessions that the guest opens "
                    "would use the anchor without end");
    }
    return {};
}

Json LocalChoice::to_json() const {
    Json list = Json::array();
    for (auto const& address : addresses) list.add(address.text());
    Json subnets = Json::array();
    for (auto const& subnet : home) subnets.add(subnet.text());
    auto made =
        Json::object({{"addresses", list}, {"new_sessions", new_sessions}, {"home", subnets}});
    if (release_when_idle) made.set("release_when_idle", true).set("home_bridge", home_bridge);
    return made;
}

Result<LocalChoice> LocalChoice::from_json(Json const& json) {
    constexpr std::size_t families = 2;
    LocalChoice made;
    if (json["addresses"].size() > families || json["home"].size() > home_subnets_max) {
        return fail(Errc::invalid, "too many local addresses or home subnets");
    }
    for (auto const& one : json["addresses"].elements()) {
        TRY(auto const address, Address::parse(one.text_or("")));
        made.addresses.push_back(address);
    }
    TRY(made.new_sessions, json.boolean("new_sessions"));
    for (auto const& one : json["home"].elements()) {
        TRY(auto const subnet, HostAddress::parse(one.text_or("")));
        made.home.push_back(subnet);
    }
    made.release_when_idle = json["release_when_idle"].boolean_or(false);
    if (made.release_when_idle) {
        made.home_bridge = json["home_bridge"].text_or("");
        if (!made.home_bridge.empty()) TRY_VOID(check_interface_name(made.home_bridge));
    }
    TRY_VOID(made.validate());
    return made;
}

}  // namespace netmove
