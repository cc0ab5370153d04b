// The tap of one end: duplicates of its descriptors, and the vnet header between the form that taps
// have (10 or 12 bytes, as QEMU's guest chose) and the one that is carried. Used by End and by the
// coroutines that read it. Invariant: a descriptor is not closed while one of them waits for it.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "core/deadline.hpp"
#include "netmove/tap.hpp"
#include "netmove/tunnel/fragment.hpp"

namespace netmove::tunnel {

/// QEMU changes the header when the driver of its guest starts, which is not while a tunnel reads
/// the tap. So asking in each batch would only cost a system call.
constexpr core::milliseconds refresh_interval{100};

class Port {
public:
    static core::Result<std::shared_ptr<Port>> duplicate(Tap const& tap);
    [[nodiscard]] std::string const& name() const { return tap_.name(); }
    [[nodiscard]] int queues() const { return tap_.queues(); }
    [[nodiscard]] int descriptor(int queue) const { return tap_.descriptor(queue); }

    /// Asks the kernel for the size of the vnet header, if that was not done for refresh_interval.
    void refresh(core::Clock::time_point now);
    /// Lets superframes and frames without a checksum into the ring. Only when no guest reads it:
    /// QEMU sets what its guest can take when it starts the device.
    void take_offloads() const;
    /// The next frame in the ring, in `room`. `empty`: there was none. None and not empty: it was
    /// no frame.
    std::optional<FrameView> read(int queue, std::span<std::uint8_t> room, bool& empty) const;
    /// False if the tap did not take it.
    [[nodiscard]] bool write(FrameView frame) const;

private:
    explicit Port(Tap tap) : tap_(std::move(tap)) {}
    Tap tap_;
    std::size_t header_ = 0;
    core::Clock::time_point refreshed_{};
};

}  // namespace netmove::tunnel
