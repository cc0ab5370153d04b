// Hand-over of frames: the frames that the network sends to a stopped guest wait in the ring of its
// tap. They reach the guest where it continues, in order and before the frames that
// arrive there directly.
//
//   STOP      The network is fired: from now on frames arrive at the destination, whose gates
//             (netmove/gate.hpp) hold them. Frames on their way still arrive in the source's rings.
//   COMMIT    The source takes the frames in its rings, and those that QEMU had read but not
//             delivered (netmove/recorder.hpp). It sends them before COMMIT (`frames`). Until then
//             they are only in the rings, so the guest gets them however the migration ends.
//   `cont`    Before it, the destination puts the frames into its rings and opens the gates.
//   after     Late frames, which still arrive at the old place, are forwarded until none arrive.
//             Where routers or a fabric have to be told of the move, many may: such a gate stays
//             closed until none has come for a moment, so that none is overtaken.
//   rollback  The reverse: the destination returns the frames it caught (`return_frames`).
#pragma once

#include <map>
#include <set>
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

    /// Before RAM begins: begins to record what the network sends to the taps. Best effort: the log
    /// says what is not recorded. Once; end_recording() ends it.
    void record_sent();
    /// Shortly before STOP may come: begins to record what QEMU reads. QEMU keeps one or two of
    /// those frames. Best effort: the log says what is not recorded. Nothing is, of a tap whose
    /// recording had not begun when begin() was called.
    core::Task<void> record_read(core::Deadline deadline);
    /// At STOP: from now on dropped frames are counted.
    void begin();
    /// Ends the recording, whether or not QEMU still runs.
    core::Task<void> end_recording(core::Deadline deadline);
    /// Takes the frames that wait in the rings and sends all frames taken so far, without waiting
    /// for an answer. A repeated call sends earlier frames again. Returns the number of frames of
    /// each NIC, for COMMIT.
    core::Task<core::Result<std::vector<std::uint64_t>>> send(PeerChannel& peer,
                                                              core::Deadline deadline);
    /// An anchor reads the rings of these NICs once the destination has the guest, and sends what
    /// arrives later: follow() and remove_gates() leave them alone.
    void leave_to_anchor(std::set<std::size_t> nics) { left_to_anchor_ = std::move(nics); }
    /// Forwards frames that still arrive, until none has arrived for a while and the bridges know
    /// the guest's new place.
    core::Task<core::Result<>> follow(PeerChannel& peer, core::Deadline deadline);
    /// The guest stays: the frames that were taken go back into its rings.
    core::Task<core::Result<>> put_back();
    /// Also puts back the frames that the destination caught: its answer to `return_frames`.
    core::Result<> take_back(protocol::ReturnFramesAnswer const& answer);
    /// Removes the gates that were in front of the rings when the guest arrived on this host.
    void remove_gates();

    /// The destination's report from when it got the guest: `frames` of its answer to COMMIT.
    void note(protocol::FramesReport const& said) { delivered_ = said; }
    /// {caught, recovered, late, dropped, returned, replayed, waited}: frames.
    [[nodiscard]] core::Json report() const;

