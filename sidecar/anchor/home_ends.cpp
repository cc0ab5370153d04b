#include "sidecar/anchor/home_ends.hpp"

#include <algorithm>

#include "core/log.hpp"
#include "sidecar/anchor/guests_tap.hpp"
#include "sidecar/anchor/holder.hpp"
#include "sidecar/anchor/tunnel_path.hpp"
#include "sidecar/host/journal.hpp"
#include "sidecar/host/limits.hpp"
#include "sidecar/host/mac_moves.hpp"
#include "sidecar/host/test_hooks.hpp"

namespace sidecar {

using core::Errc;
using core::fail;
using core::Json;
using core::Result;
using core::Task;
using netmove::Tap;
using netmove::tunnel::Role;

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
        auto* const tunnel = home->tunnels[end.key->id];
        if (tunnel == nullptr) continue;  // a probe has tested the path
        CO_TRY(auto const path, co_await path_of(*tunnel, request.peer.text()));
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
        HomeRecord::Tunnel const tunnel{*end.key, request.peer, request.migration_id, end.vxlan};
        if (home->record.is_vxlan() != end.vxlan.has_value()) {
            co_return fail(Errc::refused,
                           "the anchor of {} has its tunnels in {}: the plane is chosen when the "
                           "guest leaves home",
                           request.guest, home->record.is_vxlan() ? "the kernel" : "user space");
        }
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
        (void)co_await remove_tunnel(tunnel);  // why it failed is worth more
        (void)co_await records_.write(home->record);
        co_return std::unexpected(std::move(added.error()));
    }
    co_return Result<>{};
}

/// The anchor of an interface. If there is none, and the guest is at home, takes the guest's tap,
/// or makes a stand-in.
Task<Result<>> HomeEnds::find_or_take(protocol::AnchorPrepare const& request,
                                      protocol::AnchorEnd end, Asker asker) {
    Name const name{request.guest, end.mac};
    bool const may_begin = end.id == 0 && (asker == Asker::local || end.stand_in);
    if (end.stand_in) CO_TRY_VOID(check_stand_in(request.guest, *end.stand_in));
    auto const* home = find(request.guest, end.mac);
    if (home != nullptr && home->record.current != end.id) {
        co_return fail(Errc::refused,
                       "the anchor of {} for {} is in use by another tunnel than the one that was "
                       "named: the guest runs elsewhere",
                       request.guest, end.mac.text());
    }
    if (home == nullptr && !may_begin) {
        co_return fail(Errc::refused, "there is no anchor of {} for {} on this host", request.guest,
                       end.mac.text());
    }
    auto const is_other = [&request](HomeRecord::Tunnel const& one) {
        return one.migration_id != request.migration_id;
    };
    if (home != nullptr && home->record.current == 0) {
        // Left by a migration whose sidecar did not come back. The guest may have another QEMU now.
        bool const other_kind = home->record.is_stand_in() != end.stand_in.has_value() ||
                                home->record.is_vxlan() != end.vxlan.has_value();
        bool const left = std::ranges::any_of(home->record.tunnels, is_other);
        if (left || (other_kind && may_begin)) CO_TRY_VOID(co_await this->end(name));
    } else if (home != nullptr) {
        for (auto const& one : std::vector(home->record.tunnels)) {
            if (!is_other(one) || one.key.id == end.id) continue;
            co_await remove_tunnels(name, end.id);
            break;
        }
    }
    if (find(request.guest, end.mac) != nullptr) co_return Result<>{};
    if (!may_begin) co_return fail(Errc::cancelled, "the anchor was released meanwhile");
    if (homes_.size() >= anchor_records_max) {
        co_return fail(Errc::refused, "this host has {} anchors already", homes_.size());
    }
    if (end.stand_in) co_return co_await begin_stand_in(request.guest, end);
    if (end.vxlan) co_return co_await take_bridge(request.guest, end);
    co_return co_await take(request.guest, end);
}

Task<Result<>> HomeEnds::take(std::string guest, protocol::AnchorEnd end) {
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
    homes_[{guest, end.mac}] = std::make_shared<Home>(Home{std::move(record), std::move(tap), {}});
    co_return Result<>{};
}

