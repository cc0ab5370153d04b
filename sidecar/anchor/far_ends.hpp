// FarEnds: the far ends of anchors: on this host runs a guest whose place on its network is an
// anchor on another host. Each has a bridge of its own with two ports: the tap of the tunnel, which
// is made here, and the guest's tap, which the guest's sidecar puts into it. Owned by
// AnchorService.
//
// With --release-when-idle the anchor ends when no session needs it (far_release.cpp). Then there
// is no tunnel, and the tap answers for the gateway of the guest's home network.
#pragma once

#include <functional>
#include <map>
#include <memory>

#include "netmove/home_gateway.hpp"
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
    /// Asks the `serve` at `home`, HOST:PORT, to end an anchor. `migration_id`: that made it.
    using AskHome = std::function<core::Task<core::Result<>>(
        std::string home, std::string migration_id, protocol::AnchorEndAway request)>;
    /// Ends the anchors that are to be released and are not used any more. Called after
    /// look_at_sessions(). Repeats what an earlier call, or an earlier `serve`, began.
    core::Task<void> release_idle(AskHome ask);
    /// Before the tunnels end with `serve`: they are not used any more. The records stay.
    core::Task<void> close();
    /// Notes how many sessions the guests with local addresses have, and when the last of those
    /// through the anchor ended. Called every limits::anchor_session_interval, without `packets`.
    void look_at_sessions(bool packets = false);
    /// One object for each: see protocol::AnchorList.
    void list(core::Json& into);

private:
    /// Answers for the home gateway, beside everything else.
    struct Answering {
        Answering(core::Loop& loop, netmove::Tap const& tap, netmove::MacAddress const& guest,
                  netmove::HomeGateways gateways)
            : responder(loop, tap, guest, std::move(gateways)), task(loop) {}
        netmove::GatewayResponder responder;
        core::TaskGroup task;
        std::stop_source stop;
    };
    struct Far {
        FarRecord record;
        std::optional<netmove::Tap> tap;  ///< None in the kernel's plane.
        /// None in the kernel's plane, and when the anchor is released.
        netmove::tunnel::Tunnel* tunnel = nullptr;
        bool local_made = false;  ///< Its local addresses are in use, if it has any.
        netmove::LocalSessions sessions = {};
        std::int64_t home_ended_ms = 0;  ///< When the last session through the anchor did.
        std::optional<netmove::GatewayWatcher> watcher = {};  ///< Until the anchor is released.
        /// Since when no session through the anchor is known.
        std::optional<core::Clock::time_point> idle_since = {};
        std::string waits = {};  ///< Why the anchor is not released yet.
        std::unique_ptr<Answering> answering = {};  ///< Afterwards; it uses `tap`.
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

    static core::Result<> note_gateways(Far& far);
    static std::string why_not_released(Far const& far);
    core::Task<core::Result<bool>> look_at_release(Name name);
    core::Task<core::Result<FarRecord>> begin_release(Name name);
    core::Task<core::Result<>> end_release(Name name, std::uint64_t id);
    core::Task<core::Result<>> release(Name name, AskHome ask);
    [[nodiscard]] static std::string home_of(Far const& far);
    core::Task<core::Result<>> forget_all();
    void begin_answering(Far& far);
    static core::Task<void> end_answering(Far& far);

    core::Loop& loop_;
    netmove::Netlink& netlink_;
    TunnelHub& hub_;
    RecordFiles& records_;
    core::Turn changes_;  ///< What makes or removes an end suspends, to write its record.
    std::map<Name, std::unique_ptr<Far>> fars_;
};

}  // namespace sidecar
