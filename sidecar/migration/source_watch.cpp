// What the source's driver watches while a migration is under way (QEMU's events, its process, the
// peer, time), and what it tells about it: progress and the report.
#include <algorithm>

#include "core/log.hpp"
#include "qmp/vm.hpp"
#include "sidecar/guest/guest_drift.hpp"
#include "sidecar/migration/source_migration.hpp"

namespace sidecar {

using core::Errc;
using core::Json;
using core::Task;
using machine::source::Event;
using machine::source::Phase;

namespace {

// How often progress is told and slow conditions are looked at.
constexpr std::chrono::milliseconds tick_interval{200};

double rounded(double ms) {
    return static_cast<double>(static_cast<std::int64_t>(ms * 1000 + 0.5)) / 1000;
}

/// Milliseconds since 1970 at a moment of the loop's clock.
double wall_ms(core::Clock::time_point at) {
    auto const now = std::chrono::system_clock::now().time_since_epoch();
    return std::chrono::duration<double, std::milli>(now).count() -
           ms_between(at, core::Clock::now());
}

}  // namespace

Task<void> SourceMigration::watch_qemu() {
    if (!guest_.client) co_return;  // found gone by a restarted sidecar
    auto events = guest_.client->subscribe({"STOP", "RESUME", "MIGRATION", "JOB_STATUS_CHANGE"});
    for (;;) {
        auto const event = co_await events.next(core::Deadline::never(watchers_stop_.get_token()));
        if (!event) {
            if (event.error().code == Errc::cancelled) co_return;
            core::log::warning("guest={} the connection to QEMU ended: {}", guest_.name,
                               event.error().what);
            co_return;  // when its process ended too, watch_process says so; else every action
                        // fails and undoes
        }
        if (event->name == "STOP" && ram_.started_at()) {
            stop_at_ = event->received;
            realtime_.emplace();
            keep_converged_stop_.request_stop();
            peer_->set_patience(limits::heartbeat_silence_paused(downtime_limit()));
            watchers_.spawn(limit_pause());
            watchers_.spawn(ask_why_stopped());
            post(machine::source::event(Event::Kind::stop_seen));
        } else if (event->name == "RESUME") {
            realtime_.reset();
            peer_->set_patience(limits::heartbeat_silence);
            if (watchdog_) watchdog_->released();
            if (stop_at_ && !downtime_ms_) downtime_ms_ = ms_between(*stop_at_, event->received);
            post(machine::source::event(Event::Kind::guest_resumed));
        } else if (event->name == "JOB_STATUS_CHANGE") {
            auto const status = event->data["status"].text_or("");
            if (status != "concluded" && status != "null") job_ = event->data["id"].text_or("?");
        } else if (event->name == "MIGRATION") {
            auto const status = event->data["status"].text_or("");
            core::log::debug("guest={} qemu migration={}", guest_.name, status);
            if (stop_at_)
                timeline_.set(status + "_ms", rounded(ms_between(*stop_at_, event->received)));
            if (status == "pre-switchover")
                post(machine::source::event(Event::Kind::pre_switchover_seen));
            if (status == "completed") {
                ram_completed_at_ = event->received;
                post(machine::source::event(Event::Kind::migration_completed));
            }
            if (status == "failed" || status == "cancelled") {
                if (status == "failed" && state_.phase != Phase::rolling_back) {
                    note_failure(core::fail(Errc::qemu_refused, "QEMU's migration failed").error());
                }
                post(machine::source::event(Event::Kind::migration_failed));
            }
        }
    }
}

Task<void> SourceMigration::watch_process() {
    if (qemu_gone_) co_return;
    auto const ended = co_await core::wait_exit(loop_, guest_.process,
                                                core::Deadline::never(watchers_stop_.get_token()));
    if (!ended && ended.error().code == Errc::cancelled) co_return;
    qemu_gone_ = true;
    if (state_.phase != Phase::settling) {
        note_failure(core::fail(Errc::closed, "QEMU on the source has ended").error());
    }
    post(machine::source::event(Event::Kind::qemu_gone));
}

/// Ends the pause at its limit, which `set` may change meanwhile.
Task<void> SourceMigration::limit_pause() {
    auto const token = watchers_stop_.get_token();
    for (;;) {
        auto const left = *stop_at_ + downtime_limit() - core::Clock::now();
        if (watchdog_ && pause_is_limited()) {
            watchdog_->stopped(
                std::max(core::milliseconds(0),
                         std::chrono::ceil<core::milliseconds>(left) + limits::watchdog_margin));
        }
        downtime_limit_changed_.reset();
        auto const changed =
            co_await downtime_limit_changed_.wait(core::Deadline::after(left, token));
        if (token.stop_requested()) co_return;
        if (!changed) break;
        peer_->set_patience(limits::heartbeat_silence_paused(downtime_limit()));
    }
    realtime_.reset();
    if (pause_is_limited()) {
        note_failure(core::fail(Errc::timed_out,
                                "the guest was stopped for {} ms, which is --downtime-limit",
                                options_.downtime_limit_ms)
                         .error());
        post(machine::source::event(Event::Kind::downtime_limit_exceeded));
    }
}

/// Not when the guest runs again, when it was stopped by others, and once COMMIT is about to be
/// recorded: then the watchdog was released, too.
bool SourceMigration::pause_is_limited() const {
    bool const before_commit =
        state_.phase == Phase::converging || state_.phase == Phase::stopped ||
        (state_.phase == Phase::switching && !state_.in_flight.contains(Action::record_commit));
    return before_commit && !downtime_ms_ && !stopped_by_others_;
}

core::Deadline SourceMigration::within_pause() const {
    auto const end = stop_at_.value_or(core::Clock::now()) + downtime_limit();
    return core::Deadline(end + limits::downtime_step_margin, actions_stop_.get_token());
}

void SourceMigration::ram_not_converging() {
    auto const now = ram_.arithmetic();
    auto const slowed =
        now.cpu_throttle_percent > 0
            ? fmt::format(", its processors slowed down by {} percent,", now.cpu_throttle_percent)
            : "";
    auto const verdict =
        now.predicted_pause > ram_.budget()
            ? fmt::format(
                  "the pause would be {} ms, above the {} ms that --downtime-limit {} "
                  "plans for it",
                  now.predicted_pause.count(), ram_.budget().count(), options_.downtime_limit_ms)
            : fmt::format("{} passes are not enough within --converge-limit", now.passes);
    note_failure(
        core::fail(Errc::timed_out,
                   "RAM does not converge: the guest dirties {:.1f} MB/s{} ({:.1f} MB in the last "
                   "pass) and the link takes {:.1f} MB/s: {}; allow a longer pause, more "
                   "--bandwidth or a longer "
                   "--converge-limit ({} s), or move it when it does less (the guest runs on the "
                   "source)",
                   static_cast<double>(now.dirty_bytes_per_second) / 1e6, slowed,
                   static_cast<double>(now.dirty_bytes) / 1e6,
                   static_cast<double>(now.transfer_bytes_per_second) / 1e6, verdict,
                   options_.converge_limit_s)
            .error());
    post(machine::source::event(Event::Kind::ram_not_converging));
}

/// STOP comes from the migration, or from somebody else (an operator, an I/O error): then the guest
/// must not run at the destination either.
Task<void> SourceMigration::ask_why_stopped() {
    auto const status = co_await qmp::query_status(
        *guest_.client, core::Deadline::after(limits::qmp_timeout, watchers_stop_.get_token()));
    if (!status || status->status == "finish-migrate" || status->status == "postmigrate") co_return;
    if (state_.phase != Phase::stopped && state_.phase != Phase::converging) co_return;
    if (status->running) co_return;
    stopped_by_others_ = true;
    if (watchdog_) watchdog_->released();
    note_failure(core::fail(Errc::refused,
                            "the guest was stopped by somebody else (QEMU says {}), and stays so: "
                            "continue it, and migrate again",
                            status->status)
                     .error());
    post(machine::source::event(Event::Kind::downtime_limit_exceeded));
}

bool SourceMigration::peer_silent() const {
    return peer_lost_at_ &&
           core::Clock::now() - *peer_lost_at_ > std::chrono::seconds(options_.link_timeout_s);
}

Task<void> SourceMigration::watch_guest(core::LinkedStop& copying) {
    while (co_await core::sleep_for(loop_, limits::guest_look_interval, copying.token())) {
        if (peer_silent()) {
            link_down_ = true;
            copying.request_stop();
            break;
        }
        auto same =
            co_await check_same_guest(*guest_.client, description_,
                                      core::Deadline::after(limits::qmp_timeout, copying.token()));
        if (same) same = check_no_job();
        // A QEMU that does not answer is for others to notice.
        if (same || same.error().code != Errc::refused) continue;
        changed_ = std::move(same.error());
        copying.request_stop();
    }
}

void SourceMigration::peer_changed(bool up) {
    if (!up) {
        peer_lost_at_ = core::Clock::now();
    } else {
        peer_lost_at_.reset();
    }
    post(machine::source::event(up ? Event::Kind::peer_back : Event::Kind::peer_lost));
}

Task<void> SourceMigration::tick() {
    while (co_await core::sleep_for(loop_, tick_interval, watchers_stop_.get_token())) {
        // While disks are copied that is for watch_guest(), which keeps what was copied.
        if (peer_silent() && (state_.phase != Phase::copying || !mirror_)) {
            peer_lost_at_.reset();
            note_failure(core::fail(Errc::timed_out,
                                    "the destination was not to be reached for {} s",
                                    options_.link_timeout_s)
                             .error());
            post(machine::source::event(Event::Kind::peer_silent_too_long));
        }
        if (in_doubt_since_ && core::Clock::now() - *in_doubt_since_ > limits::doubt_patience &&
            !decided_.is_set()) {
            core::log::error(
                "guest={} migration_id={} in doubt: the destination does not answer COMMIT; the "
                "guest "
                "stays paused",
                guest_.name, migration_id_);
            decided_.set();
        }
        // The fraction as a whole: the disks are nearly everything, RAM the rest; it never goes
        // back.
        if (mirror_) fraction_ = std::max(fraction_, 0.9 * mirror_->progress().fraction);
        if (state_.phase == Phase::converging && ram_.info().ram_total_bytes > 0) {
            auto const left = static_cast<double>(ram_.info().ram_remaining_bytes) /
                              static_cast<double>(ram_.info().ram_total_bytes);
            fraction_ = std::max(fraction_, 0.9 + 0.09 * (1 - std::min(left, 1.0)));
        }
        write_copy_record();
        if (sink_) sink_(progress());
    }
}

Json SourceMigration::progress() const {
    auto line = Json::object(
        {{"phase", std::string(machine::source::name(state_.phase))},
         {"elapsed_ms", static_cast<std::int64_t>(ms_between(started_, core::Clock::now()))}});
    double const fraction = state_.outcome == machine::Outcome::moved ? 1.0 : fraction_;
    line.set("percent", static_cast<double>(static_cast<std::int64_t>(fraction * 1000)) / 10);
    if (peer_lost_at_) line.set("destination_lost", true);
    if (state_.phase == Phase::checking && base_progress_.total_bytes > 0) {
        auto const& bases = base_progress_;
        line.set("bases_total_bytes", bases.total_bytes);
        line.set("bases_done_bytes",
                 bases.before_bytes + std::min(bases.here_bytes, bases.there_bytes));
    }
    if (mirror_) {
        auto const disks = mirror_->progress();
        line.set("disks_done_bytes", disks.done_bytes).set("disks_total_bytes", disks.total_bytes);
        line.set("rate_bytes_per_second", disks.rate_bytes_per_second);
        if (disks.phase == storage::MirrorPhase::verifying) line.set("verifying", true);
        if (disks.eta) line.set("eta_ms", static_cast<std::int64_t>(disks.eta->count()));
    }
    if (ram_.info().ram_total_bytes > 0) {
        line.set("ram_transferred_bytes", ram_.info().ram_transferred_bytes);
        line.set("ram_remaining_bytes", ram_.info().ram_remaining_bytes);
    }
    if (ram_.started_at()) {
        auto const& ram = ram_.arithmetic();
        line.set("ram_dirty_bytes_per_second", ram.dirty_bytes_per_second);
        line.set("ram_transfer_bytes_per_second", ram.transfer_bytes_per_second);
        line.set("ram_predicted_downtime_ms", std::int64_t{ram.predicted_pause.count()});
        line.set("cpu_throttle_percent", ram.cpu_throttle_percent);
    }
    return line;
}

void SourceMigration::note_step(storage::ConvergenceReport const& now) {
    auto const throttle = throttle_->bytes_per_second();
    if (steps_.size() >= limits::plan_steps_max) return;
    steps_.add(Json::object({{"at_ms", rounded(ms_between(started_, core::Clock::now()))},
                             {"delta_bytes", now.delta_bytes},
                             {"dirty_bytes_per_second", now.dirty_bytes_per_second},
                             {"copy_bytes_per_second", now.rate_bytes_per_second},
                             {"predicted_downtime_ms", std::int64_t{now.predicted.count()}},
                             {"converged", now.converged},
                             {"throttle_bytes_per_second", throttle ? Json(*throttle) : Json()}}));
}

Json SourceMigration::ram_arithmetic() const {
    auto const& now = ram_.arithmetic();
    return Json::object({{"passes", now.passes},
                         {"dirty_bytes", now.dirty_bytes},
                         {"dirty_bytes_per_second", now.dirty_bytes_per_second},
                         {"transfer_bytes_per_second", now.transfer_bytes_per_second},
                         {"predicted_downtime_ms", std::int64_t{now.predicted_pause.count()}},
                         {"budget_ms", std::int64_t{ram_.budget().count()}},
                         {"cpu_throttle_percent", now.cpu_throttle_percent},
                         {"converging", now.converging}});
}

Json SourceMigration::arithmetic() const {
    if (!mirror_) return Json::object({{"ram", ram_arithmetic()}});
    auto const now = mirror_->convergence();
    auto const throttle = throttle_->bytes_per_second();
    auto plan = Json::object({{"delta_bytes", now.delta_bytes},
                              {"dirty_bytes_per_second", now.dirty_bytes_per_second},
                              {"copy_bytes_per_second", now.rate_bytes_per_second},
                              {"predicted_downtime_ms", std::int64_t{now.predicted.count()}},
                              {"hot_bytes", now.hot_bytes},
                              {"throttle_bytes_per_second", throttle ? Json(*throttle) : Json()},
                              {"steps", steps_}});
    if (ram_.started_at()) plan.set("ram", ram_arithmetic());
    auto const parts = mirror_->report();
    std::uint64_t final_bytes = 0;
    for (auto const& disk : parts.disks) final_bytes += disk.final_bytes;
    auto const final_ms = parts.final_status + parts.final_copy + parts.final_flush;
    if (downtime_ms_) {
        plan.set("became", Json::object({{"delta_bytes", final_bytes},
                                         {"disks_ms", std::int64_t{final_ms.count()}},
                                         {"downtime_ms", rounded(*downtime_ms_)}}));
    }
    return plan;
}

Json SourceMigration::status() const {
    auto now = progress();
    if (mirror_ || ram_.started_at()) now.set("convergence", arithmetic());
    if (suspended_) now.set("waiting", failure_->sentence());
    now.set("migration_id", migration_id_).set("destination", options_.destination);
    now.set("state", machine::source::describe(state_));
    now.set("may_cancel", machine::source::may_cancel(state_));
    now.set("may_resolve", machine::source::may_resolve(state_));
    return now;
}

Json SourceMigration::disks_report() const {
    if (!mirror_) return Json::array();
    Json list = Json::array();
    auto const told = mirror_->report().json().elements();
    for (std::size_t index = 0; index < told.size(); ++index) {
        Json one = told[index];
        Json bases = Json::array();
        for (auto const& base : description_.disks[index].bases) {
            bases.add(Json::object({{"path", base.path}, {"sha256", base.sha256}}));
        }
        if (bases.size() > 0) one.set("bases", bases);
        list.add(one);
    }
    return list;
}

Json SourceMigration::report() const {
    bool const doubtful = state_.phase == Phase::in_doubt || state_.phase == Phase::committed;
    auto const outcome = doubtful ? machine::Outcome::in_doubt : state_.outcome;
    auto const exit = machine::exit_status(suspended_ ? machine::Outcome::in_doubt : outcome);
    auto made =
        Json::object({{"guest", guest_.name},
                      {"migration_id", migration_id_},
                      {"destination", options_.destination},
                      {"outcome", suspended_ ? "waiting" : std::string(machine::name(outcome))},
                      {"guest_is_on", std::string(machine::name(state_.guest))},
                      {"exit_status", exit}});
    if (failure_ && state_.outcome != machine::Outcome::moved)
        made.set("error", failure_->sentence());
    if (recovered_) made.set("recovered", true);
    if (!warning_.empty()) made.set("warning", warning_);
    made.set("downtime_limit_ms", options_.downtime_limit_ms);
    if (downtime_ms_) made.set("downtime_ms", rounded(*downtime_ms_));
    if (stop_at_ && fired_at_)
        made.set("stop_to_fire_ms", rounded(ms_between(*stop_at_, *fired_at_)));
    // On the wall's clock, beside which others can lay what they saw (`sidecar probe --report`).
    made.set("started_at_ms", rounded(wall_ms(started_)));
    if (stop_at_) made.set("stopped_at_ms", rounded(wall_ms(*stop_at_)));
    if (fired_at_) made.set("fired_at_ms", rounded(wall_ms(*fired_at_)));
    if (stop_at_ && downtime_ms_)
        made.set("resumed_at_ms", rounded(wall_ms(*stop_at_) + *downtime_ms_));
    Json phases = Json::array();
    for (auto const& phase : phases_) {
        if (phase.name == "idle" || phase.name == "done") continue;
        auto const end = &phase == &phases_.back() ? core::Clock::now() : phase.end;
        phases.add(Json::object({{"name", phase.name},
                                 {"start_ms", rounded(ms_between(started_, phase.start))},
                                 {"ms", rounded(ms_between(phase.start, end))}}));
    }
    made.set("phases", phases);
    if (mirror_ || ram_.started_at()) made.set("convergence", arithmetic());
    if (mirror_) made.set("link_cuts", mirror_->report().cuts);
    if (mirror_ && mirror_->report().verify) made.set("verify", mirror_->report().verify->json());
    made.set("disks", disks_report());
    auto ram = Json::object({{"transferred_bytes", ram_.info().ram_transferred_bytes}});
    if (ram_.started_at() && ram_completed_at_)
        ram.set("ms", rounded(ms_between(*ram_.started_at(), *ram_completed_at_)));
    made.set("ram", ram);
    Json moved = Json::array();
    for (auto const& interface : description_.interfaces) {
        moved.add(interface.mac.text());
        for (auto const& address : interface.addresses) moved.add(address.address.text());
    }
    auto network = Json::object(
        {{"moved", state_.outcome == machine::Outcome::moved ? moved : Json::array()}});
    if (stop_at_ && fired_at_) network.set("fired_ms", rounded(ms_between(*stop_at_, *fired_at_)));
    if (stop_at_) network.set("frames", frames_.report());
    if (!vteps_.empty()) network.set("vteps", vteps_.report(stop_at_));
    auto const tracked = tracking_.report();
    if (!tracked.is_null()) network.set("conntrack", tracked);
    made.set("network", network);
    made.set("downtime", timeline_);
    return made;
}

}  // namespace sidecar
