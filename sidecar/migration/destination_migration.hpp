// DestinationMigration: the destination's driver. It passes the source's requests and QEMU's
// events to the destination machine, runs each action that the machine asks for through the parts
// that do the work, and answers the source when the machine says so. It decides nothing.
#pragma once

#include <map>
#include <memory>
#include <optional>
#include <string>

#include "core/priority.hpp"
#include "sidecar/channel/connection.hpp"
#include "sidecar/guest/description.hpp"
#include "sidecar/guest/guest.hpp"
#include "sidecar/host/journal.hpp"
#include "sidecar/machine/destination.hpp"
#include "sidecar/migration/destination_anchors.hpp"
#include "sidecar/migration/destination_context.hpp"
#include "sidecar/migration/destination_definition.hpp"
#include "sidecar/migration/destination_disks.hpp"
#include "sidecar/migration/destination_file_hashes.hpp"
#include "sidecar/migration/destination_files.hpp"
#include "sidecar/migration/destination_network.hpp"
#include "sidecar/migration/destination_qemu.hpp"
#include "sidecar/migration/destination_remains.hpp"
#include "sidecar/migration/destination_survey.hpp"
#include "sidecar/migration/disk_command.hpp"
#include "sidecar/migration/pending_requests.hpp"

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
    template <class T = void>
    using Outcome = core::Task<core::Result<T>>;

    // The loop: destination_migration.cpp
    void post(Event event);
    void note_failure(core::Error error);
    core::Task<void> run_action(Action action);
    Outcome<> perform(Action action);
    core::Result<> reply(Action action);
    [[nodiscard]] protocol::Endpoints endpoints() const;
    [[nodiscard]] protocol::Verdict owner_verdict() const;
    [[nodiscard]] bool only_copying() const;
    core::Task<void> wait_for_source(std::size_t generation);
    core::Task<void> limit_realtime();

    // Each handles one request of the source: destination_requests.cpp. Packed: the machine decides
    // the answer.
    Outcome<protocol::Packed> ask_machine(protocol::Verb verb, Event request);
    Outcome<protocol::Packed> ask_to_prepare();
    [[nodiscard]] core::Result<Description> description_from(core::Json const& json) const;
    [[nodiscard]] core::Result<> check_exported() const;
    Outcome<protocol::CheckAnswer> on(protocol::Check check);
    Outcome<protocol::SurveyAnswer> on(protocol::Survey survey);
    Outcome<protocol::FindSharedAnswer> on(protocol::FindShared request);
    Outcome<protocol::HeardAnswer> on(protocol::Heard);
    Outcome<protocol::Packed> on(protocol::Prepare prepare);
    Outcome<protocol::SendFileAnswer> on(protocol::SendFile piece);
    Outcome<protocol::Packed> on(protocol::Reexport);
    Outcome<protocol::HashFileAnswer> on(protocol::HashFile request);
    Outcome<protocol::HashAnswer> on(protocol::Hash request);
    Outcome<protocol::FireAnswer> on(protocol::Fire fire);
    Outcome<protocol::FramesAnswer> on(protocol::Frames frames);
    Outcome<protocol::ReturnFramesAnswer> on(protocol::ReturnFrames request);
    Outcome<protocol::TrackingReport> on(protocol::Conntrack sent);
    Outcome<protocol::Packed> on(protocol::Seal);
    Outcome<protocol::Packed> on(protocol::Commit commit);
    Outcome<protocol::Packed> on(protocol::Abort);

    // The ports: destination_actions.cpp. Each is one action of the machine.
    Outcome<> prepare();
    Outcome<> prepare_again();
    Outcome<> make_places();
    Outcome<> make_disks();
    Outcome<> start_qemu();
    core::Result<> write_incoming();
    Outcome<> seal();
    Outcome<> record(DestinationEntry::Record what);
    Outcome<> start_guest();
    Outcome<> leave_stopped();
    Outcome<> announce_network();
    Outcome<> destroy();
    Outcome<> record_end();
    Outcome<> finish();
    static Outcome<> nothing_to_do();

    // What an earlier sidecar left: destination_restart.cpp
    Outcome<> find_after_restart();
    [[nodiscard]] machine::destination::Record recorded() const;
    Outcome<machine::destination::Qemu> rejoin(std::string socket);

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
    std::stop_token ending_;  ///< Of run().
    core::CallGate callers_;  ///< Callers in handle().
    std::size_t peers_ = 0;
    std::size_t silence_generation_ = 0;

    Description description_;
    std::string key_;
    std::unique_ptr<Guest> guest_;
    DestinationContext context_;
    PendingRequests requests_;
    EarlierMigration earlier_;
    DestinationAnchors anchors_;
    DestinationSurvey survey_;
    DestinationDefinition definition_;
    DestinationFileHashes file_hashes_;
    DestinationDisks disks_;
    DestinationFiles files_;
    DiskCommand disk_command_;
    DestinationNetwork network_;
    DestinationQemu qemu_;
    bool incoming_is_ours_ = false;  ///< incoming.json is of this migration.
    core::ProcessIdentity recorded_qemu_;  ///< The QEMU that an earlier sidecar prepared.
    std::optional<core::ScopedRealtime> realtime_;  ///< While the guest is stopped.
    core::milliseconds downtime_limit_{limits::downtime_limit_default_ms};  ///< Set by `fire`.
    std::optional<core::Error> failure_;  ///< The first failure; reported to the source.
    std::map<Action, int> failures_in_a_row_;
};

}  // namespace sidecar
