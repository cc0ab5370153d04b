#include "sidecar/migration/source_network.hpp"

#include <unistd.h>

#include <algorithm>

#include "core/log.hpp"
#include "netmove/bridge_mover.hpp"
#include "netmove/evpn_mover.hpp"
#include "netmove/routes_mover.hpp"
#include "netmove/vxlan_mover.hpp"
#include "sidecar/anchor/anchor_record.hpp"
#include "sidecar/host/mac_moves.hpp"
#include "sidecar/migration/network_choice.hpp"
#include "sidecar/migration/source_local.hpp"
#include "sidecar/migration/source_return.hpp"

namespace sidecar {

using core::Deadline;
using core::Errc;
using core::fail;
using core::Json;
using core::Result;
using core::Task;

namespace {

std::vector<netmove::GuestInterface> interfaces_of(std::vector<std::unique_ptr<Nic>> const& nics) {
    std::vector<netmove::GuestInterface> all;
    for (auto const& nic : nics) all.push_back(nic->interface);
    return all;
}

}  // namespace

SourceNetwork::SourceNetwork(SourceContext context, Journal& journal)
    : context_(context),
      journal_(journal),
      vteps_(context.guest.loop, {context.options.vteps, context.options.tls, context.guest.name,
                                  context.migration_id}),
      anchors_(context.guest.loop,
               {context.guest.paths, context.options.tls, context.guest.name, context.migration_id,
                context.options.anchor_host, context.options.anchor_vxlan_port}),
      frames_(context.guest),
      tracking_(context.guest),
      forwarding_(context.guest.loop),
      fired_(context.guest.loop) {}

/// The move of an interface by an anchor; null: another mover's.
netmove::AnchorMove const* SourceNetwork::anchored(std::size_t interface) const {
    auto const& all = context_.description.interfaces;
    if (interface >= all.size() || !all[interface].anchor) return nullptr;
    return &*all[interface].anchor;
}

/// The interfaces that an anchor must move. With --network=auto those whose bridges are not in one
/// network with the destination's.
Task<Result<std::set<std::size_t>>> SourceNetwork::choose_anchors() {
    auto const& interfaces = context_.description.interfaces;
    std::set<std::size_t> chosen;
    surveyed_.assign(interfaces.size(), {});
    for (std::size_t index = 0; index < interfaces.size(); ++index) {
        if (context_.options.network == NetworkChoice::anchor) chosen.insert(index);
    }
    bool const automatic = context_.options.network == NetworkChoice::automatic;
    if (!automatic || !context_.peer.offers(protocol::Feature::anchor)) co_return chosen;
    std::vector<BridgeToSurvey> bridges;
    std::vector<std::size_t> asked;
    for (std::size_t index = 0; index < interfaces.size(); ++index) {
        auto const& one = interfaces[index];
        // A network of one protocol is moved to another bridge only if the operator says so.
        if (one.bridge.empty() || one.vxlan_source || !one.network.empty()) continue;
        bridges.push_back({one.bridge, one.bridge});
        asked.push_back(index);
    }
    if (asked.empty()) co_return chosen;
    CO_TRY(auto const seen, co_await survey_bridges(context_, std::move(bridges)));
    for (std::size_t at = 0; at < asked.size(); ++at) {
        surveyed_[asked[at]] = seen[at];
        if (!seen[at].why_apart().empty()) chosen.insert(asked[at]);
    }
    co_return chosen;
}

/// Without `serve` on this host nothing can be an anchor, but the destination's bridge may do.
Result<> SourceNetwork::do_without_anchors(std::set<std::size_t>& chosen) const {
    bool const serves = access(context_.guest.paths.serve_socket().c_str(), F_OK) == 0;
    if (serves || context_.options.network == NetworkChoice::anchor) return {};
    TRY(auto const fars, far_records(context_.guest.paths, context_.guest.name));
    if (!fars.empty()) return {};  // it has an anchor already
    for (auto const index : chosen) {
        auto const& seen = *surveyed_[index];
        if (!seen.adjacent) continue;
        return fail(Errc::refused,
                    "{}, so {} would lose its network: run `sidecar serve` on this host, which "
                    "then keeps it by an anchor; --network=bridge moves it all the same",
                    seen.why_apart(), context_.guest.name);
    }
    chosen.clear();
    return {};
}

Task<Result<>> SourceNetwork::choose() {
    auto const choice = context_.options.network;
    CO_TRY(auto chosen, co_await choose_anchors());
    CO_TRY_VOID(do_without_anchors(chosen));
    CO_TRY_VOID(co_await anchors_.find(context_.description.interfaces, std::move(chosen),
                                       context_.within(limits::check_timeout)));
    if (choice == NetworkChoice::anchor && anchors_.empty()) {
        co_return fail(Errc::refused,
                       "no interface of {} is in a bridge: there is no network that an anchor "
                       "could keep",
                       context_.guest.name);
    }
    if (anchors_.empty()) co_return check_local_choice(context_, anchors_);
    if (anchors_.is_released()) {
        if (choice == NetworkChoice::bridge) co_return check_local_choice(context_, anchors_);
        co_return fail(Errc::refused,
                       "the anchor of {} was released, so it can only return to its home network, "
                       "and no test can find out whether {} is in that: --network=bridge says so, "
                       "and moves it to {} there",
                       context_.guest.name, context_.options.destination,
                       context_.description.interfaces.front().bridge);
    }
    if (choice == NetworkChoice::bridge || choice == NetworkChoice::vxlan ||
        choice == NetworkChoice::evpn) {
        co_return fail(Errc::refused,
                       "the network of {} is at its anchor at {}, and no bridge of this host is "
                       "in it: leave --network={} out",
                       context_.guest.name, anchors_.home(), name(choice));
    }
    if (!context_.peer.offers(protocol::Feature::anchor)) {
        co_return fail(Errc::refused, "the sidecar of {} is too old for anchors",
                       context_.options.destination);
    }
    if (anchors_.in_kernel() && !context_.peer.offers(protocol::Feature::anchor_vxlan)) {
        co_return fail(Errc::refused, "the sidecar of {} is too old for --anchor-plane=vxlan",
                       context_.options.destination);
    }
    CO_TRY_VOID(anchors_.address_vxlan(*context_.guest.netlink, context_.description.interfaces,
                                       context_.peer.host()));
    if (anchors_.begins_stand_in() && !context_.peer.offers(protocol::Feature::stand_in)) {
        co_return fail(Errc::refused, "the sidecar of {} is too old for --anchor",
                       context_.options.destination);
    }
    CO_TRY_VOID(co_await choose_return(context_, anchors_));
    co_return note_local_choice(context_, anchors_);
}

/// An EVPN fabric that takes a station for a duplicate freezes it where it is, on all hosts.
Result<> SourceNetwork::check_spacing() const {
    for (auto const& interface : context_.description.interfaces) {
        if (!interface.evpn) continue;
        auto const why = why_evpn_must_wait(journal_.last().moves, wall_ms());
        if (!why.empty()) return fail(Errc::refused, "{}: {}", interface.mac.text(), why);
    }
    return {};
}

Task<Result<>> SourceNetwork::check(protocol::CheckAnswer there) {
    anchors_.note_home(context_.description.interfaces, there.anchored_here);
    CO_TRY_VOID(check_local_choice(context_, anchors_));
    CO_TRY_VOID(co_await anchors_.probe(context_.peer.host(), there.tunnel_port, there.host.id,
                                        context_.within(limits::prepare_timeout)));
    for (std::size_t index = 0; index < context_.description.interfaces.size(); ++index) {
        auto& interface = context_.description.interfaces[index];
        if (interface.anchor) continue;
        if (index < there.vxlan.size() && there.vxlan[index]) {
            interface.vxlan_destination = there.vxlan[index];
        }
        CO_TRY_VOID(choose_mover(context_.options.network, interface));
        CO_TRY_VOID(netmove::check_vxlan_ends(interface));
        if (!interface.vxlan_source || !interface.vxlan_destination) continue;
        CO_TRY(auto const device, netmove::vxlan_port(*context_.guest.netlink, interface.bridge));
        if (!device) continue;  // it has disappeared; prepare() reports that
        CO_TRY_VOID(netmove::check_vxlan_mtu(*context_.guest.netlink, *device,
                                             interface.vxlan_destination->local, interface.mtu));
    }
    CO_TRY_VOID(check_spacing());
    if (vteps_.empty()) co_return Result<>{};
    auto moves = vxlan_moves();
    if (moves.empty()) {
        co_return fail(Errc::refused,
                       "no bridge of {} has a VXLAN device with an address (`local`) on both "
                       "hosts, or EVPN informs the other VTEPs: there is nothing to repoint there; "
                       "omit --vtep",
                       context_.guest.name);
    }
    co_return co_await vteps_.prepare(std::move(moves), context_.within(limits::check_timeout));
}

std::vector<netmove::VxlanMove> SourceNetwork::vxlan_moves() const {
    std::vector<netmove::VxlanMove> out;
    for (auto const& interface : context_.description.interfaces) {
        if (interface.anchor || interface.evpn) continue;
        auto const& from = interface.vxlan_source;
        auto const& to = interface.vxlan_destination;
        if (!from || !to || !from->local || !to->local) continue;
        out.push_back({interface.mac, from->vni, *from->local, *to->local, interface.mtu});
    }
    return out;
}

void SourceNetwork::make_movers() {
    movers_ = netmove::MoverSet();
    for (std::size_t index = 0; index < context_.guest.nics.size(); ++index) {
        auto const& nic = context_.guest.nics[index];
        if (nic->interface.routed) {
            bool const described = index < context_.description.interfaces.size();
            movers_.add(netmove::routes_mover_source(
                            *context_.guest.netlink,
                            described ? context_.description.interfaces[index] : nic->interface),
                        index);
        }
        if (nic->interface.bridge.empty()) continue;  // no L2 network of ours to move it on
        auto const* const anchor = anchored(index);
        if (anchor != nullptr && anchor->leaves_its_tap()) continue;
        if (anchor == nullptr && index < context_.description.interfaces.size()) {
            auto const& described = context_.description.interfaces[index];
            if (described.vxlan_source && described.vxlan_destination) {
                auto& netlink = *context_.guest.netlink;
                movers_.add(described.evpn ? netmove::evpn_mover_source(netlink, described)
                                           : netmove::vxlan_mover_source(netlink, described),
                            index);
            }
        }
        movers_.add(netmove::bridge_mover_source(context_.guest.loop, *context_.guest.netlink,
                                                 nic->tap, nic->interface),
                    index);
    }
}

void SourceNetwork::begin_after_restart() {
    vteps_.begin_unknown(vxlan_moves());
    anchors_.begin_after_restart(context_.description.interfaces);
    leave_rings_to_anchor();
}

void SourceNetwork::leave_rings_to_anchor() {
    std::set<std::size_t> left;
    for (std::size_t index = 0; index < context_.guest.nics.size(); ++index) {
        auto const* const anchor = anchored(index);
        if (anchor != nullptr && anchor->leaves_its_tap()) left.insert(index);
    }
    frames_.leave_to_anchor(std::move(left));
}

Task<Result<>> SourceNetwork::prepare(int tunnel_port) {
    make_movers();
    leave_rings_to_anchor();
    CO_TRY_VOID(co_await anchors_.prepare(context_.peer.host(), tunnel_port,
                                          context_.within(limits::prepare_timeout)));
    // Copying disks can take hours: the VTEPs must still be connected.
    if (!vteps_.empty()) {
        CO_TRY_VOID(
            co_await vteps_.prepare(vxlan_moves(), context_.within(limits::prepare_timeout)));
    }
    co_return co_await movers_.prepare(context_.within(limits::prepare_timeout));
}

Task<void> SourceNetwork::begin_tracking() {
    frames_.record_sent();
    tracking_.begin(context_.peer.offers(protocol::Feature::conntrack));
    co_await tracking_.send_all(context_.peer, context_.within(limits::conntrack_patience));
}

Task<void> SourceNetwork::before_stop() {
    co_await tracking_.refresh(context_.peer, context_.within(limits::conntrack_patience));
    co_await frames_.record_read(context_.within(limits::qmp_timeout));
}

Task<Result<>> SourceNetwork::fire() {
    frames_.begin();
    context_.guest.take_in_addresses();
    for (std::size_t index = 0; index < context_.guest.nics.size(); ++index) {
        movers_.update(index, context_.guest.nics[index]->interface);
        anchors_.update(context_.guest.nics[index]->interface);
    }
    CO_TRY_VOID(movers_.fire());
    // Before the first frame arrives there.
    co_await tracking_.send_changes(context_.peer, context_.within_pause());
    auto const sent_at = core::Clock::now();
    CO_TRY(auto const there,
           co_await context_.peer.request(protocol::Fire{interfaces_of(context_.guest.nics),
                                                         context_.options.downtime_limit_ms,
                                                         ms_ago(journal_.last().moves, wall_ms())},
                                          context_.within_pause()));
    fired_at_ = core::Clock::now();
    // Each way takes half of what the destination did not need.
    auto const took = std::min(*fired_at_ - sent_at,
                               core::Clock::duration(std::chrono::microseconds(there.took_us)));
    moved_at_ = *fired_at_ - (*fired_at_ - sent_at - took) / 2;
    journal_.note_move(wall_ms());
    fired_.set();
    // Now that the destination would take their frames.
    vteps_.repoint_fdb(machine::Side::destination);
    // (At home, frames wait in the tap's ring until the guest runs there.)
    if (!anchors_.leaves_its_taps()) anchors_.repoint(machine::Side::destination);
    for (std::size_t nic = 0;
         nic < context_.guest.nics.size() && nic < context_.description.interfaces.size(); ++nic) {
        context_.description.interfaces[nic].addresses =
            context_.guest.nics[nic]->interface.addresses;
    }
    if (tracking_.incomplete()) {
        co_await tracking_.send_difference(context_.peer,
                                           context_.within(limits::conntrack_pause_max));
    }
    co_return Result<>{};
}

Task<Result<>> SourceNetwork::wait_fired(Deadline deadline) {
    co_return co_await fired_.wait(std::move(deadline));
}

Task<std::vector<std::uint64_t>> SourceNetwork::hand_over(Deadline deadline) {
    // On a long line frames may still be on their way: then follow_frames() does it.
    bool const told = vteps_.repointed() && anchors_.repointed();
    if (told && core::Clock::now() >= all_arrived_at() && movers_.may_release()) release();
    co_await tracking_.send_changes(context_.peer, deadline);
    auto caught = co_await frames_.send(context_.peer, deadline);
    if (caught) co_return std::move(*caught);
    // A lost frame does not stop the migration.
    core::log::warning("guest={} migration_id={} {}", context_.guest.name, context_.migration_id,
                       caught.error().sentence());
    co_return std::vector<std::uint64_t>();
}

void SourceNetwork::note_committed(protocol::FramesReport const& frames,
                                   protocol::TrackingReport conntrack) {
    // After a restart it is not known whether they were told.
    vteps_.repoint_fdb(machine::Side::destination);
    anchors_.repoint(machine::Side::destination);
    frames_.note(frames);
    tracking_.note(std::move(conntrack));
    forwarding_.spawn(follow_frames());
}

// Our announcement overrides the destination's. An announcement of the destination that may still
// be on its way must not arrive after ours, so in that case the destination is asked first. Its
// half is undone last, because it catches the frames that still go there. No step waits for a
// destination that does not answer.
Task<Result<>> SourceNetwork::roll_back() {
    auto const deadline = Deadline::after(limits::return_frames_timeout);
    if (movers_.empty()) make_movers();  // after a restart
    bool const announced_there = fired_at_.has_value();
    if (announced_there) journal_.note_move(wall_ms());
    auto const early = announced_there ? movers_.rollback() : Result<>{};
    vteps_.repoint_fdb(machine::Side::source);
    anchors_.repoint(machine::Side::source);
    auto back = co_await frames_.put_back();
    if (back) back = co_await take_back_frames(false, deadline);
    auto undone = announced_there ? early : movers_.rollback();
    if (undone) undone = co_await stay_here();
    bool told = false;
    if (!vteps_.empty()) told = (co_await vteps_.wait_repointed(deadline)).has_value();
    if (!anchors_.empty()) {
        told = (co_await anchors_.wait_repointed(deadline)).has_value() || told;
    }
    if (told) {
        // What a stand-in announced meanwhile came after our own announcement.
        if (anchors_.begins_stand_in() && undone) undone = movers_.rollback();
        (void)co_await core::sleep_for(context_.guest.loop, limits::arrival_margin);
    }
    if (back) back = co_await take_back_frames(true, deadline);
    if (!back)
        core::log::debug("guest={} frames: {}", context_.guest.name, back.error().sentence());
    co_return undone;
}

/// A routing daemon of this host may learn only now that the guest was at the destination, and
/// follow that: it is announced here again, as the newer place. The guest runs meanwhile.
Task<Result<>> SourceNetwork::stay_here() {
    auto const& all = context_.description.interfaces;
    if (std::ranges::none_of(all, &netmove::GuestInterface::evpn)) co_return Result<>{};
    auto const patience = Deadline::after(limits::evpn_return_patience);
    for (int again = 0; again < limits::evpn_claims_max && !patience.passed();) {
        (void)co_await core::sleep_for(context_.guest.loop, limits::routers_poll);
        if (movers_.is_back()) continue;
        CO_TRY_VOID(movers_.rollback());
        ++again;
    }
    co_return Result<>{};
}

Task<Result<>> SourceNetwork::take_back_frames(bool last, Deadline deadline) {
    for (int answers = 0; answers < limits::give_back_answers_max; ++answers) {
        CO_TRY(auto const answer,
               co_await context_.peer.request(protocol::ReturnFrames{last}, deadline));
        CO_TRY_VOID(frames_.take_back(answer));
        if (!answer.more) break;
    }
    co_return Result<>{};
}

void SourceNetwork::release() {
    auto const released = movers_.release();
    released_ = true;
    if (!released)
        core::log::warning("guest={} {}", context_.guest.name, released.error().sentence());
}

/// When the last frame that was sent to the guest's old place has arrived there.
core::Clock::time_point SourceNetwork::all_arrived_at() const {
    auto const fired = fired_at_.value_or(core::Clock::now());
    auto const told =
        std::max(vteps_.repointed_at().value_or(fired), anchors_.repointed_at().value_or(fired));
    return std::max(fired, told) + limits::arrival_margin +
           core::milliseconds(static_cast<long>(2 * context_.peer.rtt_ms()));
}

Task<void> SourceNetwork::follow_frames() {
    core::TaskGroup beside(context_.guest.loop);
    if (!released_) beside.spawn(release_when_arrived());
    auto limit = limits::straggler_patience;
    if (!vteps_.repointed()) limit += limits::vtep_patience;
    if (!anchors_.repointed()) limit += limits::anchor_patience;
    auto const patience = Deadline::after(limit);
    tracking_.follow(context_.peer, patience);
    auto const followed = co_await frames_.follow(context_.peer, patience);
    co_await tracking_.end_following();
    if (!followed) {
        core::log::warning("guest={} late frames were not forwarded to it: {}", context_.guest.name,
                           followed.error().sentence());
    }
    co_await beside.join();
}

Task<void> SourceNetwork::release_when_arrived() {
    co_await wait_for_vteps();
    co_await wait_for_anchor();
    (void)co_await core::sleep_for(context_.guest.loop, all_arrived_at() - core::Clock::now());
    auto const patience = Deadline::after(limits::routers_patience);
    while (!movers_.may_release() && !patience.passed()) {
        (void)co_await core::sleep_for(context_.guest.loop, limits::routers_poll);
    }
    release();
}

/// The guest stays at the destination. Until all VTEPs know that, the frames that they send
/// are caught here.
Task<void> SourceNetwork::wait_for_vteps() {
    if (vteps_.empty()) co_return;
    auto const turned = co_await vteps_.wait_repointed(Deadline::after(limits::vtep_patience));
    if (turned) co_return;
    core::log::error(
        "guest={} migration_id={} {}; what they send to the guest is lost until their entries are "
        "corrected (`bridge fdb replace MAC dev DEVICE dst VTEP self`)",
        context_.guest.name, context_.migration_id, turned.error().sentence());
}

/// The same for the anchor.
Task<void> SourceNetwork::wait_for_anchor() {
    if (anchors_.empty()) co_return;
    auto const told = co_await anchors_.wait_repointed(Deadline::after(limits::anchor_patience));
    if (told) co_return;
    core::log::error("guest={} migration_id={} {}; what is sent to the guest waits or is lost",
                     context_.guest.name, context_.migration_id, told.error().sentence());
}

Task<Result<>> SourceNetwork::drop() {
    if (context_.guest.client && !context_.qemu_gone) {
        co_await frames_.end_recording(Deadline::after(limits::qmp_timeout));
    }
    movers_ = netmove::MoverSet();
    if (!vteps_.empty()) {
        auto const back = co_await vteps_.wait_repointed(Deadline::after(limits::vtep_patience));
        if (!back) core::log::error("guest={} {}", context_.guest.name, back.error().sentence());
    }
    co_await wait_for_anchor();
    auto const dropped = co_await anchors_.drop(Deadline::after(limits::anchor_patience));
    if (!dropped) {
        core::log::error("guest={} {}; `sidecar anchor release {}` there removes the tunnel",
                         context_.guest.name, dropped.error().sentence(), context_.guest.name);
    }
    co_return Result<>{};
}

Task<Result<>> SourceNetwork::settle() {
    co_await forwarding_.join();
    auto settled = co_await movers_.settle(Deadline::after(limits::rollback_timeout));
    frames_.remove_gates();
    // The frames of a guest that has left its home still pass this host, and are tracked here.
    if (!anchors_.leaves_home()) {
        co_await tracking_.remove(Deadline::after(limits::conntrack_patience));
    }
    auto kept = co_await anchors_.settle(Deadline::after(limits::rollback_timeout));
    if (!kept && settled) settled = std::move(kept);
    co_return settled;
}

Task<void> SourceNetwork::end() {
    co_await forwarding_.join();
    co_await vteps_.end();
    co_await anchors_.end();
}

SurveyedBridge const* SourceNetwork::surveyed(netmove::GuestInterface const& interface) const {
    auto const& all = context_.description.interfaces;
    for (std::size_t index = 0; index < all.size() && index < surveyed_.size(); ++index) {
        if (all[index].mac == interface.mac && surveyed_[index]) return &*surveyed_[index];
    }
    return nullptr;
}

std::string SourceNetwork::choice(netmove::GuestInterface const& interface) const {
    if (interface.routed) return "moved by routes";
    if (interface.bridge.empty()) return "it is in no bridge: its addresses are not moved";
    if (interface.anchor && anchors_.is_released()) {
        return fmt::format(
            "returns to its home network, at the bridge for {} on {}: --network=bridge says so; "
            "its anchor was released",
            interface.bridge, context_.options.destination);
    }
    if (interface.anchor && interface.anchor->ends_elsewhere()) {
        return fmt::format(
            "returns to its home network: a test frame arrived at the bridge for {} on {}; its "
            "anchor at {} ends",
            interface.bridge, context_.options.destination, anchors_.home());
    }
    if (interface.anchor && interface.anchor->to == 0) {
        return fmt::format("returns to its bridge on {}, where its anchor is",
                           context_.options.destination);
    }
    auto const path = anchors_.path().value_or(protocol::AnchorPath{});
    auto tunnel = fmt::format("round trip {:.1f} ms, datagrams of {} bytes pass",
                              static_cast<double>(path.round_trip_us) / 1000, path.datagram_max);
    if (interface.anchor && interface.anchor->vxlan) {
        tunnel +=
            plane_text(*context_.guest.netlink, *interface.anchor->vxlan, context_.peer.host());
    }
    if (interface.anchor && interface.anchor->local) {
        tunnel += local_choice_text(*interface.anchor->local);
    }
    if (interface.anchor && interface.anchor->from != 0) {
        return fmt::format("moved by its anchor at {}, to a bridge of its own on {}; {}",
                           anchors_.home(), context_.options.destination, tunnel);
    }
    if (interface.anchor && interface.anchor->begins_elsewhere()) {
        return fmt::format(
            "moved by an anchor on {}: it takes the place of the guest's tap in {} there, and a "
            "tunnel leads from there to {}; {}",
            anchors_.home(), interface.bridge, context_.options.destination, tunnel);
    }
    auto const* const seen = surveyed(interface);
    if (interface.anchor) {
        auto const why = seen == nullptr ? "" : seen->why_apart();
        return fmt::format(
            "moved by an anchor{}: its tap stays in {} on this host, and a tunnel leads to {}; {}",
            why.empty() ? "" : ", because " + why, interface.bridge, context_.options.destination,
            tunnel);
    }
    if (interface.vxlan_source && interface.vxlan_destination) {
        return choice_in_vxlan(context_.options.network, interface);
    }
    if (seen != nullptr && seen->adjacent.value_or(false)) {
        return fmt::format(
            "moved by bridge: a test frame from {} here arrived at {} on the destination",
            seen->here, seen->there);
    }
    return "moved by bridge: the bridges of both hosts must be in one L2 network, which was not "
           "tested";
}

Json SourceNetwork::report(bool moved) const {
    auto const stop_at = context_.timeline.stop_at();
    Json names = Json::array();
    for (auto const& interface : context_.description.interfaces) {
        names.add(interface.mac.text());
        for (auto const& address : interface.addresses) names.add(address.address.text());
    }
    auto report = Json::object({{"moved", moved ? names : Json::array()}});
    if (stop_at && moved_at_) report.set("fired_ms", rounded(ms_between(*stop_at, *moved_at_)));
    if (stop_at) report.set("frames", frames_.report());
    if (!vteps_.empty()) report.set("vteps", vteps_.report(stop_at));
    if (!anchors_.empty()) report.set("anchor", anchors_.report(stop_at));
    for (auto const& interface : context_.description.interfaces) {
        if (!interface.anchor || !interface.anchor->local) continue;
        report.set("local", interface.anchor->local->to_json());
    }
    auto const tracked = tracking_.report();
    if (!tracked.is_null()) report.set("conntrack", tracked);
    return report;
}

}  // namespace sidecar
