#include "netmove/mobile_ipv6/incoming_socket.hpp"

#include <arpa/inet.h>
#include <netinet/icmp6.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <utility>

#include "netmove/mobile_ipv6/packet.hpp"

namespace netmove::mobile_ipv6 {

using core::Errc;
using core::Result;
using IncomingKind = IncomingSocket::Kind;

namespace {

constexpr std::size_t incoming_packet_max = 65'536;
constexpr int incoming_buffer = 4 << 20;  // while the process writes its file for some ms
constexpr unsigned icmpv4_destination_unreachable = 3;
// ICMP_FILTER of <linux/icmp.h>, which does not go together with <net/if.h>.
constexpr int icmpv4_filter_option = 1;

struct SocketKind {
    int family;
    int type;
    int protocol;
};

SocketKind socket_kind(IncomingKind kind) {
    switch (kind) {
        case IncomingKind::ipv6_in_ipv6:
            return {AF_INET6, SOCK_RAW, IPPROTO_IPV6};
        case IncomingKind::ipv4_in_ipv6:
            return {AF_INET6, SOCK_RAW, IPPROTO_IPIP};
        case IncomingKind::ipv6_in_ipv4:
            return {AF_INET, SOCK_RAW, IPPROTO_IPV6};
        case IncomingKind::ipv4_in_ipv4:
            return {AF_INET, SOCK_RAW, IPPROTO_IPIP};
        case IncomingKind::udp:
            return {AF_INET, SOCK_DGRAM, IPPROTO_UDP};
        case IncomingKind::icmpv6_too_big:
            return {AF_INET6, SOCK_RAW, IPPROTO_ICMPV6};
        case IncomingKind::icmpv4_too_big:
            return {AF_INET, SOCK_RAW, IPPROTO_ICMP};
    }
    return {AF_INET6, SOCK_RAW, IPPROTO_IPV6};
}

bool set_flag(int socket, int level, int option, int value) {
    return ::setsockopt(socket, level, option, &value, sizeof value) == 0;
}

/// Only the messages that the kind is for.
bool filter_icmp(int socket, IncomingKind kind) {
    if (kind == IncomingKind::icmpv6_too_big) {
        icmp6_filter filter{};
        ICMP6_FILTER_SETBLOCKALL(&filter);
        ICMP6_FILTER_SETPASS(ICMP6_PACKET_TOO_BIG, &filter);
        return ::setsockopt(socket, IPPROTO_ICMPV6, ICMP6_FILTER, &filter, sizeof filter) == 0;
    }
    if (kind == IncomingKind::icmpv4_too_big) {
        std::uint32_t const blocked = ~(1U << icmpv4_destination_unreachable);
        return ::setsockopt(socket, SOL_RAW, icmpv4_filter_option, &blocked, sizeof blocked) == 0;
    }
    return true;
}

Result<> prepare_incoming(int socket, IncomingKind kind) {
    bool const ipv6 = socket_kind(kind).family == AF_INET6;
    bool good = filter_icmp(socket, kind);
    if (ipv6) {
        good = good && set_flag(socket, IPPROTO_IPV6, IPV6_RECVTCLASS, 1);
    } else {
        // What is sent here may be fragmented: DataPath sends what must not be elsewhere.
        good = good && set_flag(socket, IPPROTO_IP, IP_RECVTOS, 1) &&
               set_flag(socket, IPPROTO_IP, IP_MTU_DISCOVER, IP_PMTUDISC_DONT);
    }
    if (!good) return core::fail_errno(errno, "cannot prepare a socket for mobile nodes");
    if (!set_flag(socket, SOL_SOCKET, SO_RCVBUFFORCE, incoming_buffer)) {
        (void)set_flag(socket, SOL_SOCKET, SO_RCVBUF, incoming_buffer);
    }
    return {};
}

socklen_t local_name(sockaddr_storage& storage, Address const& address, std::uint16_t port) {
    storage = {};
    if (address.is_ipv4()) {
        auto& name = reinterpret_cast<sockaddr_in&>(storage);
        name.sin_family = AF_INET;
        name.sin_port = htons(port);
        std::memcpy(&name.sin_addr, address.bytes().data(), sizeof name.sin_addr);
        return sizeof name;
    }
    auto& name = reinterpret_cast<sockaddr_in6&>(storage);
    name.sin6_family = AF_INET6;
    std::ranges::copy(address.bytes(), name.sin6_addr.s6_addr);
    return sizeof name;
}

std::uint8_t traffic_class_in(msghdr& message) {
    for (auto* one = CMSG_FIRSTHDR(&message); one != nullptr; one = CMSG_NXTHDR(&message, one)) {
        if (one->cmsg_level == IPPROTO_IPV6 && one->cmsg_type == IPV6_TCLASS) {
            int value = 0;
            std::memcpy(&value, CMSG_DATA(one), sizeof value);
            return static_cast<std::uint8_t>(value);
        }
        if (one->cmsg_level == IPPROTO_IP && one->cmsg_type == IP_TOS) return *CMSG_DATA(one);
    }
    return 0;
}

void read_sender(sockaddr_storage const& name, IncomingKind kind, Incoming& into) {
    if (name.ss_family == AF_INET) {
        auto const& from = reinterpret_cast<sockaddr_in const&>(name);
        std::array<std::uint8_t, 4> bytes{};
        std::memcpy(bytes.data(), &from.sin_addr, bytes.size());
        into.from = Address::ipv4(bytes);
        if (kind == IncomingKind::udp) into.port = ntohs(from.sin_port);
        return;
    }
    auto const& from = reinterpret_cast<sockaddr_in6 const&>(name);
    into.from = Address::ipv6(std::span<std::uint8_t const, 16>(from.sin6_addr.s6_addr));
}

/// A raw socket of IPv4 gives the outer header too.
std::span<std::uint8_t> without_ipv4_header(std::span<std::uint8_t> bytes) {
    constexpr std::size_t least = 20;
    if (bytes.size() < least) return {};
    std::size_t const size = std::size_t{bytes[0] & 0x0fU} * 4;
    if (size < least || size > bytes.size()) return {};
    return bytes.subspan(size);
}

}  // namespace

class IncomingSocket::Buffers {
public:
    struct ControlBytes {
        alignas(cmsghdr) std::array<char, 64> bytes;
    };
    std::array<mmsghdr, incoming_packets_max> messages{};
    std::array<iovec, incoming_packets_max> parts{};
    std::array<sockaddr_storage, incoming_packets_max> names{};
    std::array<ControlBytes, incoming_packets_max> controls{};
    std::array<Incoming, incoming_packets_max> incoming{};
    std::vector<std::uint8_t> bytes =
        std::vector<std::uint8_t>(incoming_packets_max * incoming_packet_max);

