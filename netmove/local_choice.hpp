// LocalChoice: the local addresses that an operator gives a guest which moves by an anchor, as the
// choice travels from the source to the destination. What they do is in local_address.hpp.
#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <vector>

#include "core/json.hpp"
#include "core/result.hpp"
#include "netmove/address.hpp"
#include "netmove/network.hpp"

namespace netmove {

/// Subnets of one home network: the addresses of a host's bridge, and those that were named.
constexpr std::size_t home_subnets_max = 16;

struct LocalChoice {
    std::vector<Address> addresses;  ///< Of the destination's network; one of each family at most.
    bool new_sessions = false;  ///< Sessions that the guest opens use them too.
    /// The guest's home network. Sessions that the guest opens to its neighbours there stay there.
    std::vector<HostAddress> home;
    /// The anchor ends when no session needs it any more. Only with new_sessions.
    bool release_when_idle = false;
    /// With release_when_idle: the guest's bridge as the hosts of its home network call it.
    std::string home_bridge = {};

    /// The local address of that family; none: the guest has none.
    [[nodiscard]] std::optional<Address> of(Address::Family family) const;
    /// Whether the parts are possible and go together. Fails with invalid. Touches nothing.
    [[nodiscard]] core::Result<> validate() const;
    [[nodiscard]] core::Json to_json() const;
    /// Remote input. Fails with invalid.
    static core::Result<LocalChoice> from_json(core::Json const& json);
    bool operator==(LocalChoice const&) const = default;
};

/// Whether `subnet` (any address of it) covers `address`.
[[nodiscard]] bool covers(HostAddress const& subnet, Address const& address);

}  // namespace netmove
