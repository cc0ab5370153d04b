// sidecar/anchor/ keeps the place of a guest on its home network while the guest runs on a host of
// another subnet. `serve` holds both ends; the sidecars of both hosts ask their own `serve`, or
// that of the anchor. It uses guest/, channel/ and host/; the drivers and daemon/ use it.
//
// The records: one file for each end, in the state directory, 0600, because a record has the keys.
// Invariant: an end is recorded before it is made, and its record is removed after it.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "core/process.hpp"
#include "netmove/home_gateway.hpp"
#include "netmove/local_address.hpp"
#include "netmove/mover.hpp"
#include "netmove/tunnel/tunnel.hpp"
#include "sidecar/host/paths.hpp"

namespace sidecar {

/// Ends of both kinds on one host: as many as tunnels.
constexpr std::size_t anchor_records_max = netmove::tunnel::tunnels_max;
/// Tunnels of one anchor: to the host of the guest, and to the one where it is going.
constexpr std::size_t anchor_tunnels_max = 4;

/// Probes that a host answers at the same time.
constexpr std::size_t anchor_probes_max = 32;

/// A tap as it has to be made again after a boot.
struct AnchorTap {
    std::string name;
    int queues = 1;
    bool vnet_hdr = true;
    netmove::MacAddress mac;  ///< Of the device, not of the guest.
    int mtu = 1500;
    int queue_length = 0;
    std::string bridge;
    std::optional<netmove::PortSettings> port = {};  ///< In that bridge; none: as new.

    [[nodiscard]] core::Json to_json() const;
    static core::Result<AnchorTap> from_json(core::Json const& json);
};

/// The anchor: the end on the guest's home network.
struct HomeRecord {
    enum class Kind : std::uint8_t {
        guests_tap,  ///< The guest has left this host: the tap is its own.
        stand_in,  ///< The guest was on another host: the tap was made in place of its own.
        vxlan,  ///< The tunnels are ports of the guest's bridge. `tap` is not held, and goes.
    };
    struct Tunnel {
        netmove::tunnel::Key key;
        netmove::tunnel::Endpoint peer;
        std::string migration_id;  ///< That made it.
        std::optional<netmove::AnchorVxlan> vxlan = {};  ///< In the kernel; none: in user space.
    };
    Kind kind = Kind::guests_tap;
    std::string guest;
    netmove::MacAddress mac;  ///< Of the guest's interface.
    AnchorTap tap;
    /// Of a stand-in: the guest's interface at the time it left, with the tap and bridge of this
    /// host.
    std::optional<netmove::GuestInterface> interface = {};
    bool was_persistent = false;  ///< The tap, before the anchor.
    std::vector<Tunnel> tunnels;
    std::uint64_t current = 0;  ///< The tunnel of the guest's frames; 0: the guest has not left.
    std::int64_t since_ms = 0;  ///< When it left; since 1970.
    bool ending = false;  ///< The guest needs it no more: it is removed, not made again.
    core::ProcessIdentity holder = {};  ///< Keeps the tap's descriptors: holder.hpp.

    [[nodiscard]] bool is_stand_in() const { return kind == Kind::stand_in; }
    [[nodiscard]] bool is_vxlan() const { return kind == Kind::vxlan; }
    [[nodiscard]] Tunnel const* tunnel(std::uint64_t id) const;
    [[nodiscard]] core::Json to_json() const;
    static core::Result<HomeRecord> from_json(core::Json const& json);
};

/// The far end: on the host where the guest runs, or where it is going.
struct FarRecord {
    std::string guest;
    netmove::MacAddress mac;
    std::string migration_id;  ///< That made it.
    AnchorTap tap;  ///< Of the tunnel. Its bridge is the guest's, and has no other ports.
    netmove::tunnel::Key key;
    int anchor_port = 0;  ///< TCP, of the `serve` that holds the anchor.
    std::string home_bridge = {};  ///< AnchorMove::home_bridge: not empty if that is a stand-in.
    std::optional<netmove::PortSettings> home_port = {};  ///< Of the guest's tap at home.
    /// The tunnel is in the kernel: `tap` is a VXLAN device. None: it is in user space.
    std::optional<netmove::AnchorVxlan> vxlan = {};
    std::int64_t since_ms = 0;
    core::ProcessIdentity holder = {};
    /// The guest's addresses in a network of this host.
    struct Local {
        netmove::LocalChoice choice;
        std::vector<netmove::Address> guest_addresses;  ///< At home.
        std::uint32_t number = 0;  ///< LocalAddress::number
    };
    std::optional<Local> local = {};
    /// Of its anchor, when no session needs it any more (far_release.cpp).
    struct Release {
        enum class State : std::uint8_t {
            wanted,  ///< The operator has asked for it.
            asking,  ///< It is due: the anchor is asked to end, until it says that it has.
            released,  ///< The anchor has ended. There is no tunnel.
        };
        State state = State::wanted;
        std::int64_t at_ms = 0;  ///< When the anchor ended; since 1970.
        std::string home = {};  ///< HOST:PORT of the anchor's `serve`, from `asking` on.
        netmove::HomeGateways gateways = {};  ///< That this host answers for then.
    };
    std::optional<Release> release = {};

    [[nodiscard]] bool is_released() const {
        return release && release->state == Release::State::released;
    }
    /// What it makes on this host; none without `local`.
    [[nodiscard]] std::optional<netmove::LocalAddress> local_address() const;
    [[nodiscard]] core::Json to_json() const;
    static core::Result<FarRecord> from_json(core::Json const& json);
};

std::string_view name(HomeRecord::Kind kind);
std::string_view name(FarRecord::Release::State state);

/// FNV-1a, 32 bits: the names of an interface's links are the same on each host.
std::uint32_t anchor_name_hash(std::string const& guest, netmove::MacAddress const& mac);
/// Locally administered. `kind`: what it is of.
netmove::MacAddress anchor_mac(std::uint8_t kind, std::uint32_t hash);

struct AnchorRecords {
    std::vector<HomeRecord> homes;
    std::vector<FarRecord> fars;
    std::vector<core::Error> unreadable;  ///< One for each file that could not be used.
};

/// The file of a record: record_files.hpp writes it.
std::string record_path(Paths const& paths, HomeRecord const& record);
std::string record_path(Paths const& paths, FarRecord const& record);
/// All records of this host. Fails with io if the directory cannot be listed.
core::Result<AnchorRecords> read_records(Paths const& paths);
/// The far ends of one guest on this host: it has its network through an anchor.
core::Result<std::vector<FarRecord>> far_records(Paths const& paths, std::string const& guest);

}  // namespace sidecar
