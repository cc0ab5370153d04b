// The options of the commands as structs, and how they travel from a command to the guest's sidecar
// and into its records. Used by every folder of sidecar/; the command line that fills them is in
// cli/options.hpp. Nothing here has touched the system yet.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "core/json.hpp"
#include "core/port_range.hpp"
#include "core/tls.hpp"
#include "netmove/local_choice.hpp"
#include "netmove/tunnel/tunnel.hpp"
#include "sidecar/host/limits.hpp"
#include "sidecar/host/paths.hpp"

namespace sidecar {

/// What `serve` lets a guest of another host use here, and under which names.
struct HostMaps {
    /// FROM=TO: the source's names and this host's.
    std::vector<std::pair<std::string, std::string>> paths;  ///< Prefixes, whole path components.
    std::vector<std::pair<std::string, std::string>> bridges;
    /// QEMUs that may run, absolute; empty: the distribution's.
    std::vector<std::string> programs = {};
    /// Directories besides the defaults and those of `paths`; absolute.
    std::vector<std::string> allowed_paths = {};
    std::vector<std::string> allowed_bridges = {};  ///< Empty: each.
    std::vector<std::string> allowed_devices = {};  ///< Kinds besides those of QEMU's allow-list.
    /// OLD=NEW: addresses on which QEMU listens; numeric.
    std::vector<std::pair<std::string, std::string>> addresses = {};
    std::string swtpm = "swtpm";  ///< Absolute, or a name in PATH.
};

struct RunOptions {
    std::string bridge;  ///< Put taps that have no bridge on this one; empty: leave them.
    bool routed = false;  ///< The tap without a bridge is routed: the host is its gateway.
    /// The guest's, on its first interface, or on the routed one; others are learned.
    std::vector<std::string> addresses;
    std::vector<std::string> qemu;  ///< argv of QEMU.
    bool new_guest = false;  ///< The guest of this name moved away; this is another one.
};

struct AttachOptions {
    std::string qmp_socket;  ///< Empty: what `run` or the last `attach` recorded.
    bool libvirt =
        false;  ///< It is the domain of this name; a second monitor of it is used if any.
    std::string libvirt_uri = "qemu:///system";
    std::vector<std::string> addresses;
};

struct ServeOptions {
    std::string listen = "[::]";
    std::uint16_t tunnel_port = netmove::tunnel::default_port;  ///< UDP, of anchors.
    core::PortRange data_ports = limits::data_ports_default;  ///< TCP, of disks and RAM.
    core::TlsConfig tls;
    HostMaps maps;
    /// A program that makes the places of disks here; absolute. Empty: they go to their paths.
    std::string disk_command = {};
    std::string libvirt_uri = {};  ///< Guests of libvirt are defined there; empty: nowhere.
};

/// How the guest's interfaces move; `automatic`: as what both hosts share allows.
enum class NetworkChoice : std::uint8_t { automatic, bridge, vxlan, evpn, anchor };
std::string_view name(NetworkChoice choice);
std::optional<NetworkChoice> network_choice_from(std::string_view name);

/// The guest's name in the DNS, and what it is changed to when the guest has moved.
struct DnsOptions {
    std::string name;  ///< Empty: the DNS is left alone.
    std::string server;  ///< HOST[:PORT]; empty: the primary that the zone's SOA record names.
    std::string key_file;  ///< TSIG; absolute.
    std::vector<std::string> addresses;  ///< IPv4 and IPv6; at least one.
    std::optional<std::uint32_t> ttl;  ///< Seconds; none: as before.

    [[nodiscard]] core::Json to_json() const;
    /// null: no name.
    static core::Result<DnsOptions> from_json(core::Json const& json);
};

/// `migrate --disk ID=TARGET`: where a disk goes.
struct DiskTarget {
    std::string disk;  ///< MovedDisk::name
    std::string path;  ///< At the destination, absolute.
};

struct MigrateOptions {
    std::string destination;  ///< HOST[:PORT]
    core::TlsConfig tls;
    bool with_storage = false;  ///< Copy the disks that the destination does not see.
    bool no_copy = false;  ///< Copy no file that the guest only reads.
    bool check_only = false;
    /// Resume the migration that the guest's sidecar found; starts no new one.
    bool resume = false;
    bool verify = false;  ///< Compare the data at the destination with what was sent.
    std::vector<std::string> bases;  ///< Backing files that the destination has too; absolute.
    std::vector<DiskTarget> disks;  ///< Others go to their paths, as the destination maps them.
    std::vector<std::string> vteps;  ///< HOST[:PORT] of the other hosts of the guest's VXLAN.
    NetworkChoice network = NetworkChoice::automatic;
    netmove::LocalChoice local;  ///< Of a move by an anchor; without addresses: not asked for.
    /// HOST[:PORT] of a `serve` in the guest's home network that is to be the anchor; empty: this
    /// host's.
    std::string anchor_host;
    /// --anchor-plane=vxlan: the kernel carries the frames of an anchor that begins, at this UDP
    /// port; 0: user space does.
    int anchor_vxlan_port = 0;
    int downtime_limit_ms = limits::downtime_limit_default_ms;  ///< No pause is longer.
    /// From the start of RAM to STOP.
    int converge_limit_s = limits::converge_limit_default.count();
    /// Wait so long for a lost destination; then suspend until `--resume`.
    int link_timeout_s = 30;
    std::uint64_t bandwidth = 0;  ///< Bytes per second for disks and RAM together; 0: no limit.
    bool throttle = true;  ///< A guest that dirties disks or RAM too fast is slowed down.
    DnsOptions dns;

    [[nodiscard]] core::Json to_json() const;  ///< What the guest's sidecar needs.
    static core::Result<MigrateOptions> from_json(core::Json const& json);
};

/// `replicate`: a copy of the guest that is kept up to date on another host.
struct ReplicationSettings {
    std::string destination;  ///< HOST[:PORT]
    core::TlsConfig tls;
    int every_s = 60;  ///< From the start of a round to the start of the next.
    std::uint64_t bandwidth = 0;  ///< Bytes per second; 0: no limit.
    bool freeze = true;  ///< The guest's agent is asked to freeze its file systems for each point.
    std::string guest_agent;  ///< Its socket; empty: from QEMU's command line. Absolute.
    bool once = false;  ///< One round, then end.
    bool hand_over = false;  ///< ... after which the guest belongs to the destination.

    [[nodiscard]] core::Json to_json() const;
    static core::Result<ReplicationSettings> from_json(core::Json const& json);
};

/// `set`: changes of a migration under way. Options that are not given stay.
struct MigrationChanges {
    std::optional<std::uint64_t> bandwidth;  ///< As MigrateOptions::bandwidth.
    std::optional<int> downtime_limit_ms;
    std::optional<int> converge_limit_s;
    [[nodiscard]] core::Json to_json() const;
    static core::Result<MigrationChanges> from_json(core::Json const& wire);
};

/// The settings with which `run`, `attach`, `incoming`, `failover` and `serve` start.
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
    DnsOptions dns;  ///< `failover`
};

/// The port of `serve` when none is given. Unassigned by IANA.
constexpr char const* default_port = "4790";

}  // namespace sidecar
