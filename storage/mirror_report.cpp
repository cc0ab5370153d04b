#include <algorithm>

#include "storage/limits.hpp"
#include "storage/mirror_implementation.hpp"

namespace storage {

using core::Clock;
using core::Json;

namespace {

// Samples kept over limits::rate_window; more often asked, fewer are kept.
constexpr std::size_t samples_max = 32;

core::milliseconds in_ms(Clock::duration span) {
    return std::chrono::ceil<core::milliseconds>(span);
}

std::uint64_t per_second(std::uint64_t bytes, Clock::duration span) {
    double const seconds = std::chrono::duration<double>(span).count();
    return seconds <= 0 ? 0 : static_cast<std::uint64_t>(static_cast<double>(bytes) / seconds);
}

}  // namespace

std::string_view name(MirrorPhase phase) {
    switch (phase) {
        case MirrorPhase::idle:
            return "idle";
        case MirrorPhase::preparing:
            return "preparing";
        case MirrorPhase::bulk:
            return "bulk";
        case MirrorPhase::rounds:
            return "rounds";
        case MirrorPhase::near:
            return "near";
        case MirrorPhase::final_delta:
            return "final delta";
        case MirrorPhase::copied:
            return "copied";
        case MirrorPhase::dropped:
            return "dropped";
    }
    return "?";
}

Progress Mirror::Implementation::progress() {
    auto const now = Clock::now();
    auto const sum = counters();
    std::uint64_t total = 0;
    for (auto const& one : disks) total += one->report.virtual_bytes + one->dirty_bytes_total;
    told.phase = phase;
    told.total_bytes = std::max(told.total_bytes, total);
    told.done_bytes =
        std::min(std::max(told.done_bytes, sum.data_bytes + sum.zero_bytes), told.total_bytes);
    // A round that was interrupted is not made up for: its rest was in the last delta.
    if (complete) told.done_bytes = told.total_bytes;
    told.copied_bytes = sum.data_bytes;
    if (told.total_bytes > 0) {
        double const fraction =
            static_cast<double>(told.done_bytes) / static_cast<double>(told.total_bytes);
        told.fraction = std::max(told.fraction, fraction);
    }
    while (samples.size() > 1 &&
           (now - samples.front().at > limits::rate_window || samples.size() > samples_max)) {
        samples.pop_front();
    }
    samples.push_back({now, told.done_bytes, told.copied_bytes});
    auto const span = now - samples.front().at;
    told.rate_bytes_per_second = per_second(told.copied_bytes - samples.front().copied_bytes, span);
    std::optional<core::milliseconds> eta;
    std::uint64_t const speed = per_second(told.done_bytes - samples.front().done_bytes, span);
    if (phase == MirrorPhase::bulk && speed > 0) {
        eta = core::milliseconds((told.total_bytes - told.done_bytes) * 1000 / speed);
    } else if (phase == MirrorPhase::rounds && !told.eta) {
        eta = nearness.predicted;
    } else if (phase >= MirrorPhase::near) {
        eta = core::milliseconds(0);
    }
    if (eta) told.eta = told.eta ? std::min(*told.eta, *eta) : *eta;
    return told;
}

MirrorReport Mirror::report() const {
    MirrorReport report;
    for (auto const& one : implementation_->disks) report.disks.push_back(one->report);
    report.cleared = implementation_->cleared;
    report.cuts = implementation_->cuts;
    report.final_status = in_ms(implementation_->final_status);
    report.final_copy = in_ms(implementation_->final_copy);
    report.final_flush = in_ms(implementation_->final_flush);
    report.in_flight_bytes_peak = implementation_->buffers.bytes_taken_max();
    return report;
}

Json MirrorReport::json() const {
    auto list = Json::array();
    for (auto const& disk : disks) {
        auto passes = Json::array();
        for (auto const& round : disk.rounds) {
            passes.add(Json::object({{"dirty_bytes", round.dirty_bytes},
                                     {"copied_bytes", round.copied_bytes},
                                     {"ms", round.took.count()}}));
        }
        list.add(Json::object({{"name", disk.name},
                               {"virtual_bytes", disk.virtual_bytes},
                               {"copied_bytes", disk.copied_bytes},
                               {"rounds", passes},
                               {"final_bytes", disk.final_bytes},
                               {"resumed_at_bytes", disk.resumed_at_bytes}}));
    }
    return list;
}

}  // namespace storage
