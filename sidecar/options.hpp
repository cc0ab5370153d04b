// Options: what the command line says, already checked for shape. Parsed by CLI11 in options.cpp;
// nothing here has touched the system yet.
#pragma once

#include <chrono>
#include <optional>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "core/json.hpp"
#include "core/tls.hpp"
#include "sidecar/network_options.hpp"
#include "sidecar/places.hpp"

namespace sidecar {

/// FROM=TO of `serve`: how the source's names become this host's.
struct HostMaps {
    std::vector<std::pair<std::string, std::string>> paths;  ///< Prefixes, whole path components.
    std::vector<std::pair<std::string, std::string>> bridges;
    std::string qemu;  ///< Binary to start; empty: the name the source used.
};

enum class ProgressStyle { bar, json, none };

struct RunOptions {
    std::string bridge;  ///< Put taps that have no bridge on this one; empty: leave them.
    std::vector<std::string>
        addresses;  ///< The guest's, on its first interface; others are learned.
    std::vector<std::string> qemu;  ///< argv of QEMU.
};

struct AttachOptions {
    std::string qmp_socket;  ///< Empty: what `run` or the last `attach` recorded.
    std::vector<std::string> addresses;
};

struct ServeOptions {
    std::string listen = "[::]";
    core::TlsConfig tls;
    HostMaps maps;
};

struct MigrateOptions {
    std::string destination;  ///< HOST[:PORT]
    core::TlsConfig tls;
    bool with_storage = false;
    bool check_only = false;
    bool resume = false;  ///< Nothing new: the migration that the guest's sidecar found.
    bool verify = false;  ///< Compare what arrived with what was sent.
    std::vector<std::string> bases;  ///< Backing files that the destination has too; absolute.
    std::vector<std::string> vteps;  ///< HOST[:PORT] of the other hosts of the guest's VXLAN.
    int max_blackout_ms = 300;
    int link_patience_s = 30;  ///< A lost destination is waited for; then for `--resume`.
    std::uint64_t bandwidth = 0;  ///< Bytes per second for disks and RAM together; 0: no limit.
    bool throttle = true;  ///< A guest that writes too fast is slowed down.
    ProgressStyle progress = ProgressStyle::bar;
    bool json = false;
    std::string report_file;

    [[nodiscard]] core::Json to_json() const;  ///< What the guest's sidecar must know.
    static core::Result<MigrateOptions> from_json(core::Json const& json);
};

/// `mirror`: a copy of the guest that is kept up at another host.
struct MirrorSettings {
    std::string destination;  ///< HOST[:PORT]
    core::TlsConfig tls;
    int every_s = 60;  ///< From the begin of a round to that of the next.
    std::uint64_t bandwidth = 0;  ///< Bytes per second; 0: no limit.
    bool freeze = true;  ///< The guest's agent is asked to freeze its file systems for each point.
    std::string guest_agent;  ///< Its socket; empty: what QEMU's command line says. Absolute.
    bool once = false;  ///< One round, and the end.
    bool hand_over = false;  ///< ... after which the guest belongs to the destination.

    [[nodiscard]] core::Json to_json() const;
    static core::Result<MirrorSettings> from_json(core::Json const& json);
};

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

struct Options {
    enum class Command {
        run,
        attach,
        serve,
        incoming,
        watchdog,
        migrate,
        mirror,
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
    Places places;
    std::string guest;
    bool json = false;
    bool verbose = false;
    RunOptions run;
    AttachOptions attach;
    ServeOptions serve;  ///< Also of `incoming`, which `serve` starts with its own maps.
    int ready_fd = -1;  ///< `incoming`: closed once the control socket listens.
    MigrateOptions migrate;
    MirrorSettings mirror;
    ProbeOptions probe;
    bool mirror_stop = false;  ///< `mirror --stop`
    bool mirror_forget = false;  ///< ... and the copy at the destination goes.
    bool previous = false;  ///< `failover --previous`
    /// `set`: of a migration under way. What is not named stays.
    struct Changes {
        std::optional<std::uint64_t> bandwidth;  ///< As MigrateOptions::bandwidth.
        std::optional<int> max_blackout_ms;
        [[nodiscard]] core::Json to_json() const;
        static core::Result<Changes> from_json(core::Json const& wire);
    } changes;
    NetworkOptions network;
    std::string resolve_to;  ///< "source" or "destination"
    bool fenced = false;  ///< Also of `failover`.
};

/// The port of `serve` when none is given. Unassigned by IANA.
constexpr char const* default_port = "4790";

/// Parses argv. On `--help`, `--version` or a usage error everything was printed already, and the
/// exit status to leave with is returned instead (0 or 2).
std::variant<Options, int> parse_options(int argc, char** argv);

}  // namespace sidecar
