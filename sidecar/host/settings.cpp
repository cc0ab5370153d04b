#include "sidecar/host/settings.hpp"

#include <algorithm>
#include <array>

namespace sidecar {

using core::Errc;
using core::fail;
using core::Json;
using core::Result;
using core::TlsConfig;

namespace {

/// The number of that name, or `otherwise` if there is none. Fails with invalid if it is out of
/// range or not a number.
Result<std::int64_t> number_in(Json const& json, char const* name, std::int64_t otherwise,
                               std::int64_t min, std::int64_t max) {
    if (!json.has(name)) return otherwise;
    TRY(auto const number, json.integer(name));
    if (number < min || number > max) {
        return fail(Errc::invalid, "`{}` is {}, not between {} and {}", name, number, min, max);
    }
    return number;
}

Result<std::uint64_t> bandwidth_from(Json const& json) {
    TRY(auto const rate, number_in(json, "bandwidth", 0, 0, limits::bandwidth_max));
    return static_cast<std::uint64_t>(rate);
}

Result<int> downtime_limit_from(Json const& json) {
    TRY(auto const ms, number_in(json, "downtime_limit_ms", limits::downtime_limit_default_ms,
                                 limits::downtime_limit_min_ms, limits::downtime_limit_max_ms));
    return static_cast<int>(ms);
}

Result<int> converge_limit_from(Json const& json) {
    TRY(auto const seconds,
        number_in(json, "converge_limit_s", limits::converge_limit_default.count(),
                  limits::converge_limit_min.count(), limits::converge_limit_max.count()));
    return static_cast<int>(seconds);
}

Result<int> link_timeout_from(Json const& json) {
    TRY(auto const seconds, number_in(json, "link_timeout_s", MigrateOptions().link_timeout_s,
                                      limits::link_timeout_min_s, limits::link_timeout_most_s));
    return static_cast<int>(seconds);
}

}  // namespace

Json MigrationChanges::to_json() const {
    auto made = Json::object();
    if (bandwidth) made.set("bandwidth", *bandwidth);
    if (downtime_limit_ms) made.set("downtime_limit_ms", *downtime_limit_ms);
    if (converge_limit_s) made.set("converge_limit_s", *converge_limit_s);
    return made;
}

Result<MigrationChanges> MigrationChanges::from_json(Json const& wire) {
    MigrationChanges made;
    if (wire.has("bandwidth")) {
        TRY(made.bandwidth, bandwidth_from(wire));
    }
    if (wire.has("downtime_limit_ms")) {
        TRY(made.downtime_limit_ms, downtime_limit_from(wire));
    }
    if (wire.has("converge_limit_s")) {
        TRY(made.converge_limit_s, converge_limit_from(wire));
    }
    return made;
}

namespace {

// In the order of NetworkChoice.
constexpr std::array<std::string_view, 5> choices = {"auto", "bridge", "vxlan", "evpn", "anchor"};

}  // namespace

std::string_view name(NetworkChoice choice) { return choices[static_cast<std::size_t>(choice)]; }

std::optional<NetworkChoice> network_choice_from(std::string_view name) {
    auto const at = std::ranges::find(choices, name);
    if (at == choices.end()) return {};
    return static_cast<NetworkChoice>(at - choices.begin());
}

static Result<TlsConfig> tls_from(Json const& json) {
    TRY(auto const mode, json.integer("tls_mode"));
    if (mode < 0 || mode > 2) return fail(Errc::invalid, "`tls_mode` {} is unknown", mode);
    return TlsConfig{static_cast<TlsConfig::Mode>(mode), json["tls_path"].text_or("")};
}

Json DnsOptions::to_json() const {
    if (name.empty()) return {};
    Json list = Json::array();
    for (auto const& address : addresses) list.add(address);
    auto made = Json::object(
        {{"name", name}, {"server", server}, {"key_file", key_file}, {"addresses", list}});
    if (ttl) made.set("ttl", std::int64_t{*ttl});
    return made;
}

Result<DnsOptions> DnsOptions::from_json(Json const& json) {
    DnsOptions made;
    if (json.is_null()) return made;
    TRY(made.name, json.text("name"));
    TRY(made.server, json.text("server"));
    TRY(made.key_file, json.text("key_file"));
    for (auto const& one : json["addresses"].elements()) {
        made.addresses.push_back(one.text_or(""));
    }
    if (made.name.empty() || made.key_file.empty() || made.addresses.empty() ||
        made.addresses.size() > limits::dns_addresses_max) {
        return fail(Errc::invalid, "`dns` is incomplete or has too many addresses");
    }
    if (json.has("ttl")) {
        TRY(auto const ttl,
            number_in(json, "ttl", 0, limits::dns_ttl_min_s, limits::dns_ttl_max_s));
        made.ttl = static_cast<std::uint32_t>(ttl);
    }
    return made;
}

Json MigrateOptions::to_json() const {
    Json base_list = Json::array();
    for (auto const& base : bases) base_list.add(base);
    Json disk_list = Json::array();
    for (auto const& one : disks) {
        disk_list.add(Json::object({{"disk", one.disk}, {"path", one.path}}));
    }
    Json vtep_list = Json::array();
    for (auto const& vtep : vteps) vtep_list.add(vtep);
    return Json::object({{"destination", destination},
                         {"tls_mode", static_cast<int>(tls.mode)},
                         {"tls_path", tls.path},
                         {"with_storage", with_storage},
                         {"no_copy", no_copy},
                         {"check_only", check_only},
                         {"resume", resume},
                         {"verify", verify},
                         {"bases", base_list},
                         {"disks", disk_list},
                         {"vteps", vtep_list},
                         {"network", name(network)},
                         {"local", local.addresses.empty() ? Json() : local.to_json()},
                         {"anchor_host", anchor_host},
                         {"anchor_vxlan_port", anchor_vxlan_port},
                         {"downtime_limit_ms", downtime_limit_ms},
                         {"converge_limit_s", converge_limit_s},
                         {"link_timeout_s", link_timeout_s},
                         {"bandwidth", bandwidth},
                         {"throttle", throttle},
                         {"dns", dns.to_json()}});
}

Result<MigrateOptions> MigrateOptions::from_json(Json const& json) {
    MigrateOptions made;
    TRY(made.destination, json.text("destination"));
    TRY(made.tls, tls_from(json));
    made.with_storage = json["with_storage"].boolean_or(true);
    made.no_copy = json["no_copy"].boolean_or(false);
    made.check_only = json["check_only"].boolean_or(false);
    made.verify = json["verify"].boolean_or(false);
    for (auto const& base : json["bases"].elements()) made.bases.push_back(base.text_or(""));
    for (auto const& one : json["disks"].elements()) {
        made.disks.push_back({one["disk"].text_or(""), one["path"].text_or("")});
    }
    for (auto const& vtep : json["vteps"].elements()) made.vteps.push_back(vtep.text_or(""));
    if (made.vteps.size() > limits::vteps_max) return fail(Errc::invalid, "too many VTEPs");
    auto const network = network_choice_from(json["network"].text_or("auto"));
    if (!network) return fail(Errc::invalid, "`network` is none of the ways to move one");
    made.network = *network;
    if (!json["local"].is_null()) {
        TRY(made.local, netmove::LocalChoice::from_json(json["local"]));
    }
    made.anchor_host = json["anchor_host"].text_or("");
    auto const vxlan_port = json["anchor_vxlan_port"].integer_or(0);
    if (vxlan_port < 0 || vxlan_port > UINT16_MAX) {
        return fail(Errc::invalid, "a UDP port is 1 to 65535");
    }
    made.anchor_vxlan_port = static_cast<int>(vxlan_port);
    TRY(made.downtime_limit_ms, downtime_limit_from(json));
    TRY(made.converge_limit_s, converge_limit_from(json));
    TRY(made.link_timeout_s, link_timeout_from(json));
    TRY(made.bandwidth, bandwidth_from(json));
    made.throttle = json["throttle"].boolean_or(true);
    TRY(made.dns, DnsOptions::from_json(json["dns"]));
    return made;
}

Json ReplicationSettings::to_json() const {
    return Json::object({{"destination", destination},
                         {"tls_mode", static_cast<int>(tls.mode)},
                         {"tls_path", tls.path},
                         {"every_s", every_s},
                         {"bandwidth", bandwidth},
                         {"freeze", freeze},
                         {"guest_agent", guest_agent},
                         {"once", once},
                         {"hand_over", hand_over}});
}

Result<ReplicationSettings> ReplicationSettings::from_json(Json const& json) {
    ReplicationSettings made;
    TRY(made.destination, json.text("destination"));
    TRY(made.tls, tls_from(json));
    TRY(auto const every, json.integer("every_s"));
    if (every < limits::replicate_every_min.count() ||
        every > limits::replicate_every_max.count()) {
        return fail(Errc::invalid, "{} s is not a valid interval of a replication", every);
    }
    made.every_s = static_cast<int>(every);
    TRY(made.bandwidth, bandwidth_from(json));
    made.freeze = json["freeze"].boolean_or(true);
    made.guest_agent = json["guest_agent"].text_or("");
    made.once = json["once"].boolean_or(false);
    made.hand_over = json["hand_over"].boolean_or(false);
    return made;
}

}  // namespace sidecar
