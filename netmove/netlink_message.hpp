// A request to rtnetlink while it is put together: what the files share that make one.
#pragma once

#include <linux/rtnetlink.h>
#include <netlink/msg.h>
#include <sys/socket.h>

#include <cstdlib>
#include <memory>

namespace netmove {

struct FreeMessage {
    void operator()(nl_msg* message) const { nlmsg_free(message); }
};
using Message = std::unique_ptr<nl_msg, FreeMessage>;

/// `type` is RTM_*, `header` the family's fixed part (ifinfomsg, ndmsg, tcmsg).
template <class Header>
Message make_message(int type, int flags, Header header) {
    Message message(nlmsg_alloc_simple(type, flags));
    if (!message || nlmsg_append(message.get(), &header, sizeof header, NLMSG_ALIGNTO) < 0) {
        std::abort();  // out of memory for a page
    }
    return message;
}

inline ifinfomsg link_header(int index = 0, unsigned char family = AF_UNSPEC) {
    ifinfomsg header{};
    header.ifi_family = family;
    header.ifi_index = index;
    return header;
}

}  // namespace netmove
