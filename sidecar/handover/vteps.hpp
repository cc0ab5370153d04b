// Vteps: the source's word to the other VTEPs of the guest's VXLAN: hosts that have neither the
// guest nor get it, but send to it (netmove/vxlan_mover.hpp). To the `sidecar serve` of each goes a
// channel of its own, which is made and proved before anything is touched, and kept.
//
// It asks vtep_prepare, which touches nothing, and vtep_repoint_fdb (channel/protocol.hpp). A VTEP
// keeps nothing: one whose source is gone stays as it was told last, until the next word of a
// sidecar of that guest.
//
// Invariant: a VTEP was told last what is wanted, or is being told.
#pragma once

#include <list>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "core/sync.hpp"
#include "netmove/vxlan_mover.hpp"
#include "sidecar/channel/peer.hpp"
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
    /// Connects to those that are not connected and asks each. Fails with refused, naming the VTEP,
    /// when one cannot take part.
    core::Task<core::Result<>> prepare(std::vector<netmove::VxlanMove> moves,
                                       core::Deadline deadline);
    /// After a restart of this sidecar: what they were told is not known, nor what they are to be
    /// told before turn(). Instead of prepare(), or before it.
    void begin_unknown(std::vector<netmove::VxlanMove> moves);
    /// Where the guest is, for all at once, tried until they answer. Does not suspend.
    void repoint_fdb(machine::Side to);
    [[nodiscard]] bool repointed() const;
    /// When the last of them had answered; none before.
    [[nodiscard]] std::optional<core::Clock::time_point> repointed_at() const;
    /// Waits until all have; fails with timed_out, naming those that have not.
    core::Task<core::Result<>> wait_repointed(core::Deadline deadline);
    /// Hangs up. What was told stays.
    core::Task<void> end();

    /// [{vtep, devices, turned_ms, changed, error}]; moments in milliseconds after `since`.
    [[nodiscard]] core::Json report(std::optional<core::Clock::time_point> since) const;
    /// One line each, for `--check`.
    [[nodiscard]] std::vector<std::string> lines() const;

private:
    struct Vtep {
        explicit Vtep(core::Loop& loop) : wanted_changed(loop) {}
        std::string host;
        std::unique_ptr<PeerChannel> channel;
        bool begun = false;
        /// None: nobody knows yet, and nothing is told.
        std::optional<machine::Side> wanted = machine::Side::source;
        std::optional<machine::Side> told = machine::Side::source;  ///< And answered.
        core::Event wanted_changed;
        core::LinkedStop* asking = nullptr;  ///< Of the question under way.
        std::string devices;
        std::optional<core::Clock::time_point> repointed_at;
        bool changed = false;  ///< An entry there.
        std::string error;  ///< Why it has not answered yet.
    };
    void begin(Vtep& vtep);
    core::Task<core::Result<>> prepare_one(Vtep& vtep, core::Deadline deadline);
    core::Task<void> keep_told(Vtep& vtep);
    core::Task<core::Result<>> tell(Vtep& vtep, machine::Side to, core::Deadline deadline);

    core::Loop& loop_;
    std::list<Vtep> vteps_;
    std::vector<netmove::VxlanMove> moves_;
    core::Event progress_;  ///< One has answered.
    core::TaskGroup tasks_;
    std::stop_source stop_;
};

}  // namespace sidecar
