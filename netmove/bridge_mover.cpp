#include "netmove/bridge_mover.hpp"

#include <linux/neighbour.h>

#include <algorithm>
#include <set>

#include "core/log.hpp"
#include "core/sync.hpp"
#include "netmove/frame.hpp"

namespace netmove {

using core::Errc;
using core::fail;
using core::Result;

namespace {

// How often a port that does not forward yet (STP: two forward delays, 30 s by default) is looked
// at.
constexpr core::milliseconds forwarding_poll{100};

// Pauses before the repeated announcements: for a switch or host that lost the first ones. Spaced
// out, few, and all from one place, so that a fabric that counts MAC moves (EVPN: 5 in 180 s freeze
// the MAC) sees one.
constexpr core::milliseconds repeat_pauses[] = {core::milliseconds(100), core::milliseconds(300),
                                                core::milliseconds(600)};

/// What both halves have: one tap in one bridge, and the guest's frames.
class BridgeHalf : public Mover {
public:
    BridgeHalf(core::Loop& loop, Netlink& netlink, Tap const& tap, GuestInterface interface)
        : loop_(loop), netlink_(netlink), tap_(tap) {
        take(std::move(interface));
    }

    [[nodiscard]] std::string_view name() const override { return "bridge"; }
    [[nodiscard]] std::vector<std::string> moves() const override {
        std::vector<std::string> out{interface_.mac.text()};
        for (auto const& entry : interface_.addresses) out.push_back(entry.address.text());
        return out;
    }
    void update(GuestInterface const& now) override {
        interface_.addresses = now.addresses;
        interface_.router = now.router;
        take(std::move(interface_));
    }

protected:
    /// The bridge, or why it is none that this mover can use.
    Result<Link> bridge_link() {
        if (interface_.bridge.empty()) {
            return fail(Errc::refused,
                        "the tap {} is in no bridge: the guest's address {} cannot be "
                        "moved by announcing it; name a bridge (--bridge, --map-bridge)",
                        interface_.tap, interface_.mac.text());
        }
        TRY(auto found, netlink_.find_link(interface_.bridge));
        if (!found || found->kind != "bridge") {
            return fail(Errc::refused,
                        "{} {} on this host: make it, or map the guest's bridge to "
                        "another one (--map-bridge)",
                        interface_.bridge,
                        found ? "is not a Linux bridge" : "is not a network interface");
        }
        return *std::move(found);
    }

    /// The tap as a port of that bridge, up and forwarding; waits for STP until the deadline.
    core::Task<Result<Link>> forwarding_port(Link bridge, core::Deadline deadline) {
        for (;;) {
            CO_TRY(auto port, netlink_.link(interface_.tap));
            if (port.master != bridge.index || !port.port) {
                co_return fail(Errc::refused, "the tap {} is not in the bridge {}", interface_.tap,
                               bridge.name);
            }
            if (port.up && port.port->forwarding()) co_return port;
            if (deadline.passed()) {
                co_return fail(Errc::timed_out, "the bridge {} does not forward to the tap {}{}",
                               bridge.name, interface_.tap,
                               bridge.stp ? ": the spanning tree protocol still blocks it" : "");
            }
            CO_TRY_VOID(co_await core::sleep_for(loop_, forwarding_poll, deadline.token()));
        }
    }

    /// The guest is here: says so to everybody. The frames first, they move the network; then the
    /// host's tables. `flags`: how the bridge is to treat the port; none: as it does.
    Result<> claim(std::optional<BridgePort> flags) {
        for (auto const& frame : frames_) TRY_VOID(tap_.write_frame(frame));
        TRY(auto const port, netlink_.link(interface_.tap));
        if (!port.port) {
            return fail(Errc::refused, "the tap {} is no longer in a bridge", interface_.tap);
        }
        if (!flags) flags = port.port;
        TRY_VOID(netlink_.set_bridge_port(port.index, opened(*flags)));
        // A port that does not learn would let a dynamic entry age away under the running guest.
        TRY_VOID(netlink_.replace_fdb(port.index, interface_.mac, !flags->learning));
        for (auto const& [address, vlan] : interface_.addresses) {
            if (vlan != 0 || keep_neighbours_.contains(address)) continue;
            TRY_VOID(
                netlink_.refresh_neighbour(port.master, address, interface_.mac, NUD_REACHABLE));
        }
        return {};
    }