/// In the kernel's plane the guest's tap stays its own; its bridge gets the tunnel.
Task<Result<>> HomeEnds::take_bridge(std::string guest, protocol::AnchorEnd end) {
    HomeRecord record;
    record.kind = HomeRecord::Kind::vxlan;
    record.guest = guest;
    record.mac = end.mac;
    {
        CO_TRY(auto const tap, tap_of_guest(paths_, guest, end));
        CO_TRY(auto const link, netlink_.link(tap.name()));
        CO_TRY(record.tap, description_of(netlink_, tap, link));
    }
    CO_TRY_VOID(co_await records_.write(record));
    core::log::info("anchor guest={} mac={} bridge={} state=prepared in the kernel", guest,
                    end.mac.text(), record.tap.bridge);
    homes_[{guest, end.mac}] = std::make_shared<Home>(Home{std::move(record), {}, {}});
    co_return Result<>{};
}

Result<> HomeEnds::check_stand_in(std::string const& guest,
                                  netmove::GuestInterface const& at_source) const {
    bool known = false;
    for (auto const& [name, home] : homes_) {
        if (name.second != at_source.mac) continue;
        if (name.first != guest) {
            return fail(Errc::refused, "it has an anchor for {} already, of the guest {}",
                        at_source.mac.text(), name.first);
        }
        if (home->record.current != 0) {
            return fail(Errc::refused,
                        "it is the anchor of {} already, and sends its frames to {} (`sidecar "
                        "anchor release {}` there ends that)",
                        guest, home->record.tunnel(home->record.current)->peer.text(), guest);
        }
        known = true;
    }
    TRY_VOID(check_stand_in_here(netlink_, maps_, paths_, guest, at_source));
    auto const here = stood_in_here(maps_, guest, at_source);
    TRY(auto const in_the_way, netlink_.find_link(here.tap));
    if (known || !in_the_way) return {};
    return fail(Errc::refused,
                "{} is in the way there: the stand-in for {} needs that name (`ip link delete {}`)",
                here.tap, at_source.mac.text(), here.tap);
}

Task<Result<>> HomeEnds::begin_stand_in(std::string guest, protocol::AnchorEnd end) {
    HomeRecord record;
    record.kind = HomeRecord::Kind::stand_in;
    record.guest = guest;
    record.mac = end.mac;
    record.interface = stood_in_here(maps_, guest, *end.stand_in);
    auto const& here = *record.interface;
    record.tap = {here.tap,    1,        true, {}, here.mtu, netmove::migration_queue_length,
                  here.bridge, here.port};
    CO_TRY_VOID(co_await records_.write(record));
    auto made = co_await take_up(record);
    if (!made) {
        (void)co_await discard(std::move(record));  // why it failed is worth more
        co_return std::unexpected(std::move(made.error()));
    }
    core::log::info("anchor guest={} mac={} tap={} bridge={} state=prepared stand-in", guest,
                    end.mac.text(), record.tap.name, record.tap.bridge);
    homes_[{guest, end.mac}] = std::move(*made);
    co_return Result<>{};
}

Result<> HomeEnds::add_tunnel(Home& home, HomeRecord::Tunnel const& tunnel) {
    if (tunnel.vxlan) {
        home.tunnels[tunnel.key.id] = nullptr;
        return netmove::make_anchor_vxlan(
            netlink_, *tunnel.vxlan,
            {netmove::anchor_vxlan_name(tunnel.key.id), tunnel.peer.address, home.record.tap.bridge,
             home.record.tap.port});
    }
    TRY(auto* const hub, hub_.open());
    TRY(auto* const made, hub->add(tunnel.key, Role::connects, tunnel.peer));
    home.tunnels[tunnel.key.id] = made;
    TRY_VOID(made->attach(*home.tap));
    // The guest's frames come this way as soon as it runs there, before anybody could tell us.
    made->accept(true);
    if (tunnel.key.id == home.record.current) return made->forward();
    return {};
}

