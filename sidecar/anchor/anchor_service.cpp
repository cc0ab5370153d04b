#include "sidecar/anchor/anchor_service.hpp"

#include "core/log.hpp"
#include "core/stream.hpp"
#include "sidecar/anchor/tunnel_path.hpp"
#include "sidecar/channel/peer.hpp"
#include "sidecar/host/host_identity.hpp"
#include "sidecar/host/limits.hpp"
#include "sidecar/host/test_hooks.hpp"

namespace sidecar {

using core::Deadline;
using core::Errc;
using core::fail;
using core::Json;
using core::Result;
using core::Task;

AnchorService::AnchorService(core::Loop& loop, Options options, netmove::Netlink netlink)
    : loop_(loop),
      options_(std::move(options)),
      netlink_(std::move(netlink)),
      hub_(loop, options_.tunnel_port),
      records_(loop, options_.paths),
      homes_(loop, options_.paths, options_.maps, netlink_, hub_, records_),
      fars_(loop, netlink_, hub_, records_),
      connections_(loop),
      probes_(loop) {}

Result<std::unique_ptr<AnchorService>> AnchorService::open(core::Loop& loop, Options options) {
    TRY(auto netlink, netmove::Netlink::open());
    return std::unique_ptr<AnchorService>(
        new AnchorService(loop, std::move(options), std::move(netlink)));
}

Task<bool> AnchorService::restore_all() {
    auto records = read_records(options_.paths);
    if (!records) {
        core::log::error("anchor: {}", records.error().sentence());
        co_return true;
    }
    for (auto const& error : records->unreadable) {
        core::log::error("anchor: {}", error.sentence());
    }
    bool complete = true;
    auto const note = [&complete](std::string const& guest, Result<> const& restored) {
        if (restored) return;
        complete = false;
        core::log::warning("anchor guest={} {}", guest, restored.error().sentence());
    };
    for (auto& record : records->homes) {
        auto const guest = record.guest;
        note(guest, co_await homes_.restore(std::move(record)));
    }
    for (auto& record : records->fars) {
        auto const guest = record.guest;
        note(guest, co_await fars_.restore(std::move(record)));
    }
    co_return complete;
}

Task<void> AnchorService::restore(std::stop_token token) {
    while (!co_await restore_all()) {
        auto const slept = co_await core::sleep_for(loop_, limits::anchor_restore_interval, token);
        if (!slept) co_return;
    }
}

Task<void> AnchorService::watch_sessions(std::stop_token token) {
    auto const interval = time_for_test("SIDECAR_TEST_RELEASE_MS", limits::anchor_session_interval);
    auto const ask = [this](std::string home, std::string migration_id,
                            protocol::AnchorEndAway request) {
        return ask_home(std::move(home), std::move(migration_id), std::move(request));
    };
    while (co_await core::sleep_for(loop_, interval, token)) {
        fars_.look_at_sessions();
        co_await fars_.release_idle(ask);
    }
}

/// As a source of a guest asks the anchor's host.
Task<Result<>> AnchorService::ask_home(std::string home, std::string migration_id,
                                       protocol::AnchorEndAway request) {
    PeerChannel channel(
        loop_, {home, options_.tls, request.guest, migration_id, protocol::Role::anchor_source},
        [](bool) {});
    auto const token = stop_.get_token();
    CO_TRY_VOID(co_await channel.connect(Deadline::after(limits::connect_timeout, token)));
    if (!channel.offers(protocol::Feature::anchor_release)) {
        co_return fail(Errc::refused, "the sidecar of {} is too old for --release-when-idle", home);
    }
    std::stop_source done;
    core::TaskGroup beside(loop_);
    beside.spawn(channel.keep(done.get_token()));
    auto const answer = co_await channel.request(
        std::move(request), Deadline::after(limits::anchor_answer_timeout, token));
    done.request_stop();
    co_await beside.join();
    if (!answer) co_return std::unexpected(answer.error());
    co_return Result<>{};
}

/// Whether this host could ask another one to end an anchor.
Result<> AnchorService::check_release(protocol::AnchorEnd const& end) const {
    if (!end.local || !end.local->release_when_idle) return {};
    auto const loaded =
        core::TlsCredentials::load(options_.tls, core::TlsCredentials::Side::client);
    if (loaded) return {};
    return fail(Errc::refused,
                "--release-when-idle: `serve` asks the host of the anchor to end it, and has no "
                "key for that: {}",
                loaded.error().sentence());
}

Task<void> AnchorService::serve_local(int listener, std::stop_token token) {
    for (;;) {
        auto const accepted = co_await loop_.accept(listener, Deadline::never(token));
        if (!accepted && accepted.error().code == Errc::cancelled) break;
        if (!accepted) {  // out of descriptors
            if (!co_await core::sleep_for(loop_, limits::retry_pause_min, token)) break;
            continue;
        }
        core::Fd socket(*accepted);
        bool const room = connections_.running() < limits::local_connections_max;
        if (!room || !is_from_our_user(socket.get())) continue;
        connections_.spawn(converse(std::move(socket), token));
    }
    co_await connections_.join();
}

Task<void> AnchorService::converse(core::Fd socket, std::stop_token token) {
    auto messages =
        std::make_unique<Messages>(core::plain_stream(loop_, std::move(socket), "local process"));
    Answers answers(*this, Asker::local);
    Connection connection(loop_, std::move(messages), answers, protocol::Role::local);
    co_await connection.run(token);
}

Task<void> AnchorService::serve_source(std::unique_ptr<Messages> source, std::stop_token token) {
    Answers answers(*this, Asker::remote);
    Connection connection(loop_, std::move(source), answers, protocol::Role::anchor_source);
    co_await connection.run(token);
}

Task<void> AnchorService::close() {
    stop_.request_stop();
    homes_.forget();
    co_await fars_.close();
    co_await hub_.close();
    co_await probes_.join();
}

Task<Result<protocol::Packed>> AnchorService::Answers::handle(Connection&, protocol::Call call) {
    auto const answer = [this](auto& one) {
        return protocol::packed(service_.on(std::move(one), asker_));
    };
    if (asker_ == Asker::remote) {
        CO_TRY(auto request, protocol::parse<protocol::FromAnchorSource>(std::move(call)));
        co_return co_await std::visit(answer, request);
    }
    CO_TRY(auto request, protocol::parse<protocol::FromLocal>(std::move(call)));
    co_return co_await std::visit(answer, request);
}

/// The far end of a probe.
Task<void> AnchorService::answer_probe(std::uint64_t id) {
    (void)co_await core::sleep_for(loop_, limits::anchor_probe_time, stop_.get_token());
    co_await hub_.remove(id);
}

Task<Result<protocol::AnchorPath>> AnchorService::on(protocol::AnchorProbe request, Asker asker) {
    if (asker == Asker::remote && !homes_.is_away(request.guest)) {
        co_return fail(Errc::refused, "there is no anchor of {} on this host", request.guest);
    }
    co_return co_await test_path(request.peer, request.key);
}

/// By a tunnel that carries nothing.
Task<Result<protocol::AnchorPath>> AnchorService::test_path(netmove::tunnel::Endpoint peer,
                                                            netmove::tunnel::Key key) {
    CO_TRY(auto* const hub, hub_.open());
    CO_TRY(auto* const tunnel, hub->add(key, netmove::tunnel::Role::connects, peer));
    auto path = co_await path_of(*tunnel, peer.text());
    co_await hub_.remove(key.id);
    co_return path;
}

Task<Result<protocol::AnchorStandInAnswer>> AnchorService::on(protocol::AnchorStandIn request,
                                                              Asker) {
    CO_TRY(auto const own, host_identity(options_.paths));
    if (request.destination_id == own.id) {
        co_return fail(Errc::refused, "it is the destination: the anchor must be on another host");
    }
    if (fars_.has(request.guest)) {
        co_return fail(Errc::refused, "{} runs on it through an anchor", request.guest);
    }
    for (auto const& interface : request.interfaces) {
        CO_TRY_VOID(homes_.check_stand_in(request.guest, interface));
    }
    CO_TRY(auto const path, co_await test_path(request.peer, request.key));
    co_return protocol::AnchorStandInAnswer{options_.serve_port, path};
}

Task<Result<protocol::Nothing>> AnchorService::on(protocol::AnchorEndStandIn request, Asker) {
    CO_TRY_VOID(co_await homes_.end_stand_in(std::move(request)));
    co_return protocol::Nothing{};
}

Task<Result<protocol::Nothing>> AnchorService::on(protocol::AnchorEndAway request, Asker) {
    CO_TRY_VOID(co_await homes_.end_away(std::move(request)));
    co_return protocol::Nothing{};
}

Task<Result<protocol::AnchorPath>> AnchorService::on(protocol::AnchorPrepare request, Asker asker) {
    co_return co_await homes_.prepare(std::move(request), asker);
}

Task<Result<protocol::Nothing>> AnchorService::on(protocol::AnchorPoint request, Asker) {
    CO_TRY_VOID(co_await homes_.point(std::move(request)));
    co_return protocol::Nothing{};
}

Task<Result<protocol::Nothing>> AnchorService::on(protocol::AnchorKeep request, Asker asker) {
    CO_TRY_VOID(co_await homes_.keep(std::move(request), asker));
    co_return protocol::Nothing{};
}

Task<Result<protocol::AnchorWhereAnswer>> AnchorService::on(protocol::AnchorWhere request, Asker) {
    co_return protocol::AnchorWhereAnswer{options_.serve_port, fars_.where(request.guest)};
}

Task<Result<protocol::AnchorOfferAnswer>> AnchorService::on(protocol::AnchorOffer request, Asker) {
    protocol::AnchorOfferAnswer answer;
    for (auto const& end : request.ends) {
        answer.here.push_back(homes_.bridge_of(request.guest, end).has_value());
    }
    CO_TRY(auto* const hub, hub_.open());
    answer.port = hub->port();
    for (std::size_t at = 0; at < request.ends.size(); ++at) {
        if (answer.here[at]) continue;
        CO_TRY_VOID(check_release(request.ends[at]));
        CO_TRY_VOID(co_await fars_.check_local(request.guest, request.ends[at]));
    }
    if (!request.probe) co_return answer;
    if (probes_.running() >= anchor_probes_max) {
        co_return fail(Errc::refused, "{} paths are being tested here already: try again",
                       probes_.running());
    }
    CO_TRY_VOID(hub->add(*request.probe, netmove::tunnel::Role::listens, std::nullopt));
    probes_.spawn(answer_probe(request.probe->id));
    co_return answer;
}

Task<Result<protocol::AnchorReceiveAnswer>> AnchorService::on(protocol::AnchorReceive request,
                                                              Asker) {
    protocol::AnchorReceiveAnswer answer;
    for (auto const& end : request.ends) {
        if (auto const bridge = homes_.bridge_of(request.guest, end)) {
            answer.bridges.push_back(*bridge);
            continue;
        }
        CO_TRY(auto bridge, co_await fars_.receive(request, end));
        answer.bridges.push_back(std::move(bridge));
        CO_TRY(auto const* const hub, hub_.open());
        answer.port = hub->port();
    }
    co_return answer;
}

Task<Result<protocol::Nothing>> AnchorService::on(protocol::AnchorLeave request, Asker) {
    CO_TRY_VOID(co_await fars_.leave(request.guest, request.migration_id));
    co_return protocol::Nothing{};
}

Task<Result<protocol::Nothing>> AnchorService::on(protocol::AnchorReturn request, Asker) {
    CO_TRY_VOID(co_await homes_.finish(request.guest));
    co_return protocol::Nothing{};
}

Task<Result<protocol::Document>> AnchorService::on(protocol::AnchorList, Asker) {
    Json all = Json::array();
    homes_.list(all);
    fars_.list(all);
    co_return protocol::Document{Json::object({{"anchors", all}})};
}

Task<Result<protocol::Nothing>> AnchorService::on(protocol::AnchorRelease request, Asker) {
    auto const away = homes_.is_away(request.guest);
    bool const far = fars_.has(request.guest);
    if (!away && !far) {
        co_return fail(Errc::refused, "there is no anchor of {} on this host", request.guest);
    }
    if (!request.force && (far || away.value_or(false))) {
        co_return fail(Errc::refused,
                       "{} runs {} through its anchor, and loses its network without: --force "
                       "releases it anyway",
                       request.guest, far ? "here" : "elsewhere");
    }
    CO_TRY_VOID(co_await homes_.finish(request.guest));
    CO_TRY_VOID(co_await fars_.leave(request.guest, ""));
    co_return protocol::Nothing{};
}

}  // namespace sidecar
