#include "sidecar/anchor/far_ends.hpp"

#include <algorithm>

#include "core/log.hpp"
#include "sidecar/anchor/holder.hpp"
#include "sidecar/host/limits.hpp"
#include "sidecar/host/mac_moves.hpp"

namespace sidecar {

using core::Errc;
using core::fail;
using core::Json;
using core::Result;
using core::Task;
using netmove::MacAddress;
using netmove::Tap;
using netmove::tunnel::Role;

namespace {

/// What this host makes for a guest's interface has names and addresses of this kind.
constexpr std::uint8_t bridge_kind = 0x5c;

/// The guest's bridge: nothing of this host is in it, and this host says nothing in it.
Result<> make_far_bridge(netmove::Netlink& netlink, FarRecord const& record) {
    auto const& name = record.tap.bridge;
    TRY(auto const there, netlink.find_link(name));
    if (there) return {};
    TRY_VOID(netlink.make_bridge(
        name, anchor_mac(bridge_kind, anchor_name_hash(record.guest, record.mac))));
    TRY_VOID(netmove::make_quiet(netlink, name));
    TRY_VOID(netlink.set_mtu(name, record.tap.mtu));
    return netlink.set_up(name);
}

}  // namespace

Task<Result<std::string>> FarEnds::receive(protocol::AnchorReceive request,
                                           protocol::AnchorEnd end) {
    return changes_.run(receive_one(std::move(request), std::move(end)));
}

Task<Result<std::string>> FarEnds::receive_one(protocol::AnchorReceive request,
                                               protocol::AnchorEnd end) {
    if (!end.key) co_return fail(Errc::protocol, "an anchor's tunnel without its key");
    if (end.vxlan && end.local && end.local->release_when_idle) {
        co_return fail(Errc::refused,
                       "an anchor of --anchor-plane=vxlan cannot be released when it is idle");
    }
    Name const name{request.guest, end.mac};
    if (auto const at = fars_.find(name); at != fars_.end()) {
        auto const& known = at->second->record;
        if (known.key.id == end.key->id) co_return known.tap.bridge;  // asked before
        CO_TRY_VOID(co_await this->end(name));
    }
    auto const hash = anchor_name_hash(request.guest, end.mac);
    FarRecord record;
    record.guest = request.guest;
    record.mac = end.mac;
    record.migration_id = request.migration_id;
    record.key = *end.key;
    record.anchor_port = request.anchor_port;
    record.home_bridge = end.home_bridge;
    record.home_port = end.home_port;
    record.vxlan = end.vxlan;
    record.since_ms = wall_ms();
    record.tap.name = fmt::format("sat{:08x}", hash);
    record.tap.bridge = fmt::format("sca{:08x}", hash);
    record.tap.mtu = end.mtu;
    record.tap.queue_length = netmove::migration_queue_length;
    for (auto const& link : {record.tap.name, record.tap.bridge}) {
        CO_TRY(auto const there, netlink_.find_link(link));
        if (!there) continue;
        co_return fail(Errc::refused,
                       "{} is in the way on this host: the anchor of {} for {} needs that name "
                       "(`ip link delete {}`)",
                       link, request.guest, end.mac.text(), link);
    }
    if (end.local) {
        CO_TRY_VOID(co_await check_local(request.guest, end));
        record.local = FarRecord::Local{*end.local, end.addresses, free_number()};
        if (end.local->release_when_idle) record.release = FarRecord::Release{};
    }
    auto const bridge = record.tap.bridge;
    CO_TRY_VOID(co_await records_.write(record));
    auto made = co_await make(record);
    if (made) made = make_local(*fars_.at(name));
    if (made) co_return bridge;
    co_await undo(record);
    co_return std::unexpected(std::move(made.error()));
}

Task<Result<>> FarEnds::check_local(std::string guest, protocol::AnchorEnd end) {
    if (!end.local) co_return Result<>{};
    // An earlier far end of the same interface makes way.
    auto const at = fars_.find({guest, end.mac});
    bool const held = at != fars_.end() && at->second->record.local &&
                      at->second->record.local->choice.addresses == end.local->addresses;
    if (held) co_return Result<>{};
    CO_TRY_VOID(netmove::check_local_address(netlink_, end.addresses, *end.local));
    co_return co_await netmove::check_local_unused(loop_, netlink_, end.local->addresses);
}

/// The lowest that no local address of this host has.
std::uint32_t FarEnds::free_number() const {
    std::uint32_t number = netmove::local_number_first;
    auto const taken = [this](std::uint32_t one) {
        return std::ranges::any_of(fars_, [one](auto const& entry) {
            auto const& local = entry.second->record.local;
            return local && local->number == one;
        });
    };
    while (taken(number)) ++number;
    return number;
}

Result<> FarEnds::make_local(Far& far) {
    auto const local = far.record.local_address();
    if (!local || far.local_made) return {};
    TRY_VOID(netmove::make_local_address(netlink_, *local));
    far.local_made = true;
    return {};
}

/// Best effort: what stays is in the log.
Task<void> FarEnds::remove_local(FarRecord record) {
    auto const local = record.local_address();
    if (!local) co_return;
    auto const removed = netmove::remove_local_address(netlink_, *local);
    auto const forgotten = co_await netmove::forget_local_sessions(
        loop_, *local, core::Deadline::after(limits::conntrack_patience));
    for (auto const& done : {removed, forgotten}) {
        if (!done) core::log::warning("anchor guest={} {}", record.guest, done.error().sentence());
    }
}

/// From the record alone, whatever of it is there already.
Task<Result<>> FarEnds::make(FarRecord record) {
    CO_TRY_VOID(make_far_bridge(netlink_, record));
    Name const name{record.guest, record.mac};
    if (record.vxlan) {
        CO_TRY_VOID(netmove::make_anchor_vxlan(
            netlink_, *record.vxlan, {record.tap.name, record.vxlan->home, record.tap.bridge}));
        core::log::info("anchor guest={} mac={} bridge={} state=far end in the kernel", name.first,
                        name.second.text(), record.tap.bridge);
        fars_[name] = std::make_unique<Far>(Far{std::move(record), {}});
        co_return Result<>{};
    }
    CO_TRY(auto tap, co_await take_up(record));
    if (record.is_released()) {
        fars_[name] = std::make_unique<Far>(Far{std::move(record), std::move(tap)});
        begin_answering(*fars_[name]);
        co_return Result<>{};
    }
    CO_TRY(auto* const hub, hub_.open());
    CO_TRY(auto* const tunnel, hub->add(record.key, Role::listens, std::nullopt));
    auto& far = fars_[name];
    far = std::make_unique<Far>(Far{std::move(record), std::move(tap), tunnel});
    CO_TRY_VOID(tunnel->attach(*far->tap));
    tunnel->accept(true);
    CO_TRY_VOID(tunnel->forward());
    core::log::info("anchor guest={} mac={} bridge={} state=far end", name.first,
                    name.second.text(), far->record.tap.bridge);
    co_return Result<>{};
}

Task<Result<Tap>> FarEnds::take_up(FarRecord& record) {
    auto& wanted = record.tap;
    if (auto tap = held(record.holder, wanted.name); tap) co_return std::move(*tap);
    CO_TRY(auto tap, Tap::open(netlink_, wanted.name, {wanted.queues, wanted.vnet_hdr, true}));
    CO_TRY_VOID(netmove::place_tap(netlink_, wanted.name,
                                   {wanted.bridge, wanted.mtu, wanted.queue_length}));
    CO_TRY(auto const link, netlink_.link(wanted.name));
    wanted.mac = link.mac;
    CO_TRY_VOID(tap.set_persistent(true));
    CO_TRY(record.holder, hold(tap));
    CO_TRY_VOID(co_await records_.write(record));
    co_return std::move(tap);
}

/// After a failure of make(): removes what there is of the record.
Task<void> FarEnds::undo(FarRecord record) {
    Name const name{record.guest, record.mac};
    if (auto const at = fars_.find(name); at != fars_.end()) {
        (void)co_await end(name);  // the failure before is worth more
        co_return;
    }
    co_await hub_.remove(record.key.id);
    co_await remove_local(record);
    for (auto const& link : {record.tap.name, record.tap.bridge}) {
        auto const there = netlink_.find_link(link);
        if (there && *there) (void)netlink_.delete_link(link);
    }
    (void)co_await records_.remove(record);
}

Task<Result<>> FarEnds::end(Name name) {
    auto const at = fars_.find(name);
    if (at == fars_.end()) co_return Result<>{};
    auto far = std::move(at->second);
    fars_.erase(at);
    co_await hub_.remove(far->record.key.id);
    co_await end_answering(*far);
    auto const record = far->record;
    co_await remove_local(record);
    auto const released = far->tap ? far->tap->set_persistent(false)
                                   : netmove::remove_anchor_vxlan(netlink_, record.tap.name);
    if (!released)
        core::log::warning("anchor guest={} {}", name.first, released.error().sentence());
    far.reset();
    co_await end_holder(loop_, record.holder);
    Result<> first;
    CO_TRY(auto const bridge, netlink_.find_link(record.tap.bridge));
    if (bridge) first = netlink_.delete_link(record.tap.bridge);
    auto removed = co_await records_.remove(record);
    if (!removed && first) first = std::move(removed);
    core::log::info("anchor guest={} mac={} bridge={} state=ended", name.first, name.second.text(),
                    record.tap.bridge);
    co_return first;
}

Task<Result<>> FarEnds::leave(std::string guest, std::string migration_id) {
    return changes_.run(leave_all(std::move(guest), std::move(migration_id)));
}

Task<Result<>> FarEnds::leave_all(std::string guest, std::string migration_id) {
    std::vector<Name> names;
    for (auto const& [name, far] : fars_) {
        bool const meant = migration_id.empty() || far->record.migration_id == migration_id;
        if (name.first == guest && meant) names.push_back(name);
    }
    Result<> first;
    for (auto const& name : names) {
        auto ended = co_await end(name);
        if (!ended && first) first = std::move(ended);
    }
    co_return first;
}

/// HOST:PORT of the `serve` that holds the anchor, as its datagrams show; empty: not known.
std::string FarEnds::home_of(Far const& far) {
    auto const& record = far.record;
    if (record.anchor_port == 0) return {};
    auto const port = static_cast<std::uint16_t>(record.anchor_port);
    if (record.vxlan) return netmove::tunnel::Endpoint{record.vxlan->home, port}.text();
    auto const peer = far.tunnel == nullptr ? std::nullopt : far.tunnel->statistics().peer;
    if (!peer) return {};
    return netmove::tunnel::Endpoint{peer->address, port}.text();
}

std::vector<protocol::AnchorWhereAnswer::End> FarEnds::where(std::string const& guest) const {
    std::vector<protocol::AnchorWhereAnswer::End> out;
    for (auto const& [name, far] : fars_) {
        if (name.first != guest) continue;
        protocol::AnchorWhereAnswer::End one{name.second, far->record.key.id, ""};
        one.home = home_of(*far);
        out.push_back(std::move(one));
    }
    return out;
}

Task<Result<>> FarEnds::restore(FarRecord record) {
    return changes_.run(restore_one(std::move(record)));
}

Task<Result<>> FarEnds::restore_one(FarRecord record) {
    Name const name{record.guest, record.mac};
    // The guest's home network does not wait for its local address.
    if (auto const at = fars_.find(name); at != fars_.end()) co_return make_local(*at->second);
    auto const id = record.key.id;
    auto made = co_await make(std::move(record));
    if (made) co_return make_local(*fars_.at(name));
    fars_.erase(name);  // it is tried again
    co_await hub_.remove(id);
    co_return made;
}

Task<void> FarEnds::close() { (void)co_await changes_.run(forget_all()); }

Task<Result<>> FarEnds::forget_all() {
    auto const all = std::exchange(fars_, {});
    for (auto const& [name, far] : all) co_await end_answering(*far);
    co_return Result<>{};
}

void FarEnds::look_at_sessions(bool packets) {
    for (auto const& [name, far] : fars_) {
        auto const local = far->record.local_address();
        if (!local) continue;
        auto const sessions = netmove::local_sessions(*local, packets);
        if (!sessions) {
            // Another program has removed the rules, as a reload of nftables.service does.
            core::log::warning("anchor guest={} {}: its local address is made again", name.first,
                               sessions.error().sentence());
            far->local_made = false;
            auto const made = make_local(*far);
            if (!made) {
                core::log::error("anchor guest={} {}", name.first, made.error().sentence());
            }
            continue;
        }
        bool const ended = far->sessions.home > 0 && sessions->home == 0;
        if (ended) {
            far->home_ended_ms = wall_ms();
            core::log::info("anchor guest={} mac={} the last session through it has ended",
                            name.first, name.second.text());
        }
        if (sessions->home > 0) far->home_ended_ms = 0;
        far->sessions = *sessions;
    }
}

Json FarEnds::local_json(Far const& far) {
    auto const& choice = far.record.local->choice;
    auto made = choice.to_json();
    made.set("in_use", far.local_made);
    made.set("home_sessions", far.sessions.home);
    made.set("direct_sessions", far.sessions.direct);
    made.set("packets_in", far.sessions.packets_in);
    made.set("packets_out", far.sessions.packets_out);
    if (far.home_ended_ms != 0) made.set("home_ended_ms", far.home_ended_ms);
    if (!far.record.release) return made;
    auto const& release = *far.record.release;
    auto shown = Json::object({{"state", name(release.state)}});
    if (release.at_ms != 0) shown.set("at_ms", release.at_ms);
    if (!far.waits.empty()) shown.set("waits", far.waits);
    return made.set("release", shown);
}

bool FarEnds::has(std::string const& guest) const {
    for (auto const& [name, far] : fars_) {
        if (name.first == guest) return true;
    }
    return false;
}

void FarEnds::list(Json& into) {
    look_at_sessions(true);
    for (auto const& [name, far] : fars_) {
        auto one = Json::object({{"end", "far"},
                                 {"guest", name.first},
                                 {"interface", name.second.text()},
                                 {"tap", far->record.tap.name},
                                 {"bridge", far->record.tap.bridge},
                                 {"since_ms", far->record.since_ms},
                                 {"state", far->record.is_released() ? "released" : "here"}});
        if (far->record.vxlan) {
            one.set("peer", far->record.vxlan->home.text());
            one.set("device", far->record.tap.name);
        }
        if (far->tunnel != nullptr) {
            auto const counted = far->tunnel->statistics();
            one.set("peer", counted.peer ? counted.peer->text() : "");
            one.set("connected", far->tunnel->is_established());
            one.set("tunnel", counted.to_json());
        }
        if (far->record.local) one.set("local", local_json(*far));
        into.add(one);
    }
}

}  // namespace sidecar