    /// A port that nothing is flooded to serves no guest: it is one that an earlier life of this
    /// program closed.
    static BridgePort opened(BridgePort port) {
        if (!port.unicast_flood && !port.multicast_flood && !port.broadcast_flood) {
            port.unicast_flood = port.multicast_flood = port.broadcast_flood = true;
        }
        return port;
    }

    /// The entries of the guest that learning could not move: on our port, or on the others.
    Result<std::vector<FdbEntry>> pinned_entries(Link const& port, bool on_port) {
        TRY(auto const table, netlink_.fdb(port.master));
        std::vector<FdbEntry> out;
        for (auto const& entry : table) {
            bool const wanted =
                entry.mac == interface_.mac && (entry.port == port.index) == on_port;
            if (wanted && entry.pinned()) out.push_back(entry);
        }
        return out;
    }

    /// Neighbour entries for the guest that another program manages are not changed.
    Result<> note_neighbours(int bridge) {
        TRY(auto const all, netlink_.neighbours(bridge));
        keep_neighbours_.clear();
        for (auto const& entry : all) {
            if (entry.permanent() || entry.external) keep_neighbours_.insert(entry.address);
        }
        return {};
    }

    /// Nothing is flooded to the port: it gets what is known to be for the guest.
    Result<> close_to_floods(Link const& port) {
        if (!found_) found_ = opened(*port.port);
        BridgePort closed = *port.port;
        closed.unicast_flood = false;
        closed.multicast_flood = false;
        closed.broadcast_flood = false;
        return netlink_.set_bridge_port(port.index, closed);
    }

    /// Only while nothing is sent to the tap that matters: the kernel drops what is sent in the
    /// moment in which a ring changes its length.
    Result<> lengthen_ring(Link const& port) {
        ring_before_ = port.queue_length;
        if (port.queue_length >= migration_queue_length) return {};
        return netlink_.set_queue_length(interface_.tap, migration_queue_length);
    }

    /// As above.
    Result<> restore_ring() {
        if (!ring_before_ || *ring_before_ >= migration_queue_length) return {};
        auto const length = *std::exchange(ring_before_, std::nullopt);
        TRY(auto const link, netlink_.find_link(interface_.tap));
        if (!link) return {};  // it went with its QEMU
        return netlink_.set_queue_length(interface_.tap, length);
    }

    core::Loop& loop_;
    Netlink& netlink_;
    Tap const& tap_;
    GuestInterface interface_;
    std::vector<Bytes> frames_;  ///< Built before STOP, written at fire().
    std::vector<Bytes> repeat_frames_;
    std::set<Address> keep_neighbours_;
    std::optional<BridgePort> found_;  ///< The port's flags before we changed them.

private:
    void take(GuestInterface interface) {
        interface_ = std::move(interface);
        auto const build = [this](ArpForm form) {
            return announcements(interface_.mac, interface_.addresses, interface_.router, form);
        };
        frames_ = build(ArpForm::request);
        repeat_frames_ = build(ArpForm::reply);
    }

    std::optional<int> ring_before_;  ///< txqueuelen before prepare().
};

class SourceHalf final : public BridgeHalf {
public:
    using BridgeHalf::BridgeHalf;

    core::Task<Result<>> prepare(core::Deadline deadline) override {
        CO_TRY(auto const bridge, bridge_link());
        CO_TRY(auto const port, co_await forwarding_port(bridge, deadline));
        CO_TRY_VOID(note_neighbours(bridge.index));
        CO_TRY(pinned_, pinned_entries(port, true));
        port_ = port;
        co_return Result<>{};
    }

    // The bridge would learn from the destination's announcement where the guest is, and drop the
    // guest's frames that come after it from another processor's queue.
    Result<> fire() override {
        TRY_VOID(close_to_floods(port_));
        return netlink_.replace_fdb(port_.index, interface_.mac, true);
    }

    Result<> release() override {
        TRY_VOID(netlink_.delete_fdb(port_.index, interface_.mac));
        for (auto const& entry : pinned_) {
            TRY_VOID(netlink_.delete_fdb(entry.port, entry.mac, entry.vlan));
        }
        return {};
    }

    core::Task<Result<>> settle(core::Deadline) override {
        // A persistent tap stays when its QEMU goes.
        CO_TRY(auto const link, netlink_.find_link(interface_.tap));
        if (link && link->port && found_) {
            CO_TRY_VOID(netlink_.set_bridge_port(link->index, *found_));
        }
        co_return Result<>{};
    }

