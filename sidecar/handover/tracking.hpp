// Connection tracking moves with the guest: if the source's host filters or translates statefully
// for it, the destination's host knows its connections before their first frame arrives there.
//
//   RAM begins   The source subscribes to its kernel's changes (netmove/conntrack.hpp). It sends
//   all
//                entries of the guest (`conntrack`), and the destination restores them.
//   before STOP  The source sends the entries that differ by now.
//   STOP         Before `fire` it sends the changes since; usually there are none, and no message.
//   COMMIT       The same before COMMIT, and after it as long as frames arrive at the old place.
//   settling     The source removes the guest's entries, unless its host still routes them.
//   rollback     The destination removes the entries that it restored.
//
// Verb: conntrack {interfaces?, gateways?, entries, gone} -> {restored, failed, gateways}. Failures
// are listed in the report and end no migration.
#pragma once

#include <algorithm>
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

/// Whether `one` is in `all`.
inline bool has(std::vector<netmove::Address> const& all, netmove::Address const& one) {
    return std::ranges::find(all, one) != all.end();
}

/// The source's part. `guest` must outlive it.
class SourceTracking {
public:
    explicit SourceTracking(Guest& guest) : guest_(guest), following_(guest.loop) {}

    /// `there`: the destination's sidecar supports it.
    void begin(bool there);
    /// Before RAM begins: QEMU may stop the guest sooner than it was asked to.
    core::Task<void> send_all(PeerChannel& peer, core::Deadline deadline);
    /// Shortly before STOP may come: sends what has changed by now.
    core::Task<void> refresh(PeerChannel& peer, core::Deadline deadline);
    /// While the guest is stopped; does not wait for answers.
    core::Task<void> send_changes(PeerChannel& peer, core::Deadline deadline);
    /// The kernel did not report all changes: the table must be dumped once more.
    [[nodiscard]] bool incomplete() const {
        return conntrack_ && !given_up_ && (incomplete_ || !sent_all_);
    }
    core::Task<void> send_difference(PeerChannel& peer, core::Deadline deadline,
                                     bool answered = false);
    /// From COMMIT until end_following(): sends the connections that late frames begin.
    void follow(PeerChannel& peer, core::Deadline deadline);
    core::Task<void> end_following();
    /// The guest has moved away. Removes its entries, but not those that may still be in use here:
    /// those of sessions with this host itself, and of a family that this host still routes.
    core::Task<void> remove(core::Deadline deadline);

    /// The destination's report from when it got the guest.
    void note(protocol::TrackingReport said);
    /// Null if no entry of the guest is tracked.
    [[nodiscard]] core::Json report() const;

private:
    [[nodiscard]] std::vector<netmove::Address> addresses() const;
    [[nodiscard]] protocol::Conntrack first_message() const;
    core::Result<> look_at_host();
    /// The guest's entries, without those of a local address of this host.
    core::Task<core::Result<netmove::ConntrackDump>> dump(core::Deadline deadline);
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
    std::string missing_;  ///< Why no entries are transferred, or not all.
    std::vector<netmove::Address> host_addresses_;  ///< All addresses of this host...
    /// ...and those that the guest may use as its router.
    std::vector<netmove::Address> gateways_;
    /// Those of gateways_ that the destination's host has too.
    std::set<std::string> gateways_there_;
    netmove::ConntrackTable sent_;
    bool told_ = false;  ///< The destination knows whose connections it may take.
    bool sent_all_ = false;
    bool given_up_ = false;
    bool incomplete_ = false;
    bool searching_ = false;  ///< A dump of the table runs: only one at a time.
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
    /// A `conntrack` message of the source; `guest` may have gone to its new owner. Entries of
    /// addresses that are not the guest's are refused, and so are addresses of this host.
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
    std::vector<std::string> gateways_;  ///< The source's gateways that exist here too.
    std::size_t refused_ = 0;  ///< Entries that failed the checks.
    std::size_t restored_ = 0;
    std::map<netmove::ConntrackKey, std::string> failed_;
};

/// Sentences for people about what could not be done. Empty if all went well or nothing was
/// to be done.
std::vector<std::string> tracking_complaints(core::Json const& report);

}  // namespace sidecar
