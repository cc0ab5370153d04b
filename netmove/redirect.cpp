#include "netmove/redirect.hpp"

#include <fmt/format.h>
#include <unistd.h>

#include <utility>

namespace netmove {

using core::Result;

namespace {

/// Before the chains of other programs, which see these frames at the tap.
constexpr int redirect_priority = -300;

/// Unlike those of other redirects of this host.
std::string new_table_name() {
    static unsigned number = 0;
    return fmt::format("sidecar_evpn_{}_{}", ::getpid(), ++number);
}

}  // namespace

Result<Redirect> Redirect::prepare(std::string const& device, std::string const& tap) {
    TRY(auto nft, Nft::open());
    auto table = new_table_name();
    TRY_VOID(
        nft.run(fmt::format("add table netdev {0} {{ flags owner; }}\n"
                            "add set netdev {0} moved {{ type ether_addr; }}\n"
                            "add chain netdev {0} entry {{ type filter hook ingress device \"{1}\" "
                            "priority {3}; }}\n"
                            "add rule netdev {0} entry ether daddr @moved fwd to \"{2}\"\n",
                            table, device, tap, redirect_priority)));
    return Redirect(std::move(nft), std::move(table));
}

Result<> Redirect::begin(MacAddress const& station) {
    TRY_VOID(
        nft_.run(fmt::format("add element netdev {} moved {{ {} }}\n", table_, station.text())));
    return {};
}

}  // namespace netmove
