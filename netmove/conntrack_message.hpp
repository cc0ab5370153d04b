// Messages to and from ctnetlink: the one place where entries become libnetfilter_conntrack's
// objects and back. Only for conntrack.cpp.
#pragma once

#include <linux/netfilter/nfnetlink.h>
#include <linux/netfilter/nfnetlink_conntrack.h>
#include <linux/netlink.h>

#include <optional>
#include <vector>

#include "netmove/conntrack_entry.hpp"

namespace netmove::conntrack {

/// A request of ours, whole; the sequence number is filled in when it is sent.
using Request = std::vector<char>;

inline nlmsghdr& header_of(Request& request) {
    return *reinterpret_cast<nlmsghdr*>(request.data());
}

/// `type` is IPCTNL_MSG_CT_*, `flags` NLM_F_*.
Request make_request(int type, int flags, unsigned char family);
/// Everything that is tracked in a family; with an address, only what has it as the sender of the
/// one direction or of the other, where the kernel can look for that (Linux 5.8).
enum class Direction { original, reply };
Request dump_request(unsigned char family);
Request dump_request(Address const& sender, Direction direction);
/// To make an entry; fails when it is there. With its helper, or without.
Request create_request(ConntrackEntry const& entry, bool with_helper);
Request get_request(ConntrackKey const& key);
Request delete_request(ConntrackKey const& key);

/// What an answer or an event says about one connection. None when it is no such message, or of a
/// protocol that is not carried (then `carried` is false).
std::optional<ConntrackEntry> entry_of(nlmsghdr const* message, bool& carried);

}  // namespace netmove::conntrack
