// SourceAnchors: the source's part in a move by an anchor. It asks the `serve` that holds the
// guest's anchor: its own before the guest's first move, later that of the anchor's host, over a
// channel of its own. Every request may be repeated; a request that is not answered is. A stand-in
// is an anchor that begins on another host of the home network, and so is asked over such a channel
// from the beginning.
//
//   find       before anything is touched: which interfaces an anchor moves, and by which tunnels
//   prepare    the tunnel to the destination is made, and its path tested
//   repoint    at STOP, or when the guest leaves home, after COMMIT: frames take that tunnel
//   settle     the guest is there: the earlier tunnel and this host's far end are removed
//   drop       the guest stays: the new tunnel is removed
//
// Invariant: the last request to the anchor carries the wanted side, or such a request is being
// sent.
#pragma once

#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "core/sync.hpp"
#include "sidecar/anchor/anchor_record.hpp"
#include "sidecar/channel/peer.hpp"
#include "sidecar/channel/protocol_anchor.hpp"
#include "sidecar/machine/common.hpp"

namespace sidecar {

class SourceAnchors {
public:
    struct Config {
        Paths paths;
        core::TlsConfig tls;
        std::string guest;
        std::string migration_id;
        std::string stand_in;  ///< HOST[:PORT] that is to be the anchor; empty: this host.
        /// UDP, of an anchor that begins in the kernel; 0: in user space.
        int vxlan_port = 0;
    };
    SourceAnchors(core::Loop& loop, Config config);

    /// Sets GuestInterface::anchor of the interfaces that an anchor moves: the `wanted` ones that
    /// are in a bridge, or those that have an anchor elsewhere, if there are any. Changes nothing
    /// on either host. Fails with refused if the anchor cannot be asked, or if a stand-in is asked
    /// for and cannot be used.
    core::Task<core::Result<>> find(std::vector<netmove::GuestInterface>& interfaces,
                                    std::set<std::size_t> wanted, core::Deadline deadline);
    /// The destination has said for which interfaces it is the anchor's host: the guest returns.
    void note_home(std::vector<netmove::GuestInterface>& interfaces,
                   std::vector<bool> const& anchored_here);
    /// The anchor is a stand-in, and the guest returns to its home network at a host that is not
    /// the anchor's: its interfaces are moved to their bridges there, and the stand-in ends.
    void leave_stand_in(std::vector<netmove::GuestInterface>& interfaces);
    /// The guest is away, and its anchor was released: it has no place on its home network.
    [[nodiscard]] bool is_released() const { return released_; }
    /// The guest is away, and all its anchors are stand-ins.
    [[nodiscard]] bool behind_stand_ins() const;
    /// After a restart of this sidecar, from the recorded interfaces: what the anchor was told last
    /// is not known.
    void begin_after_restart(std::vector<netmove::GuestInterface> const& interfaces);

    /// No interface is moved by an anchor.
    [[nodiscard]] bool empty() const { return ends_.empty(); }
    /// The anchor is on this host: the guest leaves home, and its tap stays.
    [[nodiscard]] bool leaves_home() const { return !ends_.empty() && place_ == Place::here; }
    /// The guest leaves home, and its frames wait there until it runs at the destination.
    [[nodiscard]] bool leaves_its_taps() const { return leaves_home() && !in_kernel(); }
    /// The tunnels are in the kernel.
    [[nodiscard]] bool in_kernel() const {
        return !ends_.empty() && ends_.front().move.vxlan.has_value();
    }
    /// The guest leaves home, and a stand-in on another host takes the place of its tap.
    [[nodiscard]] bool begins_stand_in() const {
        return !ends_.empty() && place_ == Place::begins_elsewhere;
    }
    /// The guest goes back to its home network: there is nothing to repoint.
    [[nodiscard]] bool returns_home() const;
    /// ... at another host than its anchor's, which is a stand-in, and ends.
    [[nodiscard]] bool ends_stand_in() const;
    /// HOST[:PORT] of the anchor's `serve`; empty: this host.
    [[nodiscard]] std::string const& home() const { return home_; }
    /// The keys of the new tunnels, for the destination.
    [[nodiscard]] std::vector<netmove::tunnel::Key> const& keys() const { return keys_; }
    /// TCP, of the anchor's `serve`, for the destination.
    [[nodiscard]] int anchor_port() const { return anchor_port_; }

