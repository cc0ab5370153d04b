// Netlink: the tables of VXLAN devices, and how the host reaches another VTEP.
#include <arpa/inet.h>
#include <linux/if_link.h>
#include <linux/neighbour.h>
#include <linux/rtnetlink.h>
#include <netlink/attr.h>
#include <netlink/msg.h>
#include <sys/socket.h>

#include <cerrno>

#include "netmove/netlink.hpp"
#include "netmove/netlink_message.hpp"

namespace netmove {

using core::Errc;
using core::fail;
using core::Result;

namespace {

ndmsg entry_header(int device, int state = 0, int flags = NTF_SELF) {
    ndmsg header{};
    header.ndm_family = AF_BRIDGE;
    header.ndm_ifindex = device;
    header.ndm_state = static_cast<std::uint16_t>(state);
    header.ndm_flags = static_cast<std::uint8_t>(flags);
    return header;
}

void put_mac(Message& message, MacAddress const& mac) {
    nla_put(message.get(), NDA_LLADDR, static_cast<int>(mac.bytes.size()), mac.bytes.data());
}

void put_remote(Message& message, Address const& remote) {
    auto const bytes = remote.bytes();
    nla_put(message.get(), NDA_DST, static_cast<int>(bytes.size()), bytes.data());
}

Message entry_message(int flags, int device, VxlanEntry const& entry) {
    auto message = make_message(RTM_NEWNEIGH, NLM_F_ACK | NLM_F_REPLACE | flags,
                                entry_header(device, entry.state, entry.flags | NTF_SELF));
    put_mac(message, entry.mac);
    put_remote(message, entry.remote);
    if (entry.port != 0) nla_put_u16(message.get(), NDA_PORT, htons(entry.port));
    if (entry.vni != 0) nla_put_u32(message.get(), NDA_VNI, entry.vni);
    return message;
}

std::string write_sentence(VxlanEntry const& entry) {
    return fmt::format("send what is for {} to {} over VXLAN", entry.mac.text(),
                       entry.remote.text());
}

bool flag_of(Attributes attributes, int type, bool fallback) {
    auto* attribute = attributes[static_cast<std::size_t>(type)];
    return attribute == nullptr ? fallback : nla_get_u8(attribute) != 0;
}

}  // namespace

VxlanDetails parse_vxlan(nlattr* data) {
    auto parts = inside<IFLA_VXLAN_MAX>(data);
    VxlanDetails out;
    if (parts[IFLA_VXLAN_ID] != nullptr) out.vni = nla_get_u32(parts[IFLA_VXLAN_ID]);
    out.local = address_of(parts, IFLA_VXLAN_LOCAL);
    if (!out.local) out.local = address_of(parts, IFLA_VXLAN_LOCAL6);
    out.learning = flag_of(parts, IFLA_VXLAN_LEARNING, true);
    out.external = flag_of(parts, IFLA_VXLAN_COLLECT_METADATA, false);
    return out;
}

Result<std::optional<VxlanEntry>> Netlink::vxlan_entry(int device, MacAddress const& mac) {
    auto message = make_message(RTM_GETNEIGH, NLM_F_ACK, entry_header(device));
    put_mac(message, mac);
    std::optional<VxlanEntry> out;
    auto const each = [&out, &mac](nlmsghdr* header) {
        auto const* fixed = static_cast<ndmsg const*>(nlmsg_data(header));
        auto parts = attributes_of<NDA_MAX>(header, sizeof *fixed);
        auto const remote = address_of(parts, NDA_DST);
        if (!remote) return;  // it goes to a nexthop group, which is not ours to change
        VxlanEntry entry{mac, *remote, 0, 0, fixed->ndm_state, fixed->ndm_flags};
        if (parts[NDA_PORT] != nullptr) entry.port = ntohs(nla_get_u16(parts[NDA_PORT]));
        if (parts[NDA_VNI] != nullptr) entry.vni = nla_get_u32(parts[NDA_VNI]);
        out = entry;
    };
    auto sent = request(*message, fmt::format("look up {} in a VXLAN device", mac.text()), each);
    TRY_VOID(unless_missing(std::move(sent)));
    return out;
}

Result<> Netlink::write_vxlan_entry(int device, VxlanEntry const& entry) {
    return request(*entry_message(NLM_F_CREATE, device, entry), write_sentence(entry));
}

Result<bool> Netlink::change_vxlan_entry(int device, VxlanEntry const& entry) {
    return unless_missing(request(*entry_message(0, device, entry), write_sentence(entry)));
}

Result<bool> Netlink::delete_vxlan_entry(int device, MacAddress const& mac, Address const& remote) {
    auto message = make_message(RTM_DELNEIGH, NLM_F_ACK, entry_header(device));
    put_mac(message, mac);
    put_remote(message, remote);
    return unless_missing(
        request(*message, fmt::format("delete {} from a VXLAN device", mac.text())));
}

Result<Route> Netlink::route(Address const& to) {
    rtmsg header{};
    header.rtm_family = to.is_ipv4() ? AF_INET : AF_INET6;
    header.rtm_dst_len = static_cast<unsigned char>(to.bytes().size() * 8);
    auto message = make_message(RTM_GETROUTE, NLM_F_ACK, header);
    nla_put(message.get(), RTA_DST, static_cast<int>(to.bytes().size()), to.bytes().data());
    int oif = 0;
    int mtu = 0;
    std::optional<Address> source;
    auto const each = [&](nlmsghdr* answer) {
        auto parts = attributes_of<RTA_MAX>(answer, sizeof(rtmsg));
        if (parts[RTA_OIF] != nullptr) oif = static_cast<int>(nla_get_u32(parts[RTA_OIF]));
        source = address_of(parts, RTA_PREFSRC);
        auto metrics = inside<RTAX_MAX>(parts[RTA_METRICS]);
        if (metrics[RTAX_MTU] != nullptr) mtu = static_cast<int>(nla_get_u32(metrics[RTAX_MTU]));
    };
    TRY_VOID(request(*message, fmt::format("find the route to {}", to.text()), each));
    if (oif == 0) return fail(Errc::netlink, "there is no route to {} from this host", to.text());
    TRY(auto const out, link(oif));
    return Route{out.name, mtu > 0 ? mtu : out.mtu, source};
}

}  // namespace netmove
