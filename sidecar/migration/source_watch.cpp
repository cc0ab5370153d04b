// What the source's driver watches while a migration is under way (QEMU's process, the guest's
// devices, the peer, time), and its reports. QEMU's monitor is watched in source_monitor.cpp.
#include <fmt/ranges.h>

#include <algorithm>

#include "core/log.hpp"
#include "qmp/vm.hpp"
#include "sidecar/guest/guest_drift.hpp"
#include "sidecar/migration/source_migration.hpp"
#include "storage/stale_image.hpp"

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

Task<void> SourceMigration::watch_process() {
    if (qemu_gone_) co_return;
    auto const ended = co_await core::wait_exit(loop_, guest_.process,
                                                core::Deadline::never(watchers_stop_.get_token()));
    if (!ended && ended.error().code == Errc::cancelled) co_return;
    qemu_gone_ = true;
    if (guest_.client) guest_.client->expect_reconnect(false);
    if (state_.phase != Phase::settling) {
        note_failure(core::fail(Errc::closed, "QEMU on the source has ended").error());
    }
    post(machine::source::event(Event::Kind::qemu_gone));
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

bool SourceMigration::peer_silent() const {
    return peer_lost_at_ &&
           core::Clock::now() - *peer_lost_at_ > std::chrono::seconds(options_.link_timeout_s);
}

Task<void> SourceMigration::watch_guest(core::LinkedStop& copying) {
    while (co_await core::sleep_for(loop_, limits::guest_look_interval, copying.token())) {
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
    peer_lost_at_ = up ? std::nullopt : std::optional(core::Clock::now());
    silence_told_ = false;
    post(machine::source::event(up ? Event::Kind::peer_back : Event::Kind::peer_lost));
}

Task<void> SourceMigration::tick() {
    while (co_await core::sleep_for(loop_, tick_interval, watchers_stop_.get_token())) {
        if (peer_silent() && !std::exchange(silence_told_, true)) {
            // A copy is suspended: enter() says so.
            if (state_.phase != Phase::copying) {
                note_failure(core::fail(Errc::timed_out, "the destination was unreachable for {} s",
                                        options_.link_timeout_s)
                                 .error());
            }
            post(machine::source::event(Event::Kind::peer_silent_too_long));
        }
        tell_of_a_long_rollback();
        if (in_doubt_since_ && machine::source::commit_may_count(state_) &&
            core::Clock::now() - *in_doubt_since_ > limits::doubt_patience && !decided_.is_set()) {
            core::log::error(
                "guest={} migration_id={} in doubt: COMMIT is neither answered nor void; the guest "
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
    auto const bases = bases_.progress();
    if (state_.phase == Phase::checking && bases.total_bytes > 0) {
        line.set("bases_total_bytes", bases.total_bytes);
        line.set("bases_done_bytes", bases.done_bytes);
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
    if (state_.phase == Phase::suspended) now.set("waiting", failure_->sentence());
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

/// One line for each thing that is not as it should be although the outcome stands.
std::vector<std::string> SourceMigration::warnings() const {
    using machine::source::Action;
    std::vector<std::string> lines;
    if (!warning_.empty()) lines.push_back(warning_);
    auto const why = [this](Action action) {
        auto const found = last_errors_.find(action);
        return found == last_errors_.end() ? std::string("no reason is known") : found->second;
    };
    // The machine repeats an action until it ends ok, or gives it up.
    auto const left = [this](Action action) {
        auto const found = failures_in_a_row_.find(action);
        return state_.phase == Phase::done && found != failures_in_a_row_.end() &&
               found->second > 0;
    };
    if (left(Action::tombstone_disks)) {
        std::vector<std::string> names;
        for (auto const& path : image_paths())
            names.push_back(storage::stale_name(path, migration_id_));
        lines.push_back(
            fmt::format("the stale images could not be marked as moved ({}); do not start them: {}",
                        why(Action::tombstone_disks), fmt::join(names, ", ")));
    }
    if (left(Action::settle_network)) {
        lines.push_back(fmt::format("the network of the source is not tidied up: {}",
                                    why(Action::settle_network)));
    }
    if (left(Action::quit_source)) {
        lines.push_back(
            fmt::format("QEMU on the source (pid {}) could not be ended, end it and never "
                        "continue its guest: {}",
                        guest_.process.pid(), why(Action::quit_source)));
    }
    if (left(Action::record_end)) {
        lines.push_back(
            fmt::format("the journal on the source does not say that the migration is "
                        "over, `sidecar attach {}` there records it: {}",
                        guest_.name, why(Action::record_end)));
    }
    return lines;
}

Json SourceMigration::report() const {
    bool const doubtful = machine::source::commit_may_count(state_);
    auto const outcome = doubtful ? machine::Outcome::in_doubt : state_.outcome;
    auto const guest = doubtful ? machine::Guest::unknown : state_.guest;
    int const exit = machine::exit_status(outcome);
    auto made = Json::object({{"guest", guest_.name},
                              {"migration_id", migration_id_},
                              {"destination", options_.destination},
                              {"outcome", std::string(machine::name(outcome))},
                              {"guest_is_on", std::string(machine::name(guest))},
                              {"exit_status", exit}});
    if (failure_ && state_.outcome != machine::Outcome::moved)
        made.set("error", failure_->sentence());
    if (recovered_) made.set("recovered", true);
    if (auto const lines = warnings(); !lines.empty()) {
        auto list = Json::array();
        for (auto const& line : lines) list.add(line);
        made.set("warnings", list).set("warning", fmt::format("{}", fmt::join(lines, "; ")));
    }
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
