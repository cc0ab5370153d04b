// A request to rtnetlink while it is put together, and the attributes of an answer: what the files
// share that make one and look into the other.
#pragma once

#include <linux/rtnetlink.h>
#include <netlink/attr.h>
#include <netlink/msg.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdlib>
#include <memory>
#include <optional>
#include <span>
#include <utility>

#include "netmove/address.hpp"
#include "netmove/netlink.hpp"

namespace netmove {

struct FreeMessage {
    void operator()(nl_msg* message) const { nlmsg_free(message); }
};
using Message = std::unique_ptr<nl_msg, FreeMessage>;

/// A dump that another program's changes interrupted is asked for again, at most so often.
constexpr int dump_attempts_max = 5;

/// `type` is RTM_*, `header` the family's fixed part (ifinfomsg, ndmsg, tcmsg).
template <class Header>
Message make_message(int type, int flags, Header header) {
    Message message(nlmsg_alloc_simple(type, flags));
    if (!message || nlmsg_append(message.get(), &header, sizeof header, NLMSG_ALIGNTO) < 0) {
        std::abort();  // out of memory for a page
    }
    return message;
}

/// True when it was done, false when there was nothing to do it to.
inline core::Result<bool> unless_missing(core::Result<> result) {
    if (result) return true;
    if (result.error().os == ENOENT) return false;
    return std::unexpected(std::move(result.error()));
}

inline unsigned char family_of(Address const& address) {
    return address.is_ipv4() ? AF_INET : AF_INET6;
}

inline ifinfomsg link_header(int index = 0, unsigned char family = AF_UNSPEC) {
    ifinfomsg header{};
    header.ifi_family = family;
    header.ifi_index = index;
    return header;
}

using Attributes = std::span<nlattr*>;

inline std::optional<MacAddress> mac_of(Attributes attributes, int type) {
    auto* attribute = attributes[static_cast<std::size_t>(type)];
    MacAddress mac;
    if (attribute == nullptr || nla_len(attribute) != static_cast<int>(mac.bytes.size())) return {};
    std::copy_n(static_cast<std::uint8_t const*>(nla_data(attribute)), 6, mac.bytes.begin());
    return mac;
}

inline std::optional<Address> address_of(Attributes attributes, int type) {
    auto* attribute = attributes[static_cast<std::size_t>(type)];
    if (attribute == nullptr) return {};
    auto const* bytes = static_cast<std::uint8_t const*>(nla_data(attribute));
    if (nla_len(attribute) == 4) return Address::ipv4(std::span<std::uint8_t const, 4>(bytes, 4));
    if (nla_len(attribute) == 16)
        return Address::ipv6(std::span<std::uint8_t const, 16>(bytes, 16));
    return {};
}

/// The attributes inside `nest`, by type; those above Max are newer than we are.
template <int Max>
std::array<nlattr*, Max + 1> inside(nlattr* nest) {
    std::array<nlattr*, Max + 1> out{};
    if (nest != nullptr) nla_parse_nested(out.data(), Max, nest, nullptr);
    return out;
}

template <int Max>
std::array<nlattr*, Max + 1> attributes_of(nlmsghdr* header, std::size_t fixed) {
    std::array<nlattr*, Max + 1> out{};
    nlmsg_parse(header, static_cast<int>(fixed), out.data(), Max, nullptr);
    return out;
}

/// IFLA_INFO_DATA of a VXLAN device (netlink_vxlan.cpp).
VxlanDetails parse_vxlan(nlattr* data);

}  // namespace netmove
