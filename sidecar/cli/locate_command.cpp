#include "sidecar/cli/locate_command.hpp"

#include <fmt/chrono.h>

#include <cstdio>
#include <ctime>

#include "sidecar/registry/limits.hpp"
#include "sidecar/registry/ownership.hpp"

namespace sidecar {

using core::Deadline;
using core::Errc;
using core::fail;
using core::Json;
using core::Result;
using core::Task;
using registry::Entry;
using registry::Registry;

namespace {

/// Whether the owner shows signs of life; none: that is not known.
using Alive = std::optional<bool>;

std::string_view alive_text(Alive alive) {
    if (!alive) return "";
    return *alive ? ", which shows signs of life" : ", which shows no sign of life";
}

void show(Options const& options, Entry const& entry, Registry const& from, Alive alive) {
    if (options.json) {
        auto json = entry.to_json();
        json.set("registry", from.text());
        json.set("host_alive", alive ? Json(*alive) : Json());
        fmt::print("{}\n", json.dump());
    } else {
        std::time_t const since = static_cast<std::time_t>(entry.changed_ms / 1000);
        std::tm utc{};
        gmtime_r(&since, &utc);
        auto const what = entry.state == registry::State::handed_over
                              ? "is off, and was handed over to"
                              : "is on";
        fmt::print("{} {} {}{}\n", entry.guest, what, registry::text(entry.host),
                   alive_text(alive));
        if (entry.anchor) fmt::print("  anchor {}\n", registry::text(*entry.anchor));
        fmt::print("  since {:%F %T} UTC, token {}{}\n", utc, entry.token,
                   entry.migration_id.empty() ? "" : ", migration " + entry.migration_id);
        for (auto const& address : entry.addresses) fmt::print("  address {}\n", address);
        fmt::print("  from {}\n", from.text());
    }
    std::fflush(stdout);  // of a watch, into a pipe
}

Task<Alive> look_for_host(Registry& registry, Entry entry) {
    if (entry.host.id.empty()) co_return Alive();
    auto const lease =
        co_await registry.read_host(entry.host.id, Deadline::after(registry::limits::read_timeout));
    if (!lease) co_return Alive();
    co_return *lease && (*lease)->alive;
}

Task<int> watch(Registry& registry, Options options, std::stop_token terminate) {
    registry::WatchEvents const events{
        .changed =
            [&](std::optional<Entry> const& entry) {
                if (entry) show(options, *entry, registry, {});
                if (!entry && options.json) fmt::print("{}\n", Json::object().dump());
                if (!entry && !options.json) fmt::print("there is no entry of {}\n", options.guest);
                std::fflush(stdout);
            },
        .unreachable =
            [](core::Error const& error) {
                fmt::print(stderr, "warning: {}; trying again\n", error.sentence());
            }};
    co_await registry.watch(options.guest, events, Deadline::never(terminate));
    co_return 0;
}

Task<int> repair(core::Loop& loop, Options options) {
    registry::Ownership ownership(loop, options.paths, options.guest);
    auto const known = ownership.known();
    if (!known) {
        co_return complain(
            fail(Errc::refused, "this host has no record of {}", options.guest).error());
    }
    auto const written =
        co_await ownership.publish(Deadline::after(registry::limits::read_timeout));
    if (!written) co_return complain(written.error());
    fmt::print("{} has this host's record of {}, or a later one\n", options.paths.registry,
               options.guest);
    co_return 0;
}

}  // namespace

Task<int> locate_command(core::Loop& loop, Options options, std::stop_token terminate) {
    if (options.locate_repair) co_return co_await repair(loop, options);
    registry::FileRegistry local(loop, options.paths.local_registry());
    std::unique_ptr<Registry> shared;
    if (!options.paths.registry.empty()) {
        auto opened = registry::open_registry(loop, options.paths.registry);
        if (!opened) co_return complain(opened.error());
        shared = std::move(*opened);
    }
    auto& chosen = shared ? *shared : local;
    if (options.locate_watch) co_return co_await watch(chosen, options, terminate);
    auto const own = local.read_now(options.guest);
    auto const found =
        co_await chosen.read(options.guest, Deadline::after(registry::limits::read_timeout));
    if (!found) {
        if (shared && own && *own) show(options, **own, local, {});
        co_return complain(found.error());
    }
    if (*found) {
        show(options, **found, chosen, shared ? co_await look_for_host(chosen, **found) : Alive());
    }
    bool const newer = shared && own && *own && (!*found || (*own)->token > (*found)->token);
    if (newer) {
        fmt::print(stderr,
                   "warning: this host has a later record: {} has {} (token {}); --repair "
                   "writes it\n",
                   registry::text((*own)->host), options.guest, (*own)->token);
    }
    if (*found) co_return 0;
    co_return complain(
        fail(Errc::refused, "there is no entry of {} in {}", options.guest, chosen.text()).error());
}

void add_locate_options(CLI::App& locate, Options& options) {
    locate.add_flag("--json", options.json, "As JSON");
    auto* watch = locate.add_flag("--watch", options.locate_watch, "Stay, and print each change");
    locate
        .add_flag("--repair", options.locate_repair,
                  "Write this host's record to the registry, if it is the later one")
        ->excludes(watch);
}

}  // namespace sidecar
