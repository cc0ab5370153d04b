// HomeAgent: the home agent of RFC 6275 on this host, a router of the home link. It executes what
// BindingCache decides. Used by `sidecar home-agent`. Needs CAP_NET_ADMIN and CAP_NET_RAW.
//
//   SignallingSocket, DataPath (UDP)   Binding Updates arrive
//   BindingCache                       decides
//   HomeLink                           duplicate address detection; answers for home addresses
//   DataPath                           carries packets
//   BindingLog                         an update is answered when it is durable
//
// Invariant: what it makes in the kernel is gone when the process has ended, or is replaced by the
// next start (host_rules.hpp).
#pragma once

#include <memory>
#include <optional>
#include <stop_token>
#include <string>
#include <vector>

#include "core/fd.hpp"
#include "core/json.hpp"
#include "core/loop.hpp"
#include "core/sync.hpp"
#include "core/task.hpp"
#include "netmove/mobile_ipv6/binding_cache.hpp"
#include "netmove/mobile_ipv6/binding_log.hpp"
#include "netmove/mobile_ipv6/data_path.hpp"
#include "netmove/mobile_ipv6/home_link.hpp"
#include "netmove/mobile_ipv6/host_rules.hpp"
#include "netmove/mobile_ipv6/signalling_socket.hpp"

namespace netmove::mobile_ipv6 {

struct HomeAgentOptions {
    std::string link;  ///< The home link: an Ethernet interface or bridge of this host.
    Address address;  ///< The home agent's, on the link.
    int prefix_length = 64;
    /// Where mobile nodes in IPv4 networks reach it (RFC 5555); an address of this host.
    std::optional<Address> ipv4_address;
    std::vector<Permission> permissions;
    /// Nothing here can authenticate yet: with true, no update is accepted.
    bool require_authentication = true;
    std::string state_directory;  ///< For the bindings and the lock; it exists.
};

class HomeAgent {
public:
    /// Whether a home agent can run with these options: they are valid, this process has the
    /// privileges, and the host has what they name and forwards. Changes nothing. Fails with
    /// invalid or refused; a sentence that says what to do.
    static core::Result<> check(HomeAgentOptions const& options);
    /// Checks, and then makes all; restores the bindings. Fails with refused if another home agent
    /// uses the state directory.
    static core::Result<std::unique_ptr<HomeAgent>> open(core::Loop& loop,
                                                         HomeAgentOptions options);
    ~HomeAgent();
    HomeAgent(HomeAgent const&) = delete;
    HomeAgent& operator=(HomeAgent const&) = delete;

    /// Until stopped (then success), or until the home link is gone (closed). Once.
    core::Task<core::Result<>> run(std::stop_token stop);

    /// Bindings, their traffic, and what was dropped and why: for people and programs.
    [[nodiscard]] core::Json status() const;
    [[nodiscard]] std::size_t bindings() const { return cache_.size(); }

private:
    HomeAgent(core::Loop& loop, HomeAgentOptions options, core::Fd lock);
    core::Result<> make_parts();
    core::Result<> restore();

    void handle(SignallingPacket const& packet, Arrival const& arrival);
    core::Task<void> detect(StartDetection what);
    core::Task<void> expire_bindings(std::stop_token stop);

    void execute(std::vector<HomeAgentAction> const& actions);
    void act(StartDetection const& what);
    void act(Claim const& what);
    void act(Release const& what);
    void act(Route const& what);
    void act(Unroute const& what);
    void send(Send const& what);
    [[nodiscard]] core::Json binding_status(Binding const& binding) const;
    [[nodiscard]] core::Json drops() const;

    core::Loop& loop_;
    HomeAgentOptions options_;
    core::Fd lock_;
    BindingCache cache_;
    BindingLog log_;
    std::unique_ptr<SignallingSocket> signalling_;
    std::unique_ptr<HomeLink> link_;
    std::unique_ptr<DataPath> data_;
    std::optional<HostRules> rules_;
    core::Event timers_changed_;
    core::TaskGroup detections_;
    std::stop_token stop_;  ///< Of run().
    std::uint64_t answers_not_sent_ = 0;
};

}  // namespace netmove::mobile_ipv6
