// Netlink: bridges and cables that this program makes itself, and the host's addresses on them.
#include <arpa/inet.h>
#include <linux/if_addr.h>
#include <linux/if_bridge.h>
#include <linux/if_link.h>
#include <linux/rtnetlink.h>
#include <linux/veth.h>
#include <netlink/attr.h>
#include <netlink/msg.h>
#include <sys/socket.h>

#include "netmove/netlink.hpp"
#include "netmove/netlink_message.hpp"

namespace netmove {

using core::Result;

namespace {

Message new_link(std::string const& name) {
    auto message = make_message(RTM_NEWLINK, NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL, link_header());
    nla_put_string(message.get(), IFLA_IFNAME, name.c_str());
    return message;
}

void put_both(Message& message, Address const& address) {
    auto const bytes = address.bytes();
    for (int const type : {IFA_LOCAL, IFA_ADDRESS}) {
        nla_put(message.get(), type, static_cast<int>(bytes.size()), bytes.data());
    }
}

}  // namespace

Result<> Netlink::make_bridge(std::string const& name, MacAddress const& mac) {
    auto message = new_link(name);
    nla_put(message.get(), IFLA_ADDRESS, static_cast<int>(mac.bytes.size()), mac.bytes.data());
    auto* info = nla_nest_start(message.get(), IFLA_LINKINFO);
    nla_put_string(message.get(), IFLA_INFO_KIND, "bridge");
    auto* data = nla_nest_start(message.get(), IFLA_INFO_DATA);
    nla_put_u32(message.get(), IFLA_BR_STP_STATE, 0);
    nla_put_u8(message.get(), IFLA_BR_MCAST_SNOOPING, 0);
    nla_nest_end(message.get(), data);
    nla_nest_end(message.get(), info);
    return request(*message, fmt::format("make the bridge {}", name));
}

Result<> Netlink::make_veth(std::string const& name, std::string const& peer) {
    auto message = new_link(name);
    auto* info = nla_nest_start(message.get(), IFLA_LINKINFO);
    nla_put_string(message.get(), IFLA_INFO_KIND, "veth");
    auto* data = nla_nest_start(message.get(), IFLA_INFO_DATA);
    auto* other = nla_nest_start(message.get(), VETH_INFO_PEER);
    auto header = link_header();
    nlmsg_append(message.get(), &header, sizeof header, NLMSG_ALIGNTO);
    nla_put_string(message.get(), IFLA_IFNAME, peer.c_str());
    nla_nest_end(message.get(), other);
    nla_nest_end(message.get(), data);
    nla_nest_end(message.get(), info);
    return request(*message, fmt::format("make the cable {} - {}", name, peer));
}

Result<> Netlink::make_vxlan(std::string const& name, std::uint32_t vni, std::uint16_t port,
                             Address const& remote) {
    auto message = new_link(name);
    auto* info = nla_nest_start(message.get(), IFLA_LINKINFO);
    nla_put_string(message.get(), IFLA_INFO_KIND, "vxlan");
    auto* data = nla_nest_start(message.get(), IFLA_INFO_DATA);
    auto const bytes = remote.bytes();
    nla_put_u32(message.get(), IFLA_VXLAN_ID, vni);
    nla_put(message.get(), remote.is_ipv4() ? IFLA_VXLAN_GROUP : IFLA_VXLAN_GROUP6,
            static_cast<int>(bytes.size()), bytes.data());
    nla_put_u16(message.get(), IFLA_VXLAN_PORT, htons(port));
    nla_put_u8(message.get(), IFLA_VXLAN_LEARNING, 0);
    nla_put_u8(message.get(), IFLA_VXLAN_DF, VXLAN_DF_SET);
    nla_nest_end(message.get(), data);
    nla_nest_end(message.get(), info);
    return request(*message, fmt::format("make the VXLAN device {} with the VNI {} and UDP port {}",
                                         name, vni, port));
}

Result<> Netlink::set_isolated(std::string const& name, bool isolated) {
    TRY(auto const port, link(name));
    auto message = make_message(RTM_SETLINK, NLM_F_ACK, link_header(port.index, AF_BRIDGE));
    auto* data = nla_nest_start(message.get(), IFLA_PROTINFO | NLA_F_NESTED);
    nla_put_u8(message.get(), IFLA_BRPORT_ISOLATED, isolated ? 1 : 0);
    nla_nest_end(message.get(), data);
    return request(*message, fmt::format("isolate the bridge port {}", name));
}

Result<> Netlink::add_address(std::string const& name, Address const& address, int prefix_length,
                              bool host_scope) {
    TRY(auto const owner, link(name));
    ifaddrmsg header{};
    header.ifa_family = address.is_ipv4() ? AF_INET : AF_INET6;
    header.ifa_prefixlen = static_cast<std::uint8_t>(prefix_length);
    header.ifa_index = static_cast<std::uint32_t>(owner.index);
    header.ifa_flags = address.is_ipv6() ? IFA_F_NODAD : 0;
    if (host_scope && address.is_ipv4()) header.ifa_scope = RT_SCOPE_HOST;
    auto message = make_message(RTM_NEWADDR, NLM_F_ACK | NLM_F_CREATE | NLM_F_REPLACE, header);
    put_both(message, address);
    if (host_scope && address.is_ipv6()) {
        ifa_cacheinfo const deprecated{0, UINT32_MAX, 0, 0};  // preferred and valid for, seconds
        nla_put(message.get(), IFA_CACHEINFO, sizeof deprecated, &deprecated);
    }
    return request(*message,
                   fmt::format("give {} the address {}/{}", name, address.text(), prefix_length));
}

Result<bool> Netlink::delete_address(int link, Address const& address, int prefix_length) {
    ifaddrmsg header{};
    header.ifa_family = family_of(address);
    header.ifa_prefixlen = static_cast<std::uint8_t>(prefix_length);
    header.ifa_index = static_cast<std::uint32_t>(link);
    auto message = make_message(RTM_DELADDR, NLM_F_ACK, header);
    put_both(message, address);
    auto deleted =
        request(*message, fmt::format("remove the address {}/{}", address.text(), prefix_length));
    if (deleted) return true;
    int const os = deleted.error().os;
    if (os == EADDRNOTAVAIL || os == ENODEV) return false;
    return std::unexpected(std::move(deleted.error()));
}

}  // namespace netmove
