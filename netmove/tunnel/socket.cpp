#include "netmove/tunnel/socket.hpp"

#include <netinet/udp.h>

#include <algorithm>
#include <array>
#include <cassert>
#include <cerrno>
#include <cstring>

namespace netmove::tunnel {

using core::fail_errno;
using core::Result;

namespace {

// Bursts of all tunnels while the process does something else for some milliseconds.
constexpr int receive_buffer = 4 << 20;
// What may wait in the qdisc: more would only be delay, and a short qdisc would drop it.
constexpr int send_buffer = 512 << 10;

struct Name {
    sockaddr_storage storage{};
    socklen_t length = 0;
};

std::array<std::uint8_t, 16> mapped(Address const& address) {
    std::array<std::uint8_t, 16> bytes{};
    if (address.is_ipv4()) {
        bytes[10] = bytes[11] = 0xff;
        std::ranges::copy(address.bytes(), bytes.begin() + 12);
    } else {
        std::ranges::copy(address.bytes(), bytes.begin());
    }
    return bytes;
}

Address unmapped(in6_addr const& from) {
    std::span<std::uint8_t const, 16> const bytes(from.s6_addr);
    if (IN6_IS_ADDR_V4MAPPED(&from)) return Address::ipv4(bytes.last<4>());
    return Address::ipv6(bytes);
}

Address from_ipv4(in_addr const& from) {
    std::array<std::uint8_t, 4> bytes{};
    std::memcpy(bytes.data(), &from, bytes.size());
    return Address::ipv4(bytes);
}

Name name_of(int family, Endpoint const& endpoint, std::uint32_t scope) {
    Name name;
    if (family == AF_INET) {
        auto& to = reinterpret_cast<sockaddr_in&>(name.storage);
        to.sin_family = AF_INET;
        to.sin_port = htons(endpoint.port);
        std::memcpy(&to.sin_addr, endpoint.address.bytes().data(), sizeof to.sin_addr);
        name.length = sizeof to;
    } else {
        auto& to = reinterpret_cast<sockaddr_in6&>(name.storage);
        to.sin6_family = AF_INET6;
        to.sin6_port = htons(endpoint.port);
        to.sin6_scope_id = scope;
        std::memcpy(&to.sin6_addr, mapped(endpoint.address).data(), sizeof to.sin6_addr);
        name.length = sizeof to;
    }
    return name;
}

void read_name(sockaddr_storage const& from, Path& path) {
    if (from.ss_family == AF_INET) {
        auto const& name = reinterpret_cast<sockaddr_in const&>(from);
        path.peer = {from_ipv4(name.sin_addr), ntohs(name.sin_port)};
        return;
    }
    auto const& name = reinterpret_cast<sockaddr_in6 const&>(from);
    path.peer = {unmapped(name.sin6_addr), ntohs(name.sin6_port)};
    path.peer_scope = name.sin6_scope_id;
}

void read_control(msghdr& message, Arrival& arrival) {
    for (auto* one = CMSG_FIRSTHDR(&message); one != nullptr; one = CMSG_NXTHDR(&message, one)) {
        if (one->cmsg_level == SOL_UDP && one->cmsg_type == UDP_GRO) {
            int segment = 0;
            std::memcpy(&segment, CMSG_DATA(one), sizeof segment);
            if (segment > 0) arrival.segment = static_cast<std::size_t>(segment);
        } else if (one->cmsg_level == IPPROTO_IPV6 && one->cmsg_type == IPV6_PKTINFO) {
            in6_pktinfo info{};
            std::memcpy(&info, CMSG_DATA(one), sizeof info);
            arrival.path.local = unmapped(info.ipi6_addr);
            if (arrival.path.local->is_link_local() && !arrival.path.local->is_ipv4()) {
                arrival.path.local_scope = info.ipi6_ifindex;
            }
        } else if (one->cmsg_level == IPPROTO_IP && one->cmsg_type == IP_PKTINFO) {
            in_pktinfo info{};
            std::memcpy(&info, CMSG_DATA(one), sizeof info);
            arrival.path.local = from_ipv4(info.ipi_addr);
        }
    }
}

/// The ancillary data of one message to be sent.
class Control {
public:
    void add(int level, int type, void const* value, std::size_t size) {
        auto* const one = reinterpret_cast<cmsghdr*>(bytes_.data() + used_);
        one->cmsg_level = level;
        one->cmsg_type = type;
        one->cmsg_len = CMSG_LEN(size);
        std::memcpy(CMSG_DATA(one), value, size);
        used_ += CMSG_SPACE(size);
    }
    void put_into(msghdr& message) {
        message.msg_control = used_ == 0 ? nullptr : bytes_.data();
        message.msg_controllen = used_;
    }

private:
    alignas(cmsghdr) std::array<char, CMSG_SPACE(sizeof(in6_pktinfo)) +
                                          CMSG_SPACE(sizeof(std::uint16_t))> bytes_{};
    std::size_t used_ = 0;
};

void add_source(Control& control, int family, Path const& path) {
    if (!path.local || path.local->is_ipv4() != path.peer.address.is_ipv4()) return;
    if (family == AF_INET) {
        in_pktinfo info{};
        std::memcpy(&info.ipi_spec_dst, path.local->bytes().data(), sizeof info.ipi_spec_dst);
        control.add(IPPROTO_IP, IP_PKTINFO, &info, sizeof info);
    } else {
        in6_pktinfo info{};
        std::memcpy(&info.ipi6_addr, mapped(*path.local).data(), sizeof info.ipi6_addr);
        info.ipi6_ifindex = path.local_scope;
        control.add(IPPROTO_IPV6, IPV6_PKTINFO, &info, sizeof info);
    }
}

bool set(int fd, int level, int name, int value) {
    return setsockopt(fd, level, name, &value, sizeof value) == 0;
}

bool set_options(int fd, int family) {
    bool good =
        set(fd, IPPROTO_IP, IP_MTU_DISCOVER, IP_PMTUDISC_PROBE) && set(fd, SOL_UDP, UDP_GRO, 1);
    if (family == AF_INET6) {
        good = good && set(fd, IPPROTO_IPV6, IPV6_MTU_DISCOVER, IPV6_PMTUDISC_PROBE) &&
               set(fd, IPPROTO_IPV6, IPV6_RECVPKTINFO, 1);
    } else {
        good = good && set(fd, IPPROTO_IP, IP_PKTINFO, 1);
    }
    // The first needs CAP_NET_ADMIN, the second gives what the system's limit allows.
    if (!set(fd, SOL_SOCKET, SO_RCVBUFFORCE, receive_buffer)) {
        (void)set(fd, SOL_SOCKET, SO_RCVBUF, receive_buffer);
    }
    if (!set(fd, SOL_SOCKET, SO_SNDBUFFORCE, send_buffer)) {
        (void)set(fd, SOL_SOCKET, SO_SNDBUF, send_buffer);
    }
    return good;
}

/// "[::]" and "::" are the same address.
std::string without_brackets(std::string text) {
    if (text.size() >= 2 && text.front() == '[' && text.back() == ']') {
        return text.substr(1, text.size() - 2);
    }
    return text;
}

}  // namespace

struct Socket::Batch {
    std::array<mmsghdr, arrivals_max> messages{};
    std::array<iovec, arrivals_max> parts{};
    std::array<sockaddr_storage, arrivals_max> names{};
    struct ControlRoom {
        alignas(cmsghdr) std::array<char, 128> bytes;
    };
    std::array<ControlRoom, arrivals_max> controls{};
    std::vector<std::uint8_t> bytes = std::vector<std::uint8_t>(arrivals_max * arrival_room);
};

void Socket::BatchDelete::operator()(Batch* batch) const { delete batch; }

Result<Socket> Socket::open(HubOptions const& options) {
    TRY(auto const address, Address::parse(without_brackets(options.listen)));
    Socket made;
    bool const any = address == Address::parse("::").value();
    auto opened = made.set_up(address.is_ipv4() ? AF_INET : AF_INET6, options);
    // A host without IPv6 has no such socket.
    if (!opened && any && opened.error().os == EAFNOSUPPORT) {
        opened = made.set_up(AF_INET, {"0.0.0.0", options.port});
    }
    if (!opened) return std::unexpected(std::move(opened.error()));
    made.batch_.reset(new Batch);
    return made;
}

Result<> Socket::set_up(int family, HubOptions const& options) {
    TRY(auto const address, Address::parse(without_brackets(options.listen)));
    family_ = family;
    fd_.reset(::socket(family, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    if (!fd_) return fail_errno(errno, "cannot make a UDP socket");
    if (!set_options(fd_.get(), family)) return fail_errno(errno, "cannot prepare a UDP socket");
    if (family == AF_INET6) (void)set(fd_.get(), IPPROTO_IPV6, IPV6_V6ONLY, 0);
    auto name = name_of(family, {address, options.port}, 0);
    if (::bind(fd_.get(), reinterpret_cast<sockaddr*>(&name.storage), name.length) < 0) {
        return fail_errno(errno, "cannot listen on UDP port {} of {}", options.port,
                          options.listen);
    }
    if (getsockname(fd_.get(), reinterpret_cast<sockaddr*>(&name.storage), &name.length) < 0) {
        return fail_errno(errno, "cannot ask for the port of a UDP socket");
    }
    Path own;
    read_name(name.storage, own);
    port_ = own.peer.port;
    return {};
}

void Socket::prepare_batch() {
    for (std::size_t i = 0; i < arrivals_max; ++i) {
        batch_->parts[i] = {batch_->bytes.data() + i * arrival_room, arrival_room};
        auto& message = batch_->messages[i].msg_hdr;
        message = {};
        message.msg_name = &batch_->names[i];
        message.msg_namelen = sizeof batch_->names[i];
        message.msg_iov = &batch_->parts[i];
        message.msg_iovlen = 1;
        message.msg_control = batch_->controls[i].bytes.data();
        message.msg_controllen = batch_->controls[i].bytes.size();
    }
}

std::vector<Arrival> const& Socket::receive(bool& more) {
    prepare_batch();
    arrivals_.clear();
    int const got =
        recvmmsg(fd_.get(), batch_->messages.data(), arrivals_max, MSG_DONTWAIT, nullptr);
    // An error belongs to a datagram that was sent (ICMP), and is not of interest: the peer's
    // silence is.
    more = got == static_cast<int>(arrivals_max);
    for (int i = 0; i < got; ++i) {
        auto const at = static_cast<std::size_t>(i);
        auto& message = batch_->messages[at];
        if ((message.msg_hdr.msg_flags & MSG_TRUNC) != 0 || message.msg_len == 0) continue;
        Arrival arrival;
        arrival.bytes = std::span(batch_->bytes).subspan(at * arrival_room, message.msg_len);
        arrival.segment = message.msg_len;
        read_name(batch_->names[at], arrival.path);
        read_control(message.msg_hdr, arrival);
        arrivals_.push_back(arrival);
    }
    return arrivals_;
}

int Socket::send(Path const& path, ByteView bytes, std::size_t segment) const {
    if (family_ == AF_INET && !path.peer.address.is_ipv4()) return EAFNOSUPPORT;
    auto name = name_of(family_, path.peer, path.peer_scope);
    iovec part{const_cast<std::uint8_t*>(bytes.data()), bytes.size()};
    Control control;
    add_source(control, family_, path);
    if (segment < bytes.size()) {
        auto const size = static_cast<std::uint16_t>(segment);
        control.add(SOL_UDP, UDP_SEGMENT, &size, sizeof size);
    }
    msghdr message{};
    message.msg_name = &name.storage;
    message.msg_namelen = name.length;
    message.msg_iov = &part;
    message.msg_iovlen = 1;
    control.put_into(message);
    return sendmsg(fd_.get(), &message, MSG_DONTWAIT | MSG_NOSIGNAL) < 0 ? errno : 0;
}

void Outgoing::begin(Path const& path) {
    assert(waiting_ < bursts_max);
    current().path = path;
}

void Outgoing::put(std::uint64_t id, ByteView record) {
    std::size_t const size = id_size + record.size();
    auto* burst = &current();
    if (burst->count != 0 &&
        (burst->closed || size > burst->segment || burst->count == segments_max ||
         burst->bytes.size() + size > burst_max)) {
        close_burst();
        burst = &current();
    }
    if (burst->count == 0) burst->segment = size;
    burst->closed = size < burst->segment;
    auto const front = id_bytes(id);
    burst->bytes.insert(burst->bytes.end(), front.begin(), front.end());
    burst->bytes.insert(burst->bytes.end(), record.begin(), record.end());
    ++burst->count;
}

/// Sends the current burst, or lets it wait after those that wait.
void Outgoing::close_burst() {
    auto& burst = current();
    if (burst.count == 0) return;
    bool const taken = waiting_ == 0 && send(burst) != EAGAIN;
    if (!taken) {
        assert(waiting_ + 1 < bursts_max);
        ++waiting_;
        current().path = burst.path;
    }
    clear_current();
}

void Outgoing::clear_current() {
    current().bytes.clear();
    current().count = 0;
    current().closed = false;
}

void Outgoing::finish() { close_burst(); }

void Outgoing::retry() {
    std::size_t sent = 0;
    while (sent < waiting_ && send(bursts_[sent]) != EAGAIN) ++sent;
    // The buffers stay in use: only their order changes.
    std::rotate(bursts_.begin(), bursts_.begin() + static_cast<std::ptrdiff_t>(sent),
                bursts_.begin() + static_cast<std::ptrdiff_t>(waiting_ + 1));
    waiting_ -= sent;
    clear_current();
}

int Outgoing::send(Burst& burst) {
    if (segmenting_ || burst.count == 1) {
        int const error = socket_.send(burst.path, burst.bytes, burst.segment);
        if (error == EMSGSIZE) too_long_ = true;
        // EIO: a path without checksum offload, or with IPsec. EINVAL: also what older kernels say
        // if a datagram is too long.
        if (burst.count == 1 || (error != EIO && error != EINVAL)) return error;
        if (error == EIO) segmenting_ = false;
    }
    while (burst.count > 0) {
        ByteView const one(burst.bytes.data(), std::min(burst.segment, burst.bytes.size()));
        int const error = socket_.send(burst.path, one, one.size());
        if (error == EAGAIN) return error;
        if (error == EMSGSIZE) too_long_ = true;
        burst.bytes.erase(burst.bytes.begin(),
                          burst.bytes.begin() + static_cast<std::ptrdiff_t>(one.size()));
        --burst.count;
    }
    return 0;
}

}  // namespace netmove::tunnel
