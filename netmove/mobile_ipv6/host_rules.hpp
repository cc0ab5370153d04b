// HostRules: nftables rules that keep the kernel of a home agent's host from answering what the
// home agent itself receives. Used by HomeAgent. Needs CAP_NET_ADMIN.
//
//   prerouting  Mobility Headers for the agent: a kernel without Mobile IPv6 refuses the Home
//               Address option and the type 2 routing header with an ICMP error. The agent's packet
//               socket has them before.
//   output      "port unreachable" about packets in packets: the kernel's own tunnels, where their
//               modules are loaded, say so of each packet that is not theirs.
//
// The table stays if the process is killed: mobile nodes then get no answer, and repeat their
// update. The next start replaces it.
#pragma once

#include <optional>
#include <string>

#include "netmove/address.hpp"

namespace netmove::mobile_ipv6 {

class HostRules {
public:
    /// `link`: the home link; one table for each. Replaces a table that is there.
    static core::Result<HostRules> make(std::string const& link, Address const& agent,
                                        std::optional<Address> const& ipv4_agent);
    HostRules(HostRules&& other) noexcept;
    HostRules& operator=(HostRules&&) = delete;
    ~HostRules();

    /// The table's name: "sidecar-home-agent-LINK".
    static std::string table_name(std::string const& link);

private:
    explicit HostRules(std::string table) : table_(std::move(table)) {}
    std::string table_;
};

}  // namespace netmove::mobile_ipv6
