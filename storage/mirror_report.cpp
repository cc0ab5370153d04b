#include <algorithm>

#include "storage/limits.hpp"
#include "storage/mirror_implementation.hpp"

namespace storage {

using core::Clock;
using core::Json;

namespace {

// Samples kept over limits::rate_window; more often asked, fewer are kept.
constexpr std::size_t samples_max = 32;

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
        case MirrorPhase::verifying:
            return "verifying";
        case MirrorPhase::converged:
            return "converged";
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
    for (auto const& one : disks) {
        total += one->report.virtual_bytes * (verifies() ? 2 : 1) + one->dirty_bytes_total;
    }
    auto const now_in = told_phase();
    told.phase = now_in;
    told.total_bytes = std::max(told.total_bytes, total);
    told.done_bytes = std::min(
        std::max(told.done_bytes, sum.data_bytes + sum.zero_bytes + verification.verified_bytes),
        told.total_bytes);
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
    if ((now_in == MirrorPhase::bulk || verify_owed()) && speed > 0) {
        eta = core::milliseconds((told.total_bytes - told.done_bytes) * 1000 / speed);
    } else if (now_in == MirrorPhase::rounds && !told.eta && !verify_owed()) {
        eta = convergence.predicted;
    } else if (now_in >= MirrorPhase::converged) {
        eta = core::milliseconds(0);
    }
    if (eta) told.eta = told.eta ? std::min(*told.eta, *eta) : *eta;
    return told;
}

MirrorReport Mirror::report() const {
    MirrorReport report;
    for (auto const& one : implementation_->disks) {
        report.disks.push_back(one->report);
        // Also in the middle of a pass, for a copy that is suspended or cancelled.
        report.disks.back().copied_bytes = one->counters.data_bytes;
    }
    report.cleared = implementation_->cleared;
    report.cuts = implementation_->cuts;
    report.final_status = in_ms(implementation_->final_status);
    report.final_copy = in_ms(implementation_->final_copy);
    report.final_flush = in_ms(implementation_->final_flush);
    report.in_flight_bytes_peak = implementation_->buffers.bytes_taken_max();
    auto const& verification = implementation_->verification;
    if (implementation_->verifies()) {
        report.verify.emplace();
        report.verify->identical = verification.identical;
        for (auto const& disk : report.disks) report.verify->bytes += disk.virtual_bytes;
        report.verify->hash = verification.hash;
        report.verify->full = in_ms(verification.whole_took);
        report.verify->final_ms =
            std::chrono::duration<double, std::milli>(verification.final_took).count();
        if (verification.difference && !verification.identical) {
            report.verify->difference = verification.difference->disk;
            report.verify->difference_offset = verification.difference->offset;
        }
    }
    return report;
}

Json VerifyReport::json() const {
    auto made = Json::object({{"identical", identical}, {"bytes", bytes}});
    if (!hash.empty()) made.set("hash", hash);
    made.set("full_ms", static_cast<std::int64_t>(full.count())).set("final_ms", final_ms);
    if (!difference.empty()) {
        made.set("differs", Json::object({{"disk", difference}, {"offset", difference_offset}}));
    }
    return made;
}

Json MirrorReport::json() const {
    auto list = Json::array();
    for (auto const& disk : disks) {
        auto passes = Json::array();
        for (auto const& round : disk.rounds) {
            passes.add(Json::object({{"dirty_bytes", round.dirty_bytes},
                                     {"copied_bytes", round.copied_bytes},
                                     {"left_out_bytes", round.left_out_bytes},
                                     {"ms", round.took.count()}}));
        }
        auto one = Json::object({{"name", disk.name},
                                 {"virtual_bytes", disk.virtual_bytes},
                                 {"copied_bytes", disk.copied_bytes},
                                 {"rounds", passes},
                                 {"final_bytes", disk.final_bytes},
                                 {"resumed_at_bytes", disk.resumed_at_bytes}});
        if (!disk.hash.empty()) one.set("hash", disk.hash);
        if (disk.has_base) one.set("base_bytes", disk.base_bytes);
        list.add(one);
    }
    return list;
}

}  // namespace storage
