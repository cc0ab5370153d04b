// What the mobile node's machine says and is given: updates, the record between two hosts, the
// estimate of the round trip.
#include <algorithm>
#include <utility>

#include "netmove/mobile_ipv6/registration.hpp"

namespace netmove::mobile_ipv6::registration {

using core::Errc;
using core::fail;
using core::Json;

RoundTrip RoundTrip::with(std::optional<RoundTrip> const& before, Interval measured) {
    measured = std::clamp(measured, Interval(0), round_trip_max);
    if (!before) return {.smoothed = measured, .variation = measured / 2};
    auto const error = std::chrono::abs(before->smoothed - measured);
    return {.smoothed = (7 * before->smoothed + measured) / 8,
            .variation = (3 * before->variation + error) / 4};
}

Interval RoundTrip::timeout() const {
    return std::max(retransmit_min, smoothed + std::max(round_trip_granularity, 4 * variation));
}

/// A host in an IPv6 network names the home address in an option, and itself in the header. In an
/// IPv4 network the header that UDP carries is from the home address (RFC 5555 4.4). The care-of
/// address of a deregistration is the home address (RFC 6275 11.5.5).
SignallingPacket update_of(State const& state) {
    auto const& node = state.node;
    auto const& address = state.place.address;
    bool const binds = state.target == Target::binding;
    BindingUpdate update{.sequence = state.sequence,
                         .link_local_compatible = node.link_local_compatible,
                         .key_management_mobility = node.key_management_mobility,
                         .lifetime = binds ? node.lifetime : LifetimeUnits{0}};
    if (binds && node.ipv4_home) update.ipv4_home = Ipv4HomeAddress{.address = *node.ipv4_home};
    SignallingPacket packet{.source = address, .destination = node.agent};
    if (address.is_ipv4()) {
        packet.source = node.home;
        update.ipv4_care_of = address;
        update.force_udp = state.place.force_udp;
    } else {
        packet.home_option = node.home;
        update.alternate_care_of = binds ? address : node.home;
    }
    packet.message = std::move(update);
    return packet;
}

// ---- the record ---------------------------------------------------------------------------------

namespace {

core::Result<Address> host_in(Json const& json, std::string_view key, Address::Family family) {
    TRY(auto const text, json.text(key));
    TRY(auto const address, Address::parse(text));
    if (address.family() != family || !address.is_host() || address.is_link_local()) {
        return fail(Errc::invalid, "{} cannot be {}", key, text);
    }
    return address;
}

core::Result<std::optional<Address>> ipv4_in(Json const& json, std::string_view key) {
    if (!json.has(key)) return std::nullopt;
    TRY(auto const address, host_in(json, key, Address::Family::ipv4));
    return address;
}

core::Result<std::int64_t> number_in(Json const& json, std::string_view key, std::int64_t least,
                                     std::int64_t most) {
    TRY(auto const value, json.integer(key));
    if (value < least || value > most) return fail(Errc::invalid, "{} cannot be {}", key, value);
    return value;
}

core::Result<MobileNode> node_in(Json const& json) {
    MobileNode node;
    TRY(node.home, host_in(json, "home", Address::Family::ipv6));
    TRY(node.ipv4_home, ipv4_in(json, "ipv4_home"));
    TRY(node.agent, host_in(json, "agent", Address::Family::ipv6));
    TRY(node.ipv4_agent, ipv4_in(json, "ipv4_agent"));
    TRY(auto const units, number_in(json, "lifetime_units", 1, lifetime_infinite.count()));
    node.lifetime = LifetimeUnits(static_cast<std::uint16_t>(units));
    TRY(node.link_local_compatible, json.boolean("link_local"));
    TRY(node.key_management_mobility, json.boolean("key_management"));
    return node;
}

}  // namespace

Json HandOver::to_json() const {
    auto json = Json::object({{"home", node.home.text()},
                              {"agent", node.agent.text()},
                              {"lifetime_units", node.lifetime.count()},
                              {"link_local", node.link_local_compatible},
                              {"key_management", node.key_management_mobility},
                              {"sequence", sequence},
                              {"updates_max", updates_max},
                              {"bound_for_ms", std::int64_t{bound_for.count()}}});
    if (node.ipv4_home) json.set("ipv4_home", node.ipv4_home->text());
    if (node.ipv4_agent) json.set("ipv4_agent", node.ipv4_agent->text());
    if (round_trip) {
        json.set("round_trip_us", std::int64_t{round_trip->smoothed.count()});
        json.set("round_trip_variation_us", std::int64_t{round_trip->variation.count()});
    }
    return json;
}

core::Result<HandOver> HandOver::from_json(Json const& json) {
    constexpr std::int64_t bound_ms_max = 4'000 * std::int64_t{lifetime_infinite.count()};
    HandOver record;
    TRY(record.node, node_in(json));
    TRY(auto const number, number_in(json, "sequence", 0, 0xffff));
    TRY(auto const updates, number_in(json, "updates_max", 1, provisional_updates_max));
    TRY(auto const bound_ms, number_in(json, "bound_for_ms", 0, bound_ms_max));
    record.sequence = static_cast<std::uint16_t>(number);
    record.updates_max = static_cast<unsigned>(updates);
    record.bound_for = std::chrono::milliseconds(bound_ms);
    if (json.has("round_trip_us")) {
        auto const most = round_trip_max.count();
        TRY(auto const smoothed, number_in(json, "round_trip_us", 0, most));
        TRY(auto const variation, number_in(json, "round_trip_variation_us", 0, most));
        record.round_trip = RoundTrip{Interval(smoothed), Interval(variation)};
    }
    return record;
}

// ---- names --------------------------------------------------------------------------------------

std::string_view name(Right right) {
    switch (right) {
        case Right::none:
            return "none";
        case Right::held:
            return "held";
        case Right::given:
            return "given";
        case Right::provisional:
            return "provisional";
        case Right::ended:
            return "ended";
    }
    return "?";
}

std::string_view name(Phase phase) {
    switch (phase) {
        case Phase::idle:
            return "idle";
        case Phase::updating:
            return "updating";
        case Phase::settled:
            return "settled";
        case Phase::waiting:
            return "waiting";
    }
    return "?";
}

std::string_view name(Outcome::Kind kind) {
    switch (kind) {
        case Outcome::Kind::none:
            return "none";
        case Outcome::Kind::pending:
            return "pending";
        case Outcome::Kind::at_home:
            return "at home";
        case Outcome::Kind::registered:
            return "registered";
        case Outcome::Kind::unreachable:
            return "home agent unreachable";
        case Outcome::Kind::refused:
            return "refused";
        case Outcome::Kind::unsupported:
            return "not supported by the home agent";
        case Outcome::Kind::superseded:
            return "superseded";
        case Outcome::Kind::moved:
            return "moved";
    }
    return "?";
}

}  // namespace netmove::mobile_ipv6::registration
