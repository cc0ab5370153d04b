#include "sidecar/migration/throttle.hpp"

#include <algorithm>

#include "core/log.hpp"
#include "sidecar/host/limits.hpp"

namespace sidecar {

using core::Clock;
using core::Deadline;
using core::Errc;
using core::Json;
using core::Result;
using core::Task;

Json with_write_limit(Json const& found, std::uint64_t bytes_per_second) {
    // QEMU does not accept a limit for all I/O together with one for writes.
    std::string const key = found["bps"].integer_or(0) > 0 ? "bps" : "bps_wr";
    auto const limit = static_cast<std::int64_t>(bytes_per_second);
    auto const theirs = found[key].integer_or(0);
    auto limits = Json::object();
    for (auto const& [name, value] : found.members()) {
        bool const burst = name == key + "_max" || name == key + "_max_length";
        if (!burst || (theirs > 0 && theirs <= limit)) limits.set(name, value);
    }
    return limits.set(key, theirs > 0 ? std::min(theirs, limit) : limit);
}

Throttle::Throttle(qmp::Client& client, std::vector<std::string> nodes, Recorder recorder)
    : client_(client), nodes_(std::move(nodes)), recorder_(std::move(recorder)) {}

Task<Result<>> Throttle::learn(Deadline deadline) {
    CO_TRY(auto const devices, co_await qmp::query_block(client_, deadline));
    for (auto const& device : devices) {
        bool const ours = std::ranges::find(nodes_, device.node_name) != nodes_.end();
        if (ours && !device.qdev.empty()) disks_[device.qdev].found = device.limits;
    }
    co_return Result<>{};
}

Task<Result<>> Throttle::measure(Deadline deadline) {
    if (disks_.empty()) CO_TRY_VOID(co_await learn(deadline));
    CO_TRY(auto const stats, co_await qmp::query_blockstats(client_, deadline));
    for (auto const& one : stats) {
        auto const disk = disks_.find(one.qdev);
        if (disk != disks_.end()) disk->second.written_bytes = one.written_bytes;
    }
    measured_at_ = Clock::now();
    co_return Result<>{};
}

std::uint64_t Throttle::slower(Disk& disk, double written_per_second) {
    if (disk.floor == 0) {
        auto const part = written_per_second * limits::throttle_floor_percent / 100;
        disk.floor =
            std::max(static_cast<std::uint64_t>(part), limits::throttle_bytes_per_second_min);
    }
    double const now = disk.limit > 0 ? static_cast<double>(disk.limit) : written_per_second;
    auto const next = static_cast<std::uint64_t>(now * (100 - limits::throttle_step_percent) / 100);
    // A disk that writes less than the floor is not the reason why the delta does not shrink.
    if (next < disk.floor && disk.limit == 0) return 0;
    return std::max(next, disk.floor);
}

Task<Result<bool>> Throttle::step(Deadline deadline) {
    double const seconds = std::chrono::duration<double>(Clock::now() - measured_at_).count();
    auto before = disks_;
    CO_TRY_VOID(co_await measure(deadline));
    if (!recorded_) CO_TRY_VOID(recorder_(record()));
    recorded_ = true;
    bool slowed = false;
    for (auto& [qdev, disk] : disks_) {
        auto const written = disk.written_bytes - before[qdev].written_bytes;
        auto const limit = slower(disk, static_cast<double>(written) / std::max(seconds, 1e-3));
        if (limit == disk.limit) continue;
        // Counts as set from here on, even if the command fails.
        disk.limit = limit;
        auto const set = co_await qmp::block_set_io_throttle(
            client_, qdev, with_write_limit(disk.found, limit), deadline);
        if (!set) co_return std::unexpected(set.error());
        core::log::info("throttle disk={} bytes_per_second={}", qdev, limit);
        slowed = true;
    }
    co_return slowed;
}

std::optional<std::uint64_t> Throttle::bytes_per_second() const {
    std::uint64_t sum = 0;
    for (auto const& [qdev, disk] : disks_) sum += disk.limit;
    return sum > 0 ? std::optional(sum) : std::nullopt;
}

Json Throttle::record() const {
    auto list = Json::array();
    for (auto const& [qdev, disk] : disks_) {
        list.add(Json::object({{"qdev", qdev}, {"limits", disk.found}}));
    }
    return list;
}

Task<Result<>> Throttle::remove(Deadline deadline) {
    if (!bytes_per_second()) co_return Result<>{};
    CO_TRY_VOID(co_await put_back(client_, record(), deadline));
    for (auto& [qdev, disk] : disks_) disk.limit = 0;
    co_return Result<>{};
}

Task<Result<>> Throttle::put_back(qmp::Client& client, Json record, Deadline deadline) {
    for (auto const& one : record.elements()) {
        auto const qdev = one["qdev"].text_or("");
        auto const set = co_await qmp::block_set_io_throttle(client, qdev, one["limits"], deadline);
        // Refused: the device was removed meanwhile, and its limits with it.
        if (!set && set.error().code != Errc::qemu_refused) co_return set;
        if (!set) core::log::warning("throttle disk={} {}", qdev, set.error().sentence());
        if (set) core::log::info("throttle disk={} removed", qdev);
    }
    co_return Result<>{};
}

}  // namespace sidecar
