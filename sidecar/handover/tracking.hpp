// Connection tracking moves with the guest: where the source's host filters or translates for it
// with state, the destination's host knows its sessions before the first frame comes there.
//
//   RAM begins   the source has its kernel tell what changes (netmove/conntrack.hpp); all entries
//                of the guest are sent (`conntrack`), and restored there
//   before STOP  what differs by now is sent
//   STOP         what changed since goes ahead of `fire`: mostly nothing, and then no message
//   COMMIT       the same, ahead of it; afterwards as long as frames come to the old place
//   settling     the source forgets the guest's entries, where its host is not on their way
//   rollback     the destination takes back what it restored
//
// Verb: conntrack {interfaces?, gateways?, entries, gone} -> {restored, failed, gateways}. Whatever
// of it fails is told in the report and ends no migration.
#pragma once

#include <map>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "netmove/conntrack.hpp"
#include "netmove/mover.hpp"
#include "sidecar/channel/peer.hpp"
#include "sidecar/guest/guest.hpp"

namespace sidecar {

/// The source's part. `guest` must outlive it.
class SourceTracking {
public:
    explicit SourceTracking(Guest& guest) : guest_(guest), following_(guest.loop) {}

    /// `there`: the destination's sidecar knows of it.
    void begin(bool there);
    /// Before RAM begins: QEMU may stop the guest sooner than it was asked to.
    core::Task<void> send_all(PeerChannel& peer, core::Deadline deadline);
    /// Shortly before STOP may come: what differs by now.
    core::Task<void> refresh(PeerChannel& peer, core::Deadline deadline);
    /// While the guest stands still; nothing waits for an answer.
    core::Task<void> send_changes(PeerChannel& peer, core::Deadline deadline);
    /// The kernel did not tell all of it: the table is gone through once more.
    [[nodiscard]] bool incomplete() const {
        return conntrack_ && !given_up_ && (incomplete_ || !sent_all_);
    }
    core::Task<void> send_difference(PeerChannel& peer, core::Deadline deadline,
                                     bool answered = false);
    /// From COMMIT on, until end_following(): what frames that come late begin.
    void follow(PeerChannel& peer, core::Deadline deadline);
    core::Task<void> end_following();
    /// The guest was given away. Entries that may still be in use here stay: those of sessions with
    /// this host itself, and of a family that this host goes on routing.
    core::Task<void> remove(core::Deadline deadline);

    /// What the destination said when it had the guest.
    void note(protocol::TrackingReport said);
    /// Null when nothing of the guest's is tracked.
    [[nodiscard]] core::Json report() const;

private:
    [[nodiscard]] std::vector<netmove::Address> addresses() const;
    [[nodiscard]] protocol::Conntrack first_message() const;
    core::Result<> look_at_host();
    core::Task<core::Result<>> try_send_all(PeerChannel& peer, core::Deadline deadline);
    core::Task<core::Result<>> send(PeerChannel& peer, protocol::Conntrack message, bool answered,
                                    core::Deadline deadline);
    core::Task<core::Result<>> send_entries(PeerChannel& peer,
                                            std::vector<netmove::ConntrackEntry> entries,
                                            std::vector<netmove::ConntrackKey> gone, bool answered,
                                            core::Deadline deadline);
    core::Task<core::Result<>> try_remove(core::Deadline deadline);
    core::Task<void> keep_following(PeerChannel& peer, core::Deadline deadline);
    [[nodiscard]] bool in_use_here(netmove::ConntrackEntry const& entry) const;
    void note_failure(core::Error const& error);

    Guest& guest_;
    std::optional<netmove::Conntrack> conntrack_;
    std::string missing_;  ///< Why entries do not travel, or not all.
    std::vector<netmove::Address> host_addresses_;  ///< Of this host, all of them...
    std::vector<netmove::Address> gateways_;  ///< ...and those that the guest may have as a router.
    std::set<std::string> gateways_there_;  ///< Of these, what the destination's host has too.
    netmove::ConntrackTable sent_;
    bool told_ = false;  ///< The destination knows whose connections it may take.
    bool sent_all_ = false;
    bool given_up_ = false;
    bool incomplete_ = false;
    bool searching_ = false;  ///< The table is gone through: one question at a time.
    std::size_t changed_ = 0;
    std::size_t beyond_ = 0;
    std::size_t not_carried_ = 0;
    std::size_t removed_ = 0;
    std::size_t kept_ = 0;
    core::Clock::duration in_pause_{};
    core::TaskGroup following_;
    std::stop_source following_stop_;
    protocol::TrackingReport said_;
};

/// The destination's part.
class DestinationTracking {
public:
    /// `conntrack` of the source; `guest` may have gone to its new owner. Entries of other
    /// addresses than the guest's are refused, and so are addresses that this host has itself.
    core::Result<protocol::TrackingReport> take(Guest const* guest,
                                                protocol::Conntrack const& sent);
    /// The guest stays on the source.
    void undo();
    [[nodiscard]] protocol::TrackingReport report() const;

private:
    core::Result<> take_addresses(Guest const* guest, protocol::Conntrack const& sent);
    core::Result<> open();

    std::optional<netmove::Conntrack> conntrack_;
    std::vector<netmove::Address> addresses_;
    std::vector<netmove::Address> host_addresses_;
    std::vector<std::string> gateways_;  ///< Of the source's, those that are here too.
    std::size_t refused_ = 0;  ///< Entries that were not to be taken for what they were.
    std::size_t restored_ = 0;
    std::map<netmove::ConntrackKey, std::string> failed_;
};

/// In sentences, for people: what of it could not be done. Empty when all is well or nothing was.
std::vector<std::string> tracking_complaints(core::Json const& report);

}  // namespace sidecar
