// SourceNetwork: the source's half of moving the guest's network: the movers of its addresses, the
// other VTEPs of its VXLAN, caught frames and connection tracking. SourceMigration calls it, mostly
// one function for one action of the machine. All of these are idempotent.
//
//   check, prepare   while the guest runs
//   before_stop      shortly before STOP
//   fire             at STOP: the addresses move to the destination
//   hand_over        before COMMIT is sent: what was caught for the guest is sent ahead of it
//   note_committed   the destination has the guest: late frames are forwarded from now on
//   settle           the end on success; roll_back and drop instead if the guest stays
#pragma once

#include <optional>
#include <set>
#include <string>
#include <vector>

#include "core/sync.hpp"
#include "netmove/mover.hpp"
#include "sidecar/anchor/source_anchors.hpp"
#include "sidecar/handover/frames.hpp"
#include "sidecar/handover/tracking.hpp"
#include "sidecar/handover/vteps.hpp"
#include "sidecar/host/journal.hpp"
#include "sidecar/migration/network_survey.hpp"
#include "sidecar/migration/source_context.hpp"

namespace sidecar {

class SourceNetwork {
public:
    template <class T = void>
    using Outcome = core::Task<core::Result<T>>;

    /// `journal` must outlive it: it records that MAC addresses moved.
    SourceNetwork(SourceContext context, Journal& journal);

    /// Before the destination is asked: decides which interfaces an anchor moves, and notes it in
    /// the description. Fails with refused.
    Outcome<> choose();
    /// Compares the ends of each VXLAN and asks the other VTEPs whether they can take part.
    /// `there`: what the destination says of each interface; it is added to the description.
    /// Fails with refused.
    Outcome<> check(protocol::CheckAnswer there);
    /// One line for each VTEP, for `migrate --check`.
    [[nodiscard]] std::vector<std::string> vtep_lines() const { return vteps_.lines(); }
    /// How one interface moves, and why, for `migrate --check`.
    [[nodiscard]] std::string choice(netmove::GuestInterface const& interface) const;
    /// For the destination's `prepare`: the anchor's new tunnels.
    [[nodiscard]] SourceAnchors const& anchors() const { return anchors_; }
    /// After a restart of the sidecar: where the VTEPs and the anchor send the guest's frames is
    /// not known.
    void begin_after_restart();
    /// Makes the movers and prepares them, the VTEPs and the anchor. `tunnel_port`: of the
    /// destination. Fails with refused.
    Outcome<> prepare(int tunnel_port);
    /// Before RAM begins: sends all tracked connections of the guest, and begins to record the
    /// frames that are sent to its taps. Best effort.
    core::Task<void> begin_tracking();
    /// Shortly before STOP may come: sends the changes of these, and begins to record the frames
    /// that QEMU reads. Best effort.
    core::Task<void> before_stop();
    /// At STOP: this half's movers fire, then the destination's, then the VTEPs are repointed.
    /// Fails with the error of a mover or of the destination.
    Outcome<> fire();
    /// Waits until both halves have fired. Fails with timed_out or cancelled.
    Outcome<> wait_fired(core::Deadline deadline);
    /// Before COMMIT: takes the caught frames and sends them. Returns their number for each
    /// interface; none if they could not be sent, which the log reports.
    core::Task<std::vector<std::uint64_t>> hand_over(core::Deadline deadline);
    /// The destination acknowledged COMMIT, with these reports. From now on frames that arrive late
    /// at this host are forwarded to it, in a task of this object, until end() or settle().
    void note_committed(protocol::FramesReport const& frames, protocol::TrackingReport conntrack);
    /// The addresses and the caught frames come back. Also after a restart. Waits for an
    /// unreachable destination no longer than limits::return_frames_timeout. Fails with the error
    /// of a mover.
    Outcome<> roll_back();
    /// Removes the movers and stops recording. Does not fail.
    Outcome<> drop();
    /// The guest is at the destination: waits for the last late frames, and cleans up. Fails with
    /// the error of a mover.
    Outcome<> settle();
    /// Joins the tasks and closes the channels to the VTEPs. Call before destruction.
    core::Task<void> end();

    /// When the addresses were at the destination, which both halves cause: half a round trip
    /// before its answer. None: they are not.
    [[nodiscard]] std::optional<core::Clock::time_point> moved_at() const { return moved_at_; }
    /// {moved, fired_ms, frames, vteps, anchor, local, conntrack}. `moved`: the guest has moved.
    [[nodiscard]] core::Json report(bool moved) const;

private:
    void make_movers();
    [[nodiscard]] std::vector<netmove::VxlanMove> vxlan_moves() const;
    Outcome<> take_back_frames(bool last, core::Deadline deadline);
    core::Task<void> follow_frames();
    core::Task<void> release_when_arrived();
    Outcome<> stay_here();
    core::Task<void> wait_for_vteps();
    core::Task<void> wait_for_anchor();
    void leave_rings_to_anchor();
    /// The interfaces that an anchor is to move if the guest has none yet.
    Outcome<std::set<std::size_t>> choose_anchors();
    core::Result<> do_without_anchors(std::set<std::size_t>& chosen) const;
    [[nodiscard]] SurveyedBridge const* surveyed(netmove::GuestInterface const& interface) const;
    [[nodiscard]] core::Result<> check_spacing() const;
    [[nodiscard]] netmove::AnchorMove const* anchored(std::size_t interface) const;
    void release();
    [[nodiscard]] core::Clock::time_point all_arrived_at() const;

    SourceContext context_;
    Journal& journal_;
    netmove::MoverSet movers_;
    Vteps vteps_;
    SourceAnchors anchors_;
    std::vector<std::optional<SurveyedBridge>> surveyed_;  ///< Of each interface; none: not asked.
    SourceFrames frames_;
    SourceTracking tracking_;
    bool released_ = false;  ///< The movers were released permanently.
    core::TaskGroup forwarding_;  ///< From note_committed() until settle().
    std::optional<core::Clock::time_point> fired_at_;  ///< The destination's answer came.
    std::optional<core::Clock::time_point> moved_at_;  ///< The addresses are there; estimated.
    core::Event fired_;  ///< Both hosts have fired.
};

}  // namespace sidecar
