// AnchorService: the part of `sidecar serve` that holds both kinds of ends of anchors, because it
// outlives the guest's sidecars. It answers the processes of this host at a unix socket, and the
// sources of guests whose anchor is here over their authenticated channel.
#pragma once

#include <memory>
#include <stop_token>

#include "core/sync.hpp"
#include "sidecar/anchor/far_ends.hpp"
#include "sidecar/anchor/home_ends.hpp"
#include "sidecar/channel/connection.hpp"

namespace sidecar {

class AnchorService {
public:
    struct Options {
        Paths paths;
        std::uint16_t tunnel_port = netmove::tunnel::default_port;
        int serve_port = 0;  ///< TCP, of this `serve`.
        HostMaps maps = {};  ///< Of other hosts' names.
        core::TlsConfig tls = {};  ///< To ask other hosts, as a source does.
    };
    /// Fails with the error of netlink.
    static core::Result<std::unique_ptr<AnchorService>> open(core::Loop& loop, Options options);

    /// Makes the recorded ends again, and tries those that fail again, until stopped.
    core::Task<void> restore(std::stop_token token);
    /// Watches the sessions of guests that have a local address here, and releases anchors that
    /// are not used any more, until stopped.
    core::Task<void> watch_sessions(std::stop_token token);
    /// Answers the connections of `listener` until stopped.
    core::Task<void> serve_local(int listener, std::stop_token token);
    /// Answers an authenticated source until it hangs up.
    core::Task<void> serve_source(std::unique_ptr<Messages> source, std::stop_token token);
    /// Ends the tunnels. The ends stay as they are recorded, and frames wait.
    core::Task<void> close();

private:
    using Asker = HomeEnds::Asker;
    template <class T>
    using Outcome = core::Task<core::Result<T>>;

    /// Answers one connection, as its role allows.
    class Answers : public Handler {
    public:
        Answers(AnchorService& service, Asker asker) : service_(service), asker_(asker) {}
        core::Task<core::Result<protocol::Packed>> handle(Connection& from,
                                                          protocol::Call call) override;

    private:
        AnchorService& service_;
        Asker asker_;
    };

    AnchorService(core::Loop& loop, Options options, netmove::Netlink netlink);
    core::Task<void> converse(core::Fd socket, std::stop_token token);
    core::Task<bool> restore_all();

    Outcome<void> ask_home(std::string home, std::string migration_id,
                           protocol::AnchorEndAway request);
    [[nodiscard]] core::Result<> check_release(protocol::AnchorEnd const& end) const;
    core::Task<void> answer_probe(std::uint64_t id);
    Outcome<protocol::AnchorPath> test_path(netmove::tunnel::Endpoint peer,
                                            netmove::tunnel::Key key);

    Outcome<protocol::AnchorPath> on(protocol::AnchorProbe request, Asker asker);
    Outcome<protocol::AnchorPath> on(protocol::AnchorPrepare request, Asker asker);
    Outcome<protocol::Nothing> on(protocol::AnchorPoint request, Asker asker);
    Outcome<protocol::Nothing> on(protocol::AnchorKeep request, Asker asker);
    Outcome<protocol::AnchorStandInAnswer> on(protocol::AnchorStandIn request, Asker asker);
    Outcome<protocol::Nothing> on(protocol::AnchorEndStandIn request, Asker asker);
    Outcome<protocol::Nothing> on(protocol::AnchorEndAway request, Asker asker);
    Outcome<protocol::AnchorWhereAnswer> on(protocol::AnchorWhere request, Asker asker);
    Outcome<protocol::AnchorOfferAnswer> on(protocol::AnchorOffer request, Asker asker);
    Outcome<protocol::AnchorReceiveAnswer> on(protocol::AnchorReceive request, Asker asker);
    Outcome<protocol::Nothing> on(protocol::AnchorLeave request, Asker asker);
    Outcome<protocol::Nothing> on(protocol::AnchorReturn request, Asker asker);
    Outcome<protocol::Document> on(protocol::AnchorList request, Asker asker);
    Outcome<protocol::Nothing> on(protocol::AnchorRelease request, Asker asker);

    core::Loop& loop_;
    Options options_;
    netmove::Netlink netlink_;
    TunnelHub hub_;
    RecordFiles records_;
    HomeEnds homes_;
    FarEnds fars_;
    core::TaskGroup connections_;
    core::TaskGroup probes_;  ///< Far ends of probes, each until its time is over.
    std::stop_source stop_;
};

}  // namespace sidecar
