// bench NAME [--quick] [--json] [--runs N] [--case TEXT]: runs one benchmark and prints a table, or
// one JSON object. Called by scripts/bench.
#include <fmt/format.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <string_view>

#include "core/json.hpp"
#include "tests/bench/bench.hpp"
#include "tests/support/command.hpp"

namespace {

/// More runs than anyone would wait for.
constexpr int asked_runs_max = 1000;

struct Benchmark {
    char const* name;
    bench::Result (*measure)(bench::Options const& options);
};
constexpr Benchmark benchmarks[] = {{"switchover", bench::switchover},
                                    {"bulk", bench::bulk},
                                    {"convergence", bench::convergence},
                                    {"distance", bench::distance},
                                    {"guest-impact", bench::guest_impact},
                                    {"handover", bench::handover},
                                    {"idle", bench::idle},
                                    {"tunnel", bench::tunnel},
                                    {"across", bench::across}};

double median(std::vector<double> samples) {
    if (samples.empty()) return 0;
    std::ranges::sort(samples);
    auto const middle = samples.size() / 2;
    return samples.size() % 2 ? samples[middle] : (samples[middle - 1] + samples[middle]) / 2;
}

double rounded(double value) {
    return static_cast<double>(static_cast<long>(value * 1000 + 0.5)) / 1000;
}

double ratio(bench::Row const& row) {
    double const peer = median(row.peer);
    return peer > 0 ? median(row.ours) / peer : 0;
}

core::Json as_json(std::string_view name, bench::Result const& result) {
    auto rows = core::Json::array();
    for (auto const& row : result.rows) {
        rows.add(core::Json::object({{"case", row.situation},
                                     {"metric", row.metric},
                                     {"unit", row.unit},
                                     {"ours", rounded(median(row.ours))},
                                     {"peer", rounded(median(row.peer))},
                                     {"floor", rounded(median(row.floor))},
                                     {"ratio", rounded(ratio(row))}}));
    }
    return core::Json::object({{"name", name}, {"runs", result.runs}, {"rows", rows}});
}

std::string spread(std::vector<double> const& samples) {
    if (samples.empty()) return "-";
    auto const [least, most] = std::ranges::minmax(samples);
    return fmt::format("{:.1f} ({:.0f}-{:.0f})", median(samples), least, most);
}

void print_table(std::string_view name, bench::Result const& result) {
    fmt::print("{}: medians of {} runs (least-most)\n", name, result.runs);
    fmt::print("{:<16} {:<14} {:>20} {:>20} {:>20} {:>7} {:>11}\n", "case", "metric", "ours",
               "peer", "floor", "ratio", "ours/floor");
    for (auto const& row : result.rows) {
        double const least = median(row.floor);
        fmt::print("{:<16} {:<14} {:>20} {:>20} {:>20} {:>7.2f} {:>11.2f}\n", row.situation,
                   row.metric, spread(row.ours), spread(row.peer), spread(row.floor), ratio(row),
                   least > 0 ? median(row.ours) / least : 0);
    }
}

int usage() {
    fmt::print(stderr,
               "usage: bench NAME [--quick] [--json] [--runs N] [--case TEXT]; NAME is one of:");
    for (auto const& one : benchmarks) fmt::print(stderr, " {}", one.name);
    fmt::print(stderr, "\n");
    return 2;
}

}  // namespace

int main(int argc, char** argv) {
    bench::Options options;
    bool json = false;
    Benchmark const* chosen = nullptr;
    for (int i = 1; i < argc; ++i) {
        std::string_view const word = argv[i];
        if (word == "--quick") {
            options.quick = true;
        } else if (word == "--json") {
            json = true;
        } else if (word == "--case" && i + 1 < argc) {
            options.only = argv[++i];
        } else if (word == "--runs" && i + 1 < argc) {
            options.asked_runs = std::atoi(argv[++i]);
            if (options.asked_runs < 1 || options.asked_runs > asked_runs_max) return usage();
        } else {
            auto const* found = std::ranges::find(benchmarks, word, &Benchmark::name);
            if (chosen || found == std::end(benchmarks)) return usage();
            chosen = found;
        }
    }
    if (!chosen) return usage();
    try {
        auto const result = chosen->measure(options);
        if (json) {
            fmt::print("{}\n", as_json(chosen->name, result).dump());
        } else {
            print_table(chosen->name, result);
        }
    } catch (lab::Failure const& failure) {
        fmt::print(stderr, "error: {}\n", failure.what());
        return 1;
    }
    return 0;
}
