// DestinationMigration: the destination's driver. It passes the source's requests and QEMU's
// events to the destination machine, runs each action, and answers the source when the machine
// says so. It decides nothing.
#pragma once

#include <list>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "core/priority.hpp"
#include "netmove/mover.hpp"
#include "sidecar/channel/connection.hpp"
#include "sidecar/guest/description.hpp"
#include "sidecar/guest/guest.hpp"
#include "sidecar/handover/frames.hpp"
#include "sidecar/handover/tracking.hpp"
#include "sidecar/host/journal.hpp"
#include "sidecar/machine/destination.hpp"
#include "storage/hasher.hpp"
#include "storage/owned_file.hpp"
#include "storage/target.hpp"

namespace sidecar {

class DestinationMigration {
public:
    DestinationMigration(core::Loop& loop, Paths paths, std::string guest, std::string migration_id,
                         Journal& journal, ServeOptions options);
    ~DestinationMigration();

    /// Runs the machine until stopped, also after finished(), and answers requests in that time.
    /// When it returns, no caller is in handle() any more.
    core::Task<void> run(std::stop_token token);
    /// Handles one request of the source.
    core::Task<core::Result<protocol::Packed>> handle(protocol::FromSource request);
    void peer_attached();
    void peer_detached();

    /// Set when the machine is done: the guest is owned here, or nothing of it is left.
    [[nodiscard]] core::Event& finished() { return finished_; }
    /// Set while no source is connected. A source that comes to ask how it ended is still answered.
    [[nodiscard]] core::Event& no_peer() { return no_peer_; }
    [[nodiscard]] bool owns_guest() const { return machine::destination::owns_guest(state_); }
    /// Nothing was created, requested or recorded: a source only ran its checks, and left.
    [[nodiscard]] bool untouched() const;
    /// The guest's source asks for another migration. This one, whose source disappeared during the
    /// copy, is given up.
    void abandon();
    [[nodiscard]] std::string const& migration_id() const { return migration_id_; }
    /// What the source says about the guest; empty before `prepare`.
    [[nodiscard]] Description const& description() const { return description_; }
    [[nodiscard]] core::Json status() const;
    /// Whether the journal says that `guest` came in and is owned here, and a killed sidecar left
    /// the rest undone. A new sidecar with that migration_id then ends it, without the source.
    static bool owned_unfinished(Paths const& paths, std::string const& guest,
                                 Journal::Entry const& last);
    /// Whether QEMU, or anything else that an incoming migration created, may still exist.
    static bool anything_left(Paths const& paths, std::string const& guest);
    /// The guest that runs here now. Once, after finished() with owns_guest().
    std::unique_ptr<Guest> take_guest() {
        if (guest_ && guest_->client) guest_->client->expect_reconnect(false);
        return std::move(guest_);
    }

private:
    using Action = machine::destination::Action;
    using Event = machine::destination::Event;
    using ActionResult = machine::ActionResult;
    template <class T = void>
    using Outcome = core::Task<core::Result<T>>;

    // A request of the source whose answer the machine decides.
    struct Waiting {
        Waiting(core::Loop& loop, protocol::Verb verb_) : verb(verb_), answered(loop) {}
        protocol::Verb verb;
        core::Event answered;
        core::Result<protocol::Packed> answer = core::fail(core::Errc::closed, "no answer");
    };

    core::Task<void> run_action(Action action);
    core::Task<core::Result<>> perform(Action action);
    core::Result<> reply(Action action);
    core::Result<> answer(std::initializer_list<protocol::Verb> verbs,
                          core::Result<protocol::Packed> const& result);
    Outcome<protocol::Packed> ask_machine(protocol::Verb verb, Event event);
    core::Result<Description> description_from(core::Json const& json) const;

    // Each handles one request of the source; Packed: the machine decides the answer.
    Outcome<protocol::CheckAnswer> on(protocol::Check check);
    Outcome<protocol::Packed> on(protocol::Prepare prepare);
    Outcome<protocol::Packed> on(protocol::Reexport);
    Outcome<protocol::HashBaseAnswer> on(protocol::HashBase request);
    Outcome<protocol::HashAnswer> on(protocol::Hash request);
    Outcome<protocol::Nothing> on(protocol::Fire fire);
    Outcome<protocol::FramesAnswer> on(protocol::Frames frames);
    Outcome<protocol::ReturnFramesAnswer> on(protocol::ReturnFrames request);
    Outcome<protocol::TrackingReport> on(protocol::Conntrack sent);
    Outcome<protocol::Packed> on(protocol::Seal);
    Outcome<protocol::Packed> on(protocol::Commit commit);
    Outcome<protocol::Packed> on(protocol::Abort);
    void post(Event event);

