// Tap: a tap device of the host, held by descriptors that QEMU gets as well. From STOP on a holder
// can read, in order, what arrives for the guest, and write as if the guest had sent it.
//
// Invariant: our side never reads a queue while the guest runs; a frame that is read is taken from
// the guest.
#pragma once

#include <sys/types.h>

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "core/fd.hpp"
#include "core/result.hpp"
#include "netmove/netlink.hpp"

namespace netmove {

/// More queues than this the kernel does not give one tap (MAX_TAP_QUEUES).
constexpr int tap_queues_max = 256;

/// Frames a tap's ring is lengthened to, so that it holds what comes during a migration's pause:
/// 1,000 frames/s in each family for the longest (2 s), or 20,000 frames/s for 200 ms. The kernel's
/// default is 1,000. It stays so long, and a guest that does not keep up finds it full: longer, it
/// would add seconds of delay, and 64 KiB of memory for each frame of a bulk transfer.
constexpr int migration_queue_length = 4'000;

/// More than any ring has: bounds the emptying of a ring that is still being filled.
constexpr int ring_frames_max = 65'536;

/// The largest frame a tap carries with its vnet header: 64 KiB of segmentation offload, Ethernet,
/// VLAN, header.
constexpr std::size_t tap_frame_max = 65'536 + 64;

struct TapOptions {
    int queues = 1;  ///< As QEMU's `queues=`: more than 1 makes a multi-queue tap.
    bool vnet_hdr = true;  ///< As QEMU asks for by default (`vnet_hdr=on`), for offloads.
    bool create = true;  ///< Make it when missing; false: it must be there already.
};

class Tap {
public:
    /// Attaches to the tap `name`, or makes it. A made one is down, in no bridge, and vanishes when
    /// the last holder of a descriptor (QEMU and we) closes it; an existing persistent one stays.
    /// Fails with refused when another program holds it, with netlink when CAP_NET_ADMIN or
    /// /dev/net/tun is missing.
    static core::Result<Tap> open(Netlink& netlink, std::string const& name,
                                  TapOptions const& options);

    /// Every tap a running process holds, each with all its queues' descriptors, in the order
    /// of the process's own numbers (pidfd_getfd; needs the right to trace it: same user, or
    /// CAP_SYS_PTRACE).
    static core::Result<std::vector<Tap>> duplicate_from(pid_t pid);

    /// From descriptors of one tap that came from elsewhere (inherited, or passed over a socket).
    static core::Result<Tap> adopt(std::vector<core::Fd> descriptors);

    [[nodiscard]] std::string const& name() const { return name_; }
    [[nodiscard]] int queues() const { return static_cast<int>(descriptors_.size()); }
    /// Queue `queue`'s descriptor: non-blocking, close-on-exec, ours. QEMU gets duplicates
    /// (`fds=`).
    [[nodiscard]] int descriptor(int queue) const {
        return descriptors_[static_cast<std::size_t>(queue)].get();
    }
    [[nodiscard]] bool vnet_hdr() const { return vnet_hdr_; }
    [[nodiscard]] bool created() const { return created_; }
    /// Bytes before each frame now, 0 without vnet_hdr. Asked of the kernel: QEMU changes it when
    /// the guest's driver starts (10, then 12), for every holder of the tap.
    [[nodiscard]] core::Result<std::size_t> vnet_hdr_size() const;

    /// Whether the tap stays when the last descriptor of it is closed.
    core::Result<> set_persistent(bool on) const;

    /// Sends one Ethernet frame into the network as if the guest had sent it (an empty vnet header
    /// is put before it). Does not wait: the host's stack takes it at once.
    core::Result<> write_frame(std::span<std::uint8_t const> frame) const;

    /// Takes the oldest frame that waits in a queue, vnet header first, as it is; 0 when none
    /// waits. `buffer` should have tap_frame_max bytes: a longer frame is cut.
    core::Result<std::size_t> read_raw(int queue, std::span<std::uint8_t> buffer) const;
    /// Hands a frame from read_raw() on unchanged, vnet header included, as if the guest had sent
    /// it.
    core::Result<> write_raw(int queue, std::span<std::uint8_t const> frame) const;
    /// Throws away what waits in all queues, at most ring_frames_max frames each: how many.
    core::Result<std::size_t> drain() const;

private:
    Tap() = default;
    std::string name_;
    std::vector<core::Fd> descriptors_;
    bool vnet_hdr_ = false;
    bool created_ = false;
};

struct TapPlace {
    std::string bridge;  ///< Empty: it stays in none.
    int mtu = 0;  ///< 0: as it is.
    int queue_length = 0;  ///< Frames; never shortened. 0: as it is.
};

/// Makes a tap ready for QEMU: silent (see make_quiet), in its bridge, with its MTU and queue, and
/// up; in this order, so that nothing of the host's own ever appears on it. Where the bridge is
/// that of a network (network.hpp), its rules hold for the tap before it is a port.
core::Result<> place_tap(Netlink& netlink, std::string const& tap, TapPlace const& place);

/// The host itself never speaks on this tap: no IPv6 (so no DAD, MLD report or router
/// solicitation), no RA accepted. Works where /proc/sys is read-only too, through addr_gen_mode
/// alone.
core::Result<> make_quiet(Netlink& netlink, std::string const& tap);

/// Interface names as Linux takes them: 1-15 bytes, no '/', ':' or white space, not "." or "..".
core::Result<> check_interface_name(std::string const& name);

}  // namespace netmove