    /// The key of the tunnel that tests the path during the check; none: there is no path to test.
    [[nodiscard]] std::optional<netmove::tunnel::Key> const& probe_key() const { return probe_; }
    /// After the destination was given probe_key(): tests the path, and whether a stand-in can
    /// begin or end. Leaves nothing. `host_id`: of the destination. Fails with refused, saying what
    /// to open.
    core::Task<core::Result<>> probe(std::string host, int tunnel_port, std::string host_id,
                                     core::Deadline deadline);
    [[nodiscard]] std::optional<protocol::AnchorPath> const& path() const { return path_; }
    /// Before probe(): the devices' addresses, where the tunnels are in the kernel. `host`: the
    /// destination. Fails with netlink: there is no route.
    core::Result<> address_vxlan(netmove::Netlink& netlink,
                                 std::vector<netmove::GuestInterface>& interfaces,
                                 std::string const& host);
    /// `host`, `tunnel_port`: of the destination's far ends. Fails with refused.
    core::Task<core::Result<>> prepare(std::string host, int tunnel_port, core::Deadline deadline);
    /// At STOP: the addresses that a stand-in announces.
    void update(netmove::GuestInterface const& now);
    /// Does not suspend; repeated until the anchor answers.
    void repoint(machine::Side to);
    [[nodiscard]] bool repointed() const { return told_ == wanted_; }
    /// When the anchor last answered; none before that.
    [[nodiscard]] std::optional<core::Clock::time_point> repointed_at() const {
        return repointed_at_;
    }
    /// Waits until the anchor has answered; fails with timed_out, saying why it has not.
    core::Task<core::Result<>> wait_repointed(core::Deadline deadline);
    core::Task<core::Result<>> settle(core::Deadline deadline);
    core::Task<core::Result<>> drop(core::Deadline deadline);
    /// Closes the channel, and ends the tasks.
    core::Task<void> end();

    /// {anchor, round_trip_us, datagram_max, repointed_ms, error}; milliseconds after `since`.
    [[nodiscard]] core::Json report(std::optional<core::Clock::time_point> since) const;

private:
    /// Where the anchor is before the move.
    enum class Place : std::uint8_t { here, elsewhere, begins_elsewhere };
    struct End {
        netmove::MacAddress mac;
        std::string tap;
        netmove::AnchorMove move;
        std::optional<netmove::GuestInterface> interface = {};  ///< That a stand-in stands in for.
        int mtu = 1500;
    };
    template <class Request>
    core::Task<core::Result<typename Request::Answer>> ask(Request request,
                                                           core::Deadline deadline);
    core::Task<core::Result<>> reach_home(core::Deadline deadline);
    core::Task<core::Result<>> look_up_home(core::Deadline deadline);
    void find_released(netmove::GuestInterface& interface, FarRecord const& far);
    core::Result<> find_stand_in(std::vector<netmove::GuestInterface>& interfaces,
                                 std::set<std::size_t> const& wanted);
    core::Task<core::Result<>> reach_stand_in(core::Deadline deadline);
    core::Task<core::Result<>> check_stand_in(netmove::tunnel::Endpoint peer, std::string host_id,
                                              core::Deadline deadline);
    core::Task<core::Result<>> end_stand_in(core::Deadline deadline);
    core::Result<> take_where(protocol::AnchorWhereAnswer const& where);
    [[nodiscard]] std::vector<protocol::AnchorEnd> ends(bool destination) const;
    core::Task<void> keep_told();
    [[nodiscard]] core::Result<> check_vxlan_path(netmove::tunnel::Endpoint const& peer) const;
    static core::Result<netmove::tunnel::Endpoint> endpoint(std::string const& host,
                                                            int tunnel_port);
    core::Result<> write_keys() const;
    void read_keys();
    [[nodiscard]] std::string keys_path() const;

    core::Loop& loop_;
    Config config_;
    std::vector<End> ends_;
    std::vector<netmove::tunnel::Key> keys_;
    std::optional<netmove::tunnel::Key> probe_;
    Place place_ = Place::here;
    std::string home_;
    int anchor_port_ = 0;
    bool released_ = false;
    std::unique_ptr<PeerChannel> channel_;  ///< To another host's `serve`.
    bool telling_ = false;  ///< keep_told() runs.
    std::optional<machine::Side> wanted_;  ///< None: nothing is asked for.
    std::optional<machine::Side> told_;
    std::optional<core::Clock::time_point> repointed_at_;
    std::optional<protocol::AnchorPath> path_;
    std::string error_;  ///< Why the anchor has not answered yet.
    core::Event wanted_changed_;
    core::Event progress_;
    core::TaskGroup tasks_;
    std::stop_source stop_;
};

}  // namespace sidecar