Task<Result<>> HomeEnds::remove_tunnel(HomeRecord::Tunnel tunnel) {
    if (tunnel.vxlan) {
        co_return netmove::remove_anchor_vxlan(netlink_, netmove::anchor_vxlan_name(tunnel.key.id));
    }
    co_await hub_.remove(tunnel.key.id);
    co_return Result<>{};
}

/// In the kernel's plane, when the guest has moved: a port with the settings of the guest's tap may
/// not learn where the guest is.
void HomeEnds::lead_to_guest(HomeRecord const& record) {
    if (!record.is_vxlan() || record.current == 0) return;
    auto const device = netlink_.find_link(netmove::anchor_vxlan_name(record.current));
    if (!device || !*device || !(*device)->port) return;
    auto const led = netlink_.replace_fdb((*device)->index, record.mac, !(*device)->port->learning);
    if (!led) core::log::warning("anchor guest={} {}", record.guest, led.error().sentence());
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
    if (home->stand_in) TRY_VOID(move_stand_in(*home, end));
    auto& record = home->record;
    if (record.current == end.id) return home;  // an earlier call may not have been recorded
    auto const before = home->tunnels.find(record.current);
    if (before != home->tunnels.end() && before->second != nullptr) before->second->hold();
    auto const now = home->tunnels.find(end.id);
    if (now != home->tunnels.end() && now->second != nullptr) TRY_VOID(now->second->forward());
    record.current = end.id;
    record.since_ms = end.id == 0 ? 0 : wall_ms();
    core::log::info("anchor guest={} mac={} state={}", guest, end.mac.text(),
                    end.id == 0 ? "at home" : "at " + record.tunnel(end.id)->peer.text());
    return home;
}

/// A stand-in announces the guest when its frames take their first tunnel, and no more when they
/// take none.
Result<> HomeEnds::move_stand_in(Home& home, protocol::AnchorEnd const& end) {
    if (end.id == 0) {
        // The destination's announcements may still be on their way here.
        for (auto const& [id, tunnel] : home.tunnels) tunnel->accept(false);
        home.stand_in->withdraw();
        return {};
    }
    if (home.record.current != 0) return {};  // it moves on, behind this host
    home.tunnels[end.id]->accept(true);
    return home.stand_in->announce(end.stand_in);
}

Task<Result<>> HomeEnds::keep(protocol::AnchorKeep request, Asker asker) {
    // First, without waiting for a turn.
    for (auto const& one : request.ends) {
        if (one.id != 0) CO_TRY_VOID(point_one(request.guest, one));
    }
    CO_TRY_VOID(co_await changes_.run(keep_only(request, asker)));
    for (auto const& one : request.ends) {
        auto const at = homes_.find({request.guest, one.mac});
        if (at == homes_.end() || !at->second->stand_in) continue;
        auto const home = at->second;  // it may end meanwhile
        co_await home->stand_in->announce_again();
    }
    co_return Result<>{};
}