    // The ports: destination_actions.cpp
    Outcome<> prepare();
    Outcome<> prepare_again();
    Outcome<> make_disks();
    Outcome<> start_qemu();
    Outcome<> open_endpoints();
    Outcome<> listen_for_ram();
    Outcome<> seal();
    core::Result<> record(DestinationEntry::Record what);
    Outcome<> record_now(DestinationEntry::Record what);
    static Outcome<> nothing_to_do();
    Outcome<> start_guest();
    Outcome<> announce_network();
    Outcome<> destroy();
    Outcome<> record_end();
    Outcome<> finish();
    void remove_stale_images() const;
    [[nodiscard]] protocol::Endpoints endpoints() const;
    [[nodiscard]] protocol::Verdict owner_verdict() const;
    // The remains of an earlier sidecar: destination_restart.cpp
    Outcome<> find_after_restart();
    [[nodiscard]] machine::destination::Record recorded() const;
    [[nodiscard]] core::Result<> check_earlier() const;
    Outcome<> clear_earlier();
    static core::Result<std::vector<storage::OwnedFile>> images_from_json(core::Json const& list);
    Outcome<machine::destination::Qemu> rejoin(std::string socket, core::ProcessIdentity recorded);
    Outcome<> end_earlier_qemu(core::ProcessIdentity recorded);
    Outcome<> end_unrecorded_qemu();
    core::Result<> remove_images(std::vector<storage::OwnedFile> const& images,
                                 std::string const& id) const;
    // Comparing bases: destination_bases.cpp
    struct BaseHash {
        explicit BaseHash(core::Loop& loop) : finished(loop) {}
        std::uint64_t done_bytes = 0;
        core::Event finished;
        core::Result<storage::FileHash> hash = core::fail(core::Errc::closed, "not known yet");
    };
    core::Task<void> read_base(std::string path, std::shared_ptr<BaseHash> into);
    static bool still_right(BaseHash const& base, std::string const& path);
    core::Result<> check_compared() const;
    Outcome<std::shared_ptr<storage::Hasher>> open_hasher(core::Deadline deadline);
    Outcome<> make_hasher(core::Deadline deadline);
    core::Task<void> close_hasher();
    Outcome<> find_target();
    core::Result<> write_incoming();
    // QEMU's monitor: destination_monitor.cpp
    core::Task<void> watch_qemu();
    void hear_migration(std::string const& status);
    core::Task<bool> reconnect_qemu(unsigned generation);
    core::Task<void> watch_process();
    [[nodiscard]] bool only_copying() const;
    core::Task<void> wait_for_source(std::size_t generation);
    core::Task<void> settle_network();
    core::Task<void> limit_realtime();
    [[nodiscard]] std::string key_directory() const {
        return paths_.run(name_) + "/keys-" + migration_id_;
    }
    static std::string incoming_path(Paths const& paths, std::string const& guest) {
        return paths.state(guest) + "/incoming.json";
    }
    [[nodiscard]] std::string incoming_path() const { return incoming_path(paths_, name_); }

    core::Loop& loop_;
    Paths paths_;
    std::string name_;
    std::string migration_id_;
    Journal& journal_;
    ServeOptions options_;
    machine::destination::State state_;
    core::Queue<Event> events_;
    core::Event looked_;  ///< find_after_restart has ended, with the result `found_`.
    core::Result<> found_;
    core::Event finished_;
    core::Event no_peer_;
    core::TaskGroup actions_;
    core::TaskGroup watchers_;
    std::stop_source watchers_stop_;
    std::list<Waiting*> waiting_;
    core::CallGate callers_;  ///< Callers in handle().
    std::size_t peers_ = 0;
    std::size_t silence_generation_ = 0;

    Description description_;
    std::string key_;
    core::Json earlier_;  ///< incoming.json of another migration; `prepare` removes what it names.
    bool incoming_is_ours_ = false;  ///< incoming.json is of this migration.
    core::ProcessIdentity recorded_qemu_;  ///< The QEMU that an earlier sidecar prepared.
    /// The migration in which this guest left this host before, for its stale images; may be empty.
    std::string left_in_;
    std::vector<storage::OwnedFile> images_;  ///< Recorded before they are created.
    std::unique_ptr<Guest> guest_;
    std::unique_ptr<storage::Target> target_;
    std::vector<storage::TargetDisk> target_disks_;
    std::map<std::string, std::shared_ptr<BaseHash>> base_hashes_;  ///< By path here.
    /// From the first `hash` until the exports are deleted.
    std::shared_ptr<storage::Hasher> hasher_;
    core::Semaphore hasher_turn_;  ///< Only one task at a time opens or closes it.
    netmove::MoverSet movers_;
    DestinationFrames frames_;
    DestinationTracking tracking_;
    /// Counts the QEMUs: data that an earlier one received but did not flush may be lost.
    unsigned generation_ = 0;
    bool ram_begun_ = false;  ///< RAM has begun to arrive in this QEMU.
    core::Event qmp_over_;  ///< All events of this QEMU were read.
    int nbd_port_ = 0;
    int ram_port_ = 0;
    std::vector<std::string> export_names_;
    std::optional<core::Clock::time_point> resumed_at_;
    std::optional<core::ScopedRealtime> realtime_;  ///< While the guest is stopped.
    core::milliseconds downtime_limit_{limits::downtime_limit_default_ms};  ///< Set by `fire`.
    std::optional<core::Error> failure_;
    std::map<Action, int> failures_in_a_row_;
};

}  // namespace sidecar