private:
    struct Nic {
        std::vector<netmove::CaughtFrame> frames;  ///< All that were taken, for a repeated COMMIT.
        std::size_t bytes = 0;
        std::size_t sent = 0;
        std::size_t recovered = 0;  ///< The first so many of `frames`.
        /// The last of those is still in QEMU, which would deliver it to a guest
        /// that continues here.
        bool qemu_has_one = false;
        std::uint64_t dropped_before = 0;
        std::uint64_t dropped = 0;
    };
    /// The recording of what QEMU reads of one tap, between record_read() and COMMIT.
    struct Recording {
        std::size_t nic;
        netmove::ReadRecorder read;
        std::string device = {};  ///< The device of QEMU's virtio-net; empty: another card.
        /// QEMU kept a frame before STOP because the guest had no buffer, and has dropped it.
        bool held_one = false;
        std::optional<netmove::Bytes> held = {};  ///< That frame, if QEMU read it since then.
        std::optional<netmove::Bytes> after_held = {};  ///< Otherwise: what QEMU read next.
    };
    core::Task<std::string> virtio_device(std::string netdev, core::Deadline deadline);
    core::Task<void> look_for_held(Recording& recording);
    void note_unrecorded(std::size_t nic, core::Error const& why) const;
    core::Task<core::Result<Recording>> begin_recording(std::size_t nic, core::Deadline deadline);
    /// Takes in what comes to a recorder, until the recording ends.
    template <class Recorder>
    core::Task<void> keep_recording(Recorder& recorder);
    std::vector<netmove::CaughtFrame> undelivered(Recording& recording, bool guest_stays);
    void recover(bool guest_stays);
    core::Result<netmove::Injector const*> injector(std::size_t nic);
    core::Result<std::size_t> take();
    core::Task<core::Result<>> send_rest(PeerChannel& peer, bool answered, core::Deadline deadline);
    void count_dropped();
    core::Result<bool> known_here() const;
    core::Result<core::Fd> any_ring() const;

    Guest& guest_;
    std::vector<Nic> nics_;
    /// Both by the number of the NIC. Kept until the guest runs again: see injector().
    std::map<std::size_t, netmove::FrameRecorder> sent_;
    std::map<std::size_t, Recording> recordings_;
    bool begun_ = false;  ///< STOP was seen: nothing is recorded from now on.
    bool recovered_ = false;
    std::map<std::size_t, netmove::Injector> injectors_;
    core::TaskGroup recorders_;
    std::stop_source recorders_stop_;
    std::set<std::size_t> left_to_anchor_;
    bool following_ = false;
    std::size_t late_ = 0;
    std::size_t returned_ = 0;
    std::optional<protocol::FramesReport> delivered_;
};

/// The destination's part.
class DestinationFrames {
public:
    explicit DestinationFrames(core::Loop& loop) : came_(loop), given_back_(loop) {}

    /// Puts gates in front of the rings of the guest's taps. If the kernel does not support that,
    /// frames may overtake each other, and the log says so.
    core::Result<> prepare(Guest& guest);
    /// The same for taps that an earlier sidecar prepared.
    core::Result<> find(Guest& guest);
    /// Call before the network is fired. A second call has no effect.
    void close();
    /// A `frames` message of the source.
    core::Result<protocol::FramesAnswer> take(protocol::Frames const& sent);
    /// The number of frames that were sent, from COMMIT.
    void expect(std::vector<std::uint64_t> counts) { expected_ = std::move(counts); }
    /// Before `cont`, once: puts the received frames into the rings, then opens the gates, except
    /// those that open_when_quiet() opens. Waits until the deadline for missing frames.
    core::Task<void> deliver_frames(core::Deadline deadline);
    /// After deliver_frames(): opens the gates that wait for late frames, at the latest after
    /// limits::gate_patience, or when `stop` is requested.
    core::Task<void> open_when_quiet(std::stop_token stop);
    /// The guest stays on the source: returns a part of the frames caught here, until `more` is
    /// false. With `last` the source asks for no more afterwards.
    core::Result<protocol::ReturnFramesAnswer> give_back(bool last);
    /// Before the taps are removed: waits until the source has asked for the last frames, if any
    /// were caught here.
    core::Task<void> given_back(core::Deadline deadline);
    /// Removes the gates of taps that remain after QEMU ends.
    void remove();
    [[nodiscard]] protocol::FramesReport report() const;

private:
    struct Nic {
        netmove::Injector injector;
        netmove::Tap const* tap;
        netmove::Netlink* netlink;
        std::optional<netmove::Gate> gate;
        std::vector<netmove::CaughtFrame>
            frames;  ///< Frames that wait for deliver_frames() or for the source to ask for them.
        std::size_t bytes = 0;
        std::size_t taken = 0;
        /// Routers or a fabric send to this host only some time after it has announced the guest.
        bool network_follows_later = false;
        bool waits = false;  ///< The gate is closed for open_when_quiet().
    };
    [[nodiscard]] bool complete() const;
    core::Result<> add(Guest& guest, std::optional<netmove::Gate> gate, std::size_t index);
    void put(Nic& nic, std::span<netmove::CaughtFrame const> frames);
    void open(Nic& nic);

    std::vector<Nic> nics_;
    core::Event came_;
    core::Event given_back_;
    std::vector<std::uint64_t> expected_;  ///< Per NIC.
    bool closed_ = false;
    bool fired_ = false;  ///< Frames may have come here.
    bool let_in_ = false;
    bool followed_ = false;  ///< The source sends late frames: it says so even if there are none.
    std::size_t replayed_ = 0;
    std::size_t waited_ = 0;
    std::size_t late_ = 0;
    std::size_t lost_ = 0;
};

}  // namespace sidecar
