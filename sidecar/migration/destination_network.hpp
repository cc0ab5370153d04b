// DestinationNetwork: the destination's half of moving the guest's network: the movers of its
// addresses, the gates before its taps, caught frames and connection tracking. DestinationMigration
// calls it, one function for one action of the machine or one request of the source.
//
//   prepare          after QEMU was started; find instead after a restart of the sidecar
//   fire             at the source's STOP: the addresses move here
//   deliver_frames   before `cont`, once
//   announce         the guest runs here
//   roll_back, drop  the guest stays at the source
#pragma once

#include <vector>

#include "core/sync.hpp"
#include "netmove/mover.hpp"
#include "sidecar/channel/protocol.hpp"
#include "sidecar/handover/frames.hpp"
#include "sidecar/handover/tracking.hpp"
#include "sidecar/host/journal.hpp"
#include "sidecar/migration/destination_context.hpp"

namespace sidecar {

class DestinationNetwork {
public:
    template <class T = void>
    using Outcome = core::Task<core::Result<T>>;

    /// `journal` must outlive it: it records that MAC addresses moved.
    DestinationNetwork(DestinationContext context, Journal& journal)
        : context_(context), journal_(journal), frames_(context.loop), tasks_(context.loop) {}

    /// Where the start of QEMU puts the movers of the taps that it creates.
    [[nodiscard]] netmove::MoverSet& movers() { return movers_; }
    /// Puts gates in front of the guest's taps and prepares the movers. Fails with their error.
    Outcome<> prepare();
    /// After a restart of the sidecar: finds the taps of the guest's QEMU, and their gates. Fails
    /// with the kernel's error.
    core::Result<> find();
    /// The addresses move here. May be repeated. Fails with the error of a mover.
    core::Result<> fire(protocol::Fire const& fire);
    /// Frames that the source caught. Fails with protocol.
    core::Result<protocol::FramesAnswer> take(protocol::Frames const& frames) {
        return frames_.take(frames);
    }
    /// The tracked connections of the guest on the source's host. Fails with protocol.
    core::Result<protocol::TrackingReport> take(protocol::Conntrack const& sent) {
        return tracking_.take(context_.guest.get(), sent);
    }
    /// The number of frames that the source sent, for each interface, from COMMIT.
    void expect(std::vector<std::uint64_t> counts) { frames_.expect(std::move(counts)); }
    /// The frames that arrived here go back to the source. With `last`, the addresses do too, and
    /// no more frames follow. Fails with the error of a mover or of a tap.
    core::Result<protocol::ReturnFramesAnswer> return_frames(protocol::ReturnFrames request);
    /// Before `cont`: the guest gets its frames. Waits for missing ones for at most
    /// limits::frames_patience. Gates that wait for late frames are opened by a task of this
    /// object.
    core::Task<void> deliver_frames();
    /// The guest runs here: fires if that has not happened yet, and announces the addresses
    /// repeatedly in a task of this object. Fails with the error of a mover.
    core::Result<> announce();
    /// The addresses go back. `wait_for_source`: it is connected, and is given
    /// limits::give_back_patience to ask for the frames that arrived here. The log has the
    /// failures.
    core::Task<void> roll_back(bool wait_for_source);
    /// QEMU has ended: its taps' movers and gates are removed. prepare() may follow.
    void forget();
    /// The guest stays at the source: forget(), and removes its tracked connections.
    void drop();
    /// Joins the tasks. Call before destruction, after the context's `stop` was triggered.
    core::Task<void> join() { return tasks_.join(); }

    [[nodiscard]] protocol::FramesReport frames_report() const { return frames_.report(); }
    [[nodiscard]] protocol::TrackingReport tracking_report() const { return tracking_.report(); }

private:
    core::Task<void> settle();

    DestinationContext context_;
    Journal& journal_;
    netmove::MoverSet movers_;
    DestinationFrames frames_;
    DestinationTracking tracking_;
    core::TaskGroup tasks_;
};

}  // namespace sidecar
