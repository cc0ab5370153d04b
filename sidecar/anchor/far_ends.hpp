// FarEnds: the far ends of anchors: on this host runs a guest whose place on its network is an
// anchor on another host. Each has a bridge of its own with two ports: the tap of the tunnel, which
// is made here, and the guest's tap, which the guest's sidecar puts into it. Owned by
// AnchorService.
#pragma once

#include <map>
#include <memory>

#include "netmove/netlink.hpp"
#include "netmove/tap.hpp"
#include "sidecar/anchor/record_files.hpp"
#include "sidecar/anchor/tunnel_hub.hpp"
#include "sidecar/channel/protocol_anchor.hpp"

namespace sidecar {

class FarEnds {
public:
    FarEnds(core::Loop& loop, netmove::Netlink& netlink, TunnelHub& hub, RecordFiles& records)
        : loop_(loop), netlink_(netlink), hub_(hub), records_(records), changes_(loop) {}

    /// Makes the far end of one interface, in place of an earlier one. Returns its bridge. After a
    /// failure nothing is left.
    core::Task<core::Result<std::string>> receive(protocol::AnchorReceive request,
                                                  protocol::AnchorEnd end);
    /// Whether this host can give the end its local addresses, if it is to have any. Fails with
    /// refused. Changes nothing.
    core::Task<core::Result<>> check_local(std::string guest, protocol::AnchorEnd end);
    /// Removes the far ends of a guest; with a migration_id only those that it made.
    core::Task<core::Result<>> leave(std::string guest, std::string migration_id);
    [[nodiscard]] std::vector<protocol::AnchorWhereAnswer::End> where(
        std::string const& guest) const;
    /// After a restart of `serve`, or a boot: as recorded. May be repeated after a failure.
    core::Task<core::Result<>> restore(FarRecord record);
    [[nodiscard]] bool has(std::string const& guest) const;
    /// Before the tunnels end with `serve`: they are not used any more. The records stay.
    void forget() { fars_.clear(); }
    /// Notes how many sessions the guests with local addresses have, and when the last of those
    /// through the anchor ended. Called every limits::anchor_session_interval, without `packets`.
    void look_at_sessions(bool packets = false);
    /// One object for each: see protocol::AnchorList.
    void list(core::Json& into);

private:
    struct Far {
        FarRecord record;
        netmove::Tap tap;
        netmove::tunnel::Tunnel* tunnel = nullptr;
        bool local_made = false;  ///< Its local addresses are in use, if it has any.
        netmove::LocalSessions sessions = {};
        std::int64_t home_ended_ms = 0;  ///< When the last session through the anchor did.
    };
    using Name = std::pair<std::string, netmove::MacAddress>;

    core::Task<core::Result<std::string>> receive_one(protocol::AnchorReceive request,
                                                      protocol::AnchorEnd end);
    core::Task<core::Result<>> leave_all(std::string guest, std::string migration_id);
    core::Task<core::Result<>> restore_one(FarRecord record);
    core::Task<core::Result<>> make(FarRecord record);
    core::Task<core::Result<netmove::Tap>> take_up(FarRecord& record);
    core::Task<core::Result<>> end(Name name);
    core::Task<void> undo(FarRecord record);
    core::Result<> make_local(Far& far);
    core::Task<void> remove_local(FarRecord record);
    [[nodiscard]] std::uint32_t free_number() const;
    static core::Json local_json(Far const& far);

    core::Loop& loop_;
    netmove::Netlink& netlink_;
    TunnelHub& hub_;
    RecordFiles& records_;
    core::Turn changes_;  ///< What makes or removes an end suspends, to write its record.
    std::map<Name, std::unique_ptr<Far>> fars_;
};

}  // namespace sidecar
