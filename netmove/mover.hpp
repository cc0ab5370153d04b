// Mover: moves a guest's presence on one kind of network, in four calls, one half of it on each
// host. MoverSet: the movers of one guest, fired together.
//
//   prepare()   everything slow, while the guest runs on the source
//   fire()      at STOP: one packet or netlink message each; from then on the destination owns
//               the addresses
//   release()   on the source, before it gives the guest away: nothing for it comes here any more
//   settle()    after RESUME: repeats, then what is no longer needed is removed
//   rollback()  instead of settle(): as fast as fire(), and the state before prepare()
//
// Invariant: from fire() on exactly one side owns the guest's addresses, both families or neither.
// The driver fires the source's half first, then the destination's; it rolls back the destination's
// half first, then the source's.
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "core/deadline.hpp"
#include "core/json.hpp"
#include "core/result.hpp"
#include "core/task.hpp"
#include "netmove/address.hpp"
#include "netmove/anchor_vxlan.hpp"
#include "netmove/local_choice.hpp"
#include "netmove/port_settings.hpp"

namespace netmove {

/// Addresses one interface may have in a set: each is a frame at STOP. As many as a watcher
/// remembers, and as many given by the operator.
constexpr std::size_t interface_addresses_max = 128;

/// One end of a VXLAN: the VXLAN device in a host's bridge.
struct VxlanEnd {
    std::uint32_t vni = 0;
    std::optional<Address> local;  ///< How other VTEPs reach it; none: it was not told.
    bool learning = true;  ///< Without, its table is written by others: by us, as guests move.
    /// EVPN controls it: a routing daemon has announced the guest here, or the guest runs here
    /// (evpn_knows()).
    bool evpn = false;

    [[nodiscard]] core::Json to_json() const;
    static core::Result<VxlanEnd> from_json(core::Json const& json);
};

/// The tunnels of an anchor (netmove/tunnel/) that a move of an interface concerns, by their ids.
struct AnchorMove {
    std::uint64_t from = 0;  ///< Carries its frames before the move; 0: none, the guest is at home.
    std::uint64_t to = 0;  ///< Carries them afterwards; 0: none, the guest returns home.
    /// Addresses of the destination's network that it gets too (local_address.hpp).
    std::optional<LocalChoice> local = {};
    /// The anchor is a stand-in, on a third host of the home network: the guest's bridge as the
    /// hosts of that network call it. Empty: the anchor is on the host where the guest was.
    std::string home_bridge = {};
    /// The tunnel `to`, or the one of a return, is in the kernel; none: in user space.
    std::optional<AnchorVxlan> vxlan = {};

    /// The guest leaves home, and its tap stays there as its anchor.
    [[nodiscard]] bool leaves_its_tap() const { return from == 0 && home_bridge.empty() && !vxlan; }
    /// The guest leaves home, and its anchor begins on a third host.
    [[nodiscard]] bool begins_elsewhere() const { return from == 0 && !home_bridge.empty(); }
    /// The guest returns to its home network, and its anchor on a third host ends.
    [[nodiscard]] bool ends_elsewhere() const {
        return from != 0 && to == 0 && !home_bridge.empty();
    }
    [[nodiscard]] core::Json to_json() const;
    static core::Result<AnchorMove> from_json(core::Json const& json);
    friend bool operator==(AnchorMove const&, AnchorMove const&) = default;
};

/// A tunnel's id as it is in messages and records: 16 hex digits.
std::string tunnel_id_text(std::uint64_t id);
/// Fails with protocol, naming the member.
core::Result<std::uint64_t> tunnel_id_from(core::Json const& json, std::string_view key);

/// One network interface of the guest, as both hosts must know it. Travels over the peer channel:
/// from_json() trusts nothing. `tap` and `bridge` are the names on the host whose half uses it (the
/// driver maps them).
struct GuestInterface {
    std::string netdev;  ///< QEMU's -netdev id, "net0".
    std::string tap;
    std::string bridge;  ///< Empty: the tap is in no bridge.
    bool routed = false;  ///< In no bridge: the host is its gateway (routed_tap.hpp).
    /// Routed: how often its routes were renewed; the newest win (routes_mover.hpp).
    std::uint32_t renewals = 0;
    /// Of the network that the bridge belongs to (network.hpp): "ipv4", "ipv6"; empty: of none. The
    /// bridge of the other host must belong to one of the same.
    std::string network;
    /// Of the bridge on either host, when it is stretched by VXLAN.
    std::optional<VxlanEnd> vxlan_source;
    std::optional<VxlanEnd> vxlan_destination;
    bool evpn = false;  ///< Both are an EVPN fabric's, and its daemons move the guest.
    /// An anchor moves it: its bridge at the destination is made for it alone, or, where the guest
    /// returns home, is that of its anchor (has_anchors_bridge()).
    std::optional<AnchorMove> anchor;
    MacAddress mac;
    int mtu = 1500;  ///< Of the source's tap; the destination must offer at least this.
    int queues = 1;  ///< Of the tap: the guest's queue pairs.
    bool vnet_hdr = true;
    bool router = false;  ///< The guest is an IPv6 router (learned).
    /// Of the tap at the source; none: it is in no bridge, or an older release does not say.
    std::optional<PortSettings> port;
    std::vector<GuestAddress> addresses;  ///< Given or learned; most recently seen first.

