#include "netmove/tunnel/port.hpp"

#include <fcntl.h>
#include <linux/if_tun.h>
#include <sys/ioctl.h>
#include <sys/uio.h>

#include <algorithm>
#include <array>
#include <cerrno>

namespace netmove::tunnel {

using core::fail_errno;
using core::Result;

namespace {

// As in tap.cpp: no vnet header is longer.
constexpr std::size_t header_max = 64;

}  // namespace

Result<std::shared_ptr<Port>> Port::duplicate(Tap const& tap) {
    std::vector<core::Fd> descriptors;
    for (int queue = 0; queue < tap.queues(); ++queue) {
        core::Fd copy(::fcntl(tap.descriptor(queue), F_DUPFD_CLOEXEC, 0));
        if (!copy)
            return fail_errno(errno, "cannot duplicate a descriptor of the tap {}", tap.name());
        descriptors.push_back(std::move(copy));
    }
    TRY(auto adopted, Tap::adopt(std::move(descriptors)));
    TRY(auto const header, adopted.vnet_hdr_size());
    std::shared_ptr<Port> port(new Port(std::move(adopted)));
    port->header_ = header;
    return port;
}

void Port::refresh(core::Clock::time_point now) {
    if (now - refreshed_ < refresh_interval) return;
    refreshed_ = now;
    auto const header = tap_.vnet_hdr_size();
    if (header) header_ = *header;
}

void Port::take_offloads() const {
    if (!tap_.vnet_hdr()) return;
    constexpr unsigned long tcp = TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6 | TUN_F_TSO_ECN;
    constexpr unsigned long udp = 0x20 | 0x40;  // TUN_F_USO4, TUN_F_USO6: since Linux 6.2
    if (ioctl(tap_.descriptor(0), TUNSETOFFLOAD, tcp | udp) == 0) return;
    (void)ioctl(tap_.descriptor(0), TUNSETOFFLOAD, tcp);  // without, the kernel segments
}

std::optional<FrameView> Port::read(int queue, std::span<std::uint8_t> room, bool& empty) const {
    auto const got = ::read(tap_.descriptor(queue), room.data(), room.size());
    empty = got <= 0;
    auto const size = got <= 0 ? 0 : static_cast<std::size_t>(got);
    if (size < header_ + ethernet_min || size > header_ + tap_frame_max) return std::nullopt;
    ByteView const header = room.first(std::min(header_, virtio_header_size));
    bool const plain = header.size() < virtio_header_size ||
                       std::ranges::all_of(header, [](auto byte) { return byte == 0; });
    return FrameView{plain ? ByteView() : header, room.subspan(header_, size - header_)};
}

bool Port::write(FrameView frame) const {
    // A tap without the header can send only what is complete.
    if (frame.vnet.size() > header_) return false;
    std::array<std::uint8_t, header_max> header{};
    std::ranges::copy(frame.vnet, header.begin());
    iovec parts[2] = {{header.data(), header_},
                      {const_cast<std::uint8_t*>(frame.ethernet.data()), frame.ethernet.size()}};
    auto const written = ::writev(tap_.descriptor(0), parts, 2);
    return written == static_cast<ssize_t>(header_ + frame.ethernet.size());
}

}  // namespace netmove::tunnel
