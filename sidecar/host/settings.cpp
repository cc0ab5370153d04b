#include "sidecar/host/settings.hpp"

#include <algorithm>

#include "sidecar/host/limits.hpp"

namespace sidecar {

using core::Errc;
using core::fail;
using core::Json;
using core::Result;
using core::TlsConfig;

Json MigrationChanges::to_json() const {
    auto made = Json::object();
    if (bandwidth) made.set("bandwidth", *bandwidth);
    if (downtime_limit_ms) made.set("downtime_limit_ms", *downtime_limit_ms);
    return made;
}

Result<MigrationChanges> MigrationChanges::from_json(Json const& wire) {
    MigrationChanges made;
    if (wire.has("bandwidth")) {
        TRY(auto const rate, wire.integer("bandwidth"));
        if (rate < 0) return fail(Errc::invalid, "{} is no bandwidth", rate);
        made.bandwidth = static_cast<std::uint64_t>(rate);
    }
    if (wire.has("downtime_limit_ms")) {
        TRY(auto const ms, wire.integer("downtime_limit_ms"));
        if (ms < limits::downtime_limit_least_ms || ms > limits::downtime_limit_most_ms) {
            return fail(Errc::invalid, "{} ms is no pause that can be asked for", ms);
        }
        made.downtime_limit_ms = static_cast<int>(ms);
    }
    return made;
}

static Result<TlsConfig> tls_from(Json const& json) {
    TRY(auto const mode, json.integer("tls_mode"));
    if (mode < 0 || mode > 2) return fail(Errc::invalid, "`tls_mode` {} is none of ours", mode);
    return TlsConfig{static_cast<TlsConfig::Mode>(mode), json["tls_path"].text_or("")};
}

Json MigrateOptions::to_json() const {
    Json base_list = Json::array();
    for (auto const& base : bases) base_list.add(base);
    Json vtep_list = Json::array();
    for (auto const& vtep : vteps) vtep_list.add(vtep);
    return Json::object({{"destination", destination},
                         {"tls_mode", static_cast<int>(tls.mode)},
                         {"tls_path", tls.path},
                         {"check_only", check_only},
                         {"resume", resume},
                         {"verify", verify},
                         {"bases", base_list},
                         {"vteps", vtep_list},
                         {"downtime_limit_ms", downtime_limit_ms},
                         {"link_timeout_s", link_timeout_s},
                         {"bandwidth", bandwidth},
                         {"throttle", throttle}});
}

Result<MigrateOptions> MigrateOptions::from_json(Json const& json) {
    MigrateOptions made;
    TRY(made.destination, json.text("destination"));
    TRY(made.tls, tls_from(json));
    made.with_storage = true;
    made.check_only = json["check_only"].boolean_or(false);
    made.verify = json["verify"].boolean_or(false);
    for (auto const& base : json["bases"].elements()) made.bases.push_back(base.text_or(""));
    for (auto const& vtep : json["vteps"].elements()) made.vteps.push_back(vtep.text_or(""));
    if (made.vteps.size() > limits::vteps_max) return fail(Errc::invalid, "too many VTEPs");
    made.downtime_limit_ms = static_cast<int>(json["downtime_limit_ms"].integer_or(300));
    made.link_timeout_s = static_cast<int>(std::clamp<std::int64_t>(
        json["link_timeout_s"].integer_or(30), 1, limits::link_timeout_most_s));
    made.bandwidth = static_cast<std::uint64_t>(json["bandwidth"].integer_or(0));
    made.throttle = json["throttle"].boolean_or(true);
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
        return fail(Errc::invalid, "{} s is no interval of a replication", every);
    }
    made.every_s = static_cast<int>(every);
    made.bandwidth = static_cast<std::uint64_t>(json["bandwidth"].integer_or(0));
    made.freeze = json["freeze"].boolean_or(true);
    made.guest_agent = json["guest_agent"].text_or("");
    made.once = json["once"].boolean_or(false);
    made.hand_over = json["hand_over"].boolean_or(false);
    return made;
}

}  // namespace sidecar
