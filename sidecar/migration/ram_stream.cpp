#include "sidecar/migration/ram_stream.hpp"

#include <sys/socket.h>

#include <algorithm>
#include <utility>

#include "core/log.hpp"
#include "core/stream.hpp"
#include "qmp/vm.hpp"
#include "sidecar/host/limits.hpp"

namespace sidecar {

using core::Clock;
using core::Deadline;
using core::Json;
using core::Result;
using core::Task;

namespace {

// QEMU's own default is 128 MiB/s, which would be the bottleneck of the last RAM pass.
constexpr std::int64_t bandwidth_max = 10'000'000'000;

// QEMU stops the guest as soon as it estimates that the rest of RAM fits its downtime-limit, and
// then uses that time in full. So the limit starts low, and is raised only if the guest dirties RAM
// too fast to reach it.
constexpr int limit_min_ms = 10;

// The limit while the disks are not ready. 0 would make QEMU 10.0 trust its own estimate
// of dirty memory.
constexpr int limit_held_ms = 1;

// The interval at which RAM's progress is checked, and how long before the end of its first pass
// RAM is throttled for the last round of the disks.
constexpr std::chrono::milliseconds look_interval{20};
constexpr std::chrono::milliseconds brake_lead{120};

// RAM's rate during that round, as a part of its earlier rate; and the minimum, in bytes per
// second. QEMU loads RAM in its main loop, where it also serves NBD: at full rate a round takes ten
// times as long (measured: 150 to 700 ms).
constexpr double brake_divisor = 16;
constexpr std::int64_t brake_bandwidth_min = 1'000'000;

// The first pass over RAM and one more are always needed. If the guest is not stopped for
// raise_interval after them, it dirties RAM faster than the limit allows.
constexpr std::uint64_t passes_needed = 3;
constexpr std::chrono::milliseconds raise_interval{1000};

// The limit follows the disks' prediction only if the two differ by more than this part of it,
// because each command to QEMU has a cost.
constexpr int limit_slack_divisor = 10;

// QEMU must know before `migrate` that it may slow processors down (capability auto-converge),
// and it then does so by its own rule. Until sidecar wants this, QEMU may take at most one
// percent, and only from a guest that dirties more than it sends. (These are the weakest values
// that QEMU accepts.)
constexpr int cpu_throttle_held_percent = 1;
constexpr int trigger_held_percent = 100;
// QEMU's own default: a step whenever a second's dirty pages exceed half of what was sent, twice.
constexpr int trigger_percent = 50;
// The first step, and the later steps: towards the computed throttle, but not all at once.
constexpr int cpu_throttle_first_percent_max = 60;
constexpr int cpu_throttle_step_percent_min = 10;
constexpr int cpu_throttle_step_percent_max = 30;

constexpr char const* socket_name = "sidecar-ram";

std::vector<qmp::Capability> capabilities_for(bool throttle) {
    return {{"events", true},
            {"return-path", true},
            {"pause-before-switchover", true},
            {"late-block-activate", true},
            {"auto-converge", throttle}};
}

// The settings that start() and watch() change.
constexpr char const* number_names[] = {"max-bandwidth",        "downtime-limit",
                                        "cpu-throttle-initial", "cpu-throttle-increment",
                                        "max-cpu-throttle",     "throttle-trigger-threshold"};
constexpr char const* text_names[] = {"tls-creds", "tls-hostname"};

/// The settings in the form that restore() takes.
Json settings_of(Json const& parameters, std::vector<qmp::Capability> const& capabilities) {
    auto found = Json::object();
    for (auto const* name : number_names) {
        if (parameters.has(name)) found.set(name, parameters[name].integer_or(0));
    }
    for (auto const* name : text_names) found.set(name, parameters[name].text_or(""));
    auto states = Json::object();
    for (auto const& [name, on] : capabilities_for(true)) {
        states.set(name, std::ranges::find(capabilities, qmp::Capability(name, true)) !=
                             capabilities.end());
    }
    return Json::object({{"parameters", found}, {"capabilities", states}});
}

}  // namespace

int RamStream::first_limit_ms() const {
    auto const budget = static_cast<int>(budget_.count());
    return std::min(budget, std::max(limit_min_ms, budget / 16));
}

void RamStream::share_pause(storage::Mirror const* disks) {
    auto const planned = limits::downtime_planned(options_.downtime_limit);
    auto const predicted = disks ? disks->convergence().predicted : core::milliseconds(0);
    budget_ = std::max(limits::downtime_ram_min(options_.downtime_limit), planned - predicted);
}

Json RamStream::limits_for(RamPhase ram_phase, int limit_ms) const {
    auto bandwidth = bandwidth_max;
    if (options_.bandwidth > 0) {
        bandwidth = std::min(bandwidth, static_cast<std::int64_t>(options_.bandwidth));
    }
    if (ram_phase == RamPhase::throttled) {
        auto const part = static_cast<std::int64_t>(bytes_per_second_ / brake_divisor);
        bandwidth = std::min(bandwidth, std::max(brake_bandwidth_min, part));
    }
    auto parameters = Json::object({{"downtime-limit", limit_ms}, {"max-bandwidth", bandwidth}});
    if (options_.throttle) add_cpu_throttle(parameters);
    return parameters;
}

void RamStream::add_cpu_throttle(Json& parameters) const {
    int first = cpu_throttle_held_percent;
    int step = cpu_throttle_held_percent;
    int most = cpu_throttle_held_percent;
    if (slowing_down_) {
        int const wanted = convergence_.wanted_throttle_percent();
        first = std::min(wanted, cpu_throttle_first_percent_max);
        step = std::clamp(wanted - info_.cpu_throttle_percent, cpu_throttle_step_percent_min,
                          cpu_throttle_step_percent_max);
        most = machine::RamConvergence::cpu_throttle_percent_max;
    }
    parameters.set("cpu-throttle-initial", first)
        .set("cpu-throttle-increment", step)
        .set("max-cpu-throttle", most)
        .set("throttle-trigger-threshold", slowing_down_ ? trigger_percent : trigger_held_percent);
}

Task<Result<>> RamStream::start(RamStreamOptions options, Deadline deadline) {
    options_ = std::move(options);
    auto& client = *guest_.client;
    CO_TRY(auto const parameters, co_await qmp::query_migrate_parameters(client, deadline));
    CO_TRY(auto const capabilities, co_await qmp::query_migrate_capabilities(client, deadline));
    auto const found = settings_of(parameters, capabilities);
    if (options_.record) CO_TRY_VOID(options_.record(found));
    found_ = found;
    share_pause(nullptr);
    ram_phase_ = options_.hold ? RamPhase::free : RamPhase::released;
    bandwidth_ = options_.bandwidth;
    limit_ms_ = options_.hold ? limit_held_ms : first_limit_ms();
    CO_TRY_VOID(co_await qmp::migrate_set_capabilities(client, capabilities_for(options_.throttle),
                                                       deadline));
    auto changed = limits_for(ram_phase_, limit_ms_);
    changed.set("tls-creds", options_.tls_creds);
    changed.set("tls-hostname", options_.tls_hostname);  // required with fd:, not used by PSK
    CO_TRY_VOID(co_await qmp::migrate_set_parameters(client, changed, deadline));
    // Connected here and passed to QEMU: a QEMU that connects by itself cannot be cancelled
    // during the connect.
    CO_TRY(socket_,
           co_await core::connect_tcp(guest_.loop, options_.host, options_.port, deadline));
    CO_TRY_VOID(co_await qmp::getfd(client, socket_name, socket_.get(), deadline));
    started_at_ = Clock::now();
    co_return co_await qmp::migrate(client, fmt::format("fd:{}", socket_name), deadline);
}

Task<void> RamStream::watch(storage::Mirror* disks, std::stop_token stop) {
    auto looked_at = Clock::now();
    while (co_await core::sleep_for(guest_.loop, look_interval, stop)) {
        auto const before = info_;
        co_await refresh(Deadline::after(limits::qmp_timeout, stop));
        auto const now = Clock::now();
        if (ram_phase_ == RamPhase::free) note_rate(before, now - looked_at);
        looked_at = now;
        core::log::debug("guest={} ram remaining={} syncs={} limit_ms={} cpu_throttle={}",
                         guest_.name, info_.ram_remaining_bytes, info_.ram_dirty_sync_count,
                         limit_ms_, info_.cpu_throttle_percent);
        share_pause(disks);
        if (ram_phase_ == RamPhase::free && stop_is_near()) {
            if (disks) disks->expect_stop();
            (void)co_await change(RamPhase::throttled, limit_ms_, stop);
        }
        if (bandwidth_ != options_.bandwidth) (void)co_await change(ram_phase_, limit_ms_, stop);
        co_await look_at_convergence(stop);
        co_await allow_switchover(!disks || disks->settled(), stop);
    }
}

Task<void> RamStream::look_at_convergence(std::stop_token stop) {
    // While the disks make their last round, RAM is throttled by us: its rate is not meaningful.
    if (info_.status != "active" || ram_phase_ == RamPhase::throttled) co_return;
    if (stop.stop_requested()) co_return;
    auto const since = std::chrono::duration_cast<core::milliseconds>(Clock::now() - *started_at_);
    machine::RamSample const sample{
        .at = since,
        .passes = info_.ram_dirty_sync_count,
        .remaining_bytes = info_.ram_remaining_bytes,
        .transferred_bytes = info_.ram_transferred_bytes,
        .dirty_bytes_per_second = info_.ram_dirty_pages_per_second * info_.ram_page_bytes,
        .cpu_throttle_percent = info_.cpu_throttle_percent};
    auto const verdict =
        convergence_.look(sample, {budget_, options_.converge_limit, options_.throttle});
    switch (verdict) {
        case machine::RamVerdict::converging:
            break;
        case machine::RamVerdict::throttle: {
            if (slowing_down_ && cpu_throttle_percent_ == info_.cpu_throttle_percent) break;
            bool const first = !std::exchange(slowing_down_, true);
            cpu_throttle_percent_ = info_.cpu_throttle_percent;
            auto const& now = arithmetic();
            core::log::info(
                "guest={} ram {} dirty_bytes_per_second={} transfer_bytes_per_second={} "
                "predicted_pause_ms={} cpu_throttle_percent={}",
                guest_.name, first ? "does not converge: the guest is slowed down" : "slower",
                now.dirty_bytes_per_second, now.transfer_bytes_per_second,
                now.predicted_pause.count(), now.cpu_throttle_percent);
            if (!co_await change(ram_phase_, limit_ms_, stop)) cpu_throttle_percent_ = -1;
            break;
        }
        case machine::RamVerdict::give_up:
            if (!std::exchange(given_up_, true) && options_.not_converging) {
                options_.not_converging();
            }
            break;
    }
}

void RamStream::note_rate(qmp::MigrationInfo const& before, Clock::duration span) {
    if (before.ram_transferred_bytes == 0) return;
    double const sent =
        static_cast<double>(info_.ram_transferred_bytes - before.ram_transferred_bytes);
    double const now = sent / std::chrono::duration<double>(span).count();
    bytes_per_second_ = bytes_per_second_ > 0 ? (3 * bytes_per_second_ + now) / 4 : now;
}

/// The rest of the first pass takes less than brake_lead, or only dirtied pages are left. Pages of
/// zeroes are sent faster, but where they are is not known.
bool RamStream::stop_is_near() const {
    if (info_.ram_dirty_sync_count >= 2) return true;
    double const lead = std::chrono::duration<double>(brake_lead).count();
    return bytes_per_second_ > 0 &&
           static_cast<double>(info_.ram_remaining_bytes) < bytes_per_second_ * lead;
}

Task<void> RamStream::allow_switchover(bool disks_ready, std::stop_token stop) {
    auto const now = Clock::now();
    if (ram_phase_ == RamPhase::free) raised_at_ = now;
    if (ram_phase_ == RamPhase::released && info_.ram_dirty_sync_count < passes_needed)
        raised_at_ = now;
    bool const waited = now - raised_at_ >= raise_interval;
    if (ram_phase_ == RamPhase::throttled && (disks_ready || waited)) {
        if (options_.before_stop) co_await options_.before_stop();
        (void)co_await change(RamPhase::released, first_limit_ms(), stop);
        co_return;
    }
    if (ram_phase_ != RamPhase::released) co_return;
    auto const budget = static_cast<int>(budget_.count());
    int const slack = std::max(1, budget / limit_slack_divisor);
    if (limit_ms_ > budget + slack) {
        (void)co_await change(RamPhase::released, budget, stop);
    } else if (waited && limit_ms_ < budget - slack) {
        (void)co_await change(RamPhase::released, std::min(budget, limit_ms_ * 2), stop);
    }
}

Task<bool> RamStream::change(RamPhase ram_phase, int limit_ms, std::stop_token stop) {
    auto const set =
        co_await qmp::migrate_set_parameters(*guest_.client, limits_for(ram_phase, limit_ms),
                                             Deadline::after(limits::qmp_timeout, stop));
    if (!set) co_return false;
    ram_phase_ = ram_phase;
    bandwidth_ = options_.bandwidth;
    limit_ms_ = limit_ms;
    raised_at_ = Clock::now();
    co_return true;
}

Task<Result<>> RamStream::cancel(Deadline deadline) {
    // The socket ends everything that still connects or sends; QEMU has the same socket.
    if (socket_) ::shutdown(socket_.get(), SHUT_RDWR);
    CO_TRY_VOID(co_await qmp::cancel_migration(*guest_.client, deadline));
    co_return Result<>{};
}

Task<Result<>> RamStream::put_back(Deadline deadline) {
    socket_.reset();
    return restore(*guest_.client, found_, std::move(deadline));
}

Task<Result<>> RamStream::restore(qmp::Client& client, Json settings, Deadline deadline) {
    if (settings.is_null()) co_return Result<>{};
    std::vector<qmp::Capability> capabilities;
    for (auto const& [name, on] : settings["capabilities"].members()) {
        capabilities.emplace_back(name, on.boolean_or(false));
    }
    auto const set = co_await qmp::migrate_set_parameters(client, settings["parameters"], deadline);
    auto const capable = co_await qmp::migrate_set_capabilities(client, capabilities, deadline);
    co_return set ? capable : set;
}

Task<void> RamStream::reset_incoming(Guest& guest, Deadline deadline) {
    auto const settings =
        Json::object({{"parameters", Json::object({{"tls-creds", ""}, {"tls-hostname", ""}})},
                      {"capabilities", Json::object({{"events", false},
                                                     {"return-path", false},
                                                     {"late-block-activate", false}})}});
    auto const reset = co_await restore(*guest.client, settings, std::move(deadline));
    if (!reset) {
        core::log::warning("guest={} QEMU's migration settings could not be restored: {}",
                           guest.name, reset.error().sentence());
    }
}

Task<void> RamStream::refresh(Deadline deadline) {
    auto const info = co_await qmp::query_migrate(*guest_.client, deadline);
    if (info) info_ = *info;
}

}  // namespace sidecar
