#include "netmove/mobile_ipv6/host_rules.hpp"

#include <cctype>
#include <utility>

#include "core/log.hpp"
#include "netmove/nft.hpp"

namespace netmove::mobile_ipv6 {

using core::Result;

namespace {

/// The whole table; replaces one of that name in the same transaction.
std::string table_text(std::string const& table, Address const& agent,
                       std::optional<Address> const& ipv4_agent) {
    auto text = fmt::format(
        "table inet {0} {{}}\n"
        "delete table inet {0}\n"
        "table inet {0} {{\n"
        "  chain receive {{\n"
        "    type filter hook prerouting priority raw; policy accept;\n"
        "    ip6 daddr {1} meta l4proto 135 drop\n"
        "  }}\n"
        "  chain answer {{\n"
        "    type filter hook output priority raw; policy accept;\n"
        // @th,112,8: the next header of the IPv6 packet in the ICMPv6 error.
        "    ip6 saddr {1} icmpv6 type destination-unreachable icmpv6 code 4 "
        "@th,112,8 {{ 4, 41 }} drop\n",
        table, agent.text());
    if (ipv4_agent) {
        // @th,136,8: the protocol of the IPv4 packet in the ICMP error.
        text += fmt::format(
            "    ip saddr {} icmp type destination-unreachable icmp code 3 @th,136,8 {{ 4, 41 }} "
            "drop\n",
            ipv4_agent->text());
    }
    return text + "  }\n}\n";
}

}  // namespace

std::string HostRules::table_name(std::string const& link) {
    std::string name = "sidecar-home-agent-";
    for (char const letter : link) {
        auto const c = static_cast<unsigned char>(letter);
        bool const plain = std::isalnum(c) != 0 || c == '-' || c == '_' || c == '.';
        name += plain ? std::string(1, letter) : fmt::format("/{:02x}", c);
    }
    return name;
}

Result<HostRules> HostRules::make(std::string const& link, Address const& agent,
                                  std::optional<Address> const& ipv4_agent) {
    TRY(auto nft, Nft::open());
    auto table = table_name(link);
    TRY_VOID(nft.run(table_text(table, agent, ipv4_agent)));
    return HostRules(std::move(table));
}

HostRules::HostRules(HostRules&& other) noexcept : table_(std::exchange(other.table_, {})) {}

HostRules::~HostRules() {
    if (table_.empty()) return;
    auto nft = Nft::open();
    if (!nft) return;
    auto const done = nft->run(fmt::format("delete table inet {}", table_));
    if (!done) core::log::warning("home-agent: {}", done.error().sentence());
}

}  // namespace netmove::mobile_ipv6
