// Redirect: frames for one station that enter this host by one device go to one tap, whatever the
// bridge's table says. Used by the evpn mover: a routing daemon changes that table in its own time,
// and a bridge drops frames that it would send back through the port that they came in by.
//
// It is a table of nftables that this process owns: the kernel removes it when the process ends, so
// that none is left which leads to a tap of before.
#pragma once

#include <string>

#include "netmove/address.hpp"
#include "netmove/nft.hpp"

namespace netmove {

class Redirect {
public:
    /// Everything slow; nothing is redirected yet. Fails if the kernel cannot do it (nftables with
    /// `fwd` at a device's entry).
    static core::Result<Redirect> prepare(std::string const& device, std::string const& tap);

    /// From now on, until the object is destroyed. May be repeated.
    core::Result<> begin(MacAddress const& station);

private:
    Redirect(Nft nft, std::string table) : nft_(std::move(nft)), table_(std::move(table)) {}
    Nft nft_;
    std::string table_;
};

}  // namespace netmove
