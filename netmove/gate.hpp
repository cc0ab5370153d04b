// Gate: what the network sends to a tap waits before its ring, in order, until the gate is opened.
// So frames caught elsewhere can be put into the ring ahead of all that arrives here directly, and
// not one of those is lost or overtaken meanwhile.
//
// It is the tap's queueing discipline: a token bucket (tc-tbf(8)) whose rate is one byte per second
// while it is closed and no limit while it is open. sch_plug would be made for this, but many
// kernels are built without; and a discipline that is put in or taken out under traffic makes the
// kernel drop what is sent in that moment. So it is put in before the network is moved here, and
// stays until the tap goes: open, it costs what the one that it replaced did.
#pragma once

#include <cstdint>
#include <optional>

#include "netmove/caught.hpp"

namespace netmove {

/// What may wait before a closed gate, in bytes. More is dropped by the kernel, and counted.
constexpr std::uint32_t gate_bytes_max = 64 * 1024 * 1024;

class Gate {
public:
    /// Puts an open one before the ring of `tap`, which must outlive it, as must `netlink`. Fails
    /// when the kernel has no tbf.
    static core::Result<Gate> install(Netlink& netlink, Tap const& tap);
    /// The gate that an earlier sidecar put there; none when there is none.
    static core::Result<std::optional<Gate>> find(Netlink& netlink, Tap const& tap);
    /// Takes away a gate, of whatever tap of this host; nothing when there is none of ours. Only
    /// when nothing is sent to the tap any more.
    static core::Result<> remove(Netlink& netlink, std::string const& tap);

    /// From now on frames wait. What is in the ring is thrown away: it came before anybody was told
    /// that the guest is here. Only while no QEMU reads the ring. Closed already: nothing.
    core::Result<> close();
    /// What waits goes into the ring, then what comes later. Always safe.
    core::Result<> open();

    struct Count {
        std::uint64_t waiting = 0;  ///< Frames before the gate now.
        std::uint64_t dropped = 0;  ///< Because gate_bytes_max was reached; since install().
    };
    core::Result<Count> count();

    /// Whether a frame from the ring is one of the gate's own, by which it makes the kernel look at
    /// its queue. A guest's network card passes over them: they are not for its address.
    [[nodiscard]] static bool is_own(std::span<std::uint8_t const> caught_frame);
    /// Such a frame, of `size` bytes without its virtio header.
    [[nodiscard]] static CaughtFrame own_frame(std::size_t size = 60);

private:
    Gate(Netlink& netlink, Tap const& tap, Injector injector, int link, int mtu)
        : netlink_(&netlink), tap_(&tap), injector_(std::move(injector)), link_(link), mtu_(mtu) {}
    core::Result<> set_rate(bool open, bool create);
    core::Result<> send_own(std::size_t size);

    Netlink* netlink_;
    Tap const* tap_;
    Injector injector_;
    int link_;
    int mtu_;
    bool closed_ = false;
};

}  // namespace netmove
