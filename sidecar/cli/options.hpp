// Options: the command line, already checked for shape. Parsed by CLI11 in options.cpp; nothing
// here has touched the system yet.
#pragma once

#include <chrono>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "sidecar/cli/anchor_options.hpp"
#include "sidecar/cli/home_agent_options.hpp"
#include "sidecar/cli/network_options.hpp"
#include "sidecar/cli/probe_options.hpp"
#include "sidecar/host/settings.hpp"
#include "sidecar/libvirt/definition.hpp"
#include "sidecar/libvirt/monitor_process.hpp"

namespace sidecar {

enum class ProgressStyle { bar, json, none };

/// The whole command line: the settings of a session, and the rest.
struct Options : SessionSettings {
    enum class Command {
        run,
        attach,
        serve,
        incoming,
        watchdog,
        anchor_holder,
        libvirt_monitor,
        libvirt_definition,
        libvirt_hook,
        migrate,
        replicate,
        failover,
        status,
        set,
        cancel,
        resolve,
        locate,
        network,
        anchor,
        check,
        probe,
        home_agent
    };
    Command command = Command::status;
    bool json = false;
    ProgressStyle progress = ProgressStyle::bar;  ///< `migrate`
    std::string report_file;  ///< `migrate`
    MigrateOptions migrate;
    ReplicationSettings replicate;
    ProbeOptions probe;
    bool replicate_stop = false;  ///< `replicate --stop`
    bool replicate_forget = false;  ///< Also delete the copy at the destination.
    MigrationChanges changes;  ///< `set`
    NetworkOptions network;
    bool locate_watch = false;  ///< `locate --watch`
    bool locate_repair = false;  ///< `locate --repair`
    AnchorOptions anchor;
    HomeAgentCommand home_agent;
    libvirt::MonitorProcess libvirt_monitor;
    libvirt::DefinitionProcess libvirt_definition;
    std::vector<std::string> libvirt_hook;  ///< Words that libvirt gives to its hooks.
    std::string resolve_to;  ///< "source" or "destination"
};

/// Parses argv. After `--help`, `--version` or a usage error everything is already printed, and the
/// exit status is returned instead (0 or 2).
std::variant<Options, int> parse_options(int argc, char** argv);

}  // namespace sidecar
