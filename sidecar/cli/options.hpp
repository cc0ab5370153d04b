// Options: what the command line says, already checked for shape. Parsed by CLI11 in options.cpp;
// nothing here has touched the system yet.
#pragma once

#include <chrono>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "sidecar/cli/network_options.hpp"
#include "sidecar/host/settings.hpp"

namespace sidecar {

enum class ProgressStyle { bar, json, none };

/// `probe`: what a client of the guest sees, or the other end of that.
struct ProbeOptions {
    std::vector<std::string> addresses;  ///< IPv4 or IPv6.
    std::chrono::nanoseconds period{20'000'000};
    std::size_t bytes = 210;
    std::optional<std::chrono::nanoseconds> duration;  ///< Without: until interrupted.
    std::uint16_t port = 4798;
    bool tcp = true;
    std::string json_file;  ///< "-": stdout, instead of the text.
    std::string svg_file;
    std::string migration_report;  ///< Of `migrate --report`: its moments are marked.
    bool echo = false;
    std::string listen;  ///< The echo's address; empty: all.
};

/// The whole of a command line: what a session is begun with, and the rest.
struct Options : SessionSettings {
    enum class Command {
        run,
        attach,
        serve,
        incoming,
        watchdog,
        migrate,
        replicate,
        failover,
        status,
        set,
        cancel,
        resolve,
        network,
        check,
        probe
    };
    Command command = Command::status;
    bool json = false;
    ProgressStyle progress = ProgressStyle::bar;  ///< `migrate`
    std::string report_file;  ///< `migrate`
    MigrateOptions migrate;
    ReplicationSettings replicate;
    ProbeOptions probe;
    bool replicate_stop = false;  ///< `replicate --stop`
    bool replicate_forget = false;  ///< ... and the copy at the destination goes.
    MigrationChanges changes;  ///< `set`
    NetworkOptions network;
    std::string resolve_to;  ///< "source" or "destination"
};

/// Parses argv. On `--help`, `--version` or a usage error everything was printed already, and the
/// exit status to leave with is returned instead (0 or 2).
std::variant<Options, int> parse_options(int argc, char** argv);

}  // namespace sidecar
