// The release of an anchor that no session needs any more (--release-when-idle).
//
//   wanted     the far end counts sessions, and learns who the guest's gateways are
//   asking     no session through the anchor was known for limits::anchor_release_idle: the `serve`
//              that holds it is asked to end it, until it answers
//   released   it has ended: the tunnel's tap answers for the gateways
//
// Invariant: a state is recorded before it is acted upon, and the anchor ends before this host
// answers for its network. Whichever host is killed, the request is repeated: an anchor that is not
// there has ended.
#include "core/log.hpp"
#include "sidecar/anchor/far_ends.hpp"
#include "sidecar/host/journal.hpp"
#include "sidecar/host/limits.hpp"
#include "sidecar/host/mac_moves.hpp"
#include "sidecar/host/test_hooks.hpp"

namespace sidecar {

using core::Errc;
using core::fail;
using core::Result;
using core::Task;
using ReleaseState = FarRecord::Release::State;

namespace {

/// Of the station that asks for the routers of the home network.
constexpr std::uint8_t asker_kind = 0x5e;

/// A migration of the guest to or from this host has begun and not ended.
bool is_moving(Paths const& paths, std::string const& guest) {
    auto const last = Journal::peek(paths.state(guest));
    return last && (last->source_unfinished() || last->must_be_ended_first());
}

core::milliseconds release_idle_time() {
    return time_for_test("SIDECAR_TEST_RELEASE_MS", limits::anchor_release_idle);
}

}  // namespace

/// What was heard of the guest's gateways since the last look.
Result<> FarEnds::note_gateways(Far& far) {
    auto const& record = far.record;
    auto& gateways = far.record.release->gateways;
    if (!far.watcher) {
        TRY(far.watcher, netmove::GatewayWatcher::open(record.tap.name));
        auto const hash = anchor_name_hash(record.guest, record.mac);
        TRY_VOID(far.watcher->ask_routers(anchor_mac(asker_kind, hash)));
    }
    far.watcher->take_in(gateways, record.mac);
    TRY(auto const used, netmove::local_gateways(*record.local_address()));
    for (auto const& mac : used) gateways.note_used(mac);
    return {};
}

/// Why an anchor is not released now: a sentence without its end; empty: it is due.
std::string FarEnds::why_not_released(Far const& far) {
    auto const& gateways = far.record.release->gateways;
    if (far.sessions.home > 0) return "sessions use it";
    if (!gateways.used()) return "the guest has sent nothing to other networks from here";
    for (auto const& address : far.record.local->choice.addresses) {
        if (gateways.knows(address.family())) continue;
        return fmt::format(
            "the address of the guest's {} gateway is not known yet: it is learned "
            "from ARP and neighbour discovery",
            address.is_ipv4() ? "IPv4" : "IPv6");
    }
    auto const left = release_idle_time() - (core::Clock::now() - *far.idle_since);
    if (left <= core::Clock::duration::zero()) return {};
    return fmt::format("no session uses it, which must last for {} s more",
                       std::chrono::ceil<std::chrono::seconds>(left).count());
}

/// Whether the anchor is due.
Task<Result<bool>> FarEnds::look_at_release(Name name) {
    auto const at = fars_.find(name);
    bool const waits = at != fars_.end() && at->second->record.release &&
                       !at->second->record.is_released() && at->second->local_made;
    if (!waits) co_return false;
    auto& far = *at->second;
    bool const moving = is_moving(records_.paths(), name.first);
    if (far.record.release->state == ReleaseState::asking) co_return !moving;
    auto const before = far.record.release->gateways.to_json().dump();
    CO_TRY_VOID(note_gateways(far));
    if (far.sessions.home > 0) far.idle_since.reset();
    if (far.sessions.home == 0 && !far.idle_since) far.idle_since = core::Clock::now();
    far.waits = moving ? "the guest is being moved" : why_not_released(far);
    bool const due = far.waits.empty();
    if (far.record.release->gateways.to_json().dump() != before) {
        CO_TRY_VOID(co_await records_.write(far.record));
    }
    co_return due;
}

Task<Result<FarRecord>> FarEnds::begin_release(Name name) {
    auto const at = fars_.find(name);
    if (at == fars_.end()) co_return fail(Errc::cancelled, "the guest has left");
    auto& far = *at->second;
    auto& release = *far.record.release;
    if (release.state == ReleaseState::asking) co_return far.record;
    auto const home = home_of(far);
    if (home.empty()) {
        co_return fail(Errc::refused, "the tunnel to it is down, so it cannot be asked to end");
    }
    release.state = ReleaseState::asking;
    release.home = home;
    CO_TRY_VOID(co_await records_.write(far.record));
    co_return far.record;
}

Task<Result<>> FarEnds::end_release(Name name, std::uint64_t id) {
    auto const at = fars_.find(name);
    if (at == fars_.end() || at->second->record.key.id != id) co_return Result<>{};
    auto& far = *at->second;
    far.tunnel = nullptr;
    co_await hub_.remove(id);
    far.watcher.reset();
    far.waits.clear();
    far.record.release->state = ReleaseState::released;
    far.record.release->at_ms = wall_ms();
    begin_answering(far);
    core::log::info("anchor guest={} mac={} bridge={} state=released", name.first,
                    name.second.text(), far.record.tap.bridge);
    co_return co_await records_.write(far.record);
}

Task<Result<>> FarEnds::release(Name name, AskHome ask) {
    CO_TRY(auto const record, co_await changes_.run(begin_release(name)));
    stop_for_test("anchor_asking");
    protocol::AnchorEndAway request{name.first, {{name.second, record.key.id, "", 1500, {}}}};
    CO_TRY_VOID(co_await ask(record.release->home, record.migration_id, std::move(request)));
    stop_for_test("anchor_told");
    co_return co_await changes_.run(end_release(name, record.key.id));
}

Task<void> FarEnds::release_idle(AskHome ask) {
    std::vector<Name> names;
    for (auto const& [name, far] : fars_) {
        if (far->record.release && !far->record.is_released()) names.push_back(name);
    }
    for (auto const& name : names) {
        auto const due = co_await changes_.run(look_at_release(name));
        auto done = due ? Result<>{} : Result<>(std::unexpected(due.error()));
        if (due && *due) done = co_await release(name, ask);
        if (done) continue;
        auto const why = done.error().sentence();
        core::log::warning("anchor guest={} mac={} it is not released: {}", name.first,
                           name.second.text(), why);
        if (auto const at = fars_.find(name); at != fars_.end()) at->second->waits = why;
    }
}

void FarEnds::begin_answering(Far& far) {
    auto const& record = far.record;
    far.answering =
        std::make_unique<Answering>(loop_, *far.tap, record.mac, record.release->gateways);
    far.answering->task.spawn(far.answering->responder.run(far.answering->stop.get_token()));
}

Task<void> FarEnds::end_answering(Far& far) {
    if (!far.answering) co_return;
    far.answering->stop.request_stop();
    co_await far.answering->task.join();
    far.answering.reset();
}

}  // namespace sidecar
