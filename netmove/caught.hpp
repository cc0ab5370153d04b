// Frames that wait for a stopped guest: taken from its tap's ring on one host, put into that of
// another, in order and as they were, offloads included. A tap's ring has no limit but its own, a
// peer's message is hostile until parsed: both are bounded here.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "core/fd.hpp"
#include "core/result.hpp"
#include "netmove/frame.hpp"
#include "netmove/netlink.hpp"
#include "netmove/tap.hpp"

namespace netmove {

/// struct virtio_net_hdr, which precedes each frame here (VIRTIO 1.2, 5.1.6, without num_buffers):
/// what of checksum and segmentation is still to be done. In the order of this host's bytes. The
/// kernel's own header does not compile as C++.
struct VirtioHeader {
    std::uint8_t flags;
    std::uint8_t gso_type;  ///< 0: one packet as it is.
    std::uint16_t hdr_len;
    std::uint16_t gso_size;
    std::uint16_t csum_start;
    std::uint16_t csum_offset;
};
constexpr std::size_t virtio_header_size = sizeof(VirtioHeader);
static_assert(virtio_header_size == 10);
/// Of VirtioHeader::flags.
constexpr std::uint8_t virtio_needs_checksum = 1;

/// A frame as it is caught and carried: virtio_header_size bytes, then Ethernet.
using CaughtFrame = Bytes;

/// What is kept of one interface at most, in bytes: what a ring of migration_queue_length holds of
/// frames of 16 KiB. What is more is dropped, and counted.
constexpr std::size_t caught_bytes_max = 64 * 1024 * 1024;

struct CaughtFrames {
    std::vector<CaughtFrame> frames;  ///< Oldest first, queue by queue.
    std::size_t dropped = 0;  ///< Because `bytes_max` was reached.
};

/// Takes everything that waits in the rings of the tap now. Only while its QEMU does not read: the
/// guest is stopped. `bytes_max`: of all frames together.
core::Result<CaughtFrames> catch_frames(Tap const& tap, std::size_t bytes_max);

/// How many of the first frames take no more than `bytes_max` in to_wire(): at least one.
[[nodiscard]] std::size_t frames_within(std::span<CaughtFrame const> frames, std::size_t bytes_max);

/// Frames one after the other, each after its length (32 bits, big-endian). from_wire() checks
/// everything and fails with protocol.
[[nodiscard]] Bytes to_wire(std::span<CaughtFrame const> frames);
core::Result<std::vector<CaughtFrame>> from_wire(std::span<std::uint8_t const> bytes);

/// Puts frames into the ring of a tap, past whatever queueing discipline it has: as if the network
/// had sent them to the guest. Needs CAP_NET_RAW.
class Injector {
public:
    static core::Result<Injector> open(Netlink& netlink, std::string const& tap);

    /// False when the ring is full: nothing was put, try again when the guest has read. Fails when
    /// the kernel refuses the frame as such (a header that makes no sense), or the tap is gone.
    core::Result<bool> put(std::span<std::uint8_t const> frame) const;
    /// Through the queueing discipline instead: after what waits there.
    core::Result<bool> queue(std::span<std::uint8_t const> frame) const;

private:
    Injector(core::Fd direct, core::Fd queued, std::string tap)
        : direct_(std::move(direct)), queued_(std::move(queued)), tap_(std::move(tap)) {}
    core::Result<bool> send(core::Fd const& socket, std::span<std::uint8_t const> frame) const;

    core::Fd direct_;
    core::Fd queued_;
    std::string tap_;
};

}  // namespace netmove
