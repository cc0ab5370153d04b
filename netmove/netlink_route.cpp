// Netlink: routing tables, the rules that lead to them, and what makes an interface a router's.
#include <linux/fib_rules.h>
#include <linux/if_link.h>
#include <linux/ip.h>
#include <linux/neighbour.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <netlink/attr.h>
#include <netlink/msg.h>
#include <netlink/socket.h>
#include <sys/socket.h>

#include <cerrno>

#include "netmove/netlink.hpp"
#include "netmove/netlink_message.hpp"

namespace netmove {

using core::Errc;
using core::fail;
using core::Result;

namespace {

int whole(Address const& address) { return static_cast<int>(address.bytes().size() * 8); }

void put_address(Message& message, int type, Address const& address) {
    auto const bytes = address.bytes();
    nla_put(message.get(), type, static_cast<int>(bytes.size()), bytes.data());
}

std::string text_of(TableRoute const& route) {
    return fmt::format("{}/{}", route.destination.text(), route.prefix_length);
}

Message route_message(int type, int flags, std::uint32_t table, TableRoute const& route) {
    rtmsg header{};
    header.rtm_family = family_of(route.destination);
    header.rtm_dst_len = static_cast<unsigned char>(route.prefix_length);
    header.rtm_protocol = static_cast<unsigned char>(route.protocol);
    header.rtm_scope = type == RTM_NEWROUTE ? RT_SCOPE_LINK : RT_SCOPE_NOWHERE;
    header.rtm_type = RTN_UNICAST;
    auto message = make_message(type, NLM_F_ACK | flags, header);
    put_address(message, RTA_DST, route.destination);
    nla_put_u32(message.get(), RTA_TABLE, table);
    nla_put_u32(message.get(), RTA_PRIORITY, route.metric);
    nla_put_u32(message.get(), RTA_OIF, static_cast<std::uint32_t>(route.link));
    return message;
}

std::optional<TableRoute> parse_route(nlmsghdr* header, std::uint32_t* table = nullptr) {
    auto const* fixed = static_cast<rtmsg const*>(nlmsg_data(header));
    if (fixed->rtm_family != AF_INET && fixed->rtm_family != AF_INET6) return {};
    auto parts = attributes_of<RTA_MAX>(header, sizeof *fixed);
    TableRoute route;
    std::array<std::uint8_t, 16> const any{};
    route.destination = fixed->rtm_family == AF_INET
                            ? Address()
                            : Address::ipv6(std::span<std::uint8_t const, 16>(any));
    if (auto const destination = address_of(parts, RTA_DST)) route.destination = *destination;
    route.prefix_length = fixed->rtm_dst_len;
    route.protocol = fixed->rtm_protocol;
    if (parts[RTA_OIF] != nullptr) route.link = static_cast<int>(nla_get_u32(parts[RTA_OIF]));
    if (parts[RTA_PRIORITY] != nullptr) route.metric = nla_get_u32(parts[RTA_PRIORITY]);
    if (table != nullptr) {
        *table = parts[RTA_TABLE] != nullptr ? nla_get_u32(parts[RTA_TABLE]) : fixed->rtm_table;
    }
    return route;
}

Message rule_message(int type, int flags, RoutingRule const& rule) {
    fib_rule_hdr header{};
    header.family = rule.family == Address::Family::ipv4 ? AF_INET : AF_INET6;
    header.action = FR_ACT_TO_TBL;
    if (rule.not_mark != 0) header.flags = FIB_RULE_INVERT;
    auto message = make_message(type, NLM_F_ACK | flags, header);
    nla_put_u32(message.get(), FRA_TABLE, rule.table);
    nla_put_u32(message.get(), FRA_PRIORITY, rule.priority);
    nla_put_u32(message.get(), FRA_FWMARK, rule.not_mark != 0 ? rule.not_mark : rule.mark);
    nla_put_u8(message.get(), FRA_PROTOCOL, static_cast<std::uint8_t>(rule.protocol));
    return message;
}

/// True when it was done, false when there was nothing to do it to.
Result<bool> unless_no_route(Result<> result) {
    if (result) return true;
    int const os = result.error().os;
    // ESRCH: no such route; the last two: the kernel is without that family.
    if (os == ENOENT || os == ESRCH || os == EAFNOSUPPORT || os == EOPNOTSUPP) return false;
    return std::unexpected(std::move(result.error()));
}

/// While one lives, the kernel heeds what a dump asks for, instead of sending all tables.
class StrictDumps {
public:
    explicit StrictDumps(int socket) : socket_(socket) { set(1); }
    ~StrictDumps() { set(0); }
    StrictDumps(StrictDumps const&) = delete;
    StrictDumps& operator=(StrictDumps const&) = delete;

private:
    // Kernels without it (before 4.20) send all, which is right too.
    void set(int on) const {
        (void)setsockopt(socket_, SOL_NETLINK, NETLINK_GET_STRICT_CHK, &on, sizeof on);
    }
    int socket_;
};

}  // namespace

Result<std::vector<TableRoute>> Netlink::routes(std::uint32_t table) {
    StrictDumps const strict(nl_socket_get_fd(socket_));
    std::vector<TableRoute> out;
    for (int const which : {AF_INET, AF_INET6}) {
        auto const before = out.size();
        for (int attempt = 0; attempt < dump_attempts_max; ++attempt) {
            out.resize(before);
            bool interrupted = false;
            rtmsg header{};
            header.rtm_family = static_cast<unsigned char>(which);
            auto message = make_message(RTM_GETROUTE, NLM_F_DUMP, header);
            nla_put_u32(message.get(), RTA_TABLE, table);
            auto const each = [&](nlmsghdr* answer) {
                interrupted = interrupted || (answer->nlmsg_flags & NLM_F_DUMP_INTR) != 0;
                std::uint32_t its = 0;
                auto const route = parse_route(answer, &its);
                if (route && its == table) out.push_back(*route);
            };
            TRY_VOID(unless_no_route(
                request(*message, fmt::format("list the routing table {}", table), each)));
            if (!interrupted) break;
        }
    }
    return out;
}

Result<> Netlink::write_route(std::uint32_t table, TableRoute const& route) {
    return request(*route_message(RTM_NEWROUTE, NLM_F_CREATE | NLM_F_REPLACE, table, route),
                   fmt::format("write the route to {} into the table {}", text_of(route), table));
}

Result<bool> Netlink::delete_route(std::uint32_t table, TableRoute const& route) {
    return unless_no_route(
        request(*route_message(RTM_DELROUTE, 0, table, route),
                fmt::format("delete the route to {} from the table {}", text_of(route), table)));
}

Result<std::optional<TableRoute>> Netlink::route_with_mark(Address const& to, std::uint32_t mark) {
    rtmsg header{};
    header.rtm_family = family_of(to);
    header.rtm_dst_len = static_cast<unsigned char>(whole(to));
    header.rtm_flags = RTM_F_FIB_MATCH;
    auto message = make_message(RTM_GETROUTE, NLM_F_ACK, header);
    put_address(message, RTA_DST, to);
    nla_put_u32(message.get(), RTA_MARK, mark);
    std::optional<TableRoute> out;
    auto const sent = request(*message, fmt::format("find the way to {}", to.text()),
                              [&out](nlmsghdr* answer) { out = parse_route(answer); });
    if (!sent && (sent.error().os == ENETUNREACH || sent.error().os == EHOSTUNREACH)) {
        return std::optional<TableRoute>{};
    }
    TRY_VOID(sent);
    return out;
}

Result<> Netlink::add_rule(RoutingRule const& rule) {
    auto added = request(*rule_message(RTM_NEWRULE, NLM_F_CREATE | NLM_F_EXCL, rule),
                         fmt::format("add the rule for the routing table {}", rule.table));
    if (!added && added.error().os == EEXIST) return {};
    return added;
}

Result<bool> Netlink::delete_rule(RoutingRule const& rule) {
    return unless_no_route(
        request(*rule_message(RTM_DELRULE, 0, rule),
                fmt::format("delete the rule for the routing table {}", rule.table)));
}

Result<> Netlink::set_ipv4(std::string const& name, Ipv4Settings const& settings) {
    auto message = make_message(RTM_NEWLINK, NLM_F_ACK, link_header());
    nla_put_string(message.get(), IFLA_IFNAME, name.c_str());
    auto* families = nla_nest_start(message.get(), IFLA_AF_SPEC);
    auto* ipv4 = nla_nest_start(message.get(), AF_INET);
    auto* conf = nla_nest_start(message.get(), IFLA_INET_CONF);
    auto const put = [&message](int which, bool on) {
        nla_put_u32(message.get(), which, on ? 1 : 0);
    };
    put(IPV4_DEVCONF_FORWARDING, settings.forwarding);
    put(IPV4_DEVCONF_PROXY_ARP, settings.proxy_arp);
    put(IPV4_DEVCONF_RP_FILTER, settings.strict_source);
    put(IPV4_DEVCONF_ACCEPT_REDIRECTS, settings.accept_redirects);
    if (settings.source_by_mark) put(IPV4_DEVCONF_SRC_VMARK, true);
    nla_nest_end(message.get(), conf);
    nla_nest_end(message.get(), ipv4);
    nla_nest_end(message.get(), families);
    return request(*message, fmt::format("change how {} treats IPv4", name));
}

Result<> Netlink::set_no_proxy_delay(std::string const& name) {
    TRY(auto const owner, link(name));
    ndtmsg header{};
    header.ndtm_family = AF_INET;
    auto message = make_message(RTM_SETNEIGHTBL, NLM_F_ACK, header);
    nla_put_string(message.get(), NDTA_NAME, "arp_cache");
    auto* parameters = nla_nest_start(message.get(), NDTA_PARMS);
    nla_put_u32(message.get(), NDTPA_IFINDEX, static_cast<std::uint32_t>(owner.index));
    nla_put_u64(message.get(), NDTPA_PROXY_DELAY, 0);
    nla_nest_end(message.get(), parameters);
    return request(*message, fmt::format("make {} answer ARP at once", name));
}

}  // namespace netmove
