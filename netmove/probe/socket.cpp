#include "netmove/probe/socket.hpp"

#include <cerrno>
#include <cstring>
#include <ctime>

namespace netmove {

using core::fail_errno;
using core::Fd;
using core::Result;

namespace {

// 8 MiB hold some 10,000 datagrams of 210 bytes with the kernel's share of each: half a second of
// 20 kHz, ten of 1 kHz.
constexpr int buffer_bytes = 8 << 20;

bool wants_back(cmsghdr const& one) {
    return (one.cmsg_level == IPPROTO_IP && one.cmsg_type == IP_PKTINFO) ||
           (one.cmsg_level == IPPROTO_IPV6 && one.cmsg_type == IPV6_PKTINFO);
}

template <class T>
T data_of(cmsghdr* one) {
    T value{};
    std::memcpy(&value, CMSG_DATA(one), sizeof value);
    return value;
}

void read_ancillary(msghdr& message, Received& received) {
    for (auto* one = CMSG_FIRSTHDR(&message); one != nullptr; one = CMSG_NXTHDR(&message, one)) {
        if (one->cmsg_level != SOL_SOCKET) continue;
        if (one->cmsg_type == SCM_TIMESTAMPNS) {
            auto const at = data_of<timespec>(one);
            received.at_ns = static_cast<std::uint64_t>(at.tv_sec) * 1'000'000'000 +
                             static_cast<std::uint64_t>(at.tv_nsec);
        } else if (one->cmsg_type == SO_RXQ_OVFL) {
            received.overflowed = data_of<std::uint32_t>(one);
        }
    }
}

}  // namespace

std::uint64_t wall_ns() {
    timespec now{};
    clock_gettime(CLOCK_REALTIME, &now);
    return static_cast<std::uint64_t>(now.tv_sec) * 1'000'000'000 +
           static_cast<std::uint64_t>(now.tv_nsec);
}

SocketAddress any_address(int family, std::uint16_t port) {
    SocketAddress made;
    made.storage.ss_family = static_cast<sa_family_t>(family);
    if (family == AF_INET) {
        made.length = sizeof(sockaddr_in);
        reinterpret_cast<sockaddr_in&>(made.storage).sin_port = htons(port);
    } else {
        made.length = sizeof(sockaddr_in6);
        reinterpret_cast<sockaddr_in6&>(made.storage).sin6_port = htons(port);
    }
    return made;
}

SocketAddress socket_address(Address const& address, std::uint16_t port) {
    auto made = any_address(address.is_ipv4() ? AF_INET : AF_INET6, port);
    auto const bytes = address.bytes();
    void* const to =
        address.is_ipv4()
            ? static_cast<void*>(&reinterpret_cast<sockaddr_in&>(made.storage).sin_addr)
            : &reinterpret_cast<sockaddr_in6&>(made.storage).sin6_addr;
    std::memcpy(to, bytes.data(), bytes.size());
    return made;
}

Result<Fd> probe_udp_socket(int family) {
    Fd socket(::socket(family, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    if (!socket) return fail_errno(errno, "cannot make a UDP socket");
    int const on = 1;
    auto const set = [&](int level, int name, int value) {
        return setsockopt(socket.get(), level, name, &value, sizeof value) == 0;
    };
    bool const told = set(SOL_SOCKET, SO_TIMESTAMPNS, on) && set(SOL_SOCKET, SO_RXQ_OVFL, on) &&
                      (family == AF_INET ? set(IPPROTO_IP, IP_PKTINFO, on)
                                         : set(IPPROTO_IPV6, IPV6_V6ONLY, on) &&
                                               set(IPPROTO_IPV6, IPV6_RECVPKTINFO, on));
    if (!told) return fail_errno(errno, "cannot prepare a UDP socket");
    // The first needs CAP_NET_ADMIN, the second gives what the system's limit allows.
    if (!set(SOL_SOCKET, SO_RCVBUFFORCE, buffer_bytes)) {
        (void)set(SOL_SOCKET, SO_RCVBUF, buffer_bytes);
    }
    if (!set(SOL_SOCKET, SO_SNDBUFFORCE, buffer_bytes)) {
        (void)set(SOL_SOCKET, SO_SNDBUF, buffer_bytes);
    }
    return socket;
}

Received Envelope::receive(int fd, std::span<std::byte> room) {
    iovec part{room.data(), room.size()};
    msghdr message{};
    message.msg_name = &peer_.storage;
    message.msg_namelen = sizeof peer_.storage;
    message.msg_iov = &part;
    message.msg_iovlen = 1;
    message.msg_control = ancillary_.data();
    message.msg_controllen = ancillary_.size();
    auto const got = recvmsg(fd, &message, MSG_DONTWAIT);
    if (got < 0) return {0, 0, {}, errno};
    Received received{static_cast<std::size_t>(got), 0, {}, 0};
    read_ancillary(message, received);
    if (received.at_ns == 0) received.at_ns = wall_ns();
    peer_.length = message.msg_namelen;
    ancillary_bytes_ = message.msg_controllen;
    return received;
}

int Envelope::answer(int fd, std::span<std::byte const> bytes) {
    msghdr came{};
    came.msg_control = ancillary_.data();
    came.msg_controllen = ancillary_bytes_;
    alignas(cmsghdr) std::array<char, CMSG_SPACE(sizeof(in6_pktinfo))> control{};
    iovec part{const_cast<std::byte*>(bytes.data()), bytes.size()};
    msghdr message{};
    message.msg_name = &peer_.storage;
    message.msg_namelen = peer_.length;
    message.msg_iov = &part;
    message.msg_iovlen = 1;
    for (auto* one = CMSG_FIRSTHDR(&came); one != nullptr; one = CMSG_NXTHDR(&came, one)) {
        if (!wants_back(*one) || one->cmsg_len > control.size()) continue;
        // Sent back, it names the address that was asked; the route decides the interface, but for
        // link-local addresses, which mean nothing without theirs.
        std::memcpy(control.data(), one, one->cmsg_len);
        auto* const copy = reinterpret_cast<cmsghdr*>(control.data());
        if (copy->cmsg_level == IPPROTO_IP) {
            auto* info = reinterpret_cast<in_pktinfo*>(CMSG_DATA(copy));
            info->ipi_spec_dst = info->ipi_addr;
            info->ipi_ifindex = 0;
        } else {
            auto* info = reinterpret_cast<in6_pktinfo*>(CMSG_DATA(copy));
            if (!IN6_IS_ADDR_LINKLOCAL(&info->ipi6_addr)) info->ipi6_ifindex = 0;
        }
        message.msg_control = control.data();
        message.msg_controllen = CMSG_ALIGN(one->cmsg_len);
    }
    return sendmsg(fd, &message, MSG_DONTWAIT | MSG_NOSIGNAL) < 0 ? errno : 0;
}

}  // namespace netmove
