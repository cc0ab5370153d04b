#include "netmove/mobile_ipv6/outgoing_packets.hpp"

#include <netinet/in.h>
#include <poll.h>

#include <algorithm>
#include <cassert>
#include <cerrno>
#include <cstring>

namespace netmove::mobile_ipv6 {

using core::Errc;
using core::Result;
using core::Task;

namespace {

// What may wait in the queueing discipline of an interface.
constexpr int outgoing_buffer = 4 << 20;

/// Where the kernel is to send a packet that has its own header.
socklen_t write_raw_name(sockaddr_storage& storage, Address const& to) {
    storage = {};
    if (to.is_ipv4()) {
        auto& name = reinterpret_cast<sockaddr_in&>(storage);
        name.sin_family = AF_INET;
        std::memcpy(&name.sin_addr, to.bytes().data(), sizeof name.sin_addr);
        return sizeof name;
    }
    auto& name = reinterpret_cast<sockaddr_in6&>(storage);
    name.sin6_family = AF_INET6;
    std::ranges::copy(to.bytes(), name.sin6_addr.s6_addr);
    return sizeof name;
}

}  // namespace

Result<OutgoingPackets> OutgoingPackets::open(Address::Family family) {
    bool const ipv4 = family == Address::Family::ipv4;
    core::Fd made(
        ::socket(ipv4 ? AF_INET : AF_INET6, SOCK_RAW | SOCK_NONBLOCK | SOCK_CLOEXEC, IPPROTO_RAW));
    if (!made && (errno == EPERM || errno == EACCES)) {
        return core::fail_os(Errc::netlink, errno,
                             "no privilege: CAP_NET_RAW is needed to send packets to mobile nodes");
    }
    if (!made) return core::fail_errno(errno, "cannot open a raw socket");
    if (::setsockopt(made.get(), SOL_SOCKET, SO_SNDBUFFORCE, &outgoing_buffer,
                     sizeof outgoing_buffer) < 0) {
        (void)::setsockopt(made.get(), SOL_SOCKET, SO_SNDBUF, &outgoing_buffer,
                           sizeof outgoing_buffer);
    }
    return OutgoingPackets(std::move(made), family);
}

bool OutgoingPackets::put(Address const& to, ByteView header, ByteView inner) {
    assert(to.family() == family_ && header.size() <= OutgoingSlot{}.header.size());
    if (used_ == slots_.size()) return false;
    auto& slot = slots_[used_++];
    slot.to = to;
    std::ranges::copy(header, slot.header.begin());
    slot.header_size = header.size();
    slot.inner = inner;
    return true;
}

bool OutgoingPackets::put(Address const& to, Bytes packet) {
    assert(to.family() == family_);
    if (used_ == slots_.size()) return false;
    auto& slot = slots_[used_++];
    slot.to = to;
    slot.header_size = 0;
    slot.owned = std::move(packet);
    slot.inner = slot.owned;
    return true;
}

void OutgoingPackets::prepare(OutgoingSlot& slot, mmsghdr& message) const {
    slot.parts[0] = {slot.header.data(), slot.header_size};
    slot.parts[1] = {const_cast<std::uint8_t*>(slot.inner.data()), slot.inner.size()};
    message = {};
    message.msg_hdr.msg_name = &slot.name;
    message.msg_hdr.msg_namelen = write_raw_name(slot.name, slot.to);
    message.msg_hdr.msg_iov = slot.parts.data();
    message.msg_hdr.msg_iovlen = slot.parts.size();
}

Task<std::vector<OutgoingPackets::Failed>> OutgoingPackets::flush(core::Loop& loop,
                                                                  std::stop_token stop) {
    std::vector<Failed> failed;
    for (std::size_t i = 0; i < used_; ++i) prepare(slots_[i], messages_[i]);
    bool waited = false;
    for (std::size_t at = 0; at < used_;) {
        int const sent =
            ::sendmmsg(fd_.get(), &messages_[at], static_cast<unsigned>(used_ - at), MSG_DONTWAIT);
        if (sent > 0) {
            at += static_cast<std::size_t>(sent);
            waited = false;
            continue;
        }
        int const error = errno;
        bool const full = error == EAGAIN || error == ENOBUFS;
        if (error == EINTR) continue;
        if (full && !waited) {
            waited = true;
            (void)co_await loop.poll(fd_.get(), POLLOUT,
                                     core::Deadline::after(outgoing_patience, stop));
            continue;
        }
        failed.push_back({slots_[at].to, error});
        ++at;
    }
    used_ = 0;
    co_return failed;
}

int OutgoingPackets::send(Address const& to, ByteView packet) const {
    sockaddr_storage name;
    auto const length = write_raw_name(name, to);
    auto const sent = ::sendto(fd_.get(), packet.data(), packet.size(), MSG_DONTWAIT,
                               reinterpret_cast<sockaddr const*>(&name), length);
    return sent < 0 ? errno : 0;
}

}  // namespace netmove::mobile_ipv6
