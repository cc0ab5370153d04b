#include <poll.h>

#include <algorithm>
#include <fstream>

#include "core/log.hpp"
#include "netmove/local_address.hpp"
#include "sidecar/handover/tracking.hpp"

namespace sidecar {

using core::Clock;
using core::Deadline;
using core::Errc;
using core::Json;
using core::Result;
using core::Task;
using netmove::Address;
using netmove::ConntrackEntry;
using netmove::ConntrackKey;

namespace {

bool routes(Address::Family family) {
    std::ifstream setting(family == Address::Family::ipv4
                              ? "/proc/sys/net/ipv4/ip_forward"
                              : "/proc/sys/net/ipv6/conf/all/forwarding");
    int value = 0;
    return setting >> value && value != 0;
}

template <class Part>
std::span<Part const> next_of(std::vector<Part> const& all, std::size_t& at) {
    auto const count = std::min(netmove::conntrack_batch_max, all.size() - at);
    auto const part = std::span(all).subspan(at, count);
    at += count;
    return part;
}

}  // namespace

void SourceTracking::note_failure(core::Error const& error) {
    core::log::warning("guest={} conntrack: {}", guest_.name, error.sentence());
    if (missing_.empty()) missing_ = error.sentence();
}

std::vector<Address> SourceTracking::addresses() const {
    std::vector<Address> all;
    for (auto const& nic : guest_.nics) {
        for (auto const& known : nic->interface.addresses) {
            if (!has(all, known.address)) all.push_back(known.address);
        }
    }
    return all;
}

void SourceTracking::begin(bool there) {
    if (guest_.nics.empty() || conntrack_) return;
    auto opened = netmove::Conntrack::open();
    if (!opened) {
        // refused: nothing is tracked here, so there is nothing to transfer.
        if (opened.error().code != Errc::refused) note_failure(opened.error());
        return;
    }
    if (!there) {
        missing_ = "the destination's sidecar is too old for tracked connections";
        return;
    }
    conntrack_ = std::move(*opened);
    // Without it the table is dumped once more while the guest is stopped.
    auto const listening = conntrack_->listen();
    if (!listening) core::log::debug("guest={} {}", guest_.name, listening.error().sentence());
}

/// Finds which addresses belong to this host, and which of them a guest may use as its router.
Result<> SourceTracking::look_at_host() {
    host_addresses_.clear();
    gateways_.clear();
    std::set<int> bridges;
    for (auto const& nic : guest_.nics) {
        if (nic->interface.bridge.empty()) continue;
        TRY(auto const bridge, guest_.netlink->find_link(nic->interface.bridge));
        if (bridge) bridges.insert(bridge->index);
    }
    TRY(auto const all, guest_.netlink->addresses());
    for (auto const& one : all) {
        host_addresses_.push_back(one.address);
        if (!bridges.contains(one.link) || one.address.is_link_local()) continue;
        if (routes(one.address.family())) gateways_.push_back(one.address);
    }
    return {};
}

Task<void> SourceTracking::send_all(PeerChannel& peer, Deadline deadline) {
    if (!conntrack_ || sent_all_) co_return;
    auto const sent = co_await try_send_all(peer, deadline);
    given_up_ = !sent;
    if (!sent) note_failure(sent.error());
}

Task<Result<netmove::ConntrackDump>> SourceTracking::dump(Deadline deadline) {
    CO_TRY(auto found, co_await conntrack_->dump(guest_.loop, addresses(), deadline));
    std::erase_if(found.entries,
                  [](auto const& one) { return netmove::is_local_zone(one.first.zone); });
    co_return found;
}

Task<Result<>> SourceTracking::try_send_all(PeerChannel& peer, Deadline deadline) {
    guest_.take_in_addresses();
    CO_TRY_VOID(look_at_host());
    conntrack_->forget();
    CO_TRY(auto const count, conntrack_->count());
    netmove::ConntrackDump found;
    if (count > 0) {
        CO_TRY(found, co_await dump(deadline));
    }
    beyond_ = found.beyond;
    not_carried_ = found.not_carried;
    std::vector<ConntrackEntry> entries;
    for (auto& [key, entry] : found.entries) entries.push_back(entry);
    CO_TRY_VOID(co_await send_entries(peer, std::move(entries), {}, true, deadline));
    sent_all_ = true;
    co_return Result<>{};
}

Task<Result<>> SourceTracking::send(PeerChannel& peer, protocol::Conntrack message, bool answered,
                                    Deadline deadline) {
    if (!answered) co_return co_await peer.notify(std::move(message), deadline);
    CO_TRY(auto answer, co_await peer.request(std::move(message), deadline));
    note(std::move(answer));
    co_return Result<>{};
}

void SourceTracking::note(protocol::TrackingReport said) {
    said_ = std::move(said);
    gateways_there_.insert(said_.gateways.begin(), said_.gateways.end());
}

/// The guest's interfaces, whose connections the destination may take, and the gateways it
/// is asked about.
protocol::Conntrack SourceTracking::first_message() const {
    protocol::Conntrack made;
    made.interfaces.emplace();
    for (auto const& nic : guest_.nics) made.interfaces->push_back(nic->interface);
    for (auto const& one : gateways_) {
        if (made.gateways.size() == limits::conntrack_gateways_max) break;
        made.gateways.push_back(one.text());
    }
    return made;
}

Task<Result<>> SourceTracking::send_entries(PeerChannel& peer, std::vector<ConntrackEntry> entries,
                                            std::vector<ConntrackKey> gone, bool answered,
                                            Deadline deadline) {
    for (std::size_t at = 0, gone_at = 0; at < entries.size() || gone_at < gone.size();) {
        auto message = told_ ? protocol::Conntrack() : first_message();
        for (auto const& one : next_of(entries, at)) {
            auto entry = one;
            entry.translated_to_host =
                (entry.source_translated() && has(host_addresses_, entry.reply_destination)) ||
                (entry.destination_translated() && has(host_addresses_, entry.key.destination));
            message.entries.push_back(entry.to_json());
            sent_.insert_or_assign(entry.key, one);
        }
        for (auto const& key : next_of(gone, gone_at)) {
            message.gone.push_back(key);
            sent_.erase(key);
        }
        told_ = true;
        CO_TRY_VOID(co_await send(peer, std::move(message), answered, deadline));
    }
    co_return Result<>{};
}

Task<void> SourceTracking::send_changes(PeerChannel& peer, Deadline deadline) {
    if (!conntrack_ || !sent_all_ || searching_) co_return;
    auto const start = Clock::now();
    auto changes = conntrack_->changes(addresses(), limits::conntrack_changes_max);
    Result<> sent;
    if (changes) {
        auto const local = [](auto const& key) { return netmove::is_local_zone(key.zone); };
        std::erase_if(changes->now, [&](auto const& entry) { return local(entry.key); });
        std::erase_if(changes->gone, local);
        incomplete_ = incomplete_ || changes->incomplete;
        changed_ += changes->now.size() + changes->gone.size();
        sent = co_await send_entries(peer, std::move(changes->now), std::move(changes->gone), false,
                                     deadline);
    }
    in_pause_ += Clock::now() - start;
    if (!changes) note_failure(changes.error());
    if (!sent) note_failure(sent.error());
}

Task<void> SourceTracking::refresh(PeerChannel& peer, Deadline deadline) {
    if (!conntrack_ || !sent_all_) co_return;
    conntrack_->forget();  // the dump includes those changes
    co_await send_difference(peer, deadline, true);
    in_pause_ = {};  // the guest runs
    changed_ = 0;
}

Task<void> SourceTracking::send_difference(PeerChannel& peer, Deadline deadline, bool answered) {
    incomplete_ = false;
    auto const start = Clock::now();
    if (auto const count = conntrack_->count(); count && *count == 0 && sent_.empty()) co_return;
    // Otherwise no address of this host would be known as its own.
    if (!sent_all_) (void)look_at_host();
    sent_all_ = true;
    searching_ = true;
    auto const found = co_await dump(deadline);
    searching_ = false;
    Result<> sent;
    if (found) {
        std::vector<ConntrackEntry> now;
        std::vector<ConntrackKey> gone;
        for (auto const& [key, entry] : found->entries) {
            auto const known = sent_.find(key);
            if (known == sent_.end() || !known->second.same_but_for_time(entry)) {
                now.push_back(entry);
            }
        }
        for (auto const& [key, entry] : sent_) {
            if (!found->entries.contains(key)) gone.push_back(key);
        }
        changed_ += now.size() + gone.size();
        sent = co_await send_entries(peer, std::move(now), std::move(gone), answered, deadline);
    }
    incomplete_ = incomplete_ || !found || !sent;
    in_pause_ += Clock::now() - start;
    if (!found) note_failure(found.error());
    if (!sent) note_failure(sent.error());
}

void SourceTracking::follow(PeerChannel& peer, Deadline deadline) {
    if (!conntrack_ || !sent_all_ || conntrack_->descriptor() < 0) return;
    following_stop_ = std::stop_source();
    following_.spawn(keep_following(peer, deadline));
}

Task<void> SourceTracking::keep_following(PeerChannel& peer, Deadline deadline) {
    auto const until = Deadline::after(deadline.at() - Clock::now(), following_stop_.get_token());
    auto const before = in_pause_;
    while (co_await guest_.loop.poll(conntrack_->descriptor(), POLLIN, until)) {
        co_await send_changes(peer, until);
    }
    in_pause_ = before;  // the guest runs
}

Task<void> SourceTracking::end_following() {
    following_stop_.request_stop();
    co_await following_.join();
}

bool SourceTracking::in_use_here(ConntrackEntry const& entry) const {
    if (has(host_addresses_, entry.key.source) || has(host_addresses_, entry.reply_source)) {
        return true;
    }
    return std::ranges::any_of(gateways_, [&](Address const& gateway) {
        return gateway.family() == entry.key.source.family() &&
               !gateways_there_.contains(gateway.text());
    });
}

Task<void> SourceTracking::remove(Deadline deadline) {
    if (!conntrack_) co_return;
    auto const removed = co_await try_remove(deadline);
    if (!removed) note_failure(removed.error());
    conntrack_.reset();
}

Task<Result<>> SourceTracking::try_remove(Deadline deadline) {
    CO_TRY(auto const count, conntrack_->count());
    if (count == 0) co_return Result<>{};
    CO_TRY(auto const found, co_await dump(deadline));
    std::vector<ConntrackKey> keys;
    for (auto const& [key, entry] : found.entries) {
        bool const stays = in_use_here(entry);
        if (stays) ++kept_;
        if (!stays) keys.push_back(key);
    }
    CO_TRY(removed_, conntrack_->remove(keys));
    co_return Result<>{};
}

Json SourceTracking::report() const {
    if (sent_.empty() && missing_.empty() && beyond_ + not_carried_ + removed_ == 0) return {};
    auto made = Json::object({{"sent", static_cast<std::uint64_t>(sent_.size())},
                              {"restored", said_.restored},
                              {"failed", Json::array()},
                              {"changed", static_cast<std::uint64_t>(changed_)},
                              {"removed", static_cast<std::uint64_t>(removed_)},
                              {"kept", static_cast<std::uint64_t>(kept_)}});
    std::chrono::duration<double, std::milli> const in_pause = in_pause_;
    made.set("in_pause_ms", static_cast<double>(std::int64_t(in_pause.count() * 1000)) / 1000);
    Json failed = Json::array();
    auto const add = [&](std::size_t count, std::string const& why) {
        if (count == 0) return;
        failed.add(Json::object({{"why", why}, {"entries", static_cast<std::uint64_t>(count)}}));
    };
    for (auto const& one : said_.failed) add(one.entries, one.why);
    add(beyond_, fmt::format("beyond the limit of {}", netmove::conntrack_entries_max));
    add(not_carried_, "of a protocol whose state is not carried");
    made.set("failed", failed);
    if (!missing_.empty()) made.set("error", missing_);
    return made;
}

std::vector<std::string> tracking_complaints(Json const& report) {
    std::vector<std::string> all;
    for (auto const& one : report["failed"].elements()) {
        all.push_back(fmt::format("{} tracked connections: {}", one["entries"].integer_or(0),
                                  one["why"].text_or("")));
    }
    if (report.has("error")) {
        all.push_back("tracked connections: " + report["error"].text_or(""));
    }
    return all;
}

}  // namespace sidecar
