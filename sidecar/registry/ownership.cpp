#include "sidecar/registry/ownership.hpp"

#include <algorithm>
#include <ctime>

#include "core/log.hpp"
#include "sidecar/host/host_identity.hpp"
#include "sidecar/host/mac_moves.hpp"
#include "sidecar/registry/limits.hpp"

namespace sidecar::registry {

using core::Deadline;
using core::Errc;
using core::fail;
using core::Result;
using core::Task;

namespace {

std::uint64_t token_of(std::optional<Entry> const& entry) { return entry ? entry->token : 0; }

/// A peer may have sent the highest.
std::uint64_t token_after(std::optional<Entry> const& entry) {
    return std::min(token_of(entry) + 1, limits::token_max);
}

std::optional<Entry> later(std::optional<Entry> one, std::optional<Entry> other) {
    return token_of(one) >= token_of(other) ? std::move(one) : std::move(other);
}

std::string when(Entry const& entry) {
    auto const seconds = static_cast<std::time_t>(entry.changed_ms / 1000);
    std::tm utc{};
    if (gmtime_r(&seconds, &utc) == nullptr) return "an unknown time";
    char text[sizeof "2026-01-01 00:00:00 UTC"];
    if (std::strftime(text, sizeof text, "%F %T UTC", &utc) == 0) return "an unknown time";
    return text;
}

/// Whether both report the same change of the owner, which two hosts write independently.
bool same_change(Entry const& one, Entry const& other) {
    bool const same_move = !one.migration_id.empty() && one.migration_id == other.migration_id;
    return one.belongs_to(other.host.id) || same_move;
}

/// Of the same change: what `stored` lacks and `ours` has. None: nothing.
std::optional<Entry> completed(Entry stored, Entry const& ours) {
    auto const before = stored;
    if (stored.host.id.empty()) stored.host.id = ours.host.id;
    if (stored.host.name.empty()) stored.host.name = ours.host.name;
    if (stored.host.address.empty()) stored.host.address = ours.host.address;
    if (stored.token == ours.token && stored.addresses.empty()) stored.addresses = ours.addresses;
    if (stored == before) return {};
    return stored;
}

}  // namespace

Ownership::Ownership(core::Loop& loop, Paths const& paths, std::string guest)
    : loop_(loop),
      paths_(paths),
      guest_(std::move(guest)),
      local_(loop, paths.local_registry()),
      url_(paths.registry),
      released_(loop) {
    released_.set();
    if (url_.empty()) return;
    auto opened = open_registry(loop, url_);
    if (opened) shared_ = std::move(*opened);
}

std::optional<Entry> Ownership::known() const {
    auto const found = local_.read_now(guest_);
    if (!found) core::log::warning("guest={} {}", guest_, found.error().sentence());
    return found ? *found : std::nullopt;
}

Task<Result<std::optional<Entry>>> Ownership::read(Deadline deadline) {
    if (!shared_) co_return fail(Errc::invalid, "`{}` is no registry", url_);
    auto found = co_await shared_->read(guest_, std::move(deadline));
    if (!found) found.error().while_doing("reading the registry " + url_);
    co_return found;
}

Result<> Ownership::record(Entry const& entry) {
    TRY_VOID(make_directory(paths_.local_registry()));
    return local_.replace(entry);
}

void Ownership::note(Result<> const& recorded) const {
    if (!recorded) core::log::warning("guest={} {}", guest_, recorded.error().sentence());
}

Result<> Ownership::check_owner(Claim const& claim, std::optional<Entry> const& latest,
                                std::string const& own_id) const {
    if (url_.empty() || !latest || latest->belongs_to(own_id)) return {};
    bool const given = latest->state == State::handed_over && !claim.migration_id.empty() &&
                       latest->migration_id == claim.migration_id;
    if (given) return {};
    if (claim.fenced) {
        core::log::warning(
            "guest={} taken from {}, which has it since {} (token {}): the operator "
            "has fenced it",
            guest_, registry::text(latest->host), when(*latest), latest->token);
        return {};
    }
    return fail(Errc::refused,
                "{} belongs to {} since {} (token {}), says the registry {}: two copies would run. "
                "If that host cannot run it any more: --i-have-fenced",
                guest_, registry::text(latest->host), when(*latest), latest->token, url_);
}

/// The entry by which this host owns the guest. The token stays if this host has started it
/// already.
Result<Entry> Ownership::next(std::optional<Entry> const& latest, Claim const& claim) const {
    TRY(auto const own, host_identity(paths_));
    if (latest && latest->belongs_to(own.id) && latest->state == State::here) return *latest;
    return Entry{.guest = guest_,
                 .host = {own.id, own.name},
                 .token = token_after(latest),
                 .migration_id = claim.migration_id,
                 .addresses = claim.addresses,
                 .changed_ms = wall_ms()};
}

Task<Result<>> Ownership::claim(Claim claim) {
    auto const before = later(known(), claim.source);
    if (url_.empty()) {
        auto const mine = next(before, claim);
        note(mine ? record(*mine) : std::unexpected(mine.error()));
        co_return Result<>{};
    }
    CO_TRY(auto const own, host_identity(paths_));
    auto const stored = co_await read(Deadline::after(limits::read_timeout));
    bool const must_read = claim.kind == Claim::Kind::start && !claim.fenced;
    if (!stored && must_read) {
        co_return fail(Errc::refused,
                       "whether another host has {} is not known, because the registry cannot be "
                       "read: {}. If no other host can run it: --i-have-fenced",
                       guest_, stored.error().sentence());
    }
    if (!stored) core::log::warning("guest={} {}", guest_, stored.error().sentence());
    auto const latest = stored ? later(*stored, before) : before;
    CO_TRY_VOID(check_owner(claim, latest, own.id));
    CO_TRY(auto const mine, next(latest, claim));
    CO_TRY_VOID(record(mine));
    if (!stored) co_return Result<>{};  // keep_published() writes it
    auto const published = co_await publish(Deadline::after(limits::read_timeout));
    if (published || !must_read) co_return Result<>{};
    if (before) note(record(*before));
    co_return fail(Errc::refused, "{} could not be claimed: {}", guest_,
                   published.error().sentence());
}

Task<Result<std::string>> Ownership::check_departure() {
    if (url_.empty()) co_return std::string();
    CO_TRY(auto const own, host_identity(paths_));
    auto const stored = co_await read(Deadline::after(limits::read_timeout));
    if (!stored) {
        co_return fmt::format("{}: the guest moves without it, and it is written afterwards",
                              stored.error().sentence());
    }
    auto const latest = later(*stored, known());
    CO_TRY_VOID(check_owner({.kind = Claim::Kind::join}, latest, own.id));
    if (latest && *stored == latest) note(record(*latest));
    co_return std::string();
}

Task<std::string> Ownership::departed(Departure departure) {
    auto const before = known();
    bool const again = before && before->migration_id == departure.migration_id;
    Entry const entry = again ? *before
                              : Entry{.guest = guest_,
                                      .host = std::move(departure.to),
                                      .anchor = before ? before->anchor : std::nullopt,
                                      .token = token_after(before),
                                      .migration_id = std::move(departure.migration_id),
                                      .state = departure.state,
                                      .addresses = std::move(departure.addresses),
                                      .changed_ms = wall_ms()};
    auto written = again ? Result<>{} : record(entry);
    note(written);
    if (url_.empty()) co_return std::string();
    auto const until = Deadline::after(limits::settle_patience);
    core::Clock::duration pause = limits::retry_pause_min;
    while (written) {
        written = co_await publish(until);
        if (written || written.error().code == Errc::refused || until.passed()) break;
        (void)co_await core::sleep_for(loop_, pause);
        pause *= 2;
        if (!until.passed()) written = Result<>{};
    }
    if (written) co_return std::string();
    co_return fmt::format(
        "the registry does not say yet that {} belongs to {}: {}; the sidecar "
        "there continues to write it, and `sidecar locate --repair {}` here does",
        guest_, registry::text(entry.host), written.error().sentence(), guest_);
}

void Ownership::arrived(std::optional<Entry> const& source, std::string const& migration_id,
                        std::vector<std::string> addresses) {
    auto const before = known();
    if (before && before->migration_id == migration_id) return;
    auto latest = later(source, before);
    if (latest) latest->host.id.clear();  // its owner changes, even if it was this host
    auto mine = next(latest, {.addresses = std::move(addresses), .migration_id = migration_id});
    if (mine && latest) mine->anchor = latest->anchor;
    note(mine ? record(*mine) : std::unexpected(mine.error()));
}

Task<Result<>> Ownership::check_kept(std::string migration_id) {
    if (url_.empty()) co_return Result<>{};
    CO_TRY(auto const own, host_identity(paths_));
    auto const stored = co_await read(Deadline::after(limits::read_timeout));
    if (!stored) core::log::warning("guest={} {}", guest_, stored.error().sentence());
    if (!stored || !*stored || (*stored)->belongs_to(own.id)) co_return Result<>{};
    auto const& entry = **stored;
    bool const there = entry.migration_id == migration_id || entry.token > token_of(known());
    if (!there) co_return Result<>{};
    co_return fail(Errc::refused,
                   "{} belongs to {} since {} (token {}), says the registry {}: it has run there, "
                   "so the source's copy is the older one",
                   guest_, registry::text(entry.host), when(entry), entry.token, url_);
}

/// The destination may have taken the next token without having written it.
void Ownership::kept(std::string const& migration_id) {
    auto latest = known();
    if (latest) {
        latest->token = token_after(latest);
        latest->host.id.clear();
    }
    auto const mine = next(latest, {.migration_id = migration_id});
    note(mine ? record(*mine) : std::unexpected(mine.error()));
}

Task<Result<>> Ownership::publish(Deadline deadline) {
    auto const ours = known();
    if (url_.empty() || !ours) co_return Result<>{};
    CO_TRY(auto stored, co_await read(deadline));
    auto wanted = ours;
    if (stored && same_change(*stored, *ours) && stored->token >= ours->token) {
        wanted = completed(*stored, *ours);
        note(record(wanted ? *wanted : *stored));
        if (!wanted) co_return Result<>{};
    }
    bool const older = !stored || stored->token < wanted->token || same_change(*stored, *wanted);
    if (older) {
        CO_TRY(auto const committed,
               co_await shared_->commit(*wanted, token_of(stored), std::move(deadline)));
        if (committed.done) co_return Result<>{};
        stored = committed.stored;
    }
    if (!stored) co_return fail(Errc::io, "the entry of {} was just deleted", guest_);
    if (same_change(*stored, *ours)) co_return Result<>{};
    co_return fail(Errc::refused,
                   "the registry {} says that {} belongs to {} (token {}), this host that it "
                   "belongs to {} (token {})",
                   url_, guest_, registry::text(stored->host), stored->token,
                   registry::text(ours->host), ours->token);
}

Task<void> Ownership::keep_published(std::stop_token token) {
    if (url_.empty()) co_return;
    core::Clock::duration pause = limits::retry_pause_min;
    bool told = false;
    while (!token.stop_requested()) {
        if (!co_await released_.wait(Deadline::never(token))) co_return;
        auto const published = co_await publish(Deadline::after(limits::read_timeout, token));
        if (token.stop_requested()) co_return;
        if (published) {
            if (told) core::log::info("guest={} registry={} state=written", guest_, url_);
            co_return;
        }
        bool const for_good = !is_passing(published.error());
        if (for_good) {
            core::log::error("guest={} {}", guest_, published.error().sentence());
            co_return;
        }
        if (!std::exchange(told, true)) {
            core::log::warning("guest={} the registry is not written yet: {}", guest_,
                               published.error().sentence());
        }
        (void)co_await core::sleep_for(loop_, pause, token);
        pause = std::min<core::Clock::duration>(pause * 2, limits::retry_pause_max);
    }
}

std::optional<Entry> local_entry(core::Loop& loop, Paths const& paths, std::string const& guest) {
    auto found = FileRegistry(loop, paths.local_registry()).read_now(guest);
    return found ? std::move(*found) : std::nullopt;
}

Task<Result<>> check_arrival(core::Loop& loop, Paths paths, std::string guest,
                             std::optional<Entry> source) {
    if (paths.registry.empty()) co_return Result<>{};
    CO_TRY(auto const opened, open_registry(loop, paths.registry));
    CO_TRY(auto const own, host_identity(paths));
    auto const stored = co_await opened->read(guest, Deadline::after(limits::read_timeout));
    if (!stored || !*stored || (*stored)->belongs_to(own.id)) co_return Result<>{};
    auto const& entry = **stored;
    bool const of_source = source && (same_change(entry, *source) || source->token > entry.token);
    if (of_source) co_return Result<>{};
    co_return fail(Errc::refused,
                   "{} belongs to {} since {} (token {}), says the registry {}, and not to the "
                   "source of this migration",
                   guest, registry::text(entry.host), when(entry), entry.token, paths.registry);
}

}  // namespace sidecar::registry
