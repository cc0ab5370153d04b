// What the commands are told, as structs, and how that travels: from a command to the guest's
// sidecar and into its records. Used by every folder of sidecar/; the command line that fills them
// is in cli/options.hpp. Nothing here has touched the system yet.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "core/json.hpp"
#include "core/tls.hpp"
#include "sidecar/host/limits.hpp"
#include "sidecar/host/paths.hpp"

namespace sidecar {

/// FROM=TO of `serve`: how the source's names become this host's.
struct HostMaps {
    std::vector<std::pair<std::string, std::string>> paths;  ///< Prefixes, whole path components.
    std::vector<std::pair<std::string, std::string>> bridges;
    std::string qemu;  ///< Binary to start; empty: the name the source used.
};

struct RunOptions {
    std::string bridge;  ///< Put taps that have no bridge on this one; empty: leave them.
    std::vector<std::string>
        addresses;  ///< The guest's, on its first interface; others are learned.
    std::vector<std::string> qemu;  ///< argv of QEMU.
    bool new_guest = false;  ///< The guest of this name moved away; this is another one.
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
    int downtime_limit_ms = limits::downtime_limit_default_ms;  ///< No pause is longer.
    int converge_limit_s = limits::converge_limit_default.count();  ///< From RAM's begin to STOP.
    int link_timeout_s = 30;  ///< A lost destination is waited for; then for `--resume`.
    std::uint64_t bandwidth = 0;  ///< Bytes per second for disks and RAM together; 0: no limit.
    bool throttle = true;  ///< A guest that dirties disks or RAM too fast is slowed down.

    [[nodiscard]] core::Json to_json() const;  ///< What the guest's sidecar must know.
    static core::Result<MigrateOptions> from_json(core::Json const& json);
};

/// `replicate`: a copy of the guest that is kept up at another host.
struct ReplicationSettings {
    std::string destination;  ///< HOST[:PORT]
    core::TlsConfig tls;
    int every_s = 60;  ///< From the begin of a round to that of the next.
    std::uint64_t bandwidth = 0;  ///< Bytes per second; 0: no limit.
    bool freeze = true;  ///< The guest's agent is asked to freeze its file systems for each point.
    std::string guest_agent;  ///< Its socket; empty: what QEMU's command line says. Absolute.
    bool once = false;  ///< One round, and the end.
    bool hand_over = false;  ///< ... after which the guest belongs to the destination.

    [[nodiscard]] core::Json to_json() const;
    static core::Result<ReplicationSettings> from_json(core::Json const& json);
};

/// `set`: of a migration under way. What is not named stays.
struct MigrationChanges {
    std::optional<std::uint64_t> bandwidth;  ///< As MigrateOptions::bandwidth.
    std::optional<int> downtime_limit_ms;
    std::optional<int> converge_limit_s;
    [[nodiscard]] core::Json to_json() const;
    static core::Result<MigrationChanges> from_json(core::Json const& wire);
};

/// What `run`, `attach`, `incoming` and `failover` are begun with, and `serve`.
struct SessionSettings {
    Paths paths;
    std::string guest;
    bool verbose = false;
    RunOptions run;
    AttachOptions attach;
    ServeOptions serve;  ///< Also of `incoming`, which `serve` starts with its own maps.
    int ready_fd = -1;  ///< `incoming`: closed once the control socket listens.
    bool previous = false;  ///< `failover --previous`
    bool fenced = false;  ///< `failover` and `resolve`: the operator has fenced the other host.
};

/// The port of `serve` when none is given. Unassigned by IANA.
constexpr char const* default_port = "4790";

}  // namespace sidecar
