// HomeEnds: the anchors of this host. Each holds the tap of a guest's interface, which stays a port
// of the guest's bridge, and the tunnel to the host where the guest runs. If the guest was on
// another host of its home network, a stand-in takes the place of its tap (stand_in.hpp): point
// announces the guest there. Owned by AnchorService.
//
//
// Where the kernel carries the tunnels (--anchor-plane=vxlan), each is a port of the guest's
// bridge, and the anchor has no tap: the guest moves as in one L2 network.
//
//   prepare        the guest is about to leave, or to move on: a tunnel to the next host, path
//                  tested
//   point          the guest's frames take this tunnel, in one step
//   keep           the move has ended: the other tunnels are removed
//   finish         the guest is home again, on this host
//   end_stand_in   the guest is home again, or has stayed, on another host
//   end_away       the guest stays away, and needs its place at home no more
//
// Invariant: at most one reader has the tap's ring: QEMU, or the tunnel `current` of the record.
#pragma once

#include <map>
#include <memory>

#include "netmove/netlink.hpp"
#include "netmove/tap.hpp"
#include "sidecar/anchor/record_files.hpp"
#include "sidecar/anchor/stand_in.hpp"
#include "sidecar/anchor/tunnel_hub.hpp"
#include "sidecar/channel/protocol_anchor.hpp"
#include "sidecar/host/settings.hpp"

namespace sidecar {

class HomeEnds {
public:
    /// Who asks: only a process of this host may begin or end an anchor that is no stand-in.
    enum class Asker : std::uint8_t { local, remote };

    /// `maps`: of the names of other hosts' bridges.
    HomeEnds(core::Loop& loop, Paths paths, HostMaps maps, netmove::Netlink& netlink,
             TunnelHub& hub, RecordFiles& records)
        : loop_(loop),
          paths_(std::move(paths)),
          maps_(std::move(maps)),
          netlink_(netlink),
          hub_(hub),
          records_(records),
          changes_(loop) {}

    /// Fails with refused if the request does not name the tunnel in use, or, before the first
    /// move, if the guest's QEMU does not hold the tap; with timed_out if no datagram passes.
    core::Task<core::Result<protocol::AnchorPath>> prepare(protocol::AnchorPrepare request,
                                                           Asker asker);
    /// Frames take the tunnel before this suspends; ends when that is recorded. Fails with refused
    /// if there is no such anchor or tunnel.
    core::Task<core::Result<>> point(protocol::AnchorPoint request);
    core::Task<core::Result<>> keep(protocol::AnchorKeep request, Asker asker);
    core::Task<core::Result<>> finish(std::string guest);
    /// Fails with refused if an end is no stand-in, or has another tunnel in use.
    core::Task<core::Result<>> end_stand_in(protocol::AnchorEndStandIn request);
    /// Fails with refused if an end has another tunnel in use. What has begun is finished after a
    /// restart.
    core::Task<core::Result<>> end_away(protocol::AnchorEndAway request);
    /// Whether this host can be the anchor of that interface, which is on another host. Fails with
    /// refused: a sentence about "it", this host. Changes nothing.
    [[nodiscard]] core::Result<> check_stand_in(std::string const& guest,
                                                netmove::GuestInterface const& at_source) const;
    /// The bridge of the anchor that has this tunnel; none: it is not on this host.
    [[nodiscard]] std::optional<std::string> bridge_of(std::string const& guest,
                                                       protocol::AnchorEnd const& end) const;
    /// After a restart of `serve`, or a boot: as recorded. May be repeated after a failure.
    core::Task<core::Result<>> restore(HomeRecord record);
    /// Whether the guest runs elsewhere through an anchor of this host; none: it has no anchor.
    [[nodiscard]] std::optional<bool> is_away(std::string const& guest) const;
    /// Before the tunnels end with `serve`: they are not used any more. The records stay.
    void forget();
    /// One object for each anchor: see protocol::AnchorList.
    void list(core::Json& into) const;

private:
    struct Home {
        HomeRecord record;
        std::optional<netmove::Tap> tap;  ///< None in the kernel's plane.
        /// Null in the kernel's plane: its device.
        std::map<std::uint64_t, netmove::tunnel::Tunnel*> tunnels;
        std::unique_ptr<StandIn> stand_in = {};  ///< If it is one; it uses `tap`.
    };
    using Name = std::pair<std::string, netmove::MacAddress>;

    Home* find(std::string const& guest, netmove::MacAddress const& mac);
    core::Task<core::Result<>> add_tunnels(protocol::AnchorPrepare request, Asker asker);
    core::Task<core::Result<>> find_or_take(protocol::AnchorPrepare const& request,
                                            protocol::AnchorEnd end, Asker asker);
    core::Task<core::Result<>> take(std::string guest, protocol::AnchorEnd end);
    core::Task<core::Result<>> begin_stand_in(std::string guest, protocol::AnchorEnd end);
    static core::Result<> move_stand_in(Home& home, protocol::AnchorEnd const& end);
    core::Task<core::Result<>> end_stand_ins(protocol::AnchorEndStandIn request);
    core::Task<core::Result<>> end_all_away(protocol::AnchorEndAway request);
    core::Result<> add_tunnel(Home& home, HomeRecord::Tunnel const& tunnel);
    core::Task<core::Result<>> remove_tunnel(HomeRecord::Tunnel tunnel);
    core::Task<core::Result<>> take_bridge(std::string guest, protocol::AnchorEnd end);
    void lead_to_guest(HomeRecord const& record);
    core::Result<Home*> point_one(std::string const& guest, protocol::AnchorEnd const& end);
    core::Task<core::Result<>> keep_only(protocol::AnchorKeep request, Asker asker);
    core::Task<core::Result<>> end_all(std::string guest);
    core::Task<core::Result<>> restore_one(HomeRecord record);
    core::Task<void> remove_tunnels(Name name, std::uint64_t keep);
    core::Task<core::Result<>> end(Name name);
    core::Task<core::Result<std::shared_ptr<Home>>> take_up(HomeRecord& record);
    core::Task<core::Result<netmove::Tap>> take_up_tap(HomeRecord& record);
    void note_move(HomeRecord& record) const;
    [[nodiscard]] bool may_be_needed(HomeRecord const& record) const;
    core::Task<core::Result<>> discard(HomeRecord record);

    core::Loop& loop_;
    Paths paths_;
    HostMaps maps_;
    netmove::Netlink& netlink_;
    TunnelHub& hub_;
    RecordFiles& records_;
    core::Turn changes_;  ///< What makes or removes an end suspends, to write its record.
    std::map<Name, std::shared_ptr<Home>> homes_;  ///< Shared with keep().
};

}  // namespace sidecar
