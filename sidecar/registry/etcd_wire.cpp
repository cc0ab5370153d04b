#include "sidecar/registry/etcd_wire.hpp"

#include <algorithm>
#include <charconv>

#include "core/base64.hpp"
#include "sidecar/registry/limits.hpp"

namespace sidecar::registry::etcd {

using core::Errc;
using core::fail;
using core::Json;
using core::Result;

namespace {

std::string encoded(std::string_view text) {
    return core::to_base64({reinterpret_cast<std::uint8_t const*>(text.data()), text.size()});
}

Result<std::string> decoded(Json const& json, char const* key) {
    if (!json.has(key)) return std::string();
    TRY(auto const text, json.text(key));
    TRY(auto const bytes, core::from_base64(text));
    return std::string(bytes.begin(), bytes.end());
}

/// A number from 0 on, as a string or as a number; absent: 0.
Result<std::int64_t> number(Json const& json, char const* key) {
    auto const member = json[key];
    if (member.is_null()) return std::int64_t{0};
    std::int64_t value = -1;
    if (member.is_integer()) {
        value = member.integer_or(-1);
    } else {
        TRY(auto const text, json.text(key));
        auto const* const end = text.data() + text.size();
        auto const read = std::from_chars(text.data(), end, value);
        if (read.ec != std::errc() || read.ptr != end) value = -1;
    }
    if (value < 0) return fail(Errc::protocol, "etcd: `{}` is no number from 0 on", key);
    return value;
}

Result<KeyValue> key_value(Json const& json) {
    KeyValue made;
    TRY(made.key, decoded(json, "key"));
    TRY(made.value, decoded(json, "value"));
    TRY(made.mod_revision, number(json, "mod_revision"));
    return made;
}

Result<std::optional<KeyValue>> first_of(Json const& kvs) {
    auto const all = kvs.elements();
    if (all.empty()) return std::optional<KeyValue>();
    TRY(auto made, key_value(all.front()));
    return std::optional(std::move(made));
}

Result<LeaseAnswer> lease_from(Json const& json) {
    LeaseAnswer made;
    TRY(made.id, number(json, "ID"));
    TRY(made.ttl_s, number(json, "TTL"));
    if (made.id == 0) return fail(Errc::protocol, "etcd: a lease has no ID");
    return made;
}

Result<Json> checked(Json const& json) {
    if (auto const words = error_text(json); !words.empty())
        return fail(Errc::protocol, "etcd: {}", words);
    if (!json.is_object()) return fail(Errc::protocol, "etcd's answer is no object");
    return json;
}

}  // namespace

Json range_request(std::string_view key) { return Json::object({{"key", encoded(key)}}); }

Json put_request(std::string_view key, std::string_view value, std::int64_t lease) {
    return Json::object(
        {{"key", encoded(key)}, {"value", encoded(value)}, {"lease", fmt::format("{}", lease)}});
}

Json put_if_request(std::string_view key, std::string_view value, std::int64_t revision) {
    auto const compare = Json::object({{"key", encoded(key)},
                                       {"target", "MOD"},
                                       {"result", "EQUAL"},
                                       {"mod_revision", fmt::format("{}", revision)}});
    auto const put = Json::object({{"key", encoded(key)}, {"value", encoded(value)}});
    return Json::object(
        {{"compare", Json::array({compare})},
         {"success", Json::array({Json::object({{"request_put", put}})})},
         {"failure", Json::array({Json::object({{"request_range", range_request(key)}})})}});
}

Json watch_request(std::string_view key, std::int64_t revision) {
    return Json::object(
        {{"create_request",
          Json::object({{"key", encoded(key)}, {"start_revision", fmt::format("{}", revision)}})}});
}

Json grant_request(std::int64_t ttl_s) { return Json::object({{"TTL", fmt::format("{}", ttl_s)}}); }

Json lease_request(std::int64_t id) { return Json::object({{"ID", fmt::format("{}", id)}}); }

std::string error_text(Json const& json) {
    auto const error = json["error"];
    std::string text;
    if (error.is_string()) text = error.text_or("");
    if (error.is_object()) text = error["message"].text_or("an error without words");
    // From the network, and printed: plain text of bounded length.
    text.resize(std::min(text.size(), limits::text_bytes_max));
    for (auto& one : text) {
        if (static_cast<unsigned char>(one) < 0x20 || one == 0x7f) one = ' ';
    }
    return text;
}

Result<RangeAnswer> parse_range(Json const& json) {
    TRY_VOID(checked(json));
    RangeAnswer made;
    TRY(made.revision, number(json["header"], "revision"));
    if (made.revision == 0) return fail(Errc::protocol, "etcd's answer has no revision");
    TRY(made.found, first_of(json["kvs"]));
    return made;
}

Result<TxnAnswer> parse_txn(Json const& json) {
    TRY_VOID(checked(json));
    TxnAnswer made;
    TRY(auto const revision, number(json["header"], "revision"));
    if (revision == 0) return fail(Errc::protocol, "etcd's answer has no revision");
    made.succeeded = json["succeeded"].boolean_or(false);
    auto const responses = json["responses"].elements();
    if (!made.succeeded && !responses.empty()) {
        TRY(made.found, first_of(responses.front()["response_range"]["kvs"]));
    }
    return made;
}

Result<WatchAnswer> parse_watch(Json const& json) {
    TRY_VOID(checked(json));
    auto const result = json["result"];
    if (!result.is_object()) return fail(Errc::protocol, "etcd's watch sends no result");
    WatchAnswer made;
    TRY(made.revision, number(result["header"], "revision"));
    made.cancelled = result["canceled"].boolean_or(false);
    for (auto const& event : result["events"].elements()) {
        auto& one = made.events.emplace_back();
        auto const type = event["type"].text_or("PUT");
        if (type != "PUT" && type != "DELETE")
            return fail(Errc::protocol, "etcd's watch sends an event of an unknown type");
        one.deleted = type == "DELETE";
        TRY(one.pair, key_value(event["kv"]));
    }
    return made;
}

Result<LeaseAnswer> parse_grant(Json const& json) {
    TRY_VOID(checked(json));
    return lease_from(json);
}

Result<LeaseAnswer> parse_keepalive(Json const& json) {
    TRY_VOID(checked(json));
    return lease_from(json["result"]);
}

}  // namespace sidecar::registry::etcd
