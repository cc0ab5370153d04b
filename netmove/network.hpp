// Networks of one protocol: what `sidecar network` makes, so that a native network of one Internet
// protocol and a parallel network of the other exist side by side and never exchange a frame.
//
//                            ┌── tap (guest)                    the wire, shared:
//   wire ── uplink ── bridge ┼── tap (guest)       wire ── uplink ── bridge w-UPLINK
//                      NAME  └── NAME-u ─ ─ ─ ─ ─ ─ ─ ─ ─ ─ ─ ─ NAME-w ──┘ │ isolated from
//                                                          OTHER-w ────────┘ each other
//
// A network is a bridge and two nftables tables of one name (network_rules.hpp). Every port of it
// is in the set `ports`, and what enters or leaves the bridge through one of these passes one list:
// the frames of the network's protocol, announcements of a moved guest, and EtherTypes the operator
// named. All else is dropped, twice: where it enters, and where it would leave. A port that is not
// in the set exchanges no frame with those that are. So what a network passes does not depend on
// where a frame came from, nor on what another network, the wire or the host does; and whether two
// networks use two wires or share one, the rules are the same. On one wire each has a cable (veth)
// into a bridge of the wire, whose cables are isolated: all reach the wire, and none another.
//
// The host takes part in a network only where it was given an address of it, and then in its
// protocol only; else nothing that comes to the bridge gets into its stack, and it sends nothing.
//
// Invariant: a port is in the set before it is in the bridge. The rules are there before any port.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "core/json.hpp"
#include "core/result.hpp"
#include "netmove/address.hpp"
#include "netmove/netlink.hpp"

namespace netmove {

enum class Protocol : std::uint8_t { ipv4, ipv6 };
std::string_view name(Protocol protocol);  ///< "IPv4", "IPv6"

/// Its interfaces are named after a network: NAME, NAME-u, NAME-w (the kernel takes 15 characters).
constexpr std::size_t network_name_max = 13;
/// EtherTypes and addresses that one network may be given.
constexpr std::size_t network_list_max = 16;

/// An address of the host in a native network.
struct HostAddress {
    Address address;
    int prefix_length = 0;
    /// "192.0.2.1/24", "2001:db8::1/64".
    static core::Result<HostAddress> parse(std::string const& text);
    [[nodiscard]] std::string text() const;
    auto operator<=>(HostAddress const&) const = default;
};

/// What the operator asked for.
struct NetworkDefinition {
    std::string name;  ///< Also its bridge's.
    Protocol protocol = Protocol::ipv4;
    bool native = false;  ///< The host may have addresses in it; else it is a parallel one.
    std::vector<HostAddress> addresses;  ///< Of the host, of the network's protocol.
    std::string uplink;  ///< The wire; empty: the network ends at this host.
    bool shared_uplink = false;  ///< Other networks may use the same wire.
    std::vector<std::uint16_t> allowed;  ///< EtherTypes passed beside the protocol's, sorted.

    /// Whether the parts are possible and go together. Touches nothing.
    [[nodiscard]] core::Result<> validate() const;
    [[nodiscard]] core::Json to_json() const;
    static core::Result<NetworkDefinition> from_json(core::Json const& json);
    bool operator==(NetworkDefinition const&) const = default;

    [[nodiscard]] std::string cable() const { return name + "-u"; }  ///< The port of the network.
    [[nodiscard]] std::string cable_end() const { return name + "-w"; }  ///< That of the wire.
    [[nodiscard]] std::string wire() const;  ///< The bridge of a shared uplink.
};

/// "0x88cc" or "88cc". Fails with invalid for what would carry the other protocol unseen: IPv4,
/// ARP, IPv6 and VLAN tags.
core::Result<std::uint16_t> parse_ether_type(std::string const& text);

/// As an uplink was found: what delete_network() gives back.
struct UplinkBefore {
    bool up = false;
    std::string disable_ipv6;  ///< Empty: the host had no such setting.
    std::string addr_gen_mode;
};

/// What a network is on this host: kept by `sidecar network`, written before anything is made.
struct NetworkRecord {
    NetworkDefinition definition;
    /// The bridge's. It says that a bridge of that name is the one that was made here.
    MacAddress mac;
    std::optional<UplinkBefore> uplink_before;  ///< None: it was not looked at yet.
    std::string rules;  ///< As nftables listed them when they were made; empty: they were not yet.
    std::string made_from;  ///< What they were made from: another program's may be others.

    [[nodiscard]] core::Json to_json() const;
    static core::Result<NetworkRecord> from_json(core::Json const& json);
};

/// A record for a new network: with a MAC address of its own, and the uplink as it is now, or as
/// another network that shares it found it.
core::Result<NetworkRecord> record_for(Netlink& netlink, NetworkDefinition const& definition,
                                       std::vector<NetworkRecord> const& others);

/// Whether this kernel, and this user, can have the rules at all; fails with refused.
core::Result<> check_kernel();

/// Why this host cannot have the network, before anything is touched: fails with refused.
core::Result<> check_possible(Netlink& netlink, NetworkRecord const& record,
                              std::vector<NetworkRecord> const& others);

/// Makes what is not there, or puts back what was changed; may be called again after any failure.
/// Fills in `record.rules`.
core::Result<> make_network(Netlink& netlink, NetworkRecord& record);

/// Something that is not as it was defined, and what to do.
struct Difference {
    std::string what;
    std::string advice;
};
core::Result<std::vector<Difference>> check_network(Netlink& netlink, NetworkRecord const& record);

/// What is in a network at the moment.
struct NetworkState {
    bool present = false;  ///< The bridge is there, and it is ours.
    bool up = false;
    std::vector<std::string> ports;  ///< Those of guests and others: without uplink and cable.
    std::vector<std::string> not_admitted;  ///< Ports nothing passes through.
    std::uint64_t dropped_frames = 0;  ///< Since the rules were last written.
};
core::Result<NetworkState> look_at_network(Netlink& netlink, NetworkRecord const& record);

/// Removes what make_network() made, and gives the uplink back as it was found. Refused while a
/// port of a guest is in it, unless `force`. Nothing to do when it is gone.
core::Result<> delete_network(Netlink& netlink, NetworkRecord const& record, bool force);

/// Puts `port`, which is about to become a port of `bridge`, under the rules of the network that
/// `bridge` belongs to; nothing when it is any other bridge. Fails with refused when it is one
/// whose rules are not there: nothing may be connected to it then.
core::Result<> admit(Link const& bridge, Link const& port);

/// The protocol of the network that a bridge belongs to, as GuestInterface::network has it; empty:
/// it is any other bridge.
core::Result<std::string> network_of(Link const& bridge);

}  // namespace netmove
