#include "netmove/mobile_ipv6/binding_cache.hpp"

#include <algorithm>
#include <cassert>
#include <utility>

namespace netmove::mobile_ipv6 {

using core::Errc;
using core::fail;
using core::Result;

bool is_within(Address const& address, Address const& prefix, int length) {
    if (address.family() != prefix.family()) return false;
    auto const bytes = address.bytes();
    auto const wanted = prefix.bytes();
    for (std::size_t at = 0; at < bytes.size() && length > 0; ++at, length -= 8) {
        auto const unused = length < 8 ? 8 - length : 0;
        if ((bytes[at] ^ wanted[at]) >> unused != 0) return false;
    }
    return true;
}

namespace {

bool is_prefix_length(Address const& address, int length) {
    return length >= 0 && length <= (address.is_ipv4() ? 32 : 128);
}

/// Can be a binding's address: of a station, beyond its link.
bool is_global_host(Address const& address) {
    return address.is_host() && !address.is_link_local();
}

/// The lifetime granted to an update (RFC 6275 10.3.1): at least one unit, or it would be none.
LifetimeUnits grant(LifetimeUnits asked, std::chrono::seconds most) {
    auto const units = std::clamp<std::int64_t>(most.count() / 4, 1, lifetime_infinite.count() - 1);
    auto const granted = std::clamp<std::int64_t>(asked.count(), 1, units);
    return LifetimeUnits(static_cast<std::uint16_t>(granted));
}

/// What becomes of the IPv4 home address that an update asks for (RFC 5555 4.4.2).
struct Ipv4Grant {
    std::optional<Address> address{};
    std::optional<Ipv4Acknowledgement> answer{};
};

Ipv4Status ipv4_status(Ipv4HomeAddress const& asked, std::optional<Address> const& permitted) {
    bool const any = asked.address == Address();
    if (asked.prefix_requested) return Ipv4Status::prefix_allocation_unauthorized;
    if (!any && !is_global_host(asked.address)) return Ipv4Status::invalid_address;
    if (!permitted) {
        return any ? Ipv4Status::dynamic_assignment_unavailable
                   : Ipv4Status::administratively_prohibited;
    }
    return any || asked.address == *permitted ? Ipv4Status::accepted
                                              : Ipv4Status::incorrect_address;
}

Ipv4Grant grant_ipv4(std::optional<Ipv4HomeAddress> const& asked,
                     std::optional<Address> const& permitted) {
    if (!asked) return {};
    auto const status = ipv4_status(*asked, permitted);
    bool const accepted = status == Ipv4Status::accepted;
    auto const address = accepted ? *permitted : asked->address;
    return {.address = accepted ? permitted : std::nullopt,
            .answer = Ipv4Acknowledgement{status, asked->prefix_length, address}};
}

/// The same message as the last accepted one, its number included.
bool is_repetition(BindingUpdate const& update, std::optional<BindingUpdate> const& last) {
    return last && update == *last;
}

}  // namespace

/// An update, with what follows from how it arrived.
struct BindingCache::Request {
    BindingUpdate const& update;
    Address home;
    CareOf care_of;  ///< Where packets would go.
    bool ipv4_care_of_misplaced;  ///< Named over IPv6, where it cannot be compared (RFC 5555 4.1).
    std::optional<NatDetection> nat;
    ReplyTo reply;

    /// RFC 6275 9.5.1: lifetime 0, or the care-of address is the home address.
    [[nodiscard]] bool deregisters() const {
        return update.lifetime.count() == 0 || care_of.address == home;
    }

