#include "sidecar/cli/probe_options.hpp"

#include <CLI/CLI.hpp>

#include "netmove/address.hpp"
#include "netmove/probe/account.hpp"

namespace sidecar {

using core::Errc;
using core::fail;
using core::Result;

namespace {

// No program sends more than a hundred thousand single packets a second; less than one in ten
// seconds measures nothing.
constexpr double probe_period_least_ms = 0.01;
constexpr double probe_period_most_ms = 10000;

}  // namespace

void ProbeFlags::add_to(CLI::App& probe) {
    auto& chosen = options_;
    probe.add_option("ADDRESS", chosen.addresses, "IPv4 or IPv6; one or more");
    probe
        .add_option("--period", period_ms_,
                    "Milliseconds from one probe to the next, 0.01 to 10000")
        ->check(CLI::Range(probe_period_least_ms, probe_period_most_ms))
        ->capture_default_str();
    probe.add_option("--size", chosen.bytes, "Bytes of a probe's UDP payload")
        ->check(CLI::Range(netmove::probe_bytes_min, netmove::probe_bytes_max))
        ->capture_default_str();
    probe.add_option("--duration", duration_s_, "Seconds; default: until SIGINT or SIGTERM");
    probe.add_option("--port", chosen.port, "Of UDP and TCP, at the echo")
        ->check(CLI::Range(1, 65535))
        ->capture_default_str();
    probe.add_flag("--no-tcp", without_tcp_, "No TCP session, only datagrams");
    probe.add_option("--json", chosen.json_file, "Write the report to FILE; -: to stdout");
    probe.add_option("--svg", chosen.svg_file, "Draw a timeline of each address into FILE");
    probe.add_option("--report", chosen.migration_report,
                     "The file of `migrate --report`: its events are marked in the timeline");
    auto* echo =
        probe.add_flag("--echo", chosen.echo, "Be the other end: answer probes; runs on the guest");
    probe.add_option("--listen", chosen.listen, "With --echo: only on this address")->needs(echo);
}

Result<ProbeOptions> ProbeFlags::finish() const {
    auto chosen = options_;
    if (chosen.echo != chosen.addresses.empty()) {
        return fail(Errc::invalid,
                    "`probe` needs at least one ADDRESS, or --echo and no ADDRESS to be the other "
                    "end");
    }
    for (auto const& text : chosen.addresses) TRY_VOID(netmove::Address::parse(text));
    if (!chosen.listen.empty()) TRY_VOID(netmove::Address::parse(chosen.listen));
    chosen.tcp = !without_tcp_;
    chosen.period = std::chrono::nanoseconds(static_cast<std::int64_t>(period_ms_ * 1e6));
    if (duration_s_ == 0) return chosen;
    auto const probes = duration_s_ * 1000 / period_ms_;
    if (!(duration_s_ > 0) || probes > netmove::ProbeAccount::probes_max) {
        return fail(Errc::invalid,
                    "--duration is more than 0 and at most {:g} s with this --period: {} probes",
                    static_cast<double>(netmove::ProbeAccount::probes_max) * period_ms_ / 1000,
                    netmove::ProbeAccount::probes_max);
    }
    chosen.duration = std::chrono::nanoseconds(static_cast<std::int64_t>(duration_s_ * 1e9));
    return chosen;
}

}  // namespace sidecar
