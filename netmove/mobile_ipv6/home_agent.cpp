#include "netmove/mobile_ipv6/home_agent.hpp"

#include <fcntl.h>
#include <sys/file.h>

#include <algorithm>
#include <cerrno>

#include "core/log.hpp"

namespace netmove::mobile_ipv6 {

using core::Deadline;
using core::Errc;
using core::fail;
using core::Json;
using core::Result;
using core::Task;

namespace {

// RFC 7600: the source of ICMP errors of a host that has no address of the network.
constexpr std::array<std::uint8_t, 4> ipv4_dummy{192, 0, 0, 8};

BindingCache::Options cache_options(HomeAgentOptions const& options) {
    return {.agent = options.address,
            .home_prefix = options.address,
            .home_prefix_length = options.prefix_length,
            .permissions = options.permissions,
            .require_authentication = options.require_authentication};
}

/// Held as long as the home agent lives: two would undo each other's work.
Result<core::Fd> lock_state(HomeAgentOptions const& options) {
    auto const path = options.state_directory + "/lock";
    core::Fd lock(::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
    if (!lock) return core::fail_errno(errno, "cannot open {}", path);
    if (::flock(lock.get(), LOCK_EX | LOCK_NB) == 0) return lock;
    if (errno == EWOULDBLOCK) {
        return fail(Errc::refused, "another home agent for {} is running on this host",
                    options.link);
    }
    return core::fail_errno(errno, "cannot lock {}", path);
}

std::string bindings_file(HomeAgentOptions const& options) {
    return options.state_directory + "/bindings";
}

/// The address from which ICMP errors go to senders of IPv4 packets.
Result<Address> ipv4_router_of(Netlink& netlink, Link const& link,
                               HomeAgentOptions const& options) {
    TRY(auto const addresses, netlink.addresses(link.index));
    for (auto const& one : addresses) {
        if (one.address.is_ipv4()) return one.address;
    }
    return options.ipv4_address.value_or(Address::ipv4(ipv4_dummy));
}

bool is_acceptance(Send const& what) {
    auto const* answer = std::get_if<BindingAcknowledgement>(&what.packet.message);
    return answer != nullptr && is_accepted(answer->status);
}

/// Home addresses whose records have changed, each once.
std::vector<Address> changed_by(std::vector<HomeAgentAction> const& actions) {
    std::vector<Address> changed;
    for (auto const& action : actions) {
        std::optional<Address> home;
        if (auto const* send = std::get_if<Send>(&action)) {
            if (is_acceptance(*send)) home = send->packet.home_address();
        } else if (auto const* bound = std::get_if<Route>(&action)) {
            home = bound->home;
        } else if (auto const* ended = std::get_if<Unroute>(&action)) {
            home = ended->home;
        }
        if (home && std::ranges::find(changed, *home) == changed.end()) changed.push_back(*home);
    }
    return changed;
}

std::int64_t seconds_between(TimePoint from, TimePoint to) {
    return std::chrono::duration_cast<std::chrono::seconds>(to - from).count();
}

std::string_view state_name(BindingState state) {
    switch (state) {
        case BindingState::detecting:
            return "detecting";
        case BindingState::bound:
            return "bound";
        case BindingState::released:
            return "released";
    }
    return "?";
}

void complain_of(Result<> const& result) {
    if (!result) core::log::warning("home-agent: {}", result.error().sentence());
}

}  // namespace

// ---- opening ------------------------------------------------------------------------------------

Result<std::unique_ptr<HomeAgent>> HomeAgent::open(core::Loop& loop, HomeAgentOptions options) {
    TRY_VOID(check(options));
    TRY(auto lock, lock_state(options));
    std::unique_ptr<HomeAgent> made(new HomeAgent(loop, std::move(options), std::move(lock)));
    TRY_VOID(made->make_parts());
    TRY_VOID(made->restore());
    return made;
}

HomeAgent::HomeAgent(core::Loop& loop, HomeAgentOptions options, core::Fd lock)
    : loop_(loop),
      options_(std::move(options)),
      lock_(std::move(lock)),
      cache_(cache_options(options_)),
      log_(loop, bindings_file(options_),
           [this] { return cache_.to_json(core::Clock::now(), std::chrono::system_clock::now()); }),
      timers_changed_(loop),
      detections_(loop) {}

HomeAgent::~HomeAgent() = default;

Result<> HomeAgent::make_parts() {
    TRY(auto netlink, Netlink::open());
    TRY(auto const link, netlink.link(options_.link));
    TRY(auto const ipv4_router, ipv4_router_of(netlink, link, options_));
    TRY(signalling_, SignallingSocket::open(loop_, options_.address));
    TRY(link_, HomeLink::open(loop_, link, options_.address));
    DataPath::Options const data{fmt::format("ha-{}", link.index), link.mtu, options_.address,
                                 options_.ipv4_address, ipv4_router};
    TRY(data_, DataPath::open(loop_, data, [this](auto const& packet, CareOf const& from) {
            handle(packet, {.from = from, .over_udp = true});
        }));
    TRY(auto rules, HostRules::make(options_.link, options_.address, options_.ipv4_address));
    rules_.emplace(std::move(rules));
    return {};
}

/// A file that cannot be read is refused, not overwritten: it is the only copy.
Result<> HomeAgent::restore() {
    TRY(auto const records, BindingLog::read(bindings_file(options_)));
    if (records.empty()) return {};
    Json list = Json::array();
    for (auto const& record : records) list.add(record);
    auto const json = Json::object({{"version", 1}, {"bindings", list}});
    auto restored = cache_.restore(json, core::Clock::now(), std::chrono::system_clock::now());
    if (!restored) {
        return std::unexpected(
            std::move(restored.error()).while_doing("restoring " + bindings_file(options_)));
    }
    for (auto const& action : *restored) {
        if (auto const* claim = std::get_if<Claim>(&action)) act(*claim);
        if (auto const* route = std::get_if<Route>(&action)) act(*route);
    }
    return {};
}

Task<Result<>> HomeAgent::run(std::stop_token outer) {
    core::LinkedStop stop(std::move(outer));
    stop_ = stop.token();
    core::TaskGroup group(loop_);
    std::stop_source log_stop;
    core::TaskGroup writer(loop_);
    writer.spawn(log_.run(log_stop.get_token()));
    group.spawn(data_->run(stop_));
    group.spawn(signalling_->run(
        [this](SignallingPacket const& packet) { handle(packet, {.from = {packet.source}}); },
        stop_));
    group.spawn(expire_bindings(stop_));
    auto const ended = co_await link_->run(stop_);
    stop.request_stop();
    co_await group.join();
    co_await detections_.join();
    log_stop.request_stop();
    co_await writer.join();
    co_return ended;
}

// ---- events -------------------------------------------------------------------------------------

void HomeAgent::handle(SignallingPacket const& packet, Arrival const& arrival) {
    execute(cache_.handle(packet, arrival, core::Clock::now()));
}

Task<void> HomeAgent::detect(StartDetection what) {
    std::vector<Address> addresses{what.home};
    if (what.ipv4_home) addresses.push_back(*what.ipv4_home);
    if (what.link_local_compatible) addresses.push_back(link_local_of(what.home));
    auto const found = co_await link_->detect(std::move(addresses), stop_);
    if (stop_.stop_requested()) co_return;
    if (!found) core::log::warning("home-agent: {}", found.error().sentence());
    // An address that cannot be tested is not bound.
    bool const duplicate = !found || *found;
    if (duplicate) {
        core::log::warning("home-agent: another station has {}: it is not bound", what.home.text());
    }
    execute(cache_.detected(what.home, duplicate, core::Clock::now()));
}

Task<void> HomeAgent::expire_bindings(std::stop_token stop) {
    while (!stop.stop_requested()) {
        timers_changed_.reset();
        auto const due = cache_.next_due();
        if (due > core::Clock::now()) {
            auto const waited = co_await timers_changed_.wait(Deadline(due, stop));
            if (!waited && waited.error().code == Errc::cancelled) break;
        }
        if (cache_.next_due() > core::Clock::now()) continue;
        execute(cache_.expire(core::Clock::now()));
        co_await loop_.next_turn();
    }
}

// ---- actions ------------------------------------------------------------------------------------

void HomeAgent::execute(std::vector<HomeAgentAction> const& actions) {
    std::vector<Send> answers;
    for (auto const& action : actions) {
        if (auto const* answer = std::get_if<Send>(&action)) {
            // The others change nothing that could be forgotten.
            if (is_acceptance(*answer)) {
                answers.push_back(*answer);
            } else {
                send(*answer);
            }
            continue;
        }
        std::visit(
            [this](auto const& what) {
                if constexpr (!std::is_same_v<std::decay_t<decltype(what)>, Send>) act(what);
            },
            action);
    }
    auto const wall = std::chrono::system_clock::now();
    auto const changed = changed_by(actions);
    for (auto const& home : changed) {
        bool const last = &home == &changed.back();
        auto const record = cache_.record(home, core::Clock::now(), wall);
        if (!last) {
            log_.append(record, {});
            continue;
        }
        log_.append(record, [this, answers] {
            for (auto const& answer : answers) send(answer);
        });
    }
    timers_changed_.set();
}

void HomeAgent::act(StartDetection const& what) { detections_.spawn(detect(what)); }

void HomeAgent::act(Claim const& what) {
    complain_of(link_->claim(what.home, what.link_local_compatible));
    if (what.ipv4_home) complain_of(link_->claim(*what.ipv4_home));
}

void HomeAgent::act(Release const& what) {
    link_->release(what.home, what.link_local_compatible);
    if (what.ipv4_home) link_->release(*what.ipv4_home);
}

void HomeAgent::act(Route const& what) {
    core::log::info(
        "home-agent: home={} care_of={}{}", what.home.text(), what.care_of.address.text(),
        what.care_of.udp_port == 0 ? "" : fmt::format(" port={}", what.care_of.udp_port));
    complain_of(data_->bind(what));
}

void HomeAgent::act(Unroute const& what) {
    core::log::info("home-agent: home={} is not bound any more", what.home.text());
    complain_of(data_->unbind(what.home, what.ipv4_home));
}

void HomeAgent::send(Send const& what) {
    auto const sent = data_->send(what.packet, what.to);
    if (sent) return;
    ++answers_not_sent_;
    core::log::debug("home-agent: {}", sent.error().sentence());
}

// ---- status -------------------------------------------------------------------------------------

Json HomeAgent::binding_status(Binding const& binding) const {
    auto const now = core::Clock::now();
    auto json = Json::object({{"home", binding.home.text()},
                              {"state", state_name(binding.state)},
                              {"sequence", binding.sequence},
                              {"remaining_s", seconds_between(now, binding.expires)}});
    if (binding.ipv4_home) json.set("ipv4_home", binding.ipv4_home->text());
    if (binding.state != BindingState::bound) return json;
    json.set("care_of", binding.care_of.address.text());
    if (binding.care_of.udp_port != 0) json.set("udp_port", binding.care_of.udp_port);
    json.set("since_s", seconds_between(binding.since, now));
    json.set("updates", binding.updates);
    auto const* tunnel = data_->tunnels().find(binding.home);
    if (tunnel == nullptr) return json;
    json.set("path_mtu", static_cast<std::uint64_t>(tunnel->path->mtu(now)));
    json.set("packets_to", tunnel->traffic.packets_to);
    json.set("bytes_to", tunnel->traffic.bytes_to);
    json.set("packets_from", tunnel->traffic.packets_from);
    json.set("bytes_from", tunnel->traffic.bytes_from);
    return json;
}

Json HomeAgent::drops() const {
    Json json = Json::object();
    for (std::size_t i = 0; i < packet_drops; ++i) {
        auto const why = static_cast<PacketDrop>(i);
        json.set(name(why), data_->dropped(why));
    }
    return json;
}

Json HomeAgent::status() const {
    Json list = Json::array();
    for (auto const* binding : cache_.all()) list.add(binding_status(*binding));
    auto const& updates = cache_.counters();
    auto const& heard = signalling_->counters();
    auto const& link = link_->counters();
    auto json = Json::object(
        {{"link", options_.link},
         {"address", fmt::format("{}/{}", options_.address.text(), options_.prefix_length)},
         {"bindings", list},
         {"updates", Json::object({{"accepted", updates.accepted},
                                   {"refused", updates.refused},
                                   {"ignored", updates.ignored},
                                   {"malformed", heard.malformed},
                                   {"bad_checksum", heard.bad_checksum},
                                   {"answers_not_sent", answers_not_sent_}})},
         {"home_link", Json::object({{"answered", link.answered},
                                     {"defended", link.defended},
                                     {"conflicts", link.conflicts},
                                     {"not_sent", link.not_sent}})},
         {"fragmented", data_->fragmented()},
         {"dropped", drops()}});
    if (options_.ipv4_address) json.set("ipv4_address", options_.ipv4_address->text());
    return json;
}

}  // namespace netmove::mobile_ipv6
