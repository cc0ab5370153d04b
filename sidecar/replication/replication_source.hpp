// ReplicationSource: the source's driver of `sidecar replicate`: rounds with pauses between
// them until it is told to end, or a single round. It opens one connection to the destination
// per round. Between rounds the only thing of it in QEMU is one dirty bitmap per disk. Used by
// the guest's session.
//
// Invariant: a round that fails, for any reason, does not disturb the guest and loses no data:
// status() reports the failure, and the next round sends what it did not.
#pragma once

#include <optional>
#include <string>

#include "sidecar/channel/peer.hpp"
#include "sidecar/guest/description.hpp"
#include "sidecar/guest/guest.hpp"
#include "sidecar/host/settings.hpp"
#include "sidecar/replication/guest_freeze.hpp"
#include "storage/disk_replicator.hpp"

namespace sidecar {

class ReplicationSource {
public:
    /// `guest` must outlive it and must not change: no migration meanwhile. `go_on`: an
    /// earlier sidecar began the replication, so a destination that is unreachable at first
    /// does not end it.
    ReplicationSource(Guest& guest, ReplicationSettings settings, bool go_on);
    ~ReplicationSource();

    /// Checks the guest, creates the bitmaps, and makes rounds until stop(). Ends at once if
    /// it cannot begin.
    core::Task<void> run();
    /// Set when the first round was accepted by the destination or has failed:
    /// failure() says which.
    [[nodiscard]] core::Event& begun() { return begun_; }
    /// Set when run() ends, soon after the round of a `once` is complete.
    [[nodiscard]] core::Event& ended() { return ended_; }
    /// Why the replication could not begin, or the one round failed.
    [[nodiscard]] std::optional<core::Error> const& failure() const { return failure_; }
    /// Ends run() soon; a round under way is given up.
    void stop() { stop_.request_stop(); }
    /// After run() has ended: removes everything from QEMU.
    core::Task<core::Result<>> drop();
    /// After drop(): deletes the copy at the destination.
    core::Task<core::Result<>> forget_copy();

    // A hand-over, after the one round of a guest that is off (replication_hand_over.cpp),
    // in this order.
    /// Ends QEMU. Fails with refused if the guest was started after its point was taken; it is then
    /// not handed over.
    core::Task<core::Result<>> end_guest();
    /// Renames the images here so that nothing starts them. Undone if it fails.
    core::Result<> set_images_aside();
    /// From now on the destination may start the guest without the operator's confirmation.
    core::Task<core::Result<>> tell_handed_over();
    [[nodiscard]] std::string const& migration_id() const { return migration_id_; }

    [[nodiscard]] core::Json status() const;
    /// The last point that the destination has; null: none.
    [[nodiscard]] core::Json last_point() const;
    /// For people: the consistency that its points will have.
    [[nodiscard]] std::string freezing() const;

    /// The settings of a replication of `guest` that an earlier sidecar ran, after the rest of it
    /// was removed from QEMU. None: there was none.
    static core::Task<core::Result<std::optional<ReplicationSettings>>> take_over(Guest& guest);
    /// Removes the record, so that no later sidecar begins the replication again.
    static void forget_record(Paths const& paths, std::string const& guest);

private:
    core::Task<core::Result<>> begin();
    [[nodiscard]] core::Result<> check_no_filters() const;
    core::Task<core::Result<>> round();
    core::Task<core::Result<>> copy_round(PeerChannel& peer, std::stop_token token);
    core::Task<core::Result<>> renew_client();
    core::Task<core::Result<>> look_at_guest();
    Consistency consistency();
    /// Sends one request over a new connection.
    template <class Request>
    core::Task<core::Result<>> ask_once(Request request) {
        PeerChannel peer(loop_, peer_config(), [](bool) {});
        CO_TRY_VOID(co_await peer.connect(core::Deadline::after(limits::connect_timeout)));
        core::TaskGroup scope(loop_);
        std::stop_source enough;
        scope.spawn(peer.keep(enough.get_token()));
        auto const answer = co_await peer.request(std::move(request),
                                                  core::Deadline::after(limits::prepare_timeout));
        enough.request_stop();
        co_await scope.join();
        if (!answer) co_return std::unexpected(answer.error());
        co_return core::Result<>{};
    }
    core::Task<void> wait_for_next(core::Clock::time_point next, std::stop_token token);
    void find_agent();
    void make_copy();
    PeerChannel::Config peer_config() const;
    [[nodiscard]] bool encrypted() const {
        return settings_.tls.mode != core::TlsConfig::Mode::plaintext;
    }
    [[nodiscard]] std::string key_directory() const {
        return guest_.paths.run(guest_.name) + "/keys-" + migration_id_;
    }

    struct LastPoint {
        unsigned number = 0;
        core::Clock::time_point taken_at{};
        std::uint64_t copied_bytes = 0;
        core::milliseconds took{0};
        Consistency consistency;
    };

    Guest& guest_;
    core::Loop& loop_;
    ReplicationSettings settings_;
    bool go_on_;
    std::string migration_id_;
    Description description_;
    std::unique_ptr<GuestFreeze> freeze_;  ///< Declared before copy_, which points to it.
    std::unique_ptr<storage::DiskReplicator> copy_;
    unsigned base_ = 0;  ///< The bitmap holds all writes since that point; 0: it does not.
    std::optional<LastPoint> last_;
    std::string doing_ = "beginning";
    std::string last_error_;
    unsigned failures_ = 0;  ///< In a row.
    std::optional<core::Error> failure_;
    std::optional<qmp::Subscription> resumes_;  ///< Of the guest, since the round began.
    bool resumed_ = false;
    core::Event begun_;
    core::Event ended_;
    std::stop_source stop_;
};

}  // namespace sidecar
