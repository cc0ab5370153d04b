// SourceMigration: the source's driver. It passes events to the source machine, runs each action
// that the machine asks for through the folders that do the work, and reports the end of each. It
// decides nothing: every decision is in machine/source.cpp, and bulk data never passes here.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "sidecar/channel/peer.hpp"
#include "sidecar/guest/description.hpp"
#include "sidecar/guest/guest.hpp"
#include "sidecar/handover/dns_update.hpp"
#include "sidecar/host/journal.hpp"
#include "sidecar/machine/source.hpp"
#include "sidecar/migration/file_comparison.hpp"
#include "sidecar/migration/guest_pause.hpp"
#include "sidecar/migration/migration_record.hpp"
#include "sidecar/migration/migration_report.hpp"
#include "sidecar/migration/migration_timeline.hpp"
#include "sidecar/migration/qemu_monitor.hpp"
#include "sidecar/migration/ram_stream.hpp"
#include "sidecar/migration/shared_disks.hpp"
#include "sidecar/migration/source_context.hpp"
#include "sidecar/migration/source_disks.hpp"
#include "sidecar/migration/source_files.hpp"
#include "sidecar/migration/source_network.hpp"
#include "sidecar/registry/ownership.hpp"

namespace sidecar {

class SourceMigration {
public:
    using ProgressSink = std::function<void(core::Json)>;

    SourceMigration(Guest& guest, Journal& journal, MigrateOptions options,
                    std::string migration_id);
    ~SourceMigration();

    /// Runs until the outcome is final and nothing is in flight. Returns the report.
    core::Task<core::Json> run(ProgressSink sink);
    /// The same for a migration that an earlier sidecar of this guest left unfinished
    /// (journal and migration.json).
    core::Task<core::Json> recover(ProgressSink sink);
    /// From now on the caller gets the progress; a suspended copy continues.
    void follow(ProgressSink sink);
    /// Runs every check on both hosts and changes nothing. Returns a line for each check,
    /// or the refusal.
    core::Task<core::Result<core::Json>> check_only();

    /// Takes effect at once. Returns the settings that now apply.
    protocol::SetAnswer set(MigrationChanges const& changes);
    /// Fails with refused if it is too late: COMMIT has been asked for.
    core::Result<> cancel();
    /// The operator's decision, with the other side fenced. Fails with refused unless
    /// COMMIT is unanswered.
    core::Result<> resolve(machine::Side owner);
    [[nodiscard]] core::Json status() const { return report_.status(peer_lost_at_.has_value()); }
    [[nodiscard]] machine::Outcome outcome() const { return state_.outcome; }
    /// Begun and not over: also during rollback, while settling, or in doubt.
    [[nodiscard]] bool under_way() const { return machine::source::under_way(state_); }
    [[nodiscard]] bool is_ending() const { return machine::source::is_ending(state_); }
    /// Set when there is a result for the caller of `migrate`. Either it is over; or it has
    /// been in doubt for so long that an operator is needed (it still keeps trying); or it
    /// waits for follow().
    [[nodiscard]] core::Event& decided() { return decided_; }
    [[nodiscard]] core::Json report() const { return report_.report(); }

private:
    using Action = machine::source::Action;
    using Event = machine::source::Event;
    using Phase = machine::source::Phase;
    using ActionResult = machine::ActionResult;
    template <class T = void>
    using Outcome = core::Task<core::Result<T>>;

    // The loop: source_migration.cpp
    core::Task<core::Json> drive(Event first, ProgressSink sink);
    core::Task<void> run_action(Action action);
    core::Task<ActionResult> perform(Action action);
    core::Task<ActionResult> commit();
    Outcome<> port(Action action);
    static Outcome<> nothing_to_do();
    void post(Event event);
    void enter(Phase phase);
    void note_failure(core::Error error);
    /// Adds to the first failure what another program says of it, unless it is known.
    void add_to_failure(std::string_view who, std::string const& words);
    void warn(std::string const& line);
    core::Task<void> look_at_libvirt();  // source_definition.cpp