Task<Result<>> HomeEnds::keep_only(protocol::AnchorKeep request, Asker asker) {
    for (auto const& one : request.ends) {
        if (one.id != 0) {
            CO_TRY_VOID(point_one(request.guest, one));  // it may have ended while this waited
            co_await remove_tunnels({request.guest, one.mac}, one.id);
            auto const* const kept = find(request.guest, one.mac);
            if (kept != nullptr) lead_to_guest(kept->record);
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
    std::vector<HomeRecord::Tunnel> others;
    for (auto const& one : home->record.tunnels) {
        if (one.key.id != keep) others.push_back(one);
    }
    std::erase_if(home->record.tunnels, [keep](auto const& one) { return one.key.id != keep; });
    for (auto const& one : others) home->tunnels.erase(one.key.id);
    if (auto const written = co_await records_.write(home->record); !written) {
        core::log::warning("anchor guest={} {}", name.first, written.error().sentence());
    }
    for (auto const& one : others) {
        auto const removed = co_await remove_tunnel(one);
        if (removed) continue;
        core::log::warning("anchor guest={} {}", name.first, removed.error().sentence());
    }
}

/// The anchor ends: what it made is removed. A tap that QEMU holds stays with QEMU.
Task<Result<>> HomeEnds::end(Name name) {
    auto const at = homes_.find(name);
    if (at == homes_.end()) co_return Result<>{};
    auto const home = std::move(at->second);
    homes_.erase(at);
    if (home->stand_in) home->stand_in->end();
    for (auto const& one : home->record.tunnels) CO_TRY_VOID(co_await remove_tunnel(one));
    auto const released =
        home->tap ? home->tap->set_persistent(home->record.was_persistent) : Result<>{};
    if (!released)
        core::log::warning("anchor guest={} {}", name.first, released.error().sentence());
    co_await end_holder(loop_, home->record.holder);
    stop_for_test("anchor_ended");
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

Task<Result<>> HomeEnds::end_stand_in(protocol::AnchorEndStandIn request) {
    return changes_.run(end_stand_ins(std::move(request)));
}

Task<Result<>> HomeEnds::end_stand_ins(protocol::AnchorEndStandIn request) {
    for (auto const& one : request.ends) {
        auto const* const home = find(request.guest, one.mac);
        if (home == nullptr) continue;  // asked before
        if (!home->record.is_stand_in()) {
            co_return fail(Errc::refused,
                           "the anchor of {} on this host is no stand-in: only a process of this "
                           "host may end it",
                           request.guest);
        }
        if (home->record.current != one.id) {
            co_return fail(Errc::refused,
                           "the anchor of {} for {} is in use by another tunnel than the one that "
                           "was named: the guest runs elsewhere",
                           request.guest, one.mac.text());
        }
        CO_TRY_VOID(co_await end({request.guest, one.mac}));
    }
    co_return Result<>{};
}

Task<Result<>> HomeEnds::end_away(protocol::AnchorEndAway request) {
    return changes_.run(end_all_away(std::move(request)));
}

Task<Result<>> HomeEnds::end_all_away(protocol::AnchorEndAway request) {
    for (auto const& one : request.ends) {
        auto* const home = find(request.guest, one.mac);
        if (home == nullptr) continue;  // asked before
        if (one.id == 0 || home->record.current != one.id) {
            co_return fail(Errc::refused,
                           "the anchor of {} for {} is in use by another tunnel than the one that "
                           "was named",
                           request.guest, one.mac.text());
        }
        if (home->record.tunnels.size() > 1) {
            co_return fail(Errc::refused, "{} is being moved on by its anchor", request.guest);
        }
        home->record.ending = true;
        CO_TRY_VOID(co_await records_.write(home->record));
        stop_for_test("anchor_ending");
        core::log::info("anchor guest={} mac={} is released: no session needs it", request.guest,
                        one.mac.text());
        CO_TRY_VOID(co_await end({request.guest, one.mac}));
    }
    co_return Result<>{};
}

void HomeEnds::forget() {
    for (auto const& [name, home] : homes_) {
        if (home->stand_in) home->stand_in->end();
    }
    homes_.clear();
}

std::optional<std::string> HomeEnds::bridge_of(std::string const& guest,
                                               protocol::AnchorEnd const& end) const {
    auto const at = homes_.find({guest, end.mac});
    if (at == homes_.end() || end.id == 0 || at->second->record.current != end.id) return {};
    return at->second->record.tap.bridge;
}

/// The anchor of a record, without its tunnels.
Task<Result<std::shared_ptr<HomeEnds::Home>>> HomeEnds::take_up(HomeRecord& record) {
    if (record.is_vxlan()) co_return std::make_shared<Home>(Home{record, {}, {}});
    CO_TRY(auto tap, co_await take_up_tap(record));
    auto home = std::make_shared<Home>(Home{record, std::move(tap), {}});
    if (!record.is_stand_in()) co_return home;
    home->stand_in =
        std::make_unique<StandIn>(loop_, netlink_, *home->tap, *home->record.interface);
    // One that is in use has the guest's frames in its ring.
    if (record.current == 0) CO_TRY_VOID(co_await home->stand_in->prepare());
    co_return home;
}

/// The tap of a record: from its holder, or made (again).
Task<Result<Tap>> HomeEnds::take_up_tap(HomeRecord& record) {
    auto& wanted = record.tap;
    if (auto tap = held(record.holder, wanted.name); tap) co_return std::move(*tap);
    CO_TRY(auto const there, netlink_.find_link(wanted.name));
    CO_TRY(auto tap, Tap::open(netlink_, wanted.name, {wanted.queues, wanted.vnet_hdr, true}));
    bool const made_before = wanted.mac != netmove::MacAddress();
    if (!there && made_before) CO_TRY_VOID(netlink_.set_mac(wanted.name, wanted.mac));
    CO_TRY_VOID(netmove::place_tap(netlink_, wanted.name,
                                   {wanted.bridge, wanted.mtu, wanted.queue_length}));
    if (wanted.port) CO_TRY_VOID(netmove::set_port_settings(netlink_, wanted.name, *wanted.port));
    CO_TRY(auto const link, netlink_.link(wanted.name));
    wanted.mac = link.mac;
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
    if (record.is_stand_in()) return true;  // by the guest's sidecar on another host
    auto const last = Journal::peek(paths_.state(record.guest));
    if (!last || last->must_be_ended_first()) return true;
    protocol::AnchorEnd const end{record.mac, 0, record.tap.name, record.tap.mtu, {}};
    return tap_of_guest(paths_, record.guest, end).has_value();
}

Task<Result<>> HomeEnds::discard(HomeRecord record) {
    if (record.is_vxlan()) {
        for (auto const& one : record.tunnels) CO_TRY_VOID(co_await remove_tunnel(one));
        co_return co_await records_.remove(record);
    }
    if (auto const tap = held(record.holder, record.tap.name)) {
        (void)tap->set_persistent(record.was_persistent);  // at worst it stays
    }
    co_await end_holder(loop_, record.holder);
    CO_TRY(auto const left, netlink_.find_link(record.tap.name));
    // Nothing holds it. The guest's own may be left if its holder was killed.
    bool const lost =
        record.ending && !record.was_persistent && left && left->mac == record.tap.mac;
    if (left && (record.is_stand_in() || lost)) (void)netlink_.delete_link(record.tap.name);
    co_return co_await records_.remove(record);
}

Task<Result<>> HomeEnds::restore(HomeRecord record) {
    return changes_.run(restore_one(std::move(record)));
}

Task<Result<>> HomeEnds::restore_one(HomeRecord record) {
    Name const name{record.guest, record.mac};
    if (homes_.contains(name)) co_return Result<>{};
    if (record.ending) co_return co_await discard(record);
    if (record.current == 0 && !record.is_stand_in()) note_move(record);
    if (record.current == 0 && !may_be_needed(record)) co_return co_await discard(record);
    CO_TRY(auto const home, co_await take_up(record));
    auto& kept = *home;
    homes_[name] = home;
    Result<> added;
    for (auto const& tunnel : kept.record.tunnels) {
        if (added) added = add_tunnel(kept, tunnel);
    }
    if (!added) {
        auto const tunnels = std::exchange(kept.tunnels, {});
        homes_.erase(name);  // it is tried again
        // (A device stays: frames need no process.)
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
                                 {"kind", sidecar::name(record.kind)},
                                 {"guest", name.first},
                                 {"interface", name.second.text()},
                                 {"tap", record.tap.name},
                                 {"bridge", record.tap.bridge},
                                 {"since_ms", record.since_ms},
                                 {"state", record.current == 0 ? "prepared" : "away"}});
        auto const id = record.current != 0      ? record.current
                        : record.tunnels.empty() ? 0
                                                 : record.tunnels.back().key.id;
        if (record.is_vxlan() && id != 0) {
            one.set("peer", record.tunnel(id)->peer.address.text());
            one.set("device", netmove::anchor_vxlan_name(id));
        }
        auto const at = home->tunnels.find(id);
        if (at != home->tunnels.end() && at->second != nullptr) {
            one.set("peer", record.tunnel(id)->peer.text());
            one.set("connected", at->second->is_established());
            one.set("tunnel", at->second->statistics().to_json());
        }
        into.add(one);
    }
}

}  // namespace sidecar
