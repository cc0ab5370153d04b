// Netlink: the host's links, addresses, neighbours and bridge tables, read and changed through
// rtnetlink (libnl-3). Used by taps and movers. Every call is one request that the kernel answers
// at once, or one dump; each is bounded by answer_timeout, and a failure is a sentence that names
// the interface and what to do.
//
// A Netlink belongs to the network namespace the thread was in when it was opened.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "core/result.hpp"
#include "netmove/address.hpp"

struct nl_sock;
struct nl_msg;
struct nlmsghdr;

namespace netmove {

/// How long one answer of the kernel may take. It answers within microseconds, unless another
/// program holds the kernel's configuration lock; containers starting by the dozen hold it for some
/// hundred milliseconds.
constexpr std::chrono::milliseconds answer_timeout{2000};

/// How a bridge treats one of its ports (IFLA_BRPORT_*).
struct BridgePort {
    /// Kernel's BR_STATE_*: 3 is forwarding. Without STP a port that is up forwards at once.
    int state = 0;
    bool learning = true;
    bool unicast_flood = true;  ///< Gets frames to unknown stations.
    bool multicast_flood = true;  ///< Gets frames to unregistered groups.
    bool broadcast_flood = true;
    bool neighbour_suppression = false;  ///< The bridge answers ARP and ND itself (EVPN).
    bool isolated = false;  ///< Exchanges no frame with other isolated ports.
    [[nodiscard]] bool forwarding() const { return state == 3; }
};

/// What the kernel says of a tap (IFLA_TUN_*); queues only for multi-queue ones.
struct TunDetails {
    bool tap = false;  ///< false: a TUN device, which carries no Ethernet frames.
    bool persistent = false;
    bool multi_queue = false;
    int queues = 0;  ///< Attached and enabled.
    int disabled_queues = 0;  ///< Attached, switched off by their owner.
};

/// What the kernel says of a VXLAN device (IFLA_VXLAN_*).
struct VxlanDetails {
    std::uint32_t vni = 0;
    std::optional<Address> local;  ///< Its own address in the underlay; none: any of the host's.
    bool learning = true;
    bool external = false;  ///< It carries many VNIs: each packet's is said by a route or bridge.
};

struct Link {
    std::string name;
    int index = 0;
    std::string kind;  ///< "bridge", "tun", "veth", "vxlan"...; empty for hardware.
    MacAddress mac;
    int mtu = 0;
    int master = 0;  ///< Index of the bridge it is a port of, else 0.
    int queue_length = 0;  ///< txqueuelen, frames.
    bool up = false;
    std::uint64_t received = 0;  ///< Frames; by a tap: those that QEMU has sent.
    std::uint64_t dropped = 0;  ///< Frames it was to send and could not: a tap's ring was full.
    std::optional<BridgePort> port;  ///< When it is a port of a bridge.
    std::optional<TunDetails> tun;  ///< When it is a tap or TUN device.
    std::optional<VxlanDetails> vxlan;  ///< When it is a VXLAN device.
    bool stp = false;  ///< When it is a bridge: it runs the spanning tree protocol.
    bool vlan_filtering = false;  ///< When it is a bridge.
};

struct InterfaceAddress {
    int link = 0;
    Address address;
    int prefix_length = 0;
    bool tentative = false;  ///< IPv6 duplicate address detection has not ended.
};

/// An entry of the host's ARP cache or IPv6 neighbour cache.
struct Neighbour {
    int link = 0;
    Address address;
    std::optional<MacAddress> mac;  ///< None while it is being asked for, or failed.
    int state = 0;  ///< NUD_*
    bool external = false;  ///< Written by a routing daemon (NTF_EXT_LEARNED).
    [[nodiscard]] bool permanent() const;
};

/// An entry of a bridge's forwarding table.
struct FdbEntry {
    MacAddress mac;
    int port = 0;  ///< Link index of the bridge port.
    int bridge = 0;  ///< Link index of the bridge.
    std::uint16_t vlan = 0;
    int state = 0;  ///< NUD_*: PERMANENT is the bridge's own, NOARP static, else dynamic.
    bool sticky = false;
    bool external = false;
    /// Learning cannot move it to another port: it must be deleted.
    [[nodiscard]] bool pinned() const;
};

/// An entry of a VXLAN device's own table: where frames for a station go in the underlay.
struct VxlanEntry {
    MacAddress mac;
    Address remote;
    std::uint16_t port = 0;  ///< UDP; 0: the device's.
    std::uint32_t vni = 0;  ///< 0: the device's.
    int state = 0;  ///< NUD_*
    int flags = 0;  ///< NTF_*
};

/// How the host reaches an address.
struct Route {
    std::string link;
    int mtu = 0;  ///< Of the route, or of that link.
    std::optional<Address> source;  ///< Of this host, for what it sends there.
};

/// A route of one routing table to one destination, out of one interface.
struct TableRoute {
    Address destination;
    int prefix_length = 0;
    int link = 0;  ///< 0: it has none (unreachable, blackhole), or several.
    std::uint32_t metric = 0;  ///< The lowest wins.
    int protocol = 0;  ///< RTPROT_*, or the number of the program that made it.
};

/// A rule that sends lookups of one family to a routing table.
struct RoutingRule {
    Address::Family family = Address::Family::ipv4;
    std::uint32_t table = 0;
    std::uint32_t priority = 0;  ///< The lowest is asked first; that of the main table is 32766.
    std::uint32_t not_mark = 0;  ///< Lookups with this firewall mark pass it by. One of both is 0.
    int protocol = 0;  ///< As TableRoute's.
    std::uint32_t mark = 0;  ///< Only lookups with this firewall mark.
};

/// IPv4 settings of one interface (net.ipv4.conf).
struct Ipv4Settings {
    bool forwarding = false;
    bool proxy_arp = false;
    bool strict_source = false;  ///< rp_filter 1: only from addresses that it would send to there.
    bool accept_redirects = false;
    /// The source of a packet is checked as a packet with its firewall mark would be routed
    /// (src_valid_mark).
    bool source_by_mark = false;
};

class Netlink {
public:
    static core::Result<Netlink> open();
    Netlink(Netlink&&) noexcept;
    Netlink& operator=(Netlink&&) noexcept;
    ~Netlink();