    // QEMU's monitor: source_monitor.cpp
    void hear(qmp::Event const& event);
    [[nodiscard]] core::Error reason_of(machine::source::Event const& event) const;
    void note_monitor_back(machine::source::Qemu qemu, core::Clock::time_point lost_at);
    void note_monitor_silent();
    void note_stop(core::Clock::time_point at);
    core::Task<void> ask_why_ram_failed();
    void tell_of_a_long_rollback();
    // Watching: source_watch.cpp
    core::Task<void> watch_process();
    core::Task<void> tick();
    void peer_changed(bool up);
    void ram_not_converging();

    // The registry: source_registry.cpp
    Outcome<> check_owner();
    void note_destination(protocol::CheckAnswer const& answer);
    core::Task<void> record_departure();
    // The ports: source_actions.cpp. Each is one action of the machine.
    Outcome<> look_at_run_state();
    Outcome<> look_at_links();
    Outcome<> check();
    Outcome<> record(SourceEntry::Record what,
                     SourceEntry::Outcome outcome = SourceEntry::Outcome::none);
    Outcome<> record_begin();
    Outcome<> prepare_destination();
    Outcome<> copy_disks();
    core::Task<void> limit_suspension();
    void note_suspension();
    [[nodiscard]] bool peer_silent() const;
    void write_copy_record();
    core::Task<void> restore_ram_settings(core::Deadline deadline);
    Outcome<> start_ram();
    Outcome<> list_final();
    Outcome<> seal_destination();
    Outcome<> continue_migration();
    Outcome<> record_commit();
    Outcome<> cancel_migration();
    Outcome<> resume_source();
    Outcome<> abort_destination();
    Outcome<> drop_storage();
    Outcome<> set_images_aside();
    Outcome<> restore_images();
    Outcome<> tombstone_disks();
    Outcome<> settle_network();
    Outcome<> quit_source();
    Outcome<> end_qemu();
    Outcome<> record_end();
    core::Task<void> stop_keeping_converged();

    Guest& guest_;
    Journal& journal_;
    MigrateOptions options_;
    std::string migration_id_;
    core::Loop& loop_;
    machine::source::State state_;
    core::Queue<Event> events_;
    core::Event decided_;
    std::optional<core::Clock::time_point> in_doubt_since_;
    ProgressSink sink_;

    core::TaskGroup actions_;
    std::stop_source actions_stop_;  ///< The machine's `interrupt` replaces it.
    core::TaskGroup watchers_;
    std::stop_source watchers_stop_;
    core::TaskGroup keep_converged_;
    std::stop_source keep_converged_stop_;

    PeerChannel peer_;
    MigrationTimeline timeline_;
    Description description_;
    SourceContext context_;
    MigrationRecord record_;
    QemuMonitor monitor_;
    FileComparison comparison_;
    SharedDisks shared_;
    SourceFiles files_;
    SourceDisks disks_;
    GuestPause pause_;
    RamStream ram_;
    SourceNetwork network_;
    DnsUpdate dns_;
    core::TaskGroup naming_;  ///< Runs dns_.
    std::string key_;  ///< Hex; of this migration's RAM and NBD streams. Empty: plaintext.
    unsigned suspensions_ = 0;
    bool qemu_gone_ = false;
    bool recovered_ = false;
    bool destination_fenced_ = false;  ///< The operator says so: nothing there will answer.

    registry::Ownership ownership_;
    registry::Host destination_host_;  ///< As the destination's answer to the check names it.
    /// For the report: of the check, why another time would be better; of the registry.
    std::string warning_;
    protocol::DataPort data_port_;
    std::optional<core::Error> failure_;  ///< The first failure; reported to the operator.
    ActionFailures failures_;
    std::optional<core::Clock::time_point> peer_lost_at_;
    bool silence_told_ = false;  ///< The machine was told that the peer is silent for too long.

    MigrationReport report_;
};

}  // namespace sidecar