    Result<> rollback() override {
        // The ring stays long: what waits in it is the guest's, which reads it after `cont`.
        auto first = claim(found_);
        for (auto const& entry : pinned_) {
            auto result = netlink_.replace_fdb(entry.port, entry.mac, true, entry.vlan);
            if (!result && first) first = std::move(result);
        }
        return first;
    }

private:
    Link port_;  ///< As prepare() found it.
    std::vector<FdbEntry> pinned_;  ///< Of the guest, on our port.
};

class DestinationHalf final : public BridgeHalf {
public:
    using BridgeHalf::BridgeHalf;

    core::Task<Result<>> prepare(core::Deadline deadline) override {
        auto prepared = co_await try_prepare(deadline);
        if (!prepared) (void)rollback();  // why it failed is worth more than what undoing says
        co_return prepared;
    }

    Result<> fire() override { return claim(found_); }

    core::Task<Result<>> settle(core::Deadline deadline) override {
        bool reply = true;
        for (auto const pause : repeat_pauses) {
            if (deadline.passed()) break;
            if (!co_await core::sleep_for(loop_, pause, deadline.token())) break;
            for (auto const& frame : reply ? repeat_frames_ : frames_) {
                CO_TRY_VOID(tap_.write_frame(frame));
            }
            reply = !reply;
        }
        co_return Result<>{};
    }

    Result<> rollback() override {
        TRY(auto const link, netlink_.find_link(interface_.tap));
        if (!link || !link->port)
            return {};  // the tap is gone, and with it all it had in the bridge
        Result<> first;
        auto const keep = [&first](Result<> result) {
            if (!result && first) first = std::move(result);
        };
        auto const deleted = netlink_.delete_fdb(link->index, interface_.mac);
        if (!deleted) keep(std::unexpected(deleted.error()));
        for (auto const& entry : displaced_) {
            keep(netlink_.replace_fdb(entry.port, entry.mac, true, entry.vlan));
        }
        if (found_) keep(netlink_.set_bridge_port(link->index, *found_));
        if (joined_) keep(netlink_.set_master(interface_.tap, ""));
        found_.reset();
        joined_ = false;
        keep(restore_ring());
        return first;
    }

private:
    core::Task<Result<>> try_prepare(core::Deadline deadline) {
        CO_TRY(auto const bridge, bridge_link());
        // Asked before the tap joins: a bridge takes the smallest MTU of its ports.
        CO_TRY_VOID(check_mtu(bridge));
        CO_TRY(auto const before, netlink_.link(interface_.tap));
        CO_TRY_VOID(place_tap(netlink_, interface_.tap, {interface_.bridge, interface_.mtu, 0}));
        joined_ = joined_ || before.master == 0;
        CO_TRY(auto const port, co_await forwarding_port(bridge, deadline));
        CO_TRY_VOID(note_neighbours(bridge.index));
        CO_TRY(displaced_, pinned_entries(port, false));
        // What EVPN says of the guest is its routing daemon's to write, also after a rollback.
        if (interface_.evpn) std::erase_if(displaced_, &FdbEntry::external);
        CO_TRY_VOID(lengthen_ring(port));
        // QEMU does not read before it has the guest, and a ring full of other stations' broadcasts
        // would have no room for the guest's frames.
        CO_TRY_VOID(close_to_floods(port));
        CO_TRY(auto const stale, tap_.drain());
        if (stale > 0) core::log::debug("tap={} drained={}", interface_.tap, stale);
        co_return Result<>{};
    }

    Result<> check_mtu(Link const& bridge) const {
        if (bridge.mtu >= interface_.mtu) return {};
        return fail(Errc::refused,
                    "the bridge {} has an MTU of {}, but the guest's interface {} uses {} on the "
                    "source: raise the MTU of {} and its ports, or larger packets would be lost",
                    bridge.name, bridge.mtu, interface_.netdev, interface_.mtu, bridge.name);
    }

    std::vector<FdbEntry> displaced_;  ///< Static entries of the guest on other ports.
    bool joined_ = false;  ///< prepare() put the tap into the bridge.
};

}  // namespace

std::unique_ptr<Mover> bridge_mover_source(core::Loop& loop, Netlink& netlink, Tap const& tap,
                                           GuestInterface const& interface) {
    return std::make_unique<SourceHalf>(loop, netlink, tap, interface);
}

std::unique_ptr<Mover> bridge_mover_destination(core::Loop& loop, Netlink& netlink, Tap const& tap,
                                                GuestInterface const& interface) {
    return std::make_unique<DestinationHalf>(loop, netlink, tap, interface);
}

}  // namespace netmove