    /// At the destination its bridge is one that `serve` makes or names, not `bridge`.
    [[nodiscard]] bool has_anchors_bridge() const { return anchor && !anchor->ends_elsewhere(); }
    [[nodiscard]] core::Json to_json() const;
    /// Fails with protocol, naming the member, on anything missing, of the wrong type or out of
    /// range.
    static core::Result<GuestInterface> from_json(core::Json const& json);
};

enum class Side { source, destination };

class Mover {
public:
    virtual ~Mover() = default;

    /// "bridge", "vxlan", "routes"...
    [[nodiscard]] virtual std::string_view name() const = 0;
    /// What it moves, for the report: "52:54:00:12:34:56", "192.0.2.1", "2001:db8::1".
    [[nodiscard]] virtual std::vector<std::string> moves() const = 0;

    /// Everything slow. Fails with refused when this host cannot take part, in a sentence that says
    /// what to change. After a failure nothing is left changed.
    virtual core::Task<core::Result<>> prepare(core::Deadline deadline) = 0;
    /// What was learnt of the interface since prepare(): addresses, router. Any time before fire();
    /// cheap.
    virtual void update(GuestInterface const& now) = 0;
    /// Does not suspend. May be called again (after a restart, or when the answer was lost): same
    /// end state. A mover whose network must acknowledge (a home agent) watches for that in a task
    /// of its own that prepare() started.
    virtual core::Result<> fire() = 0;
    /// The source's half, after fire(): whether what comes after release() finds its own way to the
    /// guest. Asked again until it does, or for long enough. Cheap.
    virtual bool may_release() { return true; }
    /// The source's half, after fire(): everything that was on its way at that moment has arrived.
    /// Does not suspend; may be called again.
    virtual core::Result<> release() { return {}; }
    virtual core::Task<core::Result<>> settle(core::Deadline deadline) = 0;
    /// Does not suspend; from any state, also on a mover made after a restart, and more than once.
    /// Goes on past what fails and reports the first failure.
    virtual core::Result<> rollback() = 0;
    /// The source's half, after rollback(): the network leads here. If not, then what was under way
    /// has led it to the destination again, and rollback() is to be repeated. Cheap.
    virtual bool is_back() { return true; }
};

/// When and what a mover fired, for the report.
struct Fired {
    std::string mover;
    core::Clock::time_point at;  ///< When its fire() began.
    core::Clock::duration took{};  ///< How long its fire() took.
    std::vector<std::string> moved;
};

class MoverSet {
public:
    /// `interface`: which of the guest's it moves; one may need several movers.
    void add(std::unique_ptr<Mover> mover, std::size_t interface = 0);
    [[nodiscard]] bool empty() const { return movers_.empty(); }

    /// One after the other; when one fails those before it are rolled back, newest first.
    core::Task<core::Result<>> prepare(core::Deadline deadline);
    /// Mover::update() of all movers of that interface.
    void update(std::size_t interface, GuestInterface const& now);
    /// All or none: when one fails, those that fired are rolled back, newest first, and the error
    /// is returned.
    core::Result<> fire();
    /// All of them.
    [[nodiscard]] bool may_release() const;
    /// All, also when one fails: the first failure.
    core::Result<> release();
    core::Task<core::Result<>> settle(core::Deadline deadline);
    /// All, newest first, also when one fails: the first failure.
    core::Result<> rollback();
    /// All of them.
    [[nodiscard]] bool is_back() const;

    /// Empty before fire() and after rollback().
    [[nodiscard]] std::vector<Fired> const& fired() const { return fired_; }
    /// When the last mover had fired: the network has moved, as far as this host can tell.
    [[nodiscard]] std::optional<core::Clock::time_point> fired_at() const;

private:
    std::vector<std::unique_ptr<Mover>> movers_;
    std::vector<std::size_t> interfaces_;  ///< Of each mover.
    std::vector<Fired> fired_;
};

}  // namespace netmove
