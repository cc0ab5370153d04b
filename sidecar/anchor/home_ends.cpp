#include "sidecar/anchor/home_ends.hpp"

#include <algorithm>

#include "core/log.hpp"
#include "netmove/mover.hpp"
#include "sidecar/anchor/holder.hpp"
#include "sidecar/guest/guest.hpp"
#include "sidecar/host/journal.hpp"
#include "sidecar/host/limits.hpp"
#include "sidecar/host/mac_moves.hpp"

namespace sidecar {

using core::Deadline;
using core::Errc;
using core::fail;
using core::Json;
using core::Result;
using core::Task;
using netmove::Tap;
using netmove::tunnel::Role;

namespace {

/// The tap of that name that a guest's QEMU holds, according to the guest's manifest on this host.
Result<Tap> tap_of_guest(Paths const& paths, std::string const& guest,
                         protocol::AnchorEnd const& end) {
    TRY(auto const manifest, read_manifest(paths, guest));
    if (manifest.is_null()) {
        return fail(Errc::refused, "no guest {} is known on this host", guest);
    }
    bool named = false;
    for (auto const& one : manifest["interfaces"].elements()) {
        named = named ||
                (one["tap"].text_or("") == end.tap && one["mac"].text_or("") == end.mac.text());
    }
    if (!named) {
        return fail(Errc::refused, "the guest {} has no interface {} with the tap {} on this host",
                    guest, end.mac.text(), end.tap);
    }
    TRY(auto const qemu, core::Process::open(core::ProcessIdentity::from_json(manifest)));
    TRY(auto taps, Tap::duplicate_from(qemu.pid()));
    for (auto& tap : taps) {
        if (tap.name() == end.tap) return std::move(tap);
    }
    return fail(Errc::refused, "QEMU of {} (process {}) does not hold the tap {}", guest,
                qemu.pid(), end.tap);
}

Result<AnchorTap> description_of(netmove::Netlink& netlink, Tap const& tap,
                                 netmove::Link const& link) {
    if (link.master == 0) {
        return fail(Errc::refused,
                    "the tap {} is in no bridge: there is no network that an anchor could keep",
                    tap.name());
    }
    TRY(auto const bridge, netlink.link(link.master));
    return AnchorTap{tap.name(), tap.queues(),      tap.vnet_hdr(), link.mac,
                     link.mtu,   link.queue_length, bridge.name};
}

}  // namespace

HomeEnds::Home* HomeEnds::find(std::string const& guest, netmove::MacAddress const& mac) {
    auto const at = homes_.find({guest, mac});
    return at == homes_.end() ? nullptr : at->second.get();
}

Task<Result<protocol::AnchorPath>> HomeEnds::prepare(protocol::AnchorPrepare request, Asker asker) {
    CO_TRY_VOID(co_await changes_.run(add_tunnels(request, asker)));
    protocol::AnchorPath worst;
    for (auto const& end : request.ends) {
        auto* const home = find(request.guest, end.mac);
        if (home == nullptr || !home->tunnels.contains(end.key->id)) {
            co_return fail(Errc::cancelled, "the tunnel was removed meanwhile");
        }
        CO_TRY(auto const path, co_await path_of(*home->tunnels[end.key->id], request.peer.text()));
        worst.round_trip_us = std::max(worst.round_trip_us, path.round_trip_us);
        bool const first = worst.datagram_max == 0;
        worst.datagram_max =
            first ? path.datagram_max : std::min(worst.datagram_max, path.datagram_max);
    }
    co_return worst;
}

Task<Result<>> HomeEnds::add_tunnels(protocol::AnchorPrepare request, Asker asker) {
    for (auto const& end : request.ends) {
        CO_TRY_VOID(co_await find_or_take(request, end, asker));
        auto* const home = find(request.guest, end.mac);
        if (home == nullptr) co_return fail(Errc::cancelled, "the anchor was released meanwhile");
        if (home->tunnels.contains(end.key->id)) continue;  // asked before
        HomeRecord::Tunnel const tunnel{*end.key, request.peer, request.migration_id};
        if (home->record.tunnels.size() >= anchor_tunnels_max) {
            co_return fail(Errc::refused, "the anchor of {} has {} tunnels already", request.guest,
                           home->record.tunnels.size());
        }
        home->record.tunnels.push_back(tunnel);
        CO_TRY_VOID(co_await records_.write(home->record));
        auto added = add_tunnel(*home, tunnel);
        if (added) continue;
        home->record.tunnels.pop_back();
        home->tunnels.erase(tunnel.key.id);
        (void)co_await records_.write(home->record);  // why it failed is worth more
        co_await hub_.remove(tunnel.key.id);
        co_return std::unexpected(std::move(added.error()));
    }
    co_return Result<>{};
}

/// The anchor of an interface. If there is none, and the guest is at home, takes the guest's tap.
Task<Result<>> HomeEnds::find_or_take(protocol::AnchorPrepare const& request,
                                      protocol::AnchorEnd end, Asker asker) {
    Name const name{request.guest, end.mac};
    auto const* home = find(request.guest, end.mac);
    if (home != nullptr && home->record.current != end.id) {
        co_return fail(Errc::refused,
                       "the anchor of {} for {} is in use by another tunnel than the one that was "
                       "named: the guest runs elsewhere",
                       request.guest, end.mac.text());
    }
    if (home == nullptr && (asker == Asker::remote || end.id != 0)) {
        co_return fail(Errc::refused, "there is no anchor of {} for {} on this host", request.guest,
                       end.mac.text());
    }
    auto const is_other = [&request](HomeRecord::Tunnel const& one) {
        return one.migration_id != request.migration_id;
    };
    if (home != nullptr && home->record.current == 0) {
        // Left by a migration whose sidecar did not come back. The guest may have another QEMU now.
        if (std::ranges::any_of(home->record.tunnels, is_other))
            CO_TRY_VOID(co_await this->end(name));
    } else if (home != nullptr) {
        for (auto const& one : std::vector(home->record.tunnels)) {
            if (!is_other(one) || one.key.id == end.id) continue;
            co_await remove_tunnels(name, end.id);
            break;
        }
    }
    if (find(request.guest, end.mac) != nullptr) co_return Result<>{};
    if (asker == Asker::remote || end.id != 0) {
        co_return fail(Errc::cancelled, "the anchor was released meanwhile");
    }
    co_return co_await take(request.guest, end);
}

Task<Result<>> HomeEnds::take(std::string guest, protocol::AnchorEnd end) {
    if (homes_.size() >= anchor_records_max) {
        co_return fail(Errc::refused, "this host has {} anchors already", homes_.size());
    }
    CO_TRY(auto tap, tap_of_guest(paths_, guest, end));
    CO_TRY(auto const link, netlink_.link(tap.name()));
    HomeRecord record;
    record.guest = guest;
    record.mac = end.mac;
    CO_TRY(record.tap, description_of(netlink_, tap, link));
    record.was_persistent = link.tun && link.tun->persistent;
    CO_TRY_VOID(co_await records_.write(record));
    Result<> made = tap.set_persistent(true);
    if (made) {
        auto holder = hold(tap);
        if (holder) record.holder = *holder;
        if (!holder) made = std::unexpected(std::move(holder.error()));
    }
    if (made) made = co_await records_.write(record);
    if (!made) {
        (void)tap.set_persistent(record.was_persistent);  // why it failed is worth more
        co_await end_holder(loop_, record.holder);
        (void)co_await records_.remove(record);
        co_return made;
    }
    core::log::info("anchor guest={} mac={} tap={} state=prepared", guest, end.mac.text(),
                    tap.name());
    homes_[{guest, end.mac}] = std::make_unique<Home>(Home{std::move(record), std::move(tap), {}});
    co_return Result<>{};
}

Result<> HomeEnds::add_tunnel(Home& home, HomeRecord::Tunnel const& tunnel) {
    TRY(auto* const hub, hub_.open());
    TRY(auto* const made, hub->add(tunnel.key, Role::connects, tunnel.peer));
    home.tunnels[tunnel.key.id] = made;
    TRY_VOID(made->attach(home.tap));
    // The guest's frames come this way as soon as it runs there, before anybody could tell us.
    made->accept(true);
    if (tunnel.key.id == home.record.current) return made->forward();
    return {};
}

Task<Result<protocol::AnchorPath>> path_of(netmove::tunnel::Tunnel& tunnel, std::string peer) {
    auto const established =
        co_await tunnel.established(Deadline::after(limits::anchor_established));
    if (!established) {
        // Cancelled: the tunnel was removed meanwhile.
        if (established.error().code == Errc::cancelled)
            co_return std::unexpected(established.error());
        co_return fail(Errc::refused,
                       "no tunnel to {}: {}; UDP to that port must pass from this host, and its "
                       "answers back: open the port in the firewalls of that host and between",
                       peer, established.error().sentence());
    }
    auto const path = co_await tunnel.test_path(Deadline::after(limits::anchor_path_test));
    if (!path) {
        co_return fail(Errc::refused, "the path of the tunnel to {} is unusable: {}", peer,
                       path.error().sentence());
    }
    using std::chrono::duration_cast, std::chrono::microseconds;
    auto const round_trip = duration_cast<microseconds>(path->round_trip).count();
    co_return protocol::AnchorPath{static_cast<std::uint64_t>(round_trip), path->datagram_max};
}

Task<Result<>> HomeEnds::point(protocol::AnchorPoint request) {
    Result<> first;
    std::vector<HomeRecord> changed;
    for (auto const& end : request.ends) {
        auto pointed = point_one(request.guest, end);
        if (pointed && *pointed != nullptr) changed.push_back((*pointed)->record);
        if (!pointed && first) first = std::unexpected(std::move(pointed.error()));
    }
    for (auto const& record : changed) {
        auto written = co_await records_.write(record);
        if (!written && first) first = std::move(written);
    }
    co_return first;
}

/// Returns the anchor whose record must be written; null: none.
Result<HomeEnds::Home*> HomeEnds::point_one(std::string const& guest,
                                            protocol::AnchorEnd const& end) {
    auto* const home = find(guest, end.mac);
    if (home == nullptr && end.id == 0) return nullptr;  // its preparation had not come so far
    if (home == nullptr || (end.id != 0 && !home->tunnels.contains(end.id))) {
        return fail(Errc::refused, "there is no anchor of {} for {} with that tunnel on this host",
                    guest, end.mac.text());
    }
    auto& record = home->record;
    if (record.current == end.id) return home;  // an earlier call may not have been recorded
    if (auto const before = home->tunnels.find(record.current); before != home->tunnels.end()) {
        before->second->hold();
    }
    if (end.id != 0) TRY_VOID(home->tunnels[end.id]->forward());
    record.current = end.id;
    record.since_ms = end.id == 0 ? 0 : wall_ms();
    core::log::info("anchor guest={} mac={} state={}", guest, end.mac.text(),
                    end.id == 0 ? "at home" : "at " + record.tunnel(end.id)->peer.text());
    return home;
}

Task<Result<>> HomeEnds::keep(protocol::AnchorKeep request, Asker asker) {
    // First, without waiting for a turn.
    for (auto const& one : request.ends) {
        if (one.id != 0) CO_TRY_VOID(point_one(request.guest, one));
    }
    co_return co_await changes_.run(keep_only(std::move(request), asker));
}

Task<Result<>> HomeEnds::keep_only(protocol::AnchorKeep request, Asker asker) {
    for (auto const& one : request.ends) {
        if (one.id != 0) {
            CO_TRY_VOID(point_one(request.guest, one));  // it may have ended while this waited
            co_await remove_tunnels({request.guest, one.mac}, one.id);
            continue;
        }
        if (asker == Asker::remote) {
            co_return fail(Errc::refused, "only a process of this host may end an anchor");
        }
        auto const* const home = find(request.guest, one.mac);
        if (home == nullptr) continue;
        if (home->record.current != 0) {
            co_return fail(Errc::refused, "{} runs elsewhere through its anchor", request.guest);
        }
        CO_TRY_VOID(co_await end({request.guest, one.mac}));
    }
    co_return Result<>{};
}

/// Removes all tunnels of an anchor but one.
Task<void> HomeEnds::remove_tunnels(Name name, std::uint64_t keep) {
    auto* const home = find(name.first, name.second);
    if (home == nullptr) co_return;
    std::vector<std::uint64_t> others;
    for (auto const& one : home->record.tunnels) {
        if (one.key.id != keep) others.push_back(one.key.id);
    }
    std::erase_if(home->record.tunnels, [keep](auto const& one) { return one.key.id != keep; });
    for (auto const id : others) home->tunnels.erase(id);
    if (auto const written = co_await records_.write(home->record); !written) {
        core::log::warning("anchor guest={} {}", name.first, written.error().sentence());
    }
    for (auto const id : others) co_await hub_.remove(id);
}

/// The anchor ends: what it made is removed. A tap that QEMU holds stays with QEMU.
Task<Result<>> HomeEnds::end(Name name) {
    auto const at = homes_.find(name);
    if (at == homes_.end()) co_return Result<>{};
    auto const home = std::move(at->second);
    homes_.erase(at);
    for (auto const& [id, tunnel] : home->tunnels) co_await hub_.remove(id);
    auto const released = home->tap.set_persistent(home->record.was_persistent);
    if (!released)
        core::log::warning("anchor guest={} {}", name.first, released.error().sentence());
    co_await end_holder(loop_, home->record.holder);
    core::log::info("anchor guest={} mac={} state=ended", name.first, name.second.text());
    co_return co_await records_.remove(home->record);
}

Task<Result<>> HomeEnds::finish(std::string guest) {
    return changes_.run(end_all(std::move(guest)));
}

Task<Result<>> HomeEnds::end_all(std::string guest) {
    std::vector<Name> names;
    for (auto const& [name, home] : homes_) {
        if (name.first == guest) names.push_back(name);
    }
    for (auto const& name : names) CO_TRY_VOID(co_await end(name));
    co_return Result<>{};
}

std::optional<std::string> HomeEnds::bridge_of(std::string const& guest,
                                               protocol::AnchorEnd const& end) const {
    auto const at = homes_.find({guest, end.mac});
    if (at == homes_.end() || end.id == 0 || at->second->record.current != end.id) return {};
    return at->second->record.tap.bridge;
}

/// The tap of a record: from its holder, or made again.
Task<Result<Tap>> HomeEnds::take_up(HomeRecord& record) {
    auto const& wanted = record.tap;
    if (auto tap = held(record.holder, wanted.name); tap) co_return std::move(*tap);
    CO_TRY(auto const there, netlink_.find_link(wanted.name));
    CO_TRY(auto tap, Tap::open(netlink_, wanted.name, {wanted.queues, wanted.vnet_hdr, true}));
    if (!there) CO_TRY_VOID(netlink_.set_mac(wanted.name, wanted.mac));
    CO_TRY_VOID(netmove::place_tap(netlink_, wanted.name,
                                   {wanted.bridge, wanted.mtu, wanted.queue_length}));
    CO_TRY_VOID(tap.set_persistent(true));
    CO_TRY(record.holder, hold(tap));
    CO_TRY_VOID(co_await records_.write(record));
    co_return std::move(tap);
}

/// `serve` may have missed that the guest left: the guest's journal says whether it did.
void HomeEnds::note_move(HomeRecord& record) const {
    auto const last = Journal::peek(paths_.state(record.guest));
    if (!last || !last->moved_away()) return;
    for (auto const& tunnel : record.tunnels) {
        if (tunnel.migration_id != last->migration_id) continue;
        record.current = tunnel.key.id;
        record.since_ms = wall_ms();
        core::log::warning("anchor guest={} mac={} had left in migration {}", record.guest,
                           record.mac.text(), tunnel.migration_id);
    }
}

/// Whether a preparation may still be asked for: by a QEMU that has the tap, or by a sidecar that
/// must first know whether COMMIT counted.
bool HomeEnds::may_be_needed(HomeRecord const& record) const {
    auto const last = Journal::peek(paths_.state(record.guest));
    if (!last || last->must_be_ended_first()) return true;
    protocol::AnchorEnd const end{record.mac, 0, record.tap.name, record.tap.mtu, {}};
    return tap_of_guest(paths_, record.guest, end).has_value();
}

Task<Result<>> HomeEnds::discard(HomeRecord record) {
    if (auto const tap = held(record.holder, record.tap.name)) {
        (void)tap->set_persistent(record.was_persistent);  // at worst it stays
    }
    co_await end_holder(loop_, record.holder);
    co_return co_await records_.remove(record);
}

Task<Result<>> HomeEnds::restore(HomeRecord record) {
    return changes_.run(restore_one(std::move(record)));
}

Task<Result<>> HomeEnds::restore_one(HomeRecord record) {
    Name const name{record.guest, record.mac};
    if (homes_.contains(name)) co_return Result<>{};
    if (record.current == 0) note_move(record);
    if (record.current == 0 && !may_be_needed(record)) co_return co_await discard(record);
    CO_TRY(auto tap, co_await take_up(record));
    auto home = std::make_unique<Home>(Home{std::move(record), std::move(tap), {}});
    auto& kept = *home;
    homes_[name] = std::move(home);
    Result<> added;
    for (auto const& tunnel : kept.record.tunnels) {
        if (added) added = add_tunnel(kept, tunnel);
    }
    if (!added) {
        auto const tunnels = std::exchange(kept.tunnels, {});
        homes_.erase(name);  // it is tried again
        for (auto const& [id, tunnel] : tunnels) co_await hub_.remove(id);
        co_return added;
    }
    core::log::info("anchor guest={} mac={} tap={} state=restored", name.first, name.second.text(),
                    kept.record.tap.name);
    co_return Result<>{};
}

std::optional<bool> HomeEnds::is_away(std::string const& guest) const {
    std::optional<bool> away;
    for (auto const& [name, home] : homes_) {
        if (name.first == guest) away = away.value_or(false) || home->record.current != 0;
    }
    return away;
}

void HomeEnds::list(Json& into) const {
    for (auto const& [name, home] : homes_) {
        auto const& record = home->record;
        auto one = Json::object({{"end", "home"},
                                 {"guest", name.first},
                                 {"interface", name.second.text()},
                                 {"tap", record.tap.name},
                                 {"bridge", record.tap.bridge},
                                 {"since_ms", record.since_ms},
                                 {"state", record.current == 0 ? "prepared" : "away"}});
        auto const id = record.current != 0      ? record.current
                        : record.tunnels.empty() ? 0
                                                 : record.tunnels.back().key.id;
        if (auto const at = home->tunnels.find(id); at != home->tunnels.end()) {
            one.set("peer", record.tunnel(id)->peer.text());
            one.set("connected", at->second->is_established());
            one.set("tunnel", at->second->statistics().to_json());
        }
        into.add(one);
    }
}

}  // namespace sidecar
