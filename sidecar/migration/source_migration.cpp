#include "sidecar/migration/source_migration.hpp"

#include <unistd.h>

#include <algorithm>

#include "core/log.hpp"
#include "sidecar/guest/left_devices.hpp"
#include "sidecar/host/test_hooks.hpp"
#include "sidecar/migration/action_result.hpp"
#include "sidecar/migration/recorded.hpp"
#include "storage/stale_image.hpp"

namespace sidecar {

using core::Errc;
using core::Json;
using core::Result;
using core::Task;
using machine::ActionResult;
using machine::source::Action;
using machine::source::Event;
using machine::source::Phase;
using machine::source::State;

namespace {

// Events not yet handled: those of actions in flight and a few of QEMU. More would be a bug.
constexpr std::size_t events_max = 256;

/// The end of what a destination says whose QEMU ended and said nothing: it follows from the
/// failure.
constexpr std::string_view ended_without_a_word = "QEMU on the destination has ended";

bool is_record(Action action) {
    return action == Action::record_begin || action == Action::record_commit ||
           action == Action::record_rollback || action == Action::record_end;
}

/// Where the guest runs now, for the operator.
std::string_view whereabouts(State const& state) {
    if (machine::source::commit_may_count(state)) return "the guest is paused";
    switch (state.guest) {
        case machine::Guest::source:
            return state.guest_stopped ? "the guest is on the source, and does not run"
                                       : "the guest runs on the source";
        case machine::Guest::destination:
            return "the guest runs on the destination";
        case machine::Guest::unknown:
            return "the guest is paused until the destination answers";
        case machine::Guest::crashed_source:
            return "the guest's QEMU on the source has ended";
        case machine::Guest::stopped_source:
            return "the guest is on the source, stopped from outside";
        case machine::Guest::silent_source:
            return "the guest is on the source, whose QEMU does not answer";
    }
    return "";
}

}  // namespace

SourceMigration::SourceMigration(Guest& guest, Journal& journal, MigrateOptions options,
                                 std::string migration_id)
    : guest_(guest),
      journal_(journal),
      options_(std::move(options)),
      migration_id_(std::move(migration_id)),
      loop_(guest.loop),
      events_(guest.loop, events_max),
      decided_(guest.loop),
      actions_(guest.loop),
      watchers_(guest.loop),
      keep_converged_(guest.loop),
      peer_(guest.loop,
            PeerChannel::Config{options_.destination, options_.tls, guest_.name, migration_id_},
            [this](bool up) { peer_changed(up); }),
      context_{guest_, options_,  migration_id_, description_,
               peer_,  timeline_, actions_stop_, qemu_gone_},
      record_(context_),
      monitor_(context_, {.event = [this](qmp::Event const& event) { hear(event); },
                          .lost = [this] { post(machine::source::event(Event::Kind::qmp_lost)); },
                          .back =
                              [this](machine::source::Qemu qemu, core::Clock::time_point lost_at) {
                                  note_monitor_back(qemu, lost_at);
                              },
                          .silent = [this] { note_monitor_silent(); }}),
      comparison_(context_),
      shared_(context_),
      files_(context_),
      disks_(context_, record_),
      pause_(context_, {.may_cancel = [this] { return machine::source::may_cancel(state_); },
                        .limit_exceeded =
                            [this](core::Error error) {
                                note_failure(std::move(error));
                                post(machine::source::event(Event::Kind::downtime_limit_exceeded));
                            },
                        .stopped_by_others =
                            [this](core::Error error) {
                                note_failure(std::move(error));
                                post(machine::source::event(Event::Kind::guest_stopped_by_others));
                            }}),
      ram_(guest),
      network_(context_, journal_),
      dns_(guest.loop, options_.dns, guest.name),
      naming_(guest.loop),
      ownership_(guest.loop, guest.paths, guest.name),
      destination_host_{.id = "", .address = options_.destination},
      report_(context_, {state_, failures_, failure_, warning_, data_port_, recovered_, comparison_,
                         files_, disks_, ram_, network_, dns_}) {}

SourceMigration::~SourceMigration() = default;

void SourceMigration::follow(ProgressSink sink) {
    sink_ = std::move(sink);
    if (state_.phase != Phase::suspended) return;
    if (peer_lost_at_) peer_lost_at_ = core::Clock::now();
    silence_told_ = false;
    ++suspensions_;  // the limit of this suspension no longer applies
    failure_.reset();
    decided_.reset();
    post(machine::source::event(Event::Kind::resume_requested));
}

Task<Json> SourceMigration::run(ProgressSink sink) {
    return drive(machine::source::event(Event::Kind::migrate_requested), std::move(sink));
}

Task<Json> SourceMigration::recover(ProgressSink sink) {
    using machine::source::Record;
    recovered_ = true;
    auto const known = MigrationRecord::read(guest_.paths, guest_.name);
    if (known) {
        auto described = Description::from_json((*known)["description"]);
        if (described) description_ = std::move(*described);
        dns_.restore((*known)["dns"]);
    }
    auto const found = recorded_by_source(journal_.last());
    auto qemu = co_await monitor_.look_after_restart();
    qemu_gone_ = qemu == machine::source::Qemu::gone;
    // If this sidecar died as well, only the watchdog would bring the guest back.
    if (qemu != machine::source::Qemu::gone) (void)pause_.start_watchdog();
    using machine::source::Qemu;
    bool const did_run = description_.state == GuestState::running;
    bool const stopped = !did_run && qemu != Qemu::running && qemu != Qemu::migrating;
    bool const as_before = qemu == (did_run ? Qemu::running : Qemu::stopped);
    if (found == Record::begun && as_before && pause_.has_watchdog() && disks_.find_copy()) {
        qemu = Qemu::copying;
    }
    network_.begin_after_restart();
    watchers_.spawn(peer_.keep(watchers_stop_.get_token()));
    co_return co_await drive(machine::source::restarted(found, qemu, stopped), std::move(sink));
}

Task<Json> SourceMigration::drive(Event first, ProgressSink sink) {
    sink_ = std::move(sink);
    watchers_.spawn(monitor_.watch(watchers_stop_.get_token()));
    watchers_.spawn(watch_process());
    watchers_.spawn(tick());
    post(first);
    enter(Phase::idle);
    while (state_.phase != Phase::done) {
        auto const event = co_await events_.pop(core::Deadline::never());
        auto const before = state_.phase;
        auto step = machine::source::step(state_, *event);
        state_ = step.state;
        core::log::debug("guest={} migration_id={} event=\"{}\" state=\"{}\"", guest_.name,
                         migration_id_, machine::source::describe(*event),
                         machine::source::describe(state_));
        if (state_.phase != before) enter(state_.phase);
        bool const fails = state_.phase == Phase::rolling_back && before != state_.phase &&
                           state_.outcome == machine::Outcome::failed;
        if (fails && !failure_) note_failure(reason_of(*event));
        for (auto const action : step.actions) {
            if (action == Action::interrupt) {
                actions_stop_.request_stop();
                actions_stop_ = std::stop_source();
            }
            actions_.spawn(run_action(action));
        }
    }
    co_await actions_.join();
    co_await naming_.join();
    co_await network_.end();
    watchers_stop_.request_stop();
    co_await watchers_.join();
    co_await pause_.end();
    if (state_.outcome == machine::Outcome::moved) co_await record_departure();
    decided_.set();
    co_return report();
}

void SourceMigration::post(Event event) {
    // A full queue would mean that the machine cannot handle a few events: a bug that
    // must be visible.
    if (!events_.push(event))
        core::log::error("guest={} event queue full: {}", guest_.name, describe(event));
}

void SourceMigration::enter(Phase phase) {
    auto const now = core::Clock::now();
    timeline_.note_phase(phase, now);
    core::log::info("guest={} migration_id={} phase={}", guest_.name, migration_id_,
                    machine::source::name(phase));
    if (machine::source::commit_may_count(state_) && !in_doubt_since_) in_doubt_since_ = now;
    // Before any request that is allowed only in another phase: see CopyRecord.
    bool const copies = phase == Phase::copying || phase == Phase::suspended;
    if (phase != Phase::preparing && !copies && phase != Phase::idle) {
        disks_.remove_copy_record();
        disks_.remove_tables();
    }
    // While only disks are copied, nothing waits for this process; after that, the
    // guest's pause does.
    disks_.give_way(phase == Phase::copying);
    if (phase == Phase::settling) pause_.end_realtime();
    if (phase == Phase::suspended) note_suspension();
    if (sink_ && phase != Phase::idle) sink_(report_.progress(peer_lost_at_.has_value()));
}

void SourceMigration::note_failure(core::Error error) {
    core::log::warning("guest={} migration_id={} {}", guest_.name, migration_id_, error.sentence());
    if (!failure_) failure_ = std::move(error);
}

void SourceMigration::add_to_failure(std::string_view who, std::string const& words) {
    bool const cancelled = state_.outcome == machine::Outcome::cancelled;
    bool const nothing = words.empty() || words.starts_with(protocol::given_up_earlier) ||
                         words.ends_with(ended_without_a_word);
    if (!failure_ || cancelled || nothing) return;
    // Without the steps of the other program.
    auto const known = words.substr(0, words.rfind(" (while "));
    if (failure_->sentence().find(known) != std::string::npos) return;
    core::log::warning("guest={} migration_id={} {}{}", guest_.name, migration_id_, who, words);
    failure_->what += fmt::format("; {}{}", who, words);
}

Task<void> SourceMigration::run_action(Action action) {
    if (auto const failed = failures_.in_a_row[action]; failed > 0) {
        auto const pause =
            std::min(limits::retry_pause_min * (1 << std::min(failed, 6)), limits::retry_pause_max);
        (void)co_await core::sleep_for(loop_, pause);
    }
    auto const ending = co_await perform(action);
    bool const good = ending == ActionResult::ok || ending == ActionResult::acked ||
                      ending == ActionResult::aborted;
    failures_.in_a_row[action] = good ? 0 : failures_.in_a_row[action] + 1;
    post(machine::source::action_ended(action, ending));
}

Task<ActionResult> SourceMigration::perform(Action action) {
    core::log::debug("guest={} migration_id={} action={}", guest_.name, migration_id_,
                     machine::source::name(action));
    stop_for_test(machine::source::name(action));
    if (action == Action::send_commit) co_return co_await commit();
    auto result = co_await port(action);
    if (action == Action::copy_disks && !result && disks_.link_down())
        co_return ActionResult::link_lost;
    auto ending = action_result_of(result, is_record(action) && journal_.may_be_recorded());
    if (action == Action::check && !result) {  // only a failed check is a refusal
        bool const refused =
            result.error().code == Errc::refused || result.error().code == Errc::invalid;
        ending = refused ? ActionResult::failed : ActionResult::unknown;
    }
    if (!result) {
        failures_.last_error[action] = result.error().sentence();
        auto error = std::move(result.error());
        // We interrupted it: that is not the cause.
        bool const ours = error.code == Errc::cancelled;
        error.while_doing(
            fmt::format("{} ({})", machine::source::name(action), whereabouts(state_)));
        if (ours) core::log::debug("guest={} {}", guest_.name, error.sentence());
        if (!ours) note_failure(std::move(error));
    }
    co_return ending;
}

Task<Result<>> SourceMigration::port(Action action) {
    switch (action) {
        case Action::check:
            return check();
        case Action::record_begin:
            return record_begin();
        case Action::prepare_destination:
            return prepare_destination();
        case Action::prepare_network:
            return network_.prepare(disks_.endpoints().tunnel_port);
        case Action::prepare_storage:
            return disks_.prepare();
        case Action::copy_disks:
            return copy_disks();
        case Action::start_ram:
            return start_ram();
        case Action::fire_network:
            return network_.fire();
        case Action::list_final:
            return list_final();
        case Action::copy_final:
            return disks_.copy_final();
        case Action::seal_destination:
            return seal_destination();
        case Action::continue_migration:
            return continue_migration();
        case Action::record_commit:
            return record_commit();
        case Action::cancel_migration:
            return cancel_migration();
        case Action::resume_source:
            return resume_source();
        case Action::rollback_network:
            return network_.roll_back();
        case Action::abort_destination:
            return abort_destination();
        case Action::drop_storage:
            return drop_storage();
        case Action::drop_network:
            return network_.drop();
        case Action::record_rollback:
            return record(SourceEntry::Record::rolled_back);
        case Action::tombstone_disks:
            return tombstone_disks();
        case Action::settle_network:
            return settle_network();
        case Action::quit_source:
            return quit_source();
        case Action::record_end:
            return record_end();
        case Action::set_images_aside:
            return set_images_aside();
        case Action::restore_images:
            return restore_images();
        case Action::send_commit:  // done by perform(): it has more results than these
        case Action::interrupt:  // done by drive()
        case Action::finish:
            return nothing_to_do();
    }
    return nothing_to_do();
}

Task<Result<>> SourceMigration::nothing_to_do() { co_return Result<>{}; }

protocol::SetAnswer SourceMigration::set(MigrationChanges const& changes) {
    if (changes.bandwidth) options_.bandwidth = *changes.bandwidth;
    if (changes.downtime_limit_ms) options_.downtime_limit_ms = *changes.downtime_limit_ms;
    if (changes.converge_limit_s) options_.converge_limit_s = *changes.converge_limit_s;
    disks_.downtime_limit_changed();
    ram_.set_downtime_limit(context_.downtime_limit());
    ram_.set_converge_limit(std::chrono::seconds(options_.converge_limit_s));
    pause_.note_limit_changed();
    auto const shares = disks_.bandwidth_shares(ram_.started_at().has_value());
    disks_.set_bandwidth(shares.disks);
    ram_.set_bandwidth(shares.ram);
    core::log::info(
        "guest={} migration_id={} bandwidth={} downtime_limit_ms={} converge_limit_s={}",
        guest_.name, migration_id_, options_.bandwidth, options_.downtime_limit_ms,
        options_.converge_limit_s);
    // A sidecar that continues the copy must know it. Not in the pause, which has no time for it.
    if (disks_.mirror() && (state_.phase == Phase::copying || state_.phase == Phase::converging)) {
        if (auto const written = record_.write(); !written) {
            core::log::warning("guest={} {}", guest_.name, written.error().sentence());
        }
    }
    return {options_.bandwidth, options_.downtime_limit_ms, options_.converge_limit_s};
}

Result<> SourceMigration::cancel() {
    if (!machine::source::may_cancel(state_)) {
        return core::fail(Errc::refused, "it is too late to cancel: the migration is {}",
                          machine::source::name(state_.phase));
    }
    post(machine::source::event(Event::Kind::cancel_requested));
    return {};
}

Result<> SourceMigration::resolve(machine::Side owner) {
    if (!machine::source::may_resolve(state_)) {
        return core::fail(Errc::refused, "nothing is in doubt: the migration is {}",
                          machine::source::name(state_.phase));
    }
    if (owner == machine::Side::destination && state_.phase == Phase::rolling_back) {
        return core::fail(Errc::refused,
                          "COMMIT was never sent: only the source can own the guest");
    }
    for (auto const& device : left_devices(guest_.paths, guest_.name)) {
        if (owner != machine::Side::source || device.migration_id != migration_id_) continue;
        return core::fail(Errc::refused,
                          "the destination has acknowledged: {} is recorded as stale, so it owns "
                          "the guest",
                          device.path);
    }
    for (auto const& path : context_.image_paths()) {
        auto const tombstone = storage::tombstone_path(path, migration_id_);
        if (owner == machine::Side::source && access(tombstone.c_str(), F_OK) == 0) {
            return core::fail(Errc::refused,
                              "the destination has acknowledged: {} exists, so it owns the guest",
                              tombstone);
        }
    }
    core::log::warning(
        "guest={} migration_id={} the operator decides: the owner is the {}, the other side is "
        "fenced",
        guest_.name, migration_id_, machine::name(owner));
    destination_fenced_ = owner == machine::Side::source;
    post(machine::source::operator_resolved(owner));
    return {};
}

}  // namespace sidecar
