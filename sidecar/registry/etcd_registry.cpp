#include "sidecar/registry/etcd_registry.hpp"

#include <algorithm>

#include "core/log.hpp"
#include "core/sync.hpp"
#include "sidecar/registry/http.hpp"
#include "sidecar/registry/limits.hpp"

namespace sidecar::registry {

using core::Deadline;
using core::Errc;
using core::fail;
using core::Json;
using core::Result;
using core::Task;

namespace {

constexpr int http_ok = 200;
/// Of the gateway: the request is wrong, or we may not make it. Everything else may pass.
constexpr int http_bad_request = 400;
constexpr int http_unauthorized = 401;
constexpr int http_forbidden = 403;
constexpr int http_not_found = 404;

/// Collects an answer of bounded length.
struct Whole {
    std::string text = {};
    bool too_long = false;
    Continue add(std::string_view piece) {
        too_long = text.size() + piece.size() > limits::answer_bytes_max;
        if (!too_long) text += piece;
        return too_long ? Continue::no : Continue::yes;
    }
};

Result<Json> answer_of(int status, Whole const& whole) {
    if (whole.too_long)
        return fail(Errc::protocol, "the answer is longer than {} bytes", limits::answer_bytes_max);
    auto json = Json::parse(whole.text);
    if (status == http_ok) return json;
    auto words = json ? etcd::error_text(*json) : std::string();
    if (words.empty()) words = fmt::format("HTTP status {}", status);
    if (status == http_bad_request || status == http_not_found)
        return fail(Errc::protocol, "etcd: {}", words);
    if (status == http_unauthorized || status == http_forbidden)
        return fail(Errc::refused, "etcd: {}", words);
    return fail(Errc::io, "etcd: {}", words);
}

Result<std::optional<Entry>> entry_of(std::optional<etcd::KeyValue> const& pair,
                                      std::string const& guest) {
    if (!pair) return std::optional<Entry>();
    auto const json = Json::parse(pair->value);
    auto entry = json ? Entry::from_json(*json) : std::unexpected(json.error());
    if (!entry || entry->guest != guest) {
        return fail(Errc::protocol, "the key {} has no entry of {}: {}", pair->key, guest,
                    entry ? "it is of " + entry->guest : entry.error().sentence());
    }
    return std::optional(std::move(*entry));
}

}  // namespace

Task<Result<Json>> EtcdRegistry::ask_one(std::size_t endpoint, std::string path, Json body,
                                         Deadline deadline) {
    auto const& [host, port] = url_.endpoints[endpoint];
    HttpRequest request{host, port, std::move(path), body.dump(), url_.tls_directory};
    Whole whole;
    auto const status = co_await http_post(
        loop_, std::move(request), [&whole](std::string_view piece) { return whole.add(piece); },
        std::move(deadline));
    auto answer = status ? answer_of(*status, whole) : std::unexpected(status.error());
    if (!answer) answer.error().while_doing(fmt::format("asking {}:{}", host, port));
    co_return answer;
}

/// Asks each server once, beginning with the one that answered last.
Task<Result<Json>> EtcdRegistry::ask(std::string path, Json body, Deadline deadline) {
    auto const first = endpoint_;
    Result<Json> answer;
    for (std::size_t tried = 0; tried < url_.endpoints.size(); ++tried) {
        auto const endpoint = (first + tried) % url_.endpoints.size();
        answer = co_await ask_one(endpoint, path, body, deadline.sooner(limits::request_timeout));
        if (answer) endpoint_ = endpoint;
        if (answer || !is_passing(answer.error()) || deadline.passed()) break;
    }
    co_return answer;
}

Task<Result<etcd::RangeAnswer>> EtcdRegistry::range(std::string key, Deadline deadline) {
    CO_TRY(auto const answer,
           co_await ask("/v3/kv/range", etcd::range_request(key), std::move(deadline)));
    co_return etcd::parse_range(answer);
}

Task<Result<std::optional<Entry>>> EtcdRegistry::read(std::string guest, Deadline deadline) {
    CO_TRY(auto const answer, co_await range(key(guest), std::move(deadline)));
    co_return entry_of(answer.found, guest);
}

Task<Result<Committed>> EtcdRegistry::commit(Entry entry, std::uint64_t expected,
                                             Deadline deadline) {
    auto const where = key(entry.guest);
    CO_TRY(auto const before, co_await range(where, deadline));
    CO_TRY(auto stored, entry_of(before.found, entry.guest));
    if (stored == entry) co_return Committed{true, std::move(stored)};
    if ((stored ? stored->token : 0) != expected) co_return Committed{false, std::move(stored)};
    auto const revision = before.found ? before.found->mod_revision : 0;
    CO_TRY(auto const answer,
           co_await ask("/v3/kv/txn", etcd::put_if_request(where, entry.to_json().dump(), revision),
                        deadline));
    CO_TRY(auto const done, etcd::parse_txn(answer));
    if (done.succeeded) co_return Committed{true, std::move(entry)};
    // Also if a server applied it and its answer was lost, so that another was asked.
    CO_TRY(stored, entry_of(done.found, entry.guest));
    co_return Committed{stored == entry, std::move(stored)};
}

Task<void> EtcdRegistry::watch(std::string guest, WatchEvents events, Deadline deadline) {
    Watched watched;
    core::Clock::duration pause = limits::retry_pause_min;
    bool reachable = true;
    while (!deadline.stopped()) {
        auto const turned = co_await watch_turn(guest, events, watched, deadline);
        if (deadline.stopped()) co_return;
        if (turned) {
            reachable = true;
            pause = limits::retry_pause_min;
            continue;
        }
        if (std::exchange(reachable, false)) events.unreachable(turned.error());
        endpoint_ = (endpoint_ + 1) % url_.endpoints.size();
        (void)co_await core::sleep_for(loop_, pause, deadline.token());
        pause = std::min<core::Clock::duration>(pause * 2, limits::retry_pause_max);
    }
}

/// Reads the entry, then follows its changes for a while. The read makes up for everything that an
/// earlier turn may have missed.
Task<Result<>> EtcdRegistry::watch_turn(std::string guest, WatchEvents const& events,
                                        Watched& watched, Deadline deadline) {
    CO_TRY(auto const answer, co_await range(key(guest), deadline.sooner(limits::read_timeout)));
    CO_TRY(auto now, entry_of(answer.found, guest));
    if (!watched.begun || watched.last != now) events.changed(now);
    watched = {true, answer.revision, std::move(now)};
    auto const until = deadline.sooner(limits::watch_turn);
    auto const followed = co_await follow(guest, events, watched, until);
    if (!followed && until.passed() && followed.error().code == Errc::timed_out)
        co_return Result<>{};
    co_return followed;
}

Task<Result<>> EtcdRegistry::follow(std::string guest, WatchEvents const& events, Watched& watched,
                                    Deadline deadline) {
    auto const& [host, port] = url_.endpoints[endpoint_];
    HttpRequest request{host, port, "/v3/watch",
                        etcd::watch_request(key(guest), watched.revision + 1).dump(),
                        url_.tls_directory};
    std::string line;
    Result<> heard;
    auto const hear = [&](std::string_view text) -> Result<> {
        TRY(auto const json, Json::parse(text));
        TRY(auto const answer, etcd::parse_watch(json));
        if (answer.cancelled) return fail(Errc::closed, "etcd has ended the watch");
        for (auto const& event : answer.events) {
            TRY(auto entry,
                entry_of(event.deleted ? std::nullopt : std::optional(event.pair), guest));
            if (watched.last == entry) continue;
            watched.last = std::move(entry);
            events.changed(watched.last);
        }
        return {};
    };
    auto const sink = [&](std::string_view piece) {
        while (heard && !piece.empty()) {
            auto const end = piece.find('\n');
            line += piece.substr(0, end);
            if (line.size() > limits::answer_bytes_max)
                heard = fail(Errc::protocol, "a line of the watch is too long");
            if (!heard || end == std::string_view::npos) break;
            heard = hear(line);
            line.clear();
            piece.remove_prefix(end + 1);
        }
        return heard ? Continue::yes : Continue::no;
    };
    auto const status = co_await http_post(loop_, std::move(request), sink, std::move(deadline));
    if (!heard) co_return heard;
    if (!status) co_return std::unexpected(status.error());
    co_return fail(Errc::closed, "the watch has ended (HTTP status {})", *status);
}

/// `lease`: 0: a new one is needed. Each call is one sign of life.
Task<Result<>> EtcdRegistry::sign_of_life(Host const& host, std::int64_t& lease,
                                          Deadline deadline) {
    if (lease != 0) {
        CO_TRY(auto const kept,
               co_await ask("/v3/lease/keepalive", etcd::lease_request(lease), deadline));
        auto const left = etcd::parse_keepalive(kept);
        if (left && left->ttl_s > 0) co_return Result<>{};
        lease = 0;  // it expired while the registry was unreachable
    }
    CO_TRY(
        auto const granted,
        co_await ask("/v3/lease/grant", etcd::grant_request(limits::host_lease.count()), deadline));
    CO_TRY(auto const made, etcd::parse_grant(granted));
    CO_TRY_VOID(co_await ask(
        "/v3/kv/put",
        etcd::put_request(url_.prefix + "/hosts/" + host.id, to_json(host).dump(), made.id),
        deadline));
    lease = made.id;
    co_return Result<>{};
}

Task<void> EtcdRegistry::hold_host(Host host, Deadline deadline) {
    std::int64_t lease = 0;
    bool good = true;
    while (!deadline.stopped()) {
        auto const shown =
            co_await sign_of_life(host, lease, deadline.sooner(limits::host_lease_interval));
        if (deadline.stopped()) break;
        if (!shown && good) core::log::warning("registry={} {}", text_, shown.error().sentence());
        if (shown && !good) core::log::info("registry={} state=back", text_);
        good = shown.has_value();
        (void)co_await core::sleep_for(loop_, limits::host_lease_interval, deadline.token());
    }
    if (lease == 0 || !good) co_return;  // it expires by itself
    (void)co_await ask("/v3/lease/revoke", etcd::lease_request(lease),
                       Deadline::after(limits::lease_end_timeout));
}

Task<Result<std::optional<HostLease>>> EtcdRegistry::read_host(std::string id, Deadline deadline) {
    CO_TRY(auto const answer, co_await range(url_.prefix + "/hosts/" + id, std::move(deadline)));
    if (!answer.found) co_return std::optional<HostLease>();
    CO_TRY(auto const json, Json::parse(answer.found->value));
    CO_TRY(auto host, host_from_json(json));
    co_return std::optional(HostLease{std::move(host), true});
}

}  // namespace sidecar::registry
