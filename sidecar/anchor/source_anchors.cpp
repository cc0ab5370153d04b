#include "sidecar/anchor/source_anchors.hpp"

#include <unistd.h>

#include <algorithm>

#include "core/log.hpp"
#include "sidecar/anchor/anchor_record.hpp"
#include "sidecar/anchor/ask_serve.hpp"
#include "sidecar/host/limits.hpp"

namespace sidecar {

using core::Deadline;
using core::Errc;
using core::fail;
using core::Json;
using core::Result;
using core::Task;
using netmove::tunnel::Endpoint;
using netmove::tunnel::Key;

SourceAnchors::SourceAnchors(core::Loop& loop, Config config)
    : loop_(loop),
      config_(std::move(config)),
      wanted_changed_(loop),
      progress_(loop),
      tasks_(loop) {}

/// To the anchor's `serve`.
template <class Request>
Task<Result<typename Request::Answer>> SourceAnchors::ask(Request request, Deadline deadline) {
    if (place_ == Place::here) {
        co_return co_await ask_serve(loop_, config_.paths, std::move(request), deadline);
    }
    CO_TRY_VOID(co_await reach_home(deadline));
    co_return co_await channel_->request(std::move(request), deadline);
}

Task<Result<>> SourceAnchors::reach_home(Deadline deadline) {
    if (home_.empty()) CO_TRY_VOID(co_await look_up_home(deadline));
    if (!channel_) {
        auto made = std::make_unique<PeerChannel>(
            loop_,
            PeerChannel::Config{home_, config_.tls, config_.guest, config_.migration_id,
                                protocol::Role::anchor_source},
            [](bool) {});  // the caller notices it
        auto const connected = co_await made->connect(deadline.sooner(limits::connect_timeout));
        if (!connected) {
            co_return fail(connected.error().code, "the anchor of {} at {} cannot be asked: {}",
                           config_.guest, home_, connected.error().sentence());
        }
        channel_ = std::move(made);
        tasks_.spawn(channel_->keep(stop_.get_token()));
    }
    co_return co_await channel_->reached(deadline);
}

Task<Result<>> SourceAnchors::look_up_home(Deadline deadline) {
    CO_TRY(auto const where,
           co_await ask_serve(loop_, config_.paths, protocol::AnchorWhere{config_.guest},
                              deadline.sooner(limits::anchor_answer_timeout)));
    co_return take_where(where);
}

/// Where the anchor of this guest is, as its tunnels show.
Result<> SourceAnchors::take_where(protocol::AnchorWhereAnswer const& where) {
    for (auto const& end : ends_) {
        auto const at =
            std::ranges::find(where.ends, end.mac, &protocol::AnchorWhereAnswer::End::mac);
        if (at == where.ends.end() || at->id != end.move.from) {
            return fail(Errc::refused, "`sidecar serve` on this host has no tunnel of {}'s anchor",
                        config_.guest);
        }
        if (at->home.empty()) {
            return fail(Errc::refused,
                        "the tunnel of {} to its anchor is down, so the anchor cannot be told "
                        "where the guest goes: `sidecar anchor show {}`",
                        config_.guest, config_.guest);
        }
        if (!home_.empty() && home_ != at->home) {
            return fail(Errc::refused,
                        "{} has anchors on two hosts, {} and {}: that cannot be moved",
                        config_.guest, home_, at->home);
        }
        home_ = at->home;
    }
    TRY(auto const endpoint, Endpoint::parse(home_));
    anchor_port_ = endpoint.port;
    return {};
}

Task<Result<>> SourceAnchors::find(std::vector<netmove::GuestInterface>& interfaces,
                                   std::set<std::size_t> wanted, Deadline deadline) {
    ends_.clear();
    keys_.clear();
    released_ = false;
    CO_TRY(auto const fars, far_records(config_.paths, config_.guest));
    if (!config_.stand_in.empty()) {
        if (fars.empty()) co_return find_stand_in(interfaces, wanted);
        co_return fail(Errc::refused,
                       "{} has an anchor on another host already (`sidecar anchor show {}`), which "
                       "moves it: leave --anchor out",
                       config_.guest, config_.guest);
    }
    place_ = fars.empty() ? Place::here : Place::elsewhere;
    bool const from_here = place_ == Place::here;
    for (std::size_t index = 0; index < interfaces.size(); ++index) {
        auto& interface = interfaces[index];
        if (interface.bridge.empty() || (from_here && !wanted.contains(index))) continue;
        auto const far = std::ranges::find(fars, interface.mac, &FarRecord::mac);
        if (far == fars.end() && !from_here) continue;  // in a network of this host
        if (!from_here && far->is_released()) {
            find_released(interface, *far);
            continue;
        }
        if (!from_here) anchor_port_ = far->anchor_port;
        auto& key = keys_.emplace_back(Key::generate());
        interface.anchor = netmove::AnchorMove{from_here ? 0 : far->key.id, key.id};
        if (!from_here) {
            interface.anchor->home_bridge = far->home_bridge;
            interface.port = far->home_port;
        }
        if (from_here ? config_.vxlan_port != 0 : far->vxlan.has_value()) {
            auto const port =
                from_here ? static_cast<std::uint16_t>(config_.vxlan_port) : far->vxlan->port;
            auto const home = from_here ? netmove::Address() : far->vxlan->home;
            interface.anchor->vxlan = netmove::AnchorVxlan{netmove::anchor_vni(key.id), port, home};
        }
        ends_.push_back({interface.mac, interface.tap, *interface.anchor, {}, interface.mtu});
    }
    if (ends_.empty() || released_) co_return Result<>{};
    probe_ = Key::generate();
    if (!from_here) {
        // A guest that returns home needs no answer of its anchor: probe() reports what fails.
        (void)co_await look_up_home(deadline);
        co_return Result<>{};
    }
    CO_TRY(auto const where,
           co_await ask_serve(loop_, config_.paths, protocol::AnchorWhere{config_.guest},
                              deadline.sooner(limits::anchor_answer_timeout)));
    anchor_port_ = where.serve_port;
    co_return Result<>{};
}

/// The guest can only return to its home network.
void SourceAnchors::find_released(netmove::GuestInterface& interface, FarRecord const& far) {
    released_ = true;
    interface.anchor = netmove::AnchorMove{far.key.id, 0};
    interface.anchor->home_bridge = far.local->choice.home_bridge;
    interface.bridge = far.local->choice.home_bridge;
    interface.port = far.home_port;
    ends_.push_back({interface.mac, interface.tap, *interface.anchor});
}

void SourceAnchors::note_home(std::vector<netmove::GuestInterface>& interfaces,
                              std::vector<bool> const& anchored_here) {
    for (std::size_t index = 0; index < interfaces.size() && index < anchored_here.size();
         ++index) {
        if (!interfaces[index].anchor || !anchored_here[index]) continue;
        auto const unused = std::exchange(interfaces[index].anchor->to, 0);
        interfaces[index].anchor->home_bridge.clear();  // it ends there, stand-in or not
        std::erase_if(keys_, [unused](Key const& key) { return key.id == unused; });
        for (auto& end : ends_) {
            if (end.mac == interfaces[index].mac) end.move = *interfaces[index].anchor;
        }
    }
}

/// The guest leaves home, and the anchor is to be on another host.
Result<> SourceAnchors::find_stand_in(std::vector<netmove::GuestInterface>& interfaces,
                                      std::set<std::size_t> const& wanted) {
    place_ = Place::begins_elsewhere;
    home_ = config_.stand_in;
    for (auto const index : wanted) {
        auto& interface = interfaces[index];
        if (interface.bridge.empty()) continue;
        if (interface.vxlan_source && !interface.vxlan_source->learning) {
            return fail(Errc::refused,
                        "{} has a VXLAN device that does not learn: the hosts of VNI {} would not "
                        "know that the guest's addresses are behind {}; leave --anchor out",
                        interface.bridge, interface.vxlan_source->vni, home_);
        }
        auto& key = keys_.emplace_back(Key::generate());
        auto const at_source = interface;
        interface.anchor = netmove::AnchorMove{0, key.id, {}, interface.bridge};
        ends_.push_back({interface.mac, interface.tap, *interface.anchor, at_source});
    }
    if (!ends_.empty()) probe_ = Key::generate();
    return {};
}

bool SourceAnchors::behind_stand_ins() const {
    return !ends_.empty() && std::ranges::all_of(ends_, [](End const& one) {
        return one.move.from != 0 && !one.move.home_bridge.empty();
    });
}

void SourceAnchors::leave_stand_in(std::vector<netmove::GuestInterface>& interfaces) {
    keys_.clear();
    probe_.reset();
    for (auto& end : ends_) {
        end.move.to = 0;
        auto const at = std::ranges::find(interfaces, end.mac, &netmove::GuestInterface::mac);
        if (at == interfaces.end()) continue;
        at->anchor->to = 0;
        at->bridge = end.move.home_bridge;
    }
}

void SourceAnchors::begin_after_restart(std::vector<netmove::GuestInterface> const& interfaces) {
    ends_.clear();
    for (auto const& interface : interfaces) {
        if (!interface.anchor) continue;
        bool const begins = interface.anchor->begins_elsewhere();
        ends_.push_back({interface.mac, interface.tap, *interface.anchor,
                         begins ? std::optional(interface) : std::nullopt});
        place_ = begins                        ? Place::begins_elsewhere
                 : interface.anchor->from == 0 ? Place::here
                                               : Place::elsewhere;
        if (begins) home_ = config_.stand_in;
    }
    read_keys();
    told_.reset();
    auto const fars = far_records(config_.paths, config_.guest);
    released_ = fars && std::ranges::any_of(*fars, &FarRecord::is_released);
}

bool SourceAnchors::returns_home() const {
    return !ends_.empty() &&
           std::ranges::all_of(ends_, [](End const& one) { return one.move.to == 0; });
}

bool SourceAnchors::ends_stand_in() const {
    return !ends_.empty() &&
           std::ranges::all_of(ends_, [](End const& one) { return one.move.ends_elsewhere(); });
}

std::vector<protocol::AnchorEnd> SourceAnchors::ends(bool destination) const {
    std::vector<protocol::AnchorEnd> out;
    for (auto const& end : ends_) {
        if (end.move.to == 0) continue;  // the destination ends that anchor itself
        out.push_back({end.mac, destination ? end.move.to : end.move.from, end.tap, 1500, {}});
        out.back().stand_in = end.interface;
    }
    return out;
}

Result<Endpoint> SourceAnchors::endpoint(std::string const& host, int tunnel_port) {
    auto const address = netmove::Address::parse(host);
    if (address && tunnel_port != 0) {
        return Endpoint{*address, static_cast<std::uint16_t>(tunnel_port)};
    }
    return fail(Errc::refused,
                "a tunnel cannot lead to {} port {}: it needs an address that other hosts can use "
                "too",
                host, tunnel_port);
}

Task<Result<>> SourceAnchors::probe(std::string host, int tunnel_port, std::string host_id,
                                    Deadline deadline) {
    if (released_) co_return Result<>{};
    if (ends_stand_in()) co_return co_await reach_stand_in(deadline);
    if (ends_.empty() || returns_home()) co_return Result<>{};
    CO_TRY(auto const peer, endpoint(host, tunnel_port));
    if (begins_stand_in()) co_return co_await check_stand_in(peer, std::move(host_id), deadline);
    CO_TRY(path_, co_await ask(protocol::AnchorProbe{config_.guest, peer, *probe_}, deadline));
    if (in_kernel()) co_return check_vxlan_path(peer);
    co_return Result<>{};
}

Result<> SourceAnchors::address_vxlan(netmove::Netlink& netlink,
                                      std::vector<netmove::GuestInterface>& interfaces,
                                      std::string const& host) {
    if (!in_kernel() || !leaves_home()) return {};
    TRY(auto const remote, netmove::Address::parse(host));
    TRY(auto const route, netlink.route(remote));
    if (!route.source) return fail(Errc::netlink, "this host has no address towards {}", host);
    for (auto& end : ends_) {
        end.move.vxlan->home = *route.source;
        auto const at = std::ranges::find(interfaces, end.mac, &netmove::GuestInterface::mac);
        if (at != interfaces.end()) at->anchor->vxlan->home = *route.source;
    }
    return {};
}

/// A VXLAN device never cuts a frame.
Result<> SourceAnchors::check_vxlan_path(Endpoint const& peer) const {
    constexpr int headers_ipv4 = 28;
    constexpr int headers_ipv6 = 48;
    for (auto const& end : ends_) {
        int const needed = end.mtu + netmove::vxlan_payload_overhead;
        if (path_->datagram_max >= static_cast<std::uint64_t>(needed)) continue;
        int const headers = peer.address.is_ipv4() ? headers_ipv4 : headers_ipv6;
        return fail(Errc::refused,
                    "--anchor-plane=vxlan: the path to {} passes datagrams of {} bytes, and frames "
                    "of {} with its MTU of {} need an MTU of {} on the path: raise it, or leave "
                    "the option out (the tunnel of `serve` cuts frames)",
                    peer.address.text(), path_->datagram_max, end.mac.text(), end.mtu,
                    needed + headers);
    }
    return {};
}

/// Its host can begin and end stand-ins.
Task<Result<>> SourceAnchors::reach_stand_in(Deadline deadline) {
    CO_TRY_VOID(co_await reach_home(deadline));
    if (channel_->offers(protocol::Feature::stand_in)) co_return Result<>{};
    co_return fail(Errc::refused,
                   "the sidecar of {} is too old for --anchor: it can be the anchor only of guests "
                   "that leave it",
                   home_);
}

Task<Result<>> SourceAnchors::check_stand_in(Endpoint peer, std::string host_id,
                                             Deadline deadline) {
    CO_TRY_VOID(co_await reach_stand_in(deadline));
    if (channel_->host() == peer.address.text()) {
        co_return fail(Errc::refused,
                       "{} is the destination: --anchor names a host that stays in the guest's "
                       "home network",
                       home_);
    }
    protocol::AnchorStandIn request{config_.guest, {}, std::move(host_id), peer, *probe_};
    for (auto const& end : ends_) request.interfaces.push_back(*end.interface);
    auto const answer = co_await channel_->request(std::move(request), deadline);
    if (!answer) {
        co_return fail(answer.error().code, "{} cannot be the anchor of {}: {}", home_,
                       config_.guest, answer.error().sentence());
    }
    anchor_port_ = answer->port;
    path_ = answer->path;
    co_return Result<>{};
}

Task<Result<>> SourceAnchors::prepare(std::string host, int tunnel_port, Deadline deadline) {
    if (ends_.empty() || returns_home()) co_return Result<>{};
    CO_TRY_VOID(write_keys());
    CO_TRY(auto const peer, endpoint(host, tunnel_port));
    auto now = ends(false);
    for (auto& end : now) {
        for (std::size_t index = 0; index < ends_.size(); ++index) {
            if (ends_[index].mac != end.mac) continue;
            auto const key = std::ranges::find(keys_, ends_[index].move.to, &Key::id);
            if (key == keys_.end()) {
                co_return fail(Errc::refused,
                               "the key of a tunnel was lost with an earlier sidecar");
            }
            end.key = *key;
            end.vxlan = ends_[index].move.vxlan;
        }
    }
    protocol::AnchorPrepare request{config_.guest, config_.migration_id, peer, std::move(now)};
    CO_TRY(auto const path, co_await ask(std::move(request), deadline));
    if (!in_kernel() || !path_) path_ = path;
    core::log::info("guest={} migration_id={} tunnel to {} round_trip_us={} datagram_max={}",
                    config_.guest, config_.migration_id, host, path_->round_trip_us,
                    path_->datagram_max);
    co_return Result<>{};
}

void SourceAnchors::update(netmove::GuestInterface const& now) {
    for (auto& end : ends_) {
        if (end.mac != now.mac || !end.interface) continue;
        end.interface->addresses = now.addresses;
        end.interface->router = now.router;
    }
}

void SourceAnchors::repoint(machine::Side to) {
    if (ends_.empty() || returns_home()) return;
    wanted_ = to;
    wanted_changed_.set();
    if (!std::exchange(telling_, true)) tasks_.spawn(keep_told());
}

/// A request that was replaced reaches the anchor before the next: each is answered, or its
/// connection is lost, before another is sent.
Task<void> SourceAnchors::keep_told() {
    auto const token = stop_.get_token();
    while (!token.stop_requested()) {
        if (told_ == wanted_) {
            wanted_changed_.reset();
            if (!co_await wanted_changed_.wait(Deadline::never(token))) break;
            continue;
        }
        auto const to = *wanted_;
        told_.reset();
        protocol::AnchorPoint request{config_.guest, ends(to == machine::Side::destination)};
        auto const told =
            co_await ask(std::move(request), Deadline::after(limits::vtep_answer_timeout, token));
        if (told) {
            told_ = to;
            repointed_at_ = core::Clock::now();
            error_.clear();
            progress_.set();
            continue;
        }
        error_ = told.error().sentence();
        core::log::warning("guest={} the anchor does not know yet where the guest is: {}",
                           config_.guest, error_);
        (void)co_await core::sleep_for(loop_, limits::retry_pause_min, token);
    }
}

Task<Result<>> SourceAnchors::wait_repointed(Deadline deadline) {
    while (!repointed()) {
        progress_.reset();
        if (co_await progress_.wait(deadline)) continue;
        co_return fail(Errc::timed_out, "the anchor of {} does not know where the guest is: {}",
                       config_.guest, error_.empty() ? "no answer yet" : error_);
    }
    co_return Result<>{};
}

Task<Result<>> SourceAnchors::settle(Deadline deadline) {
    if (ends_.empty()) co_return Result<>{};
    Result<> first;
    if (ends_stand_in() && !released_) first = co_await end_stand_in(deadline);
    if (!returns_home()) {
        auto kept = co_await ask(protocol::AnchorKeep{config_.guest, ends(true)},
                                 deadline.sooner(limits::anchor_answer_timeout));
        if (!kept) first = std::unexpected(std::move(kept.error()));
    }
    // While the anchor sends the guest's frames here, they must have a place to arrive.
    if (place_ == Place::elsewhere && first) {
        auto left =
            co_await ask_serve(loop_, config_.paths, protocol::AnchorLeave{config_.guest, ""},
                               deadline.sooner(limits::anchor_answer_timeout));
        if (!left && first) first = std::unexpected(std::move(left.error()));
    }
    if (first) unlink(keys_path().c_str());
    co_return first;
}

Task<Result<>> SourceAnchors::drop(Deadline deadline) {
    if (ends_.empty() || returns_home()) co_return Result<>{};
    unlink(keys_path().c_str());
    if (begins_stand_in()) co_return co_await end_stand_in(deadline);
    auto const kept = co_await ask(protocol::AnchorKeep{config_.guest, ends(false)},
                                   deadline.sooner(limits::anchor_answer_timeout));
    if (!kept) co_return std::unexpected(kept.error());
    co_return Result<>{};
}

/// The guest stays in its home network, or is back there, and not behind the anchor's host.
Task<Result<>> SourceAnchors::end_stand_in(Deadline deadline) {
    protocol::AnchorEndStandIn request{config_.guest, {}};
    for (auto const& end : ends_) {
        request.ends.push_back({end.mac, end.move.from, end.tap, 1500, {}});
    }
    auto const ended =
        co_await ask(std::move(request), deadline.sooner(limits::anchor_answer_timeout));
    if (!ended) co_return std::unexpected(ended.error());
    co_return Result<>{};
}

Task<void> SourceAnchors::end() {
    stop_.request_stop();
    co_await tasks_.join();
}

std::string SourceAnchors::keys_path() const {
    return config_.paths.run(config_.guest) + "/anchor-keys.json";
}

/// For a sidecar that takes this migration over.
Result<> SourceAnchors::write_keys() const {
    Json list = Json::array();
    for (auto const& key : keys_) list.add(key.to_json());
    return write_replacing(keys_path(), Json::object({{"migration_id", config_.migration_id},
                                                      {"anchor_port", anchor_port_},
                                                      {"keys", list}})
                                            .dump());
}

void SourceAnchors::read_keys() {
    auto const text = read_file(keys_path(), limits::manifest_bytes_max);
    auto const json = text ? Json::parse(*text) : std::unexpected(text.error());
    if (!json || (*json)["migration_id"].text_or("") != config_.migration_id) return;
    anchor_port_ = static_cast<int>((*json)["anchor_port"].integer_or(0));
    for (auto const& one : (*json)["keys"].elements()) {
        if (auto key = Key::from_json(one)) keys_.push_back(std::move(*key));
    }
}

Json SourceAnchors::report(std::optional<core::Clock::time_point> since) const {
    auto made = Json::object({{"anchor", place_ == Place::here ? "this host" : home_},
                              {"stand_in", begins_stand_in()},
                              {"returns_home", returns_home()}});
    if (path_) {
        made.set("round_trip_us", path_->round_trip_us);
        made.set("datagram_max", path_->datagram_max);
    }
    if (repointed_at_ && since) {
        std::chrono::duration<double, std::milli> const after = *repointed_at_ - *since;
        made.set("repointed_ms", after.count());
    }
    if (!repointed() && !error_.empty()) made.set("error", error_);
    return made;
}

}  // namespace sidecar
