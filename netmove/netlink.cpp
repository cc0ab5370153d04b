#include "netmove/netlink.hpp"

#include <linux/if_bridge.h>
#include <linux/if_link.h>
#include <linux/if_tun.h>
#include <linux/neighbour.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <net/if.h>
#include <netlink/attr.h>
#include <netlink/msg.h>
#include <netlink/netlink.h>
#include <netlink/socket.h>
#include <sys/socket.h>
#include <sys/time.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <functional>
#include <utility>

#include "netmove/netlink_message.hpp"

namespace netmove {

using core::Errc;
using core::fail;
using core::Result;

namespace {

// The kernel fills a dump's datagrams up to 32 KiB when the reader has the room.
constexpr std::size_t answer_size_max = 65'536;

void put(Message& message, int type, std::span<std::uint8_t const> bytes) {
    nla_put(message.get(), type, static_cast<int>(bytes.size()), bytes.data());
}

std::uint8_t u8_or(Attributes attributes, int type, std::uint8_t fallback) {
    auto* attribute = attributes[static_cast<std::size_t>(type)];
    if (attribute == nullptr || nla_len(attribute) < 1) return fallback;
    return nla_get_u8(attribute);
}

int u32_or(Attributes attributes, int type, int fallback) {
    auto* attribute = attributes[static_cast<std::size_t>(type)];
    if (attribute == nullptr || nla_len(attribute) < 4) return fallback;
    return static_cast<int>(nla_get_u32(attribute));
}

std::string text_of(Attributes attributes, int type) {
    auto* attribute = attributes[static_cast<std::size_t>(type)];
    if (attribute == nullptr) return {};
    auto const* bytes = static_cast<char const*>(nla_data(attribute));
    return {bytes, strnlen(bytes, static_cast<std::size_t>(nla_len(attribute)))};
}

/// The link's counters; zeroes: the kernel sends none.
rtnl_link_stats64 stats_of(Attributes attributes) {
    auto* attribute = attributes[IFLA_STATS64];
    rtnl_link_stats64 stats{};
    if (attribute == nullptr) return stats;
    std::memcpy(&stats, nla_data(attribute),
                std::min(sizeof stats, static_cast<std::size_t>(nla_len(attribute))));
    return stats;
}

BridgePort parse_port(nlattr* data) {
    auto parts = inside<IFLA_BRPORT_MAX>(data);
    BridgePort port;
    port.state = u8_or(parts, IFLA_BRPORT_STATE, 0);
    port.learning = u8_or(parts, IFLA_BRPORT_LEARNING, 1) != 0;
    port.unicast_flood = u8_or(parts, IFLA_BRPORT_UNICAST_FLOOD, 1) != 0;
    port.multicast_flood = u8_or(parts, IFLA_BRPORT_MCAST_FLOOD, 1) != 0;
    port.broadcast_flood = u8_or(parts, IFLA_BRPORT_BCAST_FLOOD, 1) != 0;
    port.neighbour_suppression = u8_or(parts, IFLA_BRPORT_NEIGH_SUPPRESS, 0) != 0;
    port.isolated = u8_or(parts, IFLA_BRPORT_ISOLATED, 0) != 0;
    return port;
}

TunDetails parse_tun(nlattr* data) {
    auto parts = inside<IFLA_TUN_MAX>(data);
    TunDetails tun;
    tun.tap = u8_or(parts, IFLA_TUN_TYPE, 0) == IFF_TAP;
    tun.persistent = u8_or(parts, IFLA_TUN_PERSIST, 0) != 0;
    tun.multi_queue = u8_or(parts, IFLA_TUN_MULTI_QUEUE, 0) != 0;
    tun.queues = u32_or(parts, IFLA_TUN_NUM_QUEUES, 0);
    tun.disabled_queues = u32_or(parts, IFLA_TUN_NUM_DISABLED_QUEUES, 0);
    return tun;
}

Link parse_link(nlmsghdr* header) {
    auto const* fixed = static_cast<ifinfomsg const*>(nlmsg_data(header));
    auto parts = attributes_of<IFLA_MAX>(header, sizeof *fixed);
    Link link;
    link.name = text_of(parts, IFLA_IFNAME);
    link.index = fixed->ifi_index;
    link.up = (fixed->ifi_flags & IFF_UP) != 0;
    link.mac = mac_of(parts, IFLA_ADDRESS).value_or(MacAddress{});
    link.mtu = u32_or(parts, IFLA_MTU, 0);
    link.master = u32_or(parts, IFLA_MASTER, 0);
    link.queue_length = u32_or(parts, IFLA_TXQLEN, 0);
    auto const stats = stats_of(parts);
    link.received = stats.rx_packets;
    link.dropped = stats.tx_dropped;
    auto info = inside<IFLA_INFO_MAX>(parts[IFLA_LINKINFO]);
    link.kind = text_of(info, IFLA_INFO_KIND);
    if (text_of(info, IFLA_INFO_SLAVE_KIND) == "bridge") {
        link.port = parse_port(info[IFLA_INFO_SLAVE_DATA]);
    }
    if (link.kind == "tun") link.tun = parse_tun(info[IFLA_INFO_DATA]);
    if (link.kind == "vxlan") link.vxlan = parse_vxlan(info[IFLA_INFO_DATA]);
    if (link.kind == "bridge") {
        auto bridge = inside<IFLA_BR_MAX>(info[IFLA_INFO_DATA]);
        link.stp = u32_or(bridge, IFLA_BR_STP_STATE, 0) != 0;
        link.vlan_filtering = u8_or(bridge, IFLA_BR_VLAN_FILTERING, 0) != 0;
    }
    return link;
}

ndmsg neighbour_header(int link, unsigned char family, int state = 0, int flags = 0) {
    ndmsg header{};
    header.ndm_family = family;
    header.ndm_ifindex = link;
    header.ndm_state = static_cast<std::uint16_t>(state);
    header.ndm_flags = static_cast<std::uint8_t>(flags);
    return header;
}

/// The kernel's own words for a refusal (NETLINK_EXT_ACK), or nothing.
std::string kernel_words(nlmsghdr* header) {
    if ((header->nlmsg_flags & NLM_F_ACK_TLVS) == 0) return {};
    auto const* error = static_cast<nlmsgerr const*>(nlmsg_data(header));
    std::size_t skip = sizeof *error;
    if ((header->nlmsg_flags & NLM_F_CAPPED) == 0) skip += error->msg.nlmsg_len - sizeof(nlmsghdr);
    std::array<nlattr*, NLMSGERR_ATTR_MAX + 1> parts{};
    if (nlmsg_parse(header, static_cast<int>(skip), parts.data(), NLMSGERR_ATTR_MAX, nullptr) < 0) {
        return {};
    }
    return text_of(parts, NLMSGERR_ATTR_MSG);
}

}  // namespace

/// One request and its answer.
struct Netlink::Access {
    using OnMessage = std::function<void(nlmsghdr*)>;

