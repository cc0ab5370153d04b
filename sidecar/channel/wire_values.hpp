// Values of messages, checked against their limits: used by protocol.cpp
// and protocol_daemon.cpp only.
#pragma once

#include <algorithm>
#include <array>
#include <limits>

#include "sidecar/channel/protocol.hpp"
#include "sidecar/host/keys.hpp"
#include "sidecar/host/limits.hpp"
#include "storage/limits.hpp"

namespace sidecar::protocol::values {

using core::Errc;
using core::fail;

constexpr std::int64_t number_max = std::numeric_limits<std::int64_t>::max();
constexpr std::int64_t port_max = 65535;
constexpr std::size_t interfaces_max = 64;
/// Sentences of one answer: a few for each disk of the most that a guest has.
constexpr std::size_t warnings_max = 512;
constexpr std::size_t exports_max = storage::limits::disks_max;
/// Names that sidecar creates: of an export, a feature, an address.
constexpr std::size_t name_bytes_max = 256;
/// Sentences from the other side.
constexpr std::size_t words_bytes_max = 4096;

constexpr std::array<std::string_view, 8> roles = {"command",     "source",        "replication",
                                                   "vtep_source", "anchor_source", "local",
                                                   "destination", "sidecar"};
constexpr std::array<std::string_view, 14> features = {
    "verify",       "base",           "conntrack",    "replicate",      "vtep",
    "anchor",       "local_address",  "stand_in",     "shared_storage", "stopped_guest",
    "block_device", "anchor_release", "anchor_vxlan", "guest_files"};
constexpr std::array<std::string_view, 2> owners = {"source", "destination"};
constexpr std::array<std::string_view, 3> consistency_kinds = {"crash", "filesystem", "off"};

template <class Enum, class Names>
std::optional<Enum> by_name(Names const& names, std::string_view name) {
    auto const at = std::ranges::find(names, name);
    if (at == names.end()) return {};
    return static_cast<Enum>(at - names.begin());
}

inline Result<std::int64_t> within(Json const& json, std::string_view key, std::int64_t least,
                                   std::int64_t most) {
    TRY(auto const value, json.integer(key));
    if (value < least || value > most) {
        return fail(Errc::protocol, "`{}` is {}: impossible", key, value);
    }
    return value;
}

inline Result<std::uint64_t> count(Json const& json, std::string_view key) {
    TRY(auto const value, within(json, key, 0, number_max));
    return static_cast<std::uint64_t>(value);
}

inline Result<std::string> words(Json const& json, std::string_view key, std::size_t bytes_max) {
    TRY(auto text, json.text(key));
    if (text.size() > bytes_max) return fail(Errc::protocol, "`{}` is too long", key);
    return text;
}

/// For people: a long text is cut, so that the message it explains is not rejected.
inline Result<std::string> sentence(Json const& json, std::string_view key) {
    TRY(auto text, json.text(key));
    text.resize(std::min(text.size(), words_bytes_max));
    return text;
}

/// The elements of an array, at most `most`.
inline Result<std::vector<Json>> list(Json const& json, std::string_view key, std::size_t most) {
    auto const array = json[key];
    if (!array.is_array() || array.size() > most) {
        return fail(Errc::protocol, "`{}` is missing, or longer than {}", key, most);
    }
    return array.elements();
}

inline Result<std::vector<std::string>> names(Json const& json, std::string_view key,
                                              std::size_t most) {
    TRY(auto const elements, list(json, key, most));
    std::vector<std::string> all;
    for (auto const& one : elements) {
        if (!one.is_string() || one.text_or("").size() > name_bytes_max) {
            return fail(Errc::protocol, "`{}` has an element that is not a name", key);
        }
        all.push_back(one.text_or(""));
    }
    return all;
}

template <class T>
Result<std::vector<T>> parsed(Json const& json, std::string_view key, std::size_t most) {
    TRY(auto const elements, list(json, key, most));
    std::vector<T> all;
    for (auto const& one : elements) {
        TRY(auto value, T::from_json(one));
        all.push_back(std::move(value));
    }
    return all;
}

template <class T>
Json array_of(std::vector<T> const& all) {
    Json made = Json::array();
    for (auto const& one : all) {
        if constexpr (requires { one.to_json(); }) {
            made.add(one.to_json());
        } else {
            made.add(Json(one));
        }
    }
    return made;
}

inline Result<Json> object(Json const& json, std::string_view key) {
    auto value = json[key];
    if (!value.is_object()) return fail(Errc::protocol, "`{}` is missing or no object", key);
    return value;
}

inline Result<std::string> key_or_none(Json const& json) {
    TRY(auto key, words(json, "key", name_bytes_max));
    if (!key.empty() && !is_key(key)) return fail(Errc::protocol, "the key is not valid");
    return key;
}

inline Result<Owner> owner_of(Json const& json, std::string_view key) {
    auto const found = by_name<Owner>(owners, json[key].text_or(""));
    if (!found) return fail(Errc::protocol, "`{}` names neither source nor destination", key);
    return *found;
}

inline Result<ConsistencyKind> consistency_of(Json const& json, std::string_view key) {
    auto const found = consistency_kind_from(json[key].text_or(""));
    if (!found) return fail(Errc::protocol, "`{}` is not a consistency of a point", key);
    return *found;
}

inline Result<Role> remote_role(Json const& json) {
    auto const found = by_name<Role>(roles, json["role"].text_or(""));
    switch (found.value_or(Role::command)) {
        case Role::source:
        case Role::replication_source:
        case Role::vtep_source:
        case Role::anchor_source:
            return *found;
        case Role::command:
        case Role::local:
        case Role::destination:
        case Role::sidecar:
            break;
    }
    return fail(Errc::protocol, "`{}` is not a role of a remote sidecar", json["role"].text_or(""));
}

inline Json features_json(Features const& known) {
    Json made = Json::array();
    for (auto const one : known) made.add(features[static_cast<std::size_t>(one)]);
    return made;
}

/// A feature of a later release is ignored.
inline Result<Features> features_from(Json const& json) {
    constexpr std::size_t features_max = 64;
    TRY(auto const told, names(json, "features", features_max));
    Features made;
    for (auto const& one : told) {
        if (auto const known = by_name<Feature>(features, one)) made.insert(*known);
    }
    return made;
}

}  // namespace sidecar::protocol::values
