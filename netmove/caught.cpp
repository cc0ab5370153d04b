#include "netmove/caught.hpp"

#include <linux/if_packet.h>
#include <sys/socket.h>

#include <array>
#include <cerrno>

namespace netmove {

using core::Errc;
using core::fail;
using core::fail_errno;
using core::Result;

namespace {

// Less than that is no frame.
constexpr std::size_t ethernet_header = 14;
constexpr std::size_t length_size = 4;

std::size_t length_at(std::span<std::uint8_t const> bytes) {
    return static_cast<std::size_t>(bytes[0]) << 24 | static_cast<std::size_t>(bytes[1]) << 16 |
           static_cast<std::size_t>(bytes[2]) << 8 | bytes[3];
}

/// A packet socket that sends to one interface and receives nothing.
Result<core::Fd> packet_socket(int index, std::string const& tap, bool past_the_queue) {
    core::Fd made(::socket(AF_PACKET, SOCK_RAW | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
    if (!made && (errno == EPERM || errno == EACCES)) {
        return core::fail_os(
            Errc::netlink, errno,
            fmt::format("no privilege: CAP_NET_RAW is needed to inject frames into the tap {}",
                        tap));
    }
    if (!made) return fail_errno(errno, "cannot make a packet socket for the tap {}", tap);
    sockaddr_ll where{};
    where.sll_family = AF_PACKET;
    where.sll_ifindex = index;
    int const on = 1;
    if (::bind(made.get(), reinterpret_cast<sockaddr const*>(&where), sizeof where) < 0 ||
        setsockopt(made.get(), SOL_PACKET, PACKET_VNET_HDR, &on, sizeof on) < 0 ||
        (past_the_queue &&
         setsockopt(made.get(), SOL_PACKET, PACKET_QDISC_BYPASS, &on, sizeof on) < 0)) {
        return fail_errno(errno, "cannot bind a packet socket to the tap {}", tap);
    }
    return made;
}

}  // namespace

Result<CaughtFrames> catch_frames(Tap const& tap, std::size_t bytes_max) {
    TRY(auto const header, tap.vnet_hdr_size());
    if (header != 0 && header < virtio_header_size) {
        return fail(Errc::io, "the tap {} has a vnet header of {} bytes", tap.name(), header);
    }
    static thread_local std::array<std::uint8_t, tap_frame_max> buffer;
    CaughtFrames out;
    std::size_t bytes = 0;
    for (int queue = 0; queue < tap.queues(); ++queue) {
        // Bounded: a sender as fast as we are would keep us here for ever.
        for (int frame = 0; frame < ring_frames_max; ++frame) {
            TRY(auto const got, tap.read_raw(queue, buffer));
            if (got == 0) break;
            if (got < header + ethernet_header) continue;
            std::size_t const size = virtio_header_size + got - header;
            if (bytes + size > bytes_max) {
                ++out.dropped;
                continue;
            }
            bytes += size;
            CaughtFrame one(virtio_header_size);
            one.reserve(size);
            std::copy_n(buffer.begin(), std::min(header, virtio_header_size), one.begin());
            auto const from = buffer.begin() + static_cast<std::ptrdiff_t>(header);
            one.insert(one.end(), from, buffer.begin() + static_cast<std::ptrdiff_t>(got));
            out.frames.push_back(std::move(one));
        }
    }
    return out;
}

std::size_t frames_within(std::span<CaughtFrame const> frames, std::size_t bytes_max) {
    std::size_t bytes = 0;
    std::size_t count = 0;
    for (auto const& frame : frames) {
        bytes += length_size + frame.size();
        if (bytes > bytes_max && count > 0) break;
        ++count;
    }
    return count;
}

Bytes to_wire(std::span<CaughtFrame const> frames) {
    Bytes out;
    for (auto const& frame : frames) {
        auto const size = static_cast<std::uint32_t>(frame.size());
        for (int shift = 24; shift >= 0; shift -= 8) {
            out.push_back(static_cast<std::uint8_t>(size >> shift));
        }
        out.insert(out.end(), frame.begin(), frame.end());
    }
    return out;
}

Result<std::vector<CaughtFrame>> from_wire(std::span<std::uint8_t const> bytes) {
    std::vector<CaughtFrame> frames;
    while (!bytes.empty()) {
        if (bytes.size() < length_size) return fail(Errc::protocol, "a caught frame has no length");
        auto const size = length_at(bytes);
        bytes = bytes.subspan(length_size);
        if (size < virtio_header_size + ethernet_header || size > tap_frame_max ||
            size > bytes.size()) {
            return fail(Errc::protocol, "a caught frame has the impossible length of {} bytes",
                        size);
        }
        auto const one = bytes.first(size);
        frames.emplace_back(one.begin(), one.end());
        bytes = bytes.subspan(size);
    }
    return frames;
}

Result<Injector> Injector::open(Netlink& netlink, std::string const& tap) {
    TRY(auto const link, netlink.link(tap));
    TRY(auto direct, packet_socket(link.index, tap, true));
    TRY(auto queued, packet_socket(link.index, tap, false));
    return Injector(std::move(direct), std::move(queued), tap);
}

Result<bool> Injector::put(std::span<std::uint8_t const> frame) const {
    return send(direct_, frame);
}

Result<bool> Injector::queue(std::span<std::uint8_t const> frame) const {
    return send(queued_, frame);
}

Result<bool> Injector::send(core::Fd const& socket, std::span<std::uint8_t const> frame) const {
    if (::send(socket.get(), frame.data(), frame.size(), MSG_DONTWAIT) >= 0) return true;
    // ENOBUFS: the tap's ring is full and the kernel dropped it. EAGAIN: the socket's own buffer.
    if (errno == ENOBUFS || errno == EAGAIN) return false;
    return fail_errno(errno, "cannot inject a frame into the tap {}", tap_);
}

}  // namespace netmove