    /// `what` continues "to" in a sentence: "put tap0 up".
    static Result<> send(Netlink& netlink, Message const& message, std::string const& what,
                         OnMessage const& on_message = {}) {
        return send(netlink, *message, what, on_message);
    }
    static Result<> send(Netlink& netlink, nl_msg& message, std::string const& what,
                         OnMessage const& on_message) {
        if (nl_send_auto(netlink.socket_, &message) < 0) return refuse(errno, {}, what);
        return receive(netlink, nlmsg_hdr(&message)->nlmsg_seq, what, on_message);
    }

    /// A dump, repeated when it was not a consistent one. `start` forgets what was collected.
    static Result<> dump(Netlink& netlink, std::function<Message()> const& request,
                         std::string const& what, std::function<void()> const& start,
                         OnMessage const& on_message) {
        for (int attempt = 0; attempt < dump_attempts_max; ++attempt) {
            start();
            bool interrupted = false;
            auto const each = [&](nlmsghdr* header) {
                interrupted = interrupted || (header->nlmsg_flags & NLM_F_DUMP_INTR) != 0;
                on_message(header);
            };
            TRY_VOID(send(netlink, request(), what, each));
            if (!interrupted) break;
        }
        return {};  // after so many attempts: the last one, as every other tool takes the first
    }

