// BindingCache's durability: bindings as records, and back after a restart.
#include <algorithm>
#include <utility>

#include "netmove/mobile_ipv6/binding_cache.hpp"

namespace netmove::mobile_ipv6 {

using core::Errc;
using core::fail;
using core::Json;
using core::Result;

namespace {

constexpr int records_version = 1;

std::int64_t wall_ms(WallTime wall) {
    return std::chrono::duration_cast<std::chrono::milliseconds>(wall.time_since_epoch()).count();
}

/// A time of the steady clock as wall clock.
std::int64_t to_wall_ms(TimePoint at, TimePoint now, WallTime wall) {
    return wall_ms(wall) + std::chrono::duration_cast<std::chrono::milliseconds>(at - now).count();
}

Result<Address> address_in(Json const& json, std::string_view key) {
    TRY(auto const text, json.text(key));
    return Address::parse(text);
}

Result<std::int64_t> integer_in(Json const& json, std::string_view key, std::int64_t most) {
    TRY(auto const value, json.integer(key));
    if (value < 0 || value > most) return fail(Errc::invalid, "{} cannot be {}", key, value);
    return value;
}

/// How long until `key`, by the wall clock.
Result<std::chrono::milliseconds> until(Json const& json, std::string_view key, WallTime wall) {
    constexpr std::int64_t year_9999_ms = 253'402'300'799'000;
    TRY(auto const at, integer_in(json, key, year_9999_ms));
    return std::chrono::milliseconds(at - wall_ms(wall));
}

}  // namespace

Json BindingCache::to_json(TimePoint now, WallTime wall) const {
    auto records = Json::array();
    for (auto const& [home, entry] : entries_) records.add(record_of(entry, now, wall));
    return Json::object({{"version", records_version}, {"bindings", records}});
}

Json BindingCache::record(Address const& home, TimePoint now, WallTime wall) const {
    auto const at = entries_.find(home);
    return at == entries_.end() ? Json() : record_of(at->second, now, wall);
}

/// An update that waits for its detection was not accepted. After a restart the mobile node sends a
/// newer one, so its number is all that is kept.
Json BindingCache::record_of(Entry const& entry, TimePoint now, WallTime wall) const {
    auto const& binding = entry.binding;
    bool const bound = binding.state == BindingState::bound;
    bool const waits = binding.state == BindingState::detecting;
    auto const end = waits ? now + memory_of_sequence_s : binding.expires;
    auto json = Json::object({{"home", binding.home.text()},
                              {"bound", bound},
                              {"sequence", binding.sequence},
                              {"until_ms", to_wall_ms(end, now, wall)}});
    if (!bound) return json;
    json.set("care_of", binding.care_of.address.text());
    json.set("udp_port", binding.care_of.udp_port);
    if (entry.reply.datagram.address.is_ipv4()) {
        json.set("signalling_port", entry.reply.datagram.udp_port);
    }
    if (binding.ipv4_home) json.set("ipv4_home", binding.ipv4_home->text());
    json.set("link_local", binding.link_local_compatible);
    json.set("lifetime_units", binding.lifetime.count());
    json.set("since_ms", to_wall_ms(binding.since, now, wall));
    json.set("updates", binding.updates);
    return json;
}

Result<std::vector<HomeAgentAction>> BindingCache::restore(Json const& json, TimePoint now,
                                                           WallTime wall) {
    if (!entries_.empty()) return fail(Errc::invalid, "the binding cache is not empty");
    TRY(auto const version, json.integer("version"));
    if (version != records_version || !json["bindings"].is_array()) {
        return fail(Errc::invalid, "these are no bindings of version {}", records_version);
    }
    std::unordered_map<Address, Entry, AddressHash> restored;
    for (auto const& record : json["bindings"].elements()) {
        TRY(auto entry, read_record(record, now, wall));
        if (entry) restored.insert_or_assign(entry->binding.home, std::move(*entry));
    }
    if (restored.size() > options_.bindings_limit) {
        return fail(Errc::invalid, "more than {} bindings", options_.bindings_limit);
    }
    entries_ = std::move(restored);
    Actions actions;
    for (auto& [home, entry] : entries_) {
        set_timer(entry, now);
        auto const& binding = entry.binding;
        if (binding.state != BindingState::bound) continue;
        ++bound_;
        actions.emplace_back(Claim{home, binding.ipv4_home, binding.link_local_compatible});
        actions.emplace_back(Route{home, binding.ipv4_home, binding.care_of});
    }
    return actions;
}

/// None: the home address is not permitted any more. (A record whose time is over counts all the
/// same: it may be the later one of two. Its entry is forgotten by the next expire().)
Result<std::optional<BindingCache::Entry>> BindingCache::read_record(Json const& json,
                                                                     TimePoint now,
                                                                     WallTime wall) const {
    Entry entry;
    auto& binding = entry.binding;
    TRY(binding.home, address_in(json, "home"));
    TRY(auto const bound, json.boolean("bound"));
    TRY(auto const sequence, integer_in(json, "sequence", 0xffff));
    TRY(auto const left, until(json, "until_ms", wall));
    binding.sequence = static_cast<std::uint16_t>(sequence);
    auto const permission = permissions_.find(binding.home);
    if (permission == permissions_.end()) return std::nullopt;
    if (!bound) {
        binding.state = BindingState::released;
        binding.expires = now + std::min<core::Clock::duration>(left, memory_of_sequence_s);
        return entry;
    }
    binding.state = BindingState::bound;
    TRY(binding.care_of.address, address_in(json, "care_of"));
    TRY(auto const port, integer_in(json, "udp_port", 0xffff));
    TRY(auto const units, integer_in(json, "lifetime_units", lifetime_infinite.count() - 1));
    TRY(auto const since, until(json, "since_ms", wall));
    TRY(binding.link_local_compatible, json.boolean("link_local"));
    binding.care_of.udp_port = static_cast<std::uint16_t>(port);
    binding.lifetime = LifetimeUnits(static_cast<std::uint16_t>(units));
    binding.since = now + std::min(since, std::chrono::milliseconds(0));
    binding.updates = static_cast<std::uint64_t>(json["updates"].integer_or(0));
    binding.expires = now + std::min<core::Clock::duration>(left, binding.lifetime);
    if (json.has("ipv4_home")) {
        TRY(auto const ipv4, address_in(json, "ipv4_home"));
        if (permission->second.ipv4_home == ipv4) binding.ipv4_home = ipv4;
    }
    auto const& care_of = binding.care_of.address;
    entry.reply = {care_of.is_ipv4() ? binding.home : care_of, {care_of, 0}};
    if (care_of.is_ipv4()) {
        TRY(auto const signalling, integer_in(json, "signalling_port", 0xffff));
        entry.reply.datagram.udp_port = static_cast<std::uint16_t>(signalling);
    }
    // It ended while there was no home agent, or the configuration allows this place no more.
    if (left <= std::chrono::milliseconds(0) ||
        care_of_refusal(permission->second, care_of).has_value()) {
        auto const end = std::min(binding.expires, now);
        binding = {.home = binding.home, .sequence = binding.sequence};
        binding.state = BindingState::released;
        binding.expires = end + memory_of_sequence_s;
    }
    return entry;
}

}  // namespace netmove::mobile_ipv6
