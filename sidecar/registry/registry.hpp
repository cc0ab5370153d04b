// sidecar/registry/ may use host/; guest, migration, replication, daemon and cli use it.
//
// Registry: where each guest is, as all hosts see it, and the token that decides between two
// claims. One interface; file_registry.hpp and etcd_registry.hpp implement it. Invariant: it is
// used before a guest stops and after it runs again, never in between.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "core/loop.hpp"
#include "sidecar/registry/entry.hpp"

namespace sidecar::registry {

/// The result of commit().
struct Committed {
    bool done = false;
    std::optional<Entry> stored = {};  ///< The entry that is there now; not done: another's.
};

/// What a watch reports.
struct WatchEvents {
    /// The entry as it is now, once at the beginning and after each change; none: there is none.
    std::function<void(std::optional<Entry> const&)> changed;
    /// The registry cannot be read; the watch keeps trying.
    std::function<void(core::Error const&)> unreachable;
};

/// Errors of all calls: io, closed, timed_out and cancelled mean that the registry is unreachable
/// and, for a write, that it may have happened; protocol and invalid: its content is not ours;
/// refused: it does not let us in.
class Registry {
public:
    virtual ~Registry() = default;
    /// For messages: "etcd://10.0.0.5:2379", "file:/srv/registry".
    [[nodiscard]] virtual std::string text() const = 0;

    virtual core::Task<core::Result<std::optional<Entry>>> read(std::string guest,
                                                                core::Deadline deadline) = 0;
    /// Compare-and-swap: stores `entry` if the stored token is `expected` (0: there is no entry).
    /// Idempotent: ok, done, also if the same entry is there already.
    virtual core::Task<core::Result<Committed>> commit(Entry entry, std::uint64_t expected,
                                                       core::Deadline deadline) = 0;
    /// Runs until the deadline's token is triggered. Reconnects, and then reports what has changed
    /// meanwhile.
    virtual core::Task<void> watch(std::string guest, WatchEvents events,
                                   core::Deadline deadline) = 0;

    /// Shows signs of life of this host until the deadline's token is triggered, then ends them.
    /// Logs when the registry becomes unreachable, and when it is back.
    virtual core::Task<void> hold_host(Host host, core::Deadline deadline) = 0;
    /// None: the host never showed a sign of life, or (etcd) its lease has expired.
    virtual core::Task<core::Result<std::optional<HostLease>>> read_host(
        std::string id, core::Deadline deadline) = 0;
};

/// Opens a registry by its URL: `file:DIR`, `etcd://HOST[:PORT][,HOST[:PORT]]...[/PREFIX]`, or
/// `etcds://...?tls-dir=DIR`. Contacts no server. Fails with invalid.
core::Result<std::unique_ptr<Registry>> open_registry(core::Loop& loop, std::string const& url);

/// A failure of the registry that may pass: it is worth trying again.
[[nodiscard]] bool is_passing(core::Error const& error);

}  // namespace sidecar::registry