    static std::unexpected<core::Error> refuse(int os, std::string const& words,
                                               std::string const& what) {
        if (os == EPERM || os == EACCES) {
            return core::fail_os(Errc::netlink, os,
                                 fmt::format("no privilege: CAP_NET_ADMIN is needed to {}", what));
        }
        if (os == ENODEV) {
            return core::fail_os(Errc::netlink, os, fmt::format("cannot {}", what));
        }
        return core::fail_os(Errc::netlink, os,
                             words.empty() ? fmt::format("cannot {}", what)
                                           : fmt::format("cannot {} ({})", what, words));
    }

private:
    static Result<> receive(Netlink& netlink, std::uint32_t sequence, std::string const& what,
                            OnMessage const& on_message) {
        alignas(nlmsghdr) std::array<std::byte, answer_size_max> buffer;
        for (;;) {
            auto const got =
                ::recv(nl_socket_get_fd(netlink.socket_), buffer.data(), buffer.size(), MSG_TRUNC);
            if (got < 0 && errno == EINTR) continue;
            if (got < 0 && errno == EAGAIN) {
                return fail(Errc::timed_out,
                            "the kernel did not answer within {} ms when asked to {}",
                            answer_timeout.count(), what);
            }
            if (got < 0) return refuse(errno, {}, what);
            if (static_cast<std::size_t>(got) > buffer.size()) return refuse(EMSGSIZE, {}, what);
            auto* header = reinterpret_cast<nlmsghdr*>(buffer.data());
            for (int left = static_cast<int>(got); nlmsg_ok(header, left);
                 header = nlmsg_next(header, &left)) {
                if (header->nlmsg_seq != sequence) continue;  // the late answer of a timed-out one
                if (header->nlmsg_type == NLMSG_DONE) return {};
                if (header->nlmsg_type == NLMSG_ERROR) {
                    auto const* error = static_cast<nlmsgerr const*>(nlmsg_data(header));
                    if (error->error == 0) return {};
                    return refuse(-error->error, kernel_words(header), what);
                }
                if (on_message) on_message(header);
            }
        }
    }
};

bool Neighbour::permanent() const { return (state & NUD_PERMANENT) != 0; }

bool FdbEntry::pinned() const { return sticky || external || (state & NUD_NOARP) != 0; }

Netlink::Netlink(Netlink&& other) noexcept : socket_(std::exchange(other.socket_, nullptr)) {}
Netlink& Netlink::operator=(Netlink&& other) noexcept {
    std::swap(socket_, other.socket_);
    return *this;
}
Netlink::~Netlink() {
    if (socket_ != nullptr) nl_socket_free(socket_);
}

Result<Netlink> Netlink::open() {
    Netlink netlink(nl_socket_alloc());
    if (netlink.socket_ == nullptr) return fail(Errc::netlink, "no memory for a netlink socket");
    if (nl_connect(netlink.socket_, NETLINK_ROUTE) < 0) {
        return core::fail_os(Errc::netlink, errno, "cannot open a netlink socket");
    }
    int const fd = nl_socket_get_fd(netlink.socket_);
    timeval const limit{answer_timeout.count() / 1000, answer_timeout.count() % 1000 * 1000};
    int const on = 1;
    if (setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit) < 0) {
        return core::fail_os(Errc::netlink, errno, "cannot bound a netlink socket's waiting");
    }
    // Kernels without it (before 4.12) answer with errno alone.
    (void)setsockopt(fd, SOL_NETLINK, NETLINK_EXT_ACK, &on, sizeof on);
    return netlink;
}

Result<> Netlink::request(nl_msg& message, std::string const& what,
                          std::function<void(nlmsghdr*)> const& on_answer) {
    return Access::send(*this, message, what, on_answer);
}

Result<std::vector<Link>> Netlink::links() {
    std::vector<Link> out;
    auto const request = [] { return make_message(RTM_GETLINK, NLM_F_DUMP, link_header()); };
    TRY_VOID(Access::dump(
        *this, request, "list the network interfaces", [&out] { out.clear(); },
        [&out](nlmsghdr* header) { out.push_back(parse_link(header)); }));
    return out;
}