    static Request of(BindingUpdate const& update, SignallingPacket const& packet,
                      Arrival const& arrival) {
        Request request{.update = update,
                        .home = packet.home_address(),
                        .care_of = {update.alternate_care_of.value_or(packet.source), 0},
                        .ipv4_care_of_misplaced = !arrival.over_udp && update.ipv4_care_of,
                        .nat = std::nullopt,
                        .reply = {packet.source, arrival.from}};
        if (!arrival.over_udp) return request;
        // RFC 5555 4.1: a NAT is found by comparing. A mobile node that names no IPv4 care-of
        // address cannot be told from one behind a NAT; UDP is right for both.
        bool const behind_nat = update.ipv4_care_of != arrival.from.address;
        bool const udp = behind_nat || update.force_udp;
        request.care_of = {arrival.from.address, udp ? arrival.from.udp_port : std::uint16_t{0}};
        if (udp) {
            request.nat = {.force_udp = update.force_udp,
                           .refresh_s = behind_nat ? nat_keepalive_s : nat_keepalive_none};
        }
        return request;
    }
};

Result<> BindingCache::Options::validate() const {
    if (!agent.is_ipv6() || !is_global_host(agent)) {
        return fail(Errc::invalid, "{} cannot be a home agent's address", agent.text());
    }
    if (!home_prefix.is_ipv6() || !is_prefix_length(home_prefix, home_prefix_length)) {
        return fail(Errc::invalid, "{}/{} is not an IPv6 prefix", home_prefix.text(),
                    home_prefix_length);
    }
    if (permissions.size() > bindings_max) {
        return fail(Errc::invalid, "more than {} home addresses", bindings_max);
    }
    std::set<Address> seen{agent};
    for (auto const& permission : permissions) {
        auto const& home = permission.home;
        if (!home.is_ipv6() || !is_global_host(home) ||
            !is_within(home, home_prefix, home_prefix_length)) {
            return fail(Errc::invalid, "{} cannot be a home address in {}/{}", home.text(),
                        home_prefix.text(), home_prefix_length);
        }
        auto const& ipv4 = permission.ipv4_home;
        if (ipv4 && (!ipv4->is_ipv4() || !is_global_host(*ipv4))) {
            return fail(Errc::invalid, "{} cannot be an IPv4 home address", ipv4->text());
        }
        for (auto const& one : {std::optional(home), ipv4}) {
            if (one && !seen.insert(*one).second) {
                return fail(Errc::invalid, "{} is given twice", one->text());
            }
        }
        for (auto const& [prefix, length] : permission.care_of_prefixes) {
            if (!is_prefix_length(prefix, length)) {
                return fail(Errc::invalid, "{}/{} is not a prefix of care-of addresses",
                            prefix.text(), length);
            }
        }
    }
    return {};
}

BindingCache::BindingCache(Options options) : options_(std::move(options)) {
    for (auto& permission : options_.permissions) {
        auto const home = permission.home;
        if (permission.ipv4_home) ipv4_homes_.emplace(*permission.ipv4_home, home);
        permissions_.emplace(home, std::move(permission));
    }
    options_.permissions.clear();
}

// ---- an update ----------------------------------------------------------------------------------

std::vector<HomeAgentAction> BindingCache::handle(SignallingPacket const& packet,
                                                  Arrival const& arrival, TimePoint now) {
    auto const* const update = std::get_if<BindingUpdate>(&packet.message);
    bool const to_us = packet.destination == options_.agent && is_global_host(packet.source);
    if (update == nullptr || !to_us ||
        (options_.require_authentication && !arrival.authenticated)) {
        ++counters_.ignored;
        return {};
    }
    auto const request = Request::of(*update, packet, arrival);
    auto* const entry = entry_of(request.home);
    if (!update->home_registration &&
        (entry == nullptr || entry->binding.state == BindingState::released)) {
        ++counters_.ignored;
        return {};
    }
    if (auto const status = refusal(request, entry)) {
        return refuse(request, *status, update->sequence);
    }
    if (entry != nullptr && !is_newer(update->sequence, entry->binding.sequence)) {
        bool const same_place = request.deregisters() || request.care_of == entry->binding.care_of;
        if (same_place && is_repetition(*update, entry->update)) return answer_again(*entry);
        return refuse(request, BindingStatus::sequence_out_of_window, entry->binding.sequence);
    }
    if (request.deregisters()) return deregister(request, entry, now);
    auto const& permission = permissions_.at(request.home);
    if (request.ipv4_care_of_misplaced) {
        return refuse(request, BindingStatus::invalid_care_of_address, update->sequence);
    }
    if (auto const status = care_of_refusal(permission, request.care_of.address)) {
        return refuse(request, *status, update->sequence);
    }
    if (entry == nullptr && entries_.size() >= options_.bindings_limit) {
        return refuse(request, BindingStatus::insufficient_resources, update->sequence);
    }
    return register_home(request, entry, now);
}

/// What is wrong with an update whatever its sequence number is.
std::optional<BindingStatus> BindingCache::refusal(Request const& request,
                                                   Entry const* entry) const {
    if (!is_within(request.home, options_.home_prefix, options_.home_prefix_length)) {
        return BindingStatus::not_home_subnet;
    }
    if (!permissions_.contains(request.home)) return BindingStatus::administratively_prohibited;
    if (entry != nullptr && !request.update.home_registration) {
        return BindingStatus::registration_type_change_disallowed;
    }
    return std::nullopt;
}

/// The home agent's own address, or another home address of its, would make a tunnel into itself.
std::optional<BindingStatus> BindingCache::care_of_refusal(Permission const& permission,
                                                           Address const& care_of) const {
    if (!is_global_host(care_of) || care_of == options_.agent || permissions_.contains(care_of) ||
        ipv4_homes_.contains(care_of)) {
        return BindingStatus::invalid_care_of_address;
    }
    auto const& prefixes = permission.care_of_prefixes;
    bool const allowed =
        prefixes.empty() || std::ranges::any_of(prefixes, [&care_of](auto const& prefix) {
            return is_within(care_of, prefix.first, prefix.second);
        });
    if (!allowed) return BindingStatus::administratively_prohibited;
    return std::nullopt;
}

BindingCache::Actions BindingCache::refuse(Request const& request, BindingStatus status,
                                           std::uint16_t sequence) {
    ++counters_.refused;
    return {answer(request.reply, request.home, {.status = status, .sequence = sequence})};
}

/// The network doubled the last update: its answer follows with the detection, or again.
BindingCache::Actions BindingCache::answer_again(Entry const& entry) {
    if (entry.binding.state == BindingState::detecting) return {};
    ++counters_.accepted;
    Actions actions;
    send_accepted(entry, actions);
    return actions;
}

BindingCache::Actions BindingCache::deregister(Request const& request, Entry* entry,
                                               TimePoint now) {
    Actions actions;
    if (entry == nullptr) {
        // Its number counts all the same: an older registration may still be under way.
        if (entries_.size() < options_.bindings_limit) {
            auto& made = entries_[request.home];
            made.binding.home = request.home;
            made.binding.sequence = request.update.sequence;
            end(made, now, actions);
        }
        return refuse(request, BindingStatus::not_home_agent, request.update.sequence);
    }
    entry->binding.sequence = request.update.sequence;
    entry->update = request.update;
    entry->reply = request.reply;
    entry->ipv4_answer.reset();
    entry->nat.reset();
    ++entry->binding.updates;
    ++counters_.accepted;
    end(*entry, now, actions);
    send_accepted(*entry, actions);
    return actions;
}

BindingCache::Actions BindingCache::register_home(Request const& request, Entry* entry,
                                                  TimePoint now) {
    if (entry == nullptr) {
        entry = &entries_[request.home];
        entry->binding.home = request.home;
        entry->binding.state = BindingState::released;
    }
    auto const before = entry->binding;
    take(*entry, request, now);
    Actions actions;
    if (before.state == BindingState::bound) {
        change(*entry, before, now, actions);
    } else if (before.state == BindingState::released) {
        set_state(*entry, BindingState::detecting);
        auto const& binding = entry->binding;
        if (!std::exchange(entry->detection_runs, true)) {
            actions.emplace_back(
                StartDetection{binding.home, binding.ipv4_home, binding.link_local_compatible});
        }
    }  // else: it takes the place of the update that waits for the detection.
    set_timer(*entry, now);
    return actions;
}

/// The entry is as the update says, from now on.
void BindingCache::take(Entry& entry, Request const& request, TimePoint now) {
    auto const& update = request.update;
    auto ipv4 = grant_ipv4(update.ipv4_home, permissions_.at(request.home).ipv4_home);
    auto& binding = entry.binding;
    binding.ipv4_home = ipv4.address;
    binding.care_of = request.care_of;
    binding.sequence = update.sequence;
    binding.lifetime = grant(update.lifetime, options_.lifetime_max);
    binding.expires = now + binding.lifetime;
    binding.link_local_compatible = update.link_local_compatible;
    binding.key_management_mobility = update.key_management_mobility;
    entry.update = update;
    entry.reply = request.reply;
    entry.ipv4_answer = ipv4.answer;
    entry.nat = request.nat;
    entry.refresh_requested = false;
}

/// A bound entry was updated: what this means outside, and the answer.
void BindingCache::change(Entry& entry, Binding const& before, TimePoint now, Actions& actions) {
    auto& binding = entry.binding;
    ++binding.updates;
    ++counters_.accepted;
    bool const moved = binding.care_of != before.care_of;
    bool const other_addresses = binding.ipv4_home != before.ipv4_home ||
                                 binding.link_local_compatible != before.link_local_compatible;
    if (moved) binding.since = now;
    if (other_addresses) {
        actions.emplace_back(Unroute{before.home, before.ipv4_home});
        actions.emplace_back(Release{before.home, before.ipv4_home, before.link_local_compatible});
        actions.emplace_back(Claim{binding.home, binding.ipv4_home, binding.link_local_compatible});
    }
    if (moved || other_addresses) {
        actions.emplace_back(Route{binding.home, binding.ipv4_home, binding.care_of});
    }
    send_accepted(entry, actions);
}

// ---- detection and time -------------------------------------------------------------------------

std::vector<HomeAgentAction> BindingCache::detected(Address const& home, bool duplicate,
                                                    TimePoint now) {
    auto* const entry = entry_of(home);
    if (entry == nullptr || !std::exchange(entry->detection_runs, false)) return {};
    auto& binding = entry->binding;
    if (binding.state != BindingState::detecting) return {};  // deregistered meanwhile
    Actions actions;
    if (duplicate) {
        ++counters_.refused;
        actions.emplace_back(answer(entry->reply, home,
                                    {.status = BindingStatus::duplicate_address_detection_failed,
                                     .sequence = binding.sequence}));
        entry->update.reset();
        end(*entry, now, actions);
        return actions;
    }
    set_state(*entry, BindingState::bound);
    binding.since = now;
    ++binding.updates;
    ++counters_.accepted;
    set_timer(*entry, now);
    actions.emplace_back(Claim{home, binding.ipv4_home, binding.link_local_compatible});
    actions.emplace_back(Route{home, binding.ipv4_home, binding.care_of});
    send_accepted(*entry, actions);
    return actions;
}

std::vector<HomeAgentAction> BindingCache::expire(TimePoint now) {
    Actions actions;
    for (std::size_t count = 0; count < expire_batch_max && next_due() <= now; ++count) {
        expire_one(entries_.at(timers_.begin()->second), now, actions);
    }
    return actions;
}

void BindingCache::expire_one(Entry& entry, TimePoint now, Actions& actions) {
    auto const& binding = entry.binding;
    if (now < binding.expires) {
        entry.refresh_requested = true;
        set_timer(entry, now);
        // As any packet to the home address: through the binding (RFC 6275 9.5.5).
        bool const tunnelled = binding.care_of.address.is_ipv4();
        ReplyTo const to{tunnelled ? binding.home : binding.care_of.address, entry.reply.datagram};
        auto request = answer(to, binding.home, {});
        request.packet.message = BindingRefreshRequest{};
        actions.emplace_back(std::move(request));
        return;
    }
    if (binding.state == BindingState::released) {
        timers_.erase({entry.due, binding.home});
        auto const home = binding.home;  // of the entry that goes
        entries_.erase(home);
        return;
    }
    entry.update.reset();  // A repetition of it must not be answered as accepted.
    end(entry, now, actions);
}

TimePoint BindingCache::next_due() const {
    return timers_.empty() ? TimePoint::max() : timers_.begin()->first;
}

/// Nothing is left of the binding but its sequence number.
void BindingCache::end(Entry& entry, TimePoint now, Actions& actions) {
    auto& binding = entry.binding;
    if (binding.state == BindingState::bound) {
        actions.emplace_back(Unroute{binding.home, binding.ipv4_home});
        actions.emplace_back(
            Release{binding.home, binding.ipv4_home, binding.link_local_compatible});
    }
    set_state(entry, BindingState::released);
    binding.lifetime = LifetimeUnits{0};
    binding.expires = now + memory_of_sequence_s;
    set_timer(entry, now);
}

void BindingCache::set_state(Entry& entry, BindingState state) {
    auto& own = entry.binding.state;
    if (own == BindingState::bound) --bound_;
    if (state == BindingState::bound) ++bound_;
    own = state;
}

void BindingCache::set_timer(Entry& entry, TimePoint now) {
    auto const& binding = entry.binding;
    timers_.erase({entry.due, binding.home});
    entry.due = binding.expires;
    bool const asks = binding.state == BindingState::bound && !entry.refresh_requested &&
                      binding.lifetime > 2 * refresh_request_before_s;
    if (asks) entry.due = std::max(now, binding.expires - refresh_request_before_s);
    timers_.emplace(entry.due, binding.home);
}

// ---- answers ------------------------------------------------------------------------------------

void BindingCache::send_accepted(Entry const& entry, Actions& actions) const {
    auto const& binding = entry.binding;
    if (!entry.update || !entry.update->acknowledge) return;
    BindingAcknowledgement message{.sequence = binding.sequence,
                                   .lifetime = binding.lifetime,
                                   .ipv4_home = entry.ipv4_answer,
                                   .nat = entry.nat};
    if (auto const& advice = options_.refresh_advice; advice && *advice < binding.lifetime) {
        message.refresh_advice = grant(LifetimeUnits(binding.lifetime), *advice);
    }
    actions.emplace_back(answer(entry.reply, binding.home, message));
}

/// To where the update came from, not to where the binding leads. The home address is in a routing
/// header, unless the update came from it (RFC 6275 9.5.4).
Send BindingCache::answer(ReplyTo const& to, Address const& home,
                          BindingAcknowledgement const& message) const {
    return {.packet = {.source = options_.agent,
                       .destination = to.source,
                       .home_option = std::nullopt,
                       .routing_home = to.source == home ? std::nullopt : std::optional(home),
                       .message = message},
            .to = to.datagram};
}

// ---- looking ------------------------------------------------------------------------------------

BindingCache::Entry* BindingCache::entry_of(Address const& home) {
    auto const at = entries_.find(home);
    return at == entries_.end() ? nullptr : &at->second;
}

Binding const* BindingCache::find(Address const& home) const {
    auto const* key = &home;
    if (home.is_ipv4()) {
        auto const ipv6 = ipv4_homes_.find(home);
        if (ipv6 == ipv4_homes_.end()) return nullptr;
        key = &ipv6->second;
    }
    auto const at = entries_.find(*key);
    if (at == entries_.end()) return nullptr;
    auto const& binding = at->second.binding;
    bool const bound =
        binding.state == BindingState::bound && (home.is_ipv6() || binding.ipv4_home == home);
    return bound ? &binding : nullptr;
}

std::vector<Binding const*> BindingCache::all() const {
    std::vector<Binding const*> bindings;
    bindings.reserve(entries_.size());
    for (auto const& [home, entry] : entries_) bindings.push_back(&entry.binding);
    std::ranges::sort(bindings, {}, [](auto const* binding) { return binding->home; });
    return bindings;
}

}  // namespace netmove::mobile_ipv6