    core::Result<std::vector<Link>> links();
    /// Fails with invalid when there is no such interface.
    core::Result<Link> link(std::string const& name);
    core::Result<Link> link(int index);
    /// The same, but none when there is no such interface.
    core::Result<std::optional<Link>> find_link(std::string const& name);

    core::Result<> set_up(std::string const& name);
    core::Result<> set_down(std::string const& name);
    /// Makes `name` a port of `bridge`; an empty bridge takes it out of the one it is in.
    core::Result<> set_master(std::string const& name, std::string const& bridge);
    core::Result<> set_mac(std::string const& name, MacAddress const& mac);
    core::Result<> set_mtu(std::string const& name, int mtu);
    /// txqueuelen, frames. For a tap this is the ring that holds what its reader has not read yet.
    core::Result<> set_queue_length(std::string const& name, int frames);
    /// The host makes no IPv6 link-local address for it (addr_gen_mode none): so no DAD, MLD, RS of
    /// ours on it.
    core::Result<> set_address_generation_none(std::string const& name);
    core::Result<> delete_link(std::string const& name);
    /// The three flood flags and learning of a bridge port, in one message.
    core::Result<> set_bridge_port(int index, BridgePort const& port);

    /// A bridge, down: with this MAC address whatever its ports have, without STP, and without
    /// multicast snooping, so that it never says anything itself.
    core::Result<> make_bridge(std::string const& name, MacAddress const& mac);
    /// A cable of two interfaces, both down.
    core::Result<> make_veth(std::string const& name, std::string const& peer);
    /// A VXLAN device, down, that sends all it gets to one other end, never in fragments, and
    /// learns nothing.
    core::Result<> make_vxlan(std::string const& name, std::uint32_t vni, std::uint16_t port,
                              Address const& remote);
    /// BridgePort::isolated of a bridge port.
    core::Result<> set_isolated(std::string const& name, bool isolated);
    /// Without duplicate address detection. Nothing to do when it is there. `host_scope`: the host
    /// does not choose it as the source of what it sends (IPv6: it is deprecated).
    core::Result<> add_address(std::string const& name, Address const& address, int prefix_length,
                               bool host_scope = false);
    /// False when there was none.
    core::Result<bool> delete_address(int link, Address const& address, int prefix_length);