Result<std::optional<Link>> Netlink::find_link(std::string const& name) {
    auto message = make_message(RTM_GETLINK, NLM_F_ACK, link_header());
    nla_put_string(message.get(), IFLA_IFNAME, name.c_str());
    std::optional<Link> out;
    auto const sent =
        Access::send(*this, message, fmt::format("look up network interface {}", name),
                     [&out](nlmsghdr* header) { out = parse_link(header); });
    if (!sent && sent.error().os == ENODEV) return std::optional<Link>{};
    TRY_VOID(sent);
    return out;
}

Result<Link> Netlink::link(std::string const& name) {
    TRY(auto found, find_link(name));
    if (!found) return fail(Errc::invalid, "there is no network interface {} on this host", name);
    return *std::move(found);
}

Result<Link> Netlink::link(int index) {
    auto const message = make_message(RTM_GETLINK, NLM_F_ACK, link_header(index));
    std::optional<Link> out;
    TRY_VOID(Access::send(*this, message, fmt::format("look up network interface {}", index),
                          [&out](nlmsghdr* header) { out = parse_link(header); }));
    if (!out) return fail(Errc::netlink, "the kernel said nothing about interface {}", index);
    return *std::move(out);
}

namespace {

/// Changes `name`; flags as ifi_flags under the mask ifi_change.
Message change_link(std::string const& name, unsigned flags = 0, unsigned mask = 0) {
    auto header = link_header();
    header.ifi_flags = flags;
    header.ifi_change = mask;
    auto message = make_message(RTM_NEWLINK, NLM_F_ACK, header);
    nla_put_string(message.get(), IFLA_IFNAME, name.c_str());
    return message;
}

}  // namespace

Result<> Netlink::set_up(std::string const& name) {
    return Access::send(*this, change_link(name, IFF_UP, IFF_UP), fmt::format("put {} up", name));
}

Result<> Netlink::set_down(std::string const& name) {
    return Access::send(*this, change_link(name, 0, IFF_UP), fmt::format("put {} down", name));
}

Result<> Netlink::set_master(std::string const& name, std::string const& bridge) {
    int index = 0;
    if (!bridge.empty()) {
        TRY(auto const master, link(bridge));
        index = master.index;
    }
    auto message = change_link(name);
    nla_put_u32(message.get(), IFLA_MASTER, static_cast<std::uint32_t>(index));
    return Access::send(*this, message,
                        bridge.empty() ? fmt::format("take {} out of its bridge", name)
                                       : fmt::format("put {} into bridge {}", name, bridge));
}

Result<> Netlink::set_mac(std::string const& name, MacAddress const& mac) {
    auto message = change_link(name);
    put(message, IFLA_ADDRESS, mac.bytes);
    return Access::send(*this, message,
                        fmt::format("give {} the MAC address {}", name, mac.text()));
}

Result<> Netlink::set_mtu(std::string const& name, int mtu) {
    auto message = change_link(name);
    nla_put_u32(message.get(), IFLA_MTU, static_cast<std::uint32_t>(mtu));
    return Access::send(*this, message, fmt::format("set the MTU of {} to {}", name, mtu));
}

Result<> Netlink::set_queue_length(std::string const& name, int frames) {
    auto message = change_link(name);
    nla_put_u32(message.get(), IFLA_TXQLEN, static_cast<std::uint32_t>(frames));
    return Access::send(*this, message,
                        fmt::format("set the queue of {} to {} frames", name, frames));
}

Result<> Netlink::set_address_generation_none(std::string const& name) {
    auto message = change_link(name);
    auto* families = nla_nest_start(message.get(), IFLA_AF_SPEC);
    auto* ipv6 = nla_nest_start(message.get(), AF_INET6);
    nla_put_u8(message.get(), IFLA_INET6_ADDR_GEN_MODE, IN6_ADDR_GEN_MODE_NONE);
    nla_nest_end(message.get(), ipv6);
    nla_nest_end(message.get(), families);
    return Access::send(*this, message,
                        fmt::format("keep IPv6 addresses of the host off {}", name));
}

Result<> Netlink::delete_link(std::string const& name) {
    auto message = make_message(RTM_DELLINK, NLM_F_ACK, link_header());
    nla_put_string(message.get(), IFLA_IFNAME, name.c_str());
    return Access::send(*this, message, fmt::format("delete network interface {}", name));
}

