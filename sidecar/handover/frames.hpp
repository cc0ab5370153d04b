// Hand-over: what the network sends to a guest while it is stopped waits in the ring of its tap,
// and reaches the guest where it goes on, in order and ahead of what arrives there directly.
//
//   STOP      the network is fired: from now on frames come to the destination, whose gates
//             (netmove/gate.hpp) hold them; those on their way still come to the source's ring
//   COMMIT    the source takes what is in its rings, and what QEMU had read and not given to the
//             guest (netmove/recorder.hpp), and sends it before COMMIT (`frames`); until
//             then it is nowhere but in the rings, so that whatever ends the migration leaves it
//             to the guest
//   `cont`    before it the destination puts them into its rings and opens the gates
//   after     what still comes to the old place is sent after them, until it is silent (late ones)
//   rollback  the other way: what the destination has caught is answered to `return_frames`
#pragma once

#include <map>
#include <vector>

#include "core/sync.hpp"
#include "netmove/gate.hpp"
#include "netmove/recorder.hpp"
#include "sidecar/channel/peer.hpp"
#include "sidecar/guest/guest.hpp"

namespace sidecar {

/// The source's part. `guest` must outlive it.
class SourceFrames {
public:
    explicit SourceFrames(Guest& guest) : guest_(guest), recorders_(guest.loop) {}

    /// Shortly before STOP may come: begins to record what QEMU reads, of which it will keep one or
    /// two frames. Best effort: the log says what is not recorded.
    core::Task<void> record(core::Deadline deadline);
    /// At STOP: from now on dropped frames count.
    void begin();
    /// No recording any more; QEMU is there or not.
    core::Task<void> end_recording(core::Deadline deadline);
    /// Takes what waits in the rings and sends all that was taken, without waiting for an answer.
    /// Repeated, what was sent before is sent again. How many frames of each NIC there are: for
    /// COMMIT.
    core::Task<core::Result<std::vector<std::uint64_t>>> send(PeerChannel& peer,
                                                              core::Deadline deadline);
    /// Sends on what still comes, until nothing has come for a while and the bridges know the
    /// guest's new place.
    core::Task<core::Result<>> follow(PeerChannel& peer, core::Deadline deadline);
    /// The guest stays: what was taken goes back into its rings.
    core::Task<core::Result<>> put_back();
    /// And so does what the destination had caught: its answer to `return_frames`.
    core::Result<> take_back(protocol::ReturnFramesAnswer const& answer);
    /// The gates that were before the rings when the guest came to this host.
    void remove_gates();

    /// What the destination said when it had the guest: `frames` of its answer to COMMIT.
    void note(protocol::FramesReport const& said) { delivered_ = said; }
    /// {caught, recovered, late, dropped, returned, replayed, waited}: frames.
    [[nodiscard]] core::Json report() const;

private:
    struct Nic {
        std::vector<netmove::CaughtFrame> frames;  ///< All that were taken, for a repeated COMMIT.
        std::size_t bytes = 0;
        std::size_t sent = 0;
        std::size_t recovered = 0;  ///< Of `frames`, the first.
        /// The last of those is still in QEMU, which would give it to a guest that goes on here.
        bool qemu_has_one = false;
        std::uint64_t dropped_before = 0;
        std::uint64_t dropped = 0;
    };
    /// Of one tap, between record() and COMMIT.
    struct Recording {
        std::size_t nic;
        netmove::FrameRecorder sent;
        netmove::ReadRecorder read;
        std::string device = {};  ///< Of QEMU's virtio-net; empty: another card.
        /// What QEMU kept before STOP for want of a buffer, and has thrown away.
        std::optional<netmove::Bytes> held = {};
    };
    core::Task<std::string> virtio_device(std::string netdev, core::Deadline deadline);
    core::Task<void> look_for_held(std::size_t which);
    core::Task<core::Result<Recording>> begin_recording(std::size_t nic, core::Deadline deadline);
    core::Task<void> keep_recording(std::size_t which, bool sent);
    void recover(bool guest_stays);
    core::Result<netmove::Injector const*> injector(std::size_t nic);
    core::Result<std::size_t> take();
    core::Task<core::Result<>> send_rest(PeerChannel& peer, bool answered, core::Deadline deadline);
    void count_dropped();
    core::Result<bool> known_here() const;
    core::Result<core::Fd> any_ring() const;

    Guest& guest_;
    std::vector<Nic> nics_;
    std::vector<Recording> recordings_;  ///< Kept until the guest runs again: see injector().
    bool recovered_ = false;
    std::map<std::size_t, netmove::Injector> injectors_;
    core::TaskGroup recorders_;
    std::stop_source recorders_stop_;
    std::size_t late_ = 0;
    std::size_t returned_ = 0;
    std::optional<protocol::FramesReport> delivered_;
};

/// The destination's part.
class DestinationFrames {
public:
    explicit DestinationFrames(core::Loop& loop) : came_(loop), given_back_(loop) {}

    /// Gates before the rings of the guest's taps. Where a kernel has no means for it, frames may
    /// overtake each other, and the log says so.
    core::Result<> prepare(Guest& guest);
    /// The same for taps that an earlier sidecar prepared.
    core::Result<> find(Guest& guest);
    /// Before the network is fired. Repeated: nothing.
    void close();
    /// `frames` of the source.
    core::Result<protocol::FramesAnswer> take(protocol::Frames const& sent);
    /// What COMMIT says was sent.
    void expect(std::vector<std::uint64_t> counts) { expected_ = std::move(counts); }
    /// Before `cont`, once: puts what was sent into the rings, and opens the gates whatever became
    /// of that. Waits until the deadline for what is missing.
    core::Task<void> deliver_frames(core::Deadline deadline);
    /// The guest stays on the source: part of what came for it here, until `more` is false; with
    /// `last` nothing is asked for afterwards.
    core::Result<protocol::ReturnFramesAnswer> give_back(bool last);
    /// Before the taps go: waits until the source has asked for the last, if frames came here.
    core::Task<void> given_back(core::Deadline deadline);
    /// Of taps that stay when QEMU goes.
    void remove();
    [[nodiscard]] protocol::FramesReport report() const;

private:
    struct Nic {
        netmove::Injector injector;
        netmove::Tap const* tap;
        netmove::Netlink* netlink;
        std::optional<netmove::Gate> gate;
        std::vector<netmove::CaughtFrame>
            frames;  ///< That wait for deliver_frames(), or to be given back.
        std::size_t bytes = 0;
        std::size_t taken = 0;
    };
    [[nodiscard]] bool complete() const;
    core::Result<> add(Guest& guest, std::optional<netmove::Gate> gate, std::size_t index);
    void put(Nic& nic, std::span<netmove::CaughtFrame const> frames);

    std::vector<Nic> nics_;
    core::Event came_;
    core::Event given_back_;
    std::vector<std::uint64_t> expected_;  ///< Of each NIC.
    bool closed_ = false;
    bool fired_ = false;  ///< Frames may have come here.
    bool let_in_ = false;
    std::size_t replayed_ = 0;
    std::size_t waited_ = 0;
    std::size_t late_ = 0;
    std::size_t lost_ = 0;
};

}  // namespace sidecar