    core::Result<std::vector<InterfaceAddress>> addresses(int link = 0);

    core::Result<std::vector<Neighbour>> neighbours(int link = 0);
    /// Adds or overwrites. `state` is NUD_REACHABLE, NUD_STALE, NUD_PERMANENT.
    core::Result<> replace_neighbour(int link, Address const& address, MacAddress const& mac,
                                     int state);
    /// Overwrites an entry that is there; false when there is none. Never makes one.
    core::Result<bool> refresh_neighbour(int link, Address const& address, MacAddress const& mac,
                                         int state);
    /// False when there was none.
    core::Result<bool> delete_neighbour(int link, Address const& address);

    core::Result<std::vector<FdbEntry>> fdb(int bridge);
    /// Of one station, in a bridge that does not filter VLANs; none: frames for it are flooded.
    core::Result<std::optional<FdbEntry>> fdb_entry(int bridge, MacAddress const& mac);
    /// Frames for `mac` go to this port from now on, in every VLAN of the port (vlan 0) or in one.
    /// A dynamic entry ages and can be moved by learning; a fixed one is for ports that do not
    /// learn.
    core::Result<> replace_fdb(int port, MacAddress const& mac, bool fixed, std::uint16_t vlan = 0);
    /// False when the port had no such entry.
    core::Result<bool> delete_fdb(int port, MacAddress const& mac, std::uint16_t vlan = 0);

    /// Where a VXLAN device sends what is for `mac`; none when it floods that.
    core::Result<std::optional<VxlanEntry>> vxlan_entry(int device, MacAddress const& mac);
    /// Adds or overwrites.
    core::Result<> write_vxlan_entry(int device, VxlanEntry const& entry);
    /// Overwrites an entry that is there; false when there is none. Never makes one.
    core::Result<bool> change_vxlan_entry(int device, VxlanEntry const& entry);
    /// Only one that sends to `remote`; false when there was none.
    core::Result<bool> delete_vxlan_entry(int device, MacAddress const& mac, Address const& remote);
    /// Fails with netlink when there is none.
    core::Result<Route> route(Address const& to);

    /// Those of both families in one routing table, also when there is no such table.
    core::Result<std::vector<TableRoute>> routes(std::uint32_t table);
    /// Overwrites the one with the same destination and metric.
    core::Result<> write_route(std::uint32_t table, TableRoute const& route);
    /// Only one with all these properties; false when there was none.
    core::Result<bool> delete_route(std::uint32_t table, TableRoute const& route);
    /// The route that a lookup with this firewall mark ends at; none: there is no way.
    core::Result<std::optional<TableRoute>> route_with_mark(Address const& to, std::uint32_t mark);
    /// Nothing to do when it is there.
    core::Result<> add_rule(RoutingRule const& rule);
    /// False when there was none, or the host does not have that family.
    core::Result<bool> delete_rule(RoutingRule const& rule);
    core::Result<> set_ipv4(std::string const& name, Ipv4Settings const& settings);
    /// An ARP request for another station's address is answered at once, not after up to 0.8 s.
    core::Result<> set_no_proxy_delay(std::string const& name);

    /// A request of a kind that has a file of its own (gate.cpp), flags and body made there; `what`
    /// continues "to" in a sentence. `on_answer` gets each message that is no acknowledgement.
    core::Result<> request(nl_msg& message, std::string const& what,
                           std::function<void(nlmsghdr*)> const& on_answer = {});

private:
    explicit Netlink(nl_sock* socket) : socket_(socket) {}
    struct Access;
    friend struct Access;  // netlink.cpp: builds requests, parses answers
    nl_sock* socket_ = nullptr;
};

}  // namespace netmove
