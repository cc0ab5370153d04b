// Fuzzing of what a registry answers: sidecar/registry/etcd_wire.hpp and entry.hpp. Run as
// `fuzz-registry tests/fuzz/corpus/registry`. The input is the JSON of an answer or of an entry.
// Invariant, besides memory safety: an entry that is accepted is written back unchanged, and its
// texts can be printed.
#include <cstdlib>

#include "sidecar/registry/entry.hpp"
#include "sidecar/registry/etcd_wire.hpp"
#include "sidecar/registry/limits.hpp"

namespace {

using core::Json;
namespace registry = sidecar::registry;

void require(bool holds) {
    if (!holds) std::abort();
}

void check_text(std::string const& text) {
    require(text.size() <= registry::limits::text_bytes_max);
    for (auto const one : text) require(static_cast<unsigned char>(one) >= 0x20);
}

void check_entry(Json const& json) {
    auto const entry = registry::Entry::from_json(json);
    if (!entry) return;
    require(entry->token >= 1 && entry->token <= registry::limits::token_max);
    check_text(entry->host.name);
    check_text(entry->host.address);
    auto const written = Json::parse(entry->to_json().dump());
    require(written.has_value());
    auto const again = registry::Entry::from_json(*written);
    require(again && *again == *entry);
}

void check_value(std::string const& value) {
    if (auto const json = Json::parse(value)) check_entry(*json);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(std::uint8_t const* data, std::size_t size) {
    namespace etcd = registry::etcd;
    auto const json = Json::parse({reinterpret_cast<char const*>(data), size});
    if (!json) return 0;
    check_entry(*json);
    if (auto const range = etcd::parse_range(*json); range && range->found)
        check_value(range->found->value);
    if (auto const txn = etcd::parse_txn(*json)) require(!txn->succeeded || !txn->found);
    if (auto const watch = etcd::parse_watch(*json)) {
        for (auto const& event : watch->events) check_value(event.pair.value);
    }
    for (auto const& lease : {etcd::parse_grant(*json), etcd::parse_keepalive(*json)})
        require(!lease || (lease->id > 0 && lease->ttl_s >= 0));
    check_text(etcd::error_text(*json));
    return 0;
}
