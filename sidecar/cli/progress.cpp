#include "sidecar/cli/progress.hpp"

#include <algorithm>
#include <cstdio>

namespace sidecar {

using core::Json;

namespace {

constexpr int bar_cells = 24;

std::string_view explanation(std::string_view phase) {
    constexpr std::pair<std::string_view, std::string_view> words[] = {
        {"checking", "both hosts are compared; nothing is touched"},
        {"preparing", "the destination prepares disks, QEMU and network"},
        {"copying", "disks are copied while the guest runs"},
        {"converging", "RAM is copied while the guest runs"},
        {"stopped", "the guest pauses: last disk blocks, addresses move"},
        {"switching", "device state is sent"},
        {"committed", "the destination takes over"},
        {"settling", "the source quits QEMU and cleans up"},
        {"rolling_back", "everything is undone; the guest stays on the source"},
        {"in_doubt", "the destination does not answer; the guest stays paused"}};
    for (auto const& [name, text] : words) {
        if (name == phase) return text;
    }
    return "";
}

std::string duration(std::int64_t ms) {
    auto const seconds = (ms + 999) / 1000;
    if (seconds < 60) return fmt::format("{} s", seconds);
    return fmt::format("{}:{:02} min", seconds / 60, seconds % 60);
}

}  // namespace

std::string human_bytes(std::int64_t bytes) {
    constexpr char const* units[] = {"B", "KiB", "MiB", "GiB", "TiB"};
    auto value = static_cast<double>(bytes);
    std::size_t unit = 0;
    while (value >= 1024 && unit + 1 < std::size(units)) {
        value /= 1024;
        ++unit;
    }
    return unit == 0 ? fmt::format("{} B", bytes) : fmt::format("{:.1f} {}", value, units[unit]);
}

void ProgressView::show(Json const& line) {
    percent_ = std::max(percent_, line["percent"].number_or(0));
    if (style_ == ProgressStyle::none) return;
    if (style_ == ProgressStyle::json) {
        auto copy = line.clone();
        copy.set("percent", percent_);
        fmt::print("{}\n", copy.dump());
        std::fflush(stdout);
        return;
    }
    draw(line);
}

void ProgressView::draw(Json const& line) {
    auto const phase = line["phase"].text_or("");
    if (phase != phase_ && phase != "done") {
        clear();
        phase_ = phase;
        fmt::print(stderr, "{:>8.2f} s  {:<12} {}\n", line["elapsed_ms"].number_or(0) / 1000, phase,
                   explanation(phase));
    }
    auto const cells = static_cast<std::size_t>(percent_ / 100 * bar_cells);
    std::string text = fmt::format("\r[{}{}] {:5.1f} %", std::string(cells, '#'),
                                   std::string(bar_cells - cells, ' '), percent_);
    if (line.has("bases_total_bytes") && phase == "checking") {
        text += fmt::format("  comparing files: {} of {}",
                            human_bytes(line["bases_done_bytes"].integer_or(0)),
                            human_bytes(line["bases_total_bytes"].integer_or(0)));
    }
    if (line.has("files_total_bytes") && phase == "preparing") {
        text += fmt::format("  copying files: {} of {}",
                            human_bytes(line["files_done_bytes"].integer_or(0)),
                            human_bytes(line["files_total_bytes"].integer_or(0)));
    }
    if (line["destination_lost"].boolean_or(false)) {
        text += "  the destination is unreachable";
    } else if (line["verifying"].boolean_or(false) && phase == "copying") {
        text += "  verifying";
    } else if (line.has("rate_bytes_per_second") && phase == "copying") {
        text += fmt::format("  {}/s", human_bytes(line["rate_bytes_per_second"].integer_or(0)));
    } else if (line["cpu_throttle_percent"].integer_or(0) > 0 && phase == "converging") {
        text += fmt::format("  RAM: {}/s dirtied, {}/s sent, processors slowed by {} %",
                            human_bytes(line["ram_dirty_bytes_per_second"].integer_or(0)),
                            human_bytes(line["ram_transfer_bytes_per_second"].integer_or(0)),
                            line["cpu_throttle_percent"].integer_or(0));
    }
    if (line.has("eta_ms") && phase == "copying")
        text += fmt::format("  {} left", duration(line["eta_ms"].integer_or(0)));
    fmt::print(stderr, "{}\033[K", text);
    std::fflush(stderr);
    drawn_ = true;
}

void ProgressView::clear() {
    if (!drawn_) return;
    fmt::print(stderr, "\r\033[K");
    std::fflush(stderr);
    drawn_ = false;
}

}  // namespace sidecar