    void prepare() {
        for (std::size_t i = 0; i < incoming_packets_max; ++i) {
            parts[i] = {bytes.data() + i * incoming_packet_max, incoming_packet_max};
            auto& message = messages[i].msg_hdr;
            message = {};
            message.msg_name = &names[i];
            message.msg_namelen = sizeof names[i];
            message.msg_iov = &parts[i];
            message.msg_iovlen = 1;
            message.msg_control = controls[i].bytes.data();
            message.msg_controllen = controls[i].bytes.size();
        }
    }
};

void IncomingSocket::BuffersDelete::operator()(Buffers* buffers) const { delete buffers; }

IncomingSocket::BuffersPointer IncomingSocket::make_buffers() {
    return BuffersPointer(new Buffers);
}

Result<IncomingSocket> IncomingSocket::open(IncomingKind kind, Address const& local) {
    auto const chosen = socket_kind(kind);
    core::Fd made(
        ::socket(chosen.family, chosen.type | SOCK_NONBLOCK | SOCK_CLOEXEC, chosen.protocol));
    if (!made && (errno == EPERM || errno == EACCES)) {
        return core::fail_os(
            Errc::netlink, errno,
            "no privilege: CAP_NET_RAW is needed to receive packets of mobile nodes");
    }
    if (!made) return core::fail_errno(errno, "cannot open a socket for mobile nodes");
    TRY_VOID(prepare_incoming(made.get(), kind));
    sockaddr_storage name;
    auto const length = local_name(name, local, kind == IncomingKind::udp ? dual_stack_port : 0);
    if (::bind(made.get(), reinterpret_cast<sockaddr const*>(&name), length) < 0) {
        if (kind == IncomingKind::udp) {
            return core::fail_errno(errno, "cannot receive on UDP port {} of {}", dual_stack_port,
                                    local.text());
        }
        return core::fail_errno(errno, "cannot receive packets for {}", local.text());
    }
    return IncomingSocket(std::move(made), kind);
}

std::span<Incoming const> IncomingSocket::receive(Buffers& buffers) const {
    buffers.prepare();
    int const got =
        ::recvmmsg(fd_.get(), buffers.messages.data(), incoming_packets_max, MSG_DONTWAIT, nullptr);
    // An error belongs to a packet that was sent.
    std::size_t count = 0;
    for (int i = 0; i < got; ++i) {
        auto const at = static_cast<std::size_t>(i);
        auto& message = buffers.messages[at];
        if ((message.msg_hdr.msg_flags & MSG_TRUNC) != 0) continue;
        auto& one = buffers.incoming[count++];
        one = {};
        one.bytes = std::span(buffers.bytes).subspan(at * incoming_packet_max, message.msg_len);
        one.traffic_class = traffic_class_in(message.msg_hdr);
        read_sender(buffers.names[at], kind_, one);
        bool const headed = one.from.is_ipv4() && kind_ != IncomingKind::udp;
        if (headed) one.bytes = without_ipv4_header(one.bytes);
    }
    return std::span(buffers.incoming).first(count);
}

int IncomingSocket::send(Address const& to, std::uint16_t port, ByteView bytes) const {
    sockaddr_storage name;
    auto const length = local_name(name, to, port);
    auto const sent = ::sendto(fd_.get(), bytes.data(), bytes.size(), MSG_DONTWAIT | MSG_NOSIGNAL,
                               reinterpret_cast<sockaddr const*>(&name), length);
    return sent < 0 ? errno : 0;
}

}  // namespace netmove::mobile_ipv6
