// The JSON of etcd's gRPC gateway (API v3, as etcd 3.4 has it): requests made, answers taken apart.
// Pure. etcd writes 64-bit numbers as strings, omits members that are zero, and sends keys and
// values in base64. The answers are not trusted: every member is checked.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "core/json.hpp"

namespace sidecar::registry::etcd {

/// A key with its value, as the store has it.
struct KeyValue {
    std::string key;
    std::string value;
    std::int64_t mod_revision = 0;  ///< The revision of its last change.
};

struct RangeAnswer {
    std::int64_t revision = 0;  ///< Of the whole store.
    std::optional<KeyValue> found;  ///< The first, of a request for one key.
};

struct TxnAnswer {
    bool succeeded = false;
    std::optional<KeyValue> found;  ///< If it failed: what is there.
};

struct WatchAnswer {
    struct Event {
        bool deleted = false;
        KeyValue pair;  ///< Only the key if `deleted`.
    };
    std::int64_t revision = 0;
    bool cancelled = false;  ///< The watch has ended: ask for a new one.
    std::vector<Event> events;
};

struct LeaseAnswer {
    std::int64_t id = 0;
    std::int64_t ttl_s = 0;  ///< 0: there is no such lease any more.
};

core::Json range_request(std::string_view key);
/// Stores the value if the key's mod_revision is `revision` (0: the key does not exist), otherwise
/// returns what is there.
core::Json put_if_request(std::string_view key, std::string_view value, std::int64_t revision);
core::Json put_request(std::string_view key, std::string_view value, std::int64_t lease);
/// Changes of `key` from `revision` on.
core::Json watch_request(std::string_view key, std::int64_t revision);
core::Json grant_request(std::int64_t ttl_s);
core::Json lease_request(std::int64_t id);

// Each fails with protocol.
core::Result<RangeAnswer> parse_range(core::Json const& json);
core::Result<TxnAnswer> parse_txn(core::Json const& json);
/// One line of a watch's stream: {"result": ...}.
core::Result<WatchAnswer> parse_watch(core::Json const& json);
core::Result<LeaseAnswer> parse_grant(core::Json const& json);
/// One line of a keepalive's stream.
core::Result<LeaseAnswer> parse_keepalive(core::Json const& json);

/// The words of an answer that reports an error; empty: it reports none.
std::string error_text(core::Json const& json);

}  // namespace sidecar::registry::etcd