Result<> Netlink::set_bridge_port(int index, BridgePort const& port) {
    auto message = make_message(RTM_SETLINK, NLM_F_ACK, link_header(index, AF_BRIDGE));
    auto* data = nla_nest_start(message.get(), IFLA_PROTINFO | NLA_F_NESTED);
    auto const flag = [&message](int type, bool value) {
        nla_put_u8(message.get(), type, value ? 1 : 0);
    };
    flag(IFLA_BRPORT_LEARNING, port.learning);
    flag(IFLA_BRPORT_UNICAST_FLOOD, port.unicast_flood);
    flag(IFLA_BRPORT_MCAST_FLOOD, port.multicast_flood);
    flag(IFLA_BRPORT_BCAST_FLOOD, port.broadcast_flood);
    nla_nest_end(message.get(), data);
    return Access::send(*this, message, fmt::format("change bridge port {}", index));
}

Result<std::vector<InterfaceAddress>> Netlink::addresses(int link) {
    std::vector<InterfaceAddress> out;
    auto const request = [] { return make_message(RTM_GETADDR, NLM_F_DUMP, ifaddrmsg{}); };
    auto const each = [&out, link](nlmsghdr* header) {
        auto const* fixed = static_cast<ifaddrmsg const*>(nlmsg_data(header));
        int const index = static_cast<int>(fixed->ifa_index);
        if (link != 0 && index != link) return;
        auto parts = attributes_of<IFA_MAX>(header, sizeof *fixed);
        auto address = address_of(parts, IFA_LOCAL);
        if (!address) address = address_of(parts, IFA_ADDRESS);
        if (!address) return;
        bool const tentative = (u32_or(parts, IFA_FLAGS, fixed->ifa_flags) & IFA_F_TENTATIVE) != 0;
        out.push_back({index, *address, fixed->ifa_prefixlen, tentative});
    };
    TRY_VOID(
        Access::dump(*this, request, "list the host's addresses", [&out] { out.clear(); }, each));
    return out;
}

Result<std::vector<Neighbour>> Netlink::neighbours(int link) {
    std::vector<Neighbour> out;
    auto const request = [] {
        return make_message(RTM_GETNEIGH, NLM_F_DUMP, neighbour_header(0, AF_UNSPEC));
    };
    auto const each = [&out, link](nlmsghdr* header) {
        auto const* fixed = static_cast<ndmsg const*>(nlmsg_data(header));
        if (fixed->ndm_family != AF_INET && fixed->ndm_family != AF_INET6) return;
        if (link != 0 && fixed->ndm_ifindex != link) return;
        auto parts = attributes_of<NDA_MAX>(header, sizeof *fixed);
        auto const address = address_of(parts, NDA_DST);
        if (!address) return;
        out.push_back({fixed->ndm_ifindex, *address, mac_of(parts, NDA_LLADDR), fixed->ndm_state,
                       (fixed->ndm_flags & NTF_EXT_LEARNED) != 0});
    };
    TRY_VOID(
        Access::dump(*this, request, "list the host's neighbours", [&out] { out.clear(); }, each));
    return out;
}

namespace {

Message neighbour_message(int flags, int link, Address const& address, MacAddress const& mac,
                          int state) {
    auto message =
        make_message(RTM_NEWNEIGH, flags, neighbour_header(link, family_of(address), state));
    put(message, NDA_DST, address.bytes());
    put(message, NDA_LLADDR, mac.bytes);
    return message;
}

Message fdb_message(int type, int flags, int port, MacAddress const& mac, int state,
                    std::uint16_t vlan) {
    auto message = make_message(type, flags, neighbour_header(port, AF_BRIDGE, state, NTF_MASTER));
    put(message, NDA_LLADDR, mac.bytes);
    if (vlan != 0) nla_put_u16(message.get(), NDA_VLAN, vlan);
    return message;
}

}  // namespace

Result<> Netlink::replace_neighbour(int link, Address const& address, MacAddress const& mac,
                                    int state) {
    auto const message =
        neighbour_message(NLM_F_ACK | NLM_F_CREATE | NLM_F_REPLACE, link, address, mac, state);
    return Access::send(*this, message,
                        fmt::format("write the neighbour entry of {}", address.text()));
}

