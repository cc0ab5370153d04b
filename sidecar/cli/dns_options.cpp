#include "sidecar/cli/dns_options.hpp"

#include <CLI/CLI.hpp>

#include <filesystem>

#include "core/stream.hpp"
#include "netmove/address.hpp"
#include "netmove/dns/primary.hpp"

namespace sidecar {

using core::Errc;
using core::fail;
using core::Result;

void DnsFlags::add_to(CLI::App& app) {
    auto* name = app.add_option(
        "--dns-name", options_.name,
        "The guest's name in the DNS: it gets the addresses below when the guest has moved");
    auto* key = app.add_option("--dns-key", options_.key_file,
                               "TSIG key for the update, as tsig-keygen prints it, mode 0600");
    auto* address = app.add_option("--dns-address", options_.addresses,
                                   "An address that the name has after the move, IPv4 or IPv6")
                        ->allow_extra_args(false);
    name->needs(key)->needs(address);
    key->needs(name);
    address->needs(name);
    app.add_option("--dns-server", options_.server,
                   "HOST[:PORT] of the zone's primary (default: as its SOA record says)")
        ->needs(name);
    app.add_option("--dns-ttl", ttl_,
                   "Seconds that resolvers may keep the new addresses (default: as before)")
        ->needs(name)
        ->check(CLI::Range(limits::dns_ttl_min_s, limits::dns_ttl_max_s));
}

Result<DnsOptions> DnsFlags::finish() const {
    auto made = options_;
    if (made.name.empty() && made.key_file.empty()) return made;
    TRY_VOID(netmove::dns::absolute_name(made.name));
    if (made.key_file.empty()) return fail(Errc::invalid, "--dns-key needs a FILE");
    if (made.addresses.size() > limits::dns_addresses_max) {
        return fail(Errc::invalid, "{} addresses of a name are too many: at most {}",
                    made.addresses.size(), limits::dns_addresses_max);
    }
    for (auto const& text : made.addresses) {
        TRY(auto const address, netmove::Address::parse(text));
        if (!address.is_host() || address.is_link_local()) {
            return fail(Errc::invalid, "{} is no address under which others reach a guest", text);
        }
    }
    if (!made.server.empty()) {
        TRY_VOID(core::split_host_port(made.server, netmove::dns::dns_port));
    }
    // The guest's sidecar reads it, and has another working directory.
    made.key_file = std::filesystem::absolute(made.key_file).string();
    if (ttl_ != 0) made.ttl = static_cast<std::uint32_t>(ttl_);
    return made;
}

}  // namespace sidecar
