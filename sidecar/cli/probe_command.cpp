#include "sidecar/cli/probe_command.hpp"

#include <cstdio>
#include <fstream>
#include <iterator>

#include "netmove/probe/echo.hpp"
#include "netmove/probe/probe.hpp"
#include "sidecar/cli/commands.hpp"

namespace sidecar {

using core::Deadline;
using core::Errc;
using core::fail;
using core::Json;
using core::Result;
using core::Task;
using netmove::ProbeMark;

namespace {

constexpr std::uint64_t ns_per_ms = 1'000'000;

Result<> write_text(std::string const& file, std::string const& text) {
    std::ofstream out(file, std::ios::binary | std::ios::trunc);
    out << text;
    out.close();
    if (!out) return fail(Errc::io, "cannot write {}", file);
    return {};
}

/// The moments of a migration, from the file that `migrate --report` wrote.
Result<std::vector<ProbeMark>> read_marks(std::string const& file) {
    if (file.empty()) return std::vector<ProbeMark>();
    std::ifstream in(file, std::ios::binary);
    std::string const text(std::istreambuf_iterator<char>(in), {});
    if (!in && text.empty()) return fail(Errc::io, "cannot read {}", file);
    TRY(auto const report, Json::parse(text));
    std::vector<ProbeMark> marks;
    for (auto const& [key, name] : {std::pair("stopped_at_ms", "STOP"),
                                    {"fired_at_ms", "fired"},
                                    {"resumed_at_ms", "RESUME"}}) {
        if (!report.has(key)) continue;
        auto const at = report[key].number_or(0) * static_cast<double>(ns_per_ms);
        if (at > 0 && at < 1e19) marks.push_back({name, static_cast<std::uint64_t>(at)});
    }
    if (marks.empty()) {
        return fail(Errc::invalid, "{} is not the report of a migration that stopped its guest",
                    file);
    }
    return marks;
}

/// Writes the requested reports. Marks are read only now, because the migration ran meanwhile. The
/// measurements are reported even if the marks cannot be read.
Result<> write_report(ProbeOptions const& options, netmove::ProbeReport const& report) {
    auto const read = read_marks(options.migration_report);
    auto const marks = read.value_or(std::vector<ProbeMark>());
    auto json = report.json();
    for (auto const& mark : marks) {
        auto list = json["marks"].is_array() ? json["marks"] : Json::array();
        list.add(Json::object(
            {{"name", mark.name}, {"at_ms", static_cast<double>(mark.at_ns / 1000) / 1000}}));
        json.set("marks", list);
    }
    if (options.json_file == "-") {
        fmt::print("{}\n", json.dump());
    } else {
        fmt::print("{}", report.text());
        if (!options.json_file.empty()) {
            TRY_VOID(write_text(options.json_file, json.dump_pretty() + "\n"));
        }
    }
    if (!options.svg_file.empty()) {
        TRY_VOID(write_text(options.svg_file, netmove::probe_svg(report, marks)));
    }
    if (!read) return std::unexpected(read.error());
    return {};
}

Task<int> echo(core::Loop& loop, ProbeOptions const& options, std::stop_token interrupted) {
    auto const made = netmove::ProbeEcho::open(loop, options.listen, options.port);
    if (!made) {
        (void)complain(made.error());
        co_return machine::exit_failed;
    }
    fmt::print(stderr, "echoing probes on port {}\n", options.port);
    co_await (*made)->run(std::move(interrupted));
    fmt::print("{} probes answered, {} datagrams ignored, {} TCP sessions\n", (*made)->answered(),
               (*made)->ignored(), (*made)->tcp_sessions());
    co_return 0;
}

}  // namespace

Task<int> probe_command(core::Loop& loop, Options options, std::stop_token interrupted) {
    auto const& chosen = options.probe;
    if (chosen.echo) co_return co_await echo(loop, chosen, std::move(interrupted));
    std::vector<netmove::Address> addresses;
    for (auto const& text : chosen.addresses) {
        auto const address = netmove::Address::parse(text);
        // Status 2: options.cpp has already checked it.
        if (!address) co_return complain(address.error());
        addresses.push_back(*address);
    }
    netmove::ProbeSettings settings;
    settings.period = chosen.period;
    settings.bytes = chosen.bytes;
    settings.port = chosen.port;
    settings.tcp = chosen.tcp;
    auto const deadline = chosen.duration ? Deadline::after(*chosen.duration, interrupted)
                                          : Deadline::never(interrupted);
    auto const report = co_await netmove::probe(loop, settings, std::move(addresses), deadline);
    if (!report) {
        (void)complain(report.error());
        co_return machine::exit_failed;
    }
    if (auto const written = write_report(chosen, *report); !written) {
        (void)complain(written.error());
        co_return machine::exit_failed;
    }
    if (report->measured()) co_return 0;
    fmt::print(stderr,
               "error: an address never answered: run `sidecar probe --echo` there, and allow port "
               "{} of UDP and TCP\n",
               settings.port);
    co_return machine::exit_failed;
}

}  // namespace sidecar
