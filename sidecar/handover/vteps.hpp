// Vteps: tells the other VTEPs of the guest's VXLAN where the guest is. These are hosts that
// neither have the guest nor receive it, but send to it (netmove/vxlan_mover.hpp). The source opens
// a channel to the `sidecar serve` of each, tests it before anything is changed, and keeps it.
//
// It sends vtep_prepare, which changes nothing, and vtep_repoint_fdb (channel/protocol.hpp). A VTEP
// keeps no record: if its source is gone, its last state stays until a sidecar of that guest sends
// another request.
//
// Invariant: the last request to each VTEP carries the wanted side, or such a request
// is being sent.
#pragma once

#include <list>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "core/sync.hpp"
#include "netmove/vxlan_mover.hpp"
#include "sidecar/channel/peer.hpp"
#include "sidecar/channel/protocol_vtep.hpp"
#include "sidecar/machine/common.hpp"

namespace sidecar {

class Vteps {
public:
    struct Config {
        std::vector<std::string> hosts;  ///< HOST[:PORT]
        core::TlsConfig tls;
        std::string guest;
        std::string migration_id;
    };
    Vteps(core::Loop& loop, Config config);

    [[nodiscard]] bool empty() const { return vteps_.empty(); }
    /// Connects to those that are not connected and sends each vtep_prepare. Fails with refused,
    /// naming the VTEP, if one cannot take part.
    core::Task<core::Result<>> prepare(std::vector<netmove::VxlanMove> moves,
                                       core::Deadline deadline);
    /// After a restart of this sidecar: their state is unknown, and so is the wanted side until
    /// repoint_fdb(). Instead of prepare(), or before it.
    void begin_unknown(std::vector<netmove::VxlanMove> moves);
    /// Sends where the guest is to all at once, and repeats it until they answer. Does not suspend.
    void repoint_fdb(machine::Side to);
    [[nodiscard]] bool repointed() const;
    /// When the last of them answered; none before that.
    [[nodiscard]] std::optional<core::Clock::time_point> repointed_at() const;
    /// Waits until all have answered; fails with timed_out, naming those that have not.
    core::Task<core::Result<>> wait_repointed(core::Deadline deadline);
    /// Closes the channels. The VTEPs keep their last state.
    core::Task<void> end();

    /// [{vtep, devices, repointed_ms, changed, error}]; moments in milliseconds after `since`.
    [[nodiscard]] core::Json report(std::optional<core::Clock::time_point> since) const;
    /// One line each, for `--check`.
    [[nodiscard]] std::vector<std::string> lines() const;

private:
    struct Vtep {
        explicit Vtep(core::Loop& loop) : wanted_changed(loop) {}
        std::string host;
        std::unique_ptr<PeerChannel> channel;
        bool begun = false;
        /// None: not known yet, and nothing is sent.
        std::optional<machine::Side> wanted = machine::Side::source;
        std::optional<machine::Side> told = machine::Side::source;  ///< Sent last and answered.
        core::Event wanted_changed;
        core::LinkedStop* asking = nullptr;  ///< For the request under way.
        std::string devices;
        std::optional<core::Clock::time_point> repointed_at;
        bool changed = false;  ///< An entry there was changed.
        std::string error;  ///< Why it has not answered yet.
    };
    void begin(Vtep& vtep);
    core::Task<core::Result<>> prepare_one(Vtep& vtep, core::Deadline deadline);
    core::Task<void> keep_told(Vtep& vtep);
    core::Task<core::Result<>> tell(Vtep& vtep, machine::Side to, core::Deadline deadline);

    core::Loop& loop_;
    std::list<Vtep> vteps_;
    std::vector<netmove::VxlanMove> moves_;
    core::Event progress_;  ///< Set when one has answered.
    core::TaskGroup tasks_;
    std::stop_source stop_;
};

}  // namespace sidecar