Result<bool> Netlink::refresh_neighbour(int link, Address const& address, MacAddress const& mac,
                                        int state) {
    auto const message = neighbour_message(NLM_F_ACK | NLM_F_REPLACE, link, address, mac, state);
    auto sent = Access::send(*this, message,
                             fmt::format("refresh the neighbour entry of {}", address.text()));
    // An interface with disable_ipv6 has no IPv6 neighbours (EINVAL), nor has a kernel without
    // IPv6.
    bool const no_ipv6 = !sent && address.is_ipv6() &&
                         (sent.error().os == EINVAL || sent.error().os == EAFNOSUPPORT);
    if (no_ipv6) return false;
    return unless_missing(std::move(sent));
}

Result<bool> Netlink::delete_neighbour(int link, Address const& address) {
    auto message =
        make_message(RTM_DELNEIGH, NLM_F_ACK, neighbour_header(link, family_of(address)));
    put(message, NDA_DST, address.bytes());
    return unless_missing(Access::send(
        *this, message, fmt::format("delete the neighbour entry of {}", address.text())));
}

namespace {

/// None: an entry of a port's own filter, or of another bridge.
std::optional<FdbEntry> parse_fdb(nlmsghdr* header, int bridge) {
    auto const* fixed = static_cast<ndmsg const*>(nlmsg_data(header));
    auto parts = attributes_of<NDA_MAX>(header, sizeof *fixed);
    auto const mac = mac_of(parts, NDA_LLADDR);
    if (!mac || u32_or(parts, NDA_MASTER, 0) != bridge) return {};
    FdbEntry entry{*mac, fixed->ndm_ifindex, bridge, 0, fixed->ndm_state, false, false};
    if (parts[NDA_VLAN] != nullptr) entry.vlan = nla_get_u16(parts[NDA_VLAN]);
    entry.sticky = (fixed->ndm_flags & NTF_STICKY) != 0;
    entry.external = (fixed->ndm_flags & NTF_EXT_LEARNED) != 0;
    return entry;
}

}  // namespace

Result<std::vector<FdbEntry>> Netlink::fdb(int bridge) {
    std::vector<FdbEntry> out;
    auto const request = [bridge] {
        auto message = make_message(RTM_GETNEIGH, NLM_F_DUMP, link_header(0, AF_BRIDGE));
        nla_put_u32(message.get(), IFLA_MASTER, static_cast<std::uint32_t>(bridge));
        return message;
    };
    auto const each = [&out, bridge](nlmsghdr* header) {
        if (auto const entry = parse_fdb(header, bridge)) out.push_back(*entry);
    };
    TRY_VOID(Access::dump(
        *this, request, "list a bridge's forwarding table", [&out] { out.clear(); }, each));
    return out;
}

Result<std::optional<FdbEntry>> Netlink::fdb_entry(int bridge, MacAddress const& mac) {
    auto message = make_message(RTM_GETNEIGH, NLM_F_ACK, neighbour_header(0, AF_BRIDGE));
    put(message, NDA_LLADDR, mac.bytes);
    nla_put_u32(message.get(), NDA_MASTER, static_cast<std::uint32_t>(bridge));
    std::optional<FdbEntry> out;
    auto const each = [&out, bridge](nlmsghdr* header) { out = parse_fdb(header, bridge); };
    auto sent =
        Access::send(*this, message, fmt::format("look up {} in a bridge", mac.text()), each);
    TRY_VOID(unless_missing(std::move(sent)));
    return out;
}

Result<> Netlink::replace_fdb(int port, MacAddress const& mac, bool fixed, std::uint16_t vlan) {
    auto const message = fdb_message(RTM_NEWNEIGH, NLM_F_ACK | NLM_F_CREATE | NLM_F_REPLACE, port,
                                     mac, fixed ? NUD_NOARP : NUD_REACHABLE, vlan);
    return Access::send(*this, message, fmt::format("write the bridge's entry of {}", mac.text()));
}

Result<bool> Netlink::delete_fdb(int port, MacAddress const& mac, std::uint16_t vlan) {
    auto const message = fdb_message(RTM_DELNEIGH, NLM_F_ACK, port, mac, 0, vlan);
    return unless_missing(
        Access::send(*this, message, fmt::format("delete the bridge's entry of {}", mac.text())));
}

}  // namespace netmove
