#include "sidecar/migration/migration_report.hpp"

#include <fmt/ranges.h>

#include <algorithm>

#include "sidecar/migration/data_port.hpp"
#include "storage/stale_image.hpp"

namespace sidecar {

using core::Errc;
using core::fail;
using core::Json;
using machine::source::Phase;

namespace {

/// Milliseconds since 1970 at a moment of the loop's clock.
double wall_ms(core::Clock::time_point at) {
    auto const now = std::chrono::system_clock::now().time_since_epoch();
    return std::chrono::duration<double, std::milli>(now).count() -
           ms_between(at, core::Clock::now());
}

}  // namespace

void MigrationReport::update_fraction() {
    if (parts_.disks.mirror())
        fraction_ = std::max(fraction_, 0.9 * parts_.disks.mirror()->progress().fraction);
    auto const& info = parts_.ram.info();
    if (parts_.state.phase == Phase::converging && info.ram_total_bytes > 0) {
        auto const left = static_cast<double>(info.ram_remaining_bytes) /
                          static_cast<double>(info.ram_total_bytes);
        fraction_ = std::max(fraction_, 0.9 + 0.09 * (1 - std::min(left, 1.0)));
    }
}

Json MigrationReport::progress(bool destination_lost) const {
    auto line = Json::object(
        {{"phase", std::string(machine::source::name(parts_.state.phase))},
         {"elapsed_ms",
          static_cast<std::int64_t>(ms_between(context_.timeline.started(), core::Clock::now()))}});
    double const fraction = parts_.state.outcome == machine::Outcome::moved ? 1.0 : fraction_;
    line.set("percent", static_cast<double>(static_cast<std::int64_t>(fraction * 1000)) / 10);
    if (destination_lost) line.set("destination_lost", true);
    auto const compared = parts_.comparison.progress();
    if (parts_.state.phase == Phase::checking && compared.total_bytes > 0) {
        line.set("bases_total_bytes", compared.total_bytes);
        line.set("bases_done_bytes", compared.done_bytes);
    }
    auto const files = parts_.files.progress();
    if (parts_.state.phase == Phase::preparing && files.total_bytes > 0) {
        line.set("files_total_bytes", files.total_bytes);
        line.set("files_done_bytes", files.done_bytes);
    }
    if (parts_.disks.mirror()) {
        auto const disks = parts_.disks.mirror()->progress();
        line.set("disks_done_bytes", disks.done_bytes).set("disks_total_bytes", disks.total_bytes);
        line.set("rate_bytes_per_second", disks.rate_bytes_per_second);
        if (disks.phase == storage::MirrorPhase::verifying) line.set("verifying", true);
        if (disks.eta) line.set("eta_ms", static_cast<std::int64_t>(disks.eta->count()));
    }
    if (parts_.ram.info().ram_total_bytes > 0) {
        line.set("ram_transferred_bytes", parts_.ram.info().ram_transferred_bytes);
        line.set("ram_remaining_bytes", parts_.ram.info().ram_remaining_bytes);
    }
    if (parts_.ram.started_at()) {
        auto const& ram = parts_.ram.arithmetic();
        line.set("ram_dirty_bytes_per_second", ram.dirty_bytes_per_second);
        line.set("ram_transfer_bytes_per_second", ram.transfer_bytes_per_second);
        line.set("ram_predicted_downtime_ms", std::int64_t{ram.predicted_pause.count()});
        line.set("cpu_throttle_percent", ram.cpu_throttle_percent);
    }
    return line;
}

Json MigrationReport::status(bool destination_lost) const {
    auto now = progress(destination_lost);
    if (parts_.disks.mirror() || parts_.ram.started_at()) now.set("convergence", convergence());
    if (parts_.state.phase == Phase::suspended) now.set("waiting", parts_.failure->sentence());
    now.set("migration_id", context_.migration_id).set("destination", context_.options.destination);
    now.set("state", machine::source::describe(parts_.state));
    now.set("may_cancel", machine::source::may_cancel(parts_.state));
    now.set("may_resolve", machine::source::may_resolve(parts_.state));
    return now;
}

Json MigrationReport::report() const {
    bool const doubtful = machine::source::commit_may_count(parts_.state);
    auto const outcome = doubtful ? machine::Outcome::in_doubt : parts_.state.outcome;
    auto const guest = doubtful ? machine::Guest::unknown : parts_.state.guest;
    int const exit = machine::exit_status(outcome);
    auto made = Json::object({{"guest", context_.guest.name},
                              {"migration_id", context_.migration_id},
                              {"destination", context_.options.destination},
                              {"outcome", std::string(machine::name(outcome))},
                              {"guest_is_on", std::string(machine::name(guest))},
                              {"exit_status", exit}});
    if (parts_.failure && parts_.state.outcome != machine::Outcome::moved)
        made.set("error", parts_.failure->sentence());
    if (parts_.recovered) made.set("recovered", true);
    if (auto const lines = warnings(); !lines.empty()) {
        auto list = Json::array();
        for (auto const& line : lines) list.add(line);
        made.set("warnings", list).set("warning", fmt::format("{}", fmt::join(lines, "; ")));
    }
    add_moments(made);
    made.set("phases", phases());
    if (parts_.disks.mirror() || parts_.ram.started_at()) made.set("convergence", convergence());
    if (parts_.disks.mirror()) made.set("link_cuts", parts_.disks.mirror()->report().cuts);
    if (parts_.disks.mirror() && parts_.disks.mirror()->report().verify)
        made.set("verify", parts_.disks.mirror()->report().verify->json());
    made.set("run_state", std::string(name(context_.description.state)));
    made.set("disks", disks());
    if (!context_.description.shared.empty()) made.set("shared_disks", shared_disks());
    if (auto files = parts_.files.report(); files.size() > 0) made.set("files", files);
    made.set("ram", ram());
    made.set("network", parts_.network.report(parts_.state.outcome == machine::Outcome::moved));
    if (auto dns = parts_.dns.report(); !dns.is_null()) made.set("dns", dns);
    made.set("downtime", context_.timeline.downtime_parts());
    return made;
}

/// The downtime, and moments by the wall clock, so that they can be compared with other
/// measurements (`sidecar probe --report`).
void MigrationReport::add_moments(Json& report) const {
    auto const stop_at = context_.timeline.stop_at();
    auto const downtime_ms = context_.timeline.downtime_ms();
    auto const fired_at = parts_.network.moved_at();
    report.set("downtime_limit_ms", context_.options.downtime_limit_ms);
    if (downtime_ms) report.set("downtime_ms", rounded(*downtime_ms));
    if (stop_at && fired_at)
        report.set("stop_to_fire_ms", rounded(ms_between(*stop_at, *fired_at)));
    report.set("started_at_ms", rounded(wall_ms(context_.timeline.started())));
    if (stop_at) report.set("stopped_at_ms", rounded(wall_ms(*stop_at)));
    if (fired_at) report.set("fired_at_ms", rounded(wall_ms(*fired_at)));
    if (stop_at && downtime_ms)
        report.set("resumed_at_ms", rounded(wall_ms(*stop_at) + *downtime_ms));
}

Json MigrationReport::phases() const {
    auto const& all = context_.timeline.phases();
    auto const started = context_.timeline.started();
    Json list = Json::array();
    for (auto const& phase : all) {
        if (phase.name == "idle" || phase.name == "done") continue;
        auto const end = &phase == &all.back() ? core::Clock::now() : phase.end;
        list.add(Json::object({{"name", phase.name},
                               {"start_ms", rounded(ms_between(started, phase.start))},
                               {"ms", rounded(ms_between(phase.start, end))}}));
    }
    return list;
}

Json MigrationReport::ram() const {
    auto const completed_at = context_.timeline.ram_completed_at();
    auto report = Json::object({{"transferred_bytes", parts_.ram.info().ram_transferred_bytes}});
    if (parts_.ram.started_at() && completed_at)
        report.set("ms", rounded(ms_between(*parts_.ram.started_at(), *completed_at)));
    return report;
}

Json MigrationReport::convergence() const {
    if (!parts_.disks.mirror()) return Json::object({{"ram", ram_convergence()}});
    auto const now = parts_.disks.mirror()->convergence();
    auto const throttle = parts_.disks.throttle();
    auto plan = Json::object({{"delta_bytes", now.delta_bytes},
                              {"dirty_bytes_per_second", now.dirty_bytes_per_second},
                              {"copy_bytes_per_second", now.rate_bytes_per_second},
                              {"predicted_downtime_ms", std::int64_t{now.predicted.count()}},
                              {"hot_bytes", now.hot_bytes},
                              {"throttle_bytes_per_second", throttle ? Json(*throttle) : Json()},
                              {"steps", context_.timeline.steps()}});
    if (parts_.ram.started_at()) plan.set("ram", ram_convergence());
    auto const parts = parts_.disks.mirror()->report();
    std::uint64_t final_bytes = 0;
    for (auto const& disk : parts.disks) final_bytes += disk.final_bytes;
    auto const final_ms = parts.final_status + parts.final_copy + parts.final_flush;
    if (auto const downtime_ms = context_.timeline.downtime_ms()) {
        plan.set("became", Json::object({{"delta_bytes", final_bytes},
                                         {"disks_ms", std::int64_t{final_ms.count()}},
                                         {"downtime_ms", rounded(*downtime_ms)}}));
    }
    return plan;
}

Json MigrationReport::ram_convergence() const {
    auto const& now = parts_.ram.arithmetic();
    return Json::object({{"passes", now.passes},
                         {"dirty_bytes", now.dirty_bytes},
                         {"dirty_bytes_per_second", now.dirty_bytes_per_second},
                         {"transfer_bytes_per_second", now.transfer_bytes_per_second},
                         {"predicted_downtime_ms", std::int64_t{now.predicted_pause.count()}},
                         {"budget_ms", std::int64_t{parts_.ram.budget().count()}},
                         {"cpu_throttle_percent", now.cpu_throttle_percent},
                         {"converging", now.converging}});
}

Json MigrationReport::disks() const {
    if (!parts_.disks.mirror()) return Json::array();
    Json list = Json::array();
    auto const told = parts_.disks.mirror()->report().json().elements();
    for (std::size_t index = 0; index < told.size(); ++index) {
        Json one = told[index];
        Json bases = Json::array();
        for (auto const& base : context_.description.disks[index].bases) {
            bases.add(Json::object({{"path", base.path}, {"sha256", base.sha256}}));
        }
        if (bases.size() > 0) one.set("bases", bases);
        auto const& target = context_.description.disks[index].target;
        if (!target.empty()) one.set("target", target);
        list.add(one);
    }
    return list;
}

/// Those that stay on storage that both hosts see.
Json MigrationReport::shared_disks() const {
    Json list = Json::array();
    for (auto const& disk : context_.description.shared) {
        list.add(Json::object({{"name", disk.name}, {"path", disk.path}}));
    }
    return list;
}

/// One line for each problem that does not change the outcome.
std::vector<std::string> MigrationReport::warnings() const {
    using machine::source::Action;
    std::vector<std::string> lines;
    if (!parts_.check_warning.empty()) lines.push_back(parts_.check_warning);
    auto const why = [this](Action action) {
        auto const found = parts_.failures.last_error.find(action);
        return found == parts_.failures.last_error.end() ? std::string("the reason is unknown")
                                                         : found->second;
    };
    // The machine repeats an action until it ends ok, or gives it up.
    auto const left = [this](Action action) {
        auto const found = parts_.failures.in_a_row.find(action);
        return parts_.state.phase == Phase::done && found != parts_.failures.in_a_row.end() &&
               found->second > 0;
    };
    if (left(Action::tombstone_disks)) {
        std::vector<std::string> names;
        for (auto const& path : context_.image_paths())
            names.push_back(storage::stale_name(path, context_.migration_id));
        lines.push_back(
            fmt::format("the stale images could not be marked as moved ({}); do not start them: {}",
                        why(Action::tombstone_disks), fmt::join(names, ", ")));
    }
    if (left(Action::settle_network)) {
        lines.push_back(fmt::format("the network of the source is not cleaned up: {}",
                                    why(Action::settle_network)));
    }
    if (auto line = parts_.dns.warning(); !line.empty()) lines.push_back(std::move(line));
    if (left(Action::quit_source)) {
        lines.push_back(
            fmt::format("QEMU on the source (pid {}) could not be ended; end it, and never "
                        "continue its guest: {}",
                        context_.guest.process.pid(), why(Action::quit_source)));
    }
    if (left(Action::record_end)) {
        lines.push_back(
            fmt::format("the journal on the source does not record the end of the migration; "
                        "`sidecar attach {}` there records it: {}",
                        context_.guest.name, why(Action::record_end)));
    }
    return lines;
}

core::Error MigrationReport::ram_not_converging() const {
    auto const now = parts_.ram.arithmetic();
    auto const slowed =
        now.cpu_throttle_percent > 0
            ? fmt::format(", its processors slowed down by {} percent,", now.cpu_throttle_percent)
            : "";
    auto const verdict =
        now.predicted_pause > parts_.ram.budget()
            ? fmt::format(
                  "the pause would be {} ms, above the {} ms that --downtime-limit {} "
                  "plans for it",
                  now.predicted_pause.count(), parts_.ram.budget().count(),
                  context_.options.downtime_limit_ms)
            : fmt::format("{} passes are not enough within --converge-limit", now.passes);
    return fail(
               Errc::timed_out,
               "RAM does not converge: the guest dirties {:.1f} MB/s{} ({:.1f} MB in the last "
               "pass) and the link takes {:.1f} MB/s: {}; allow a longer pause, more "
               "--bandwidth or a longer "
               "--converge-limit ({} s), or migrate it when it is less busy (the guest runs on the "
               "source)",
               static_cast<double>(now.dirty_bytes_per_second) / 1e6, slowed,
               static_cast<double>(now.dirty_bytes) / 1e6,
               static_cast<double>(now.transfer_bytes_per_second) / 1e6, verdict,
               context_.options.converge_limit_s)
        .error();
}

core::Error MigrationReport::suspended() const {
    return fail(Errc::timed_out,
                "{} was unreachable for {} s: the copy is suspended and kept for {} minutes; "
                "`sidecar "
                "migrate --resume {}` continues it, `sidecar cancel {}` undoes it (the guest runs "
                "on the "
                "source)",
                context_.options.destination, context_.options.link_timeout_s,
                limits::suspended_patience.count() / 60, context_.guest.name, context_.guest.name)
        .error();
}

namespace {

std::string place_of(netmove::GuestInterface const& interface) {
    if (interface.routed) return "routed";
    return "on bridge " + (interface.bridge.empty() ? "(none)" : interface.bridge);
}

}  // namespace

Json MigrationReport::checked() const {
    Json lines = Json::array();
    lines.add(fmt::format("guest {}: QEMU {}, machine {}, {} MiB of RAM, can be migrated",
                          context_.guest.name, context_.description.qemu_version,
                          context_.description.machine_type, context_.description.ram_bytes >> 20));
    if (auto const state = context_.description.state; state != GuestState::running) {
        lines.add(
            fmt::format("guest {}: does not run (QEMU says {}), and will not at the "
                        "destination",
                        context_.guest.name, name(state)));
    }
    for (auto const& disk : context_.description.disks) {
        lines.add(fmt::format("disk {}: {} of {} MiB, {} MiB in use, fits {}", disk.name,
                              disk.format, disk.virtual_bytes >> 20, disk.allocated_bytes >> 20,
                              disk.target.empty() ? "at the destination" : "on " + disk.target));
    }
    for (auto const& disk : context_.description.shared) {
        lines.add(fmt::format("disk {}: {} is on storage that both hosts see, and stays there",
                              disk.name, disk.path));
    }
    for (auto const& disk : context_.description.disks) {
        for (auto const& base : disk.bases) {
            lines.add(
                fmt::format("base {} of disk {}: the same file at the destination, "
                            "SHA-256 {}",
                            base.path, disk.name, base.sha256));
        }
    }
    if (auto const& tpm = context_.description.tpm) {
        lines.add(fmt::format("TPM {}: swtpm runs at the destination; its state moves with the RAM",
                              name(tpm->version)));
    }
    for (auto const& file : context_.description.files) {
        if (file.copied) {
            lines.add(fmt::format("{}: {} is missing at the destination, and is copied: {} MiB",
                                  file.what, file.path, file.bytes >> 20));
        } else if (file.kind == GuestFile::Kind::image) {
            lines.add(fmt::format("{}: {} is the same at the destination", file.what, file.path));
        }
    }
    for (auto const& interface : context_.description.interfaces) {
        lines.add(fmt::format("interface {}: tap {} {}, {} addresses known", interface.mac.text(),
                              interface.tap, place_of(interface), interface.addresses.size()));
        lines.add(fmt::format("interface {}: {}", interface.mac.text(),
                              parts_.network.choice(interface)));
    }
    for (auto const& line : parts_.network.vtep_lines()) lines.add(line);
    for (auto const& line : parts_.dns.lines()) lines.add(line);
    auto const data_port = data_port_line(parts_.data_port, context_.options.destination);
    if (!data_port.empty()) lines.add(data_port);
    if (!parts_.check_warning.empty()) lines.add("warning: " + parts_.check_warning);
    lines.add(
        fmt::format("destination {}: reached, authenticated, ready", context_.options.destination));
    return lines;
}

}  // namespace sidecar
