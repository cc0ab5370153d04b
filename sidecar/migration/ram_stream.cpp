#include "sidecar/migration/ram_stream.hpp"

#include <sys/socket.h>

#include <algorithm>

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

// QEMU stops the guest as soon as it thinks that the rest of RAM fits its downtime-limit, and then
// uses it up: it starts low, and is raised only when the guest dirties too fast to get there.
constexpr int limit_min_ms = 10;

// While the disks are not ready. 0 would make QEMU 10.0 trust its estimate of what is dirty.
constexpr int limit_held_ms = 1;

// How often RAM's progress is looked at, and how long before the end of its first pass it is
// throttled for the last round of the disks.
constexpr std::chrono::milliseconds look_interval{20};
constexpr std::chrono::milliseconds brake_lead{120};

// RAM's rate while that round is made, as a part of its rate before; and the least, in bytes per
// second. QEMU loads RAM in its main loop, where it also serves NBD: at full rate a round takes ten
// times as long (measured: 150 to 700 ms).
constexpr double brake_divisor = 16;
constexpr std::int64_t brake_bandwidth_min = 1'000'000;

// The first pass over RAM and one more are always needed; after them this long without a stop is a
// guest that dirties faster than the limit allows.
constexpr std::uint64_t passes_needed = 3;
constexpr std::chrono::milliseconds raise_interval{1000};

constexpr char const* socket_name = "sidecar-ram";

std::vector<qmp::Capability> const ours{{"events", true},
                                        {"return-path", true},
                                        {"pause-before-switchover", true},
                                        {"late-block-activate", true}};

// What start() changes, and QEMU's defaults for it.
Json defaults() {
    return Json::object({{"max-bandwidth", std::int64_t{128} << 20},
                         {"downtime-limit", 300},
                         {"tls-creds", ""},
                         {"tls-hostname", ""}});
}

}  // namespace

int RamStream::first_limit_ms() const {
    return std::max(limit_min_ms, options_.downtime_limit_ms / 16);
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
    return Json::object({{"downtime-limit", limit_ms}, {"max-bandwidth", bandwidth}});
}

Task<Result<>> RamStream::start(RamStreamOptions options, Deadline deadline) {
    options_ = std::move(options);
    auto& client = *guest_.client;
    CO_TRY(found_, co_await qmp::query_migrate_parameters(client, deadline));
    CO_TRY(found_capabilities_, co_await qmp::query_migrate_capabilities(client, deadline));
    ram_phase_ = options_.hold ? RamPhase::free : RamPhase::released;
    bandwidth_ = options_.bandwidth;
    limit_ms_ = options_.hold ? limit_held_ms : first_limit_ms();
    CO_TRY_VOID(co_await qmp::migrate_set_capabilities(client, ours, deadline));
    auto parameters = limits_for(ram_phase_, limit_ms_);
    parameters.set("tls-creds", options_.tls_creds);
    parameters.set("tls-hostname", options_.tls_hostname);  // needed beside fd:, unused by PSK
    CO_TRY_VOID(co_await qmp::migrate_set_parameters(client, parameters, deadline));
    // Connected here and handed over: a QEMU that connects by itself cannot be cancelled while it
    // does.
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
        core::log::debug("guest={} ram remaining={} syncs={} limit_ms={}", guest_.name,
                         info_.ram_remaining_bytes, info_.ram_dirty_sync_count, limit_ms_);
        if (ram_phase_ == RamPhase::free && stop_is_near()) {
            if (disks) disks->expect_stop();
            co_await change(RamPhase::throttled, limit_ms_, stop);
        }
        if (bandwidth_ != options_.bandwidth) co_await change(ram_phase_, limit_ms_, stop);
        co_await allow_switchover(!disks || disks->settled(), stop);
    }
}

void RamStream::note_rate(qmp::MigrationInfo const& before, Clock::duration span) {
    if (before.ram_transferred_bytes == 0) return;
    double const sent =
        static_cast<double>(info_.ram_transferred_bytes - before.ram_transferred_bytes);
    double const now = sent / std::chrono::duration<double>(span).count();
    bytes_per_second_ = bytes_per_second_ > 0 ? (3 * bytes_per_second_ + now) / 4 : now;
}

/// What is left of the first pass takes less than brake_lead, or only dirtied pages are left. Pages
/// of zeroes go faster than that; but where they lie is not known.
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
        co_await change(RamPhase::released, first_limit_ms(), stop);
    } else if (ram_phase_ == RamPhase::released && waited &&
               limit_ms_ < options_.downtime_limit_ms) {
        co_await change(RamPhase::released, std::min(options_.downtime_limit_ms, limit_ms_ * 2),
                        stop);
    }
}

Task<void> RamStream::change(RamPhase ram_phase, int limit_ms, std::stop_token stop) {
    auto const set =
        co_await qmp::migrate_set_parameters(*guest_.client, limits_for(ram_phase, limit_ms),
                                             Deadline::after(limits::qmp_timeout, stop));
    if (!set) co_return;  // the next look tries again
    ram_phase_ = ram_phase;
    bandwidth_ = options_.bandwidth;
    limit_ms_ = limit_ms;
    raised_at_ = Clock::now();
}

Task<Result<>> RamStream::cancel(Deadline deadline) {
    // Whatever still connects or sends ends with the socket; QEMU's end of it is the same one.
    if (socket_) ::shutdown(socket_.get(), SHUT_RDWR);
    CO_TRY_VOID(co_await qmp::cancel_migration(*guest_.client, deadline));
    co_return Result<>{};
}

Task<void> RamStream::put_back(Deadline deadline) {
    socket_.reset();
    auto parameters = defaults();
    std::vector<qmp::Capability> capabilities;
    for (auto const& [name, on] : ours) capabilities.emplace_back(name, false);
    if (!found_.is_null()) {
        for (auto const* name : {"max-bandwidth", "downtime-limit"}) {
            if (found_.has(name)) parameters.set(name, found_[name].integer_or(0));
        }
        for (auto& [name, on] : capabilities) {
            on = std::ranges::find(found_capabilities_, qmp::Capability(name, true)) !=
                 found_capabilities_.end();
        }
    }
    auto const set = co_await qmp::migrate_set_parameters(*guest_.client, parameters, deadline);
    auto const capable =
        co_await qmp::migrate_set_capabilities(*guest_.client, capabilities, deadline);
    if (!set || !capable) {
        core::log::warning("guest={} QEMU's migration settings could not be put back: {}",
                           guest_.name, (set ? capable : set).error().sentence());
    }
}

Task<void> RamStream::refresh(Deadline deadline) {
    auto const info = co_await qmp::query_migrate(*guest_.client, deadline);
    if (info) info_ = *info;
}

}  // namespace sidecar
