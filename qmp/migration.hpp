// The commands about live migration. One function for each QMP command, with QEMU's name in
// snake_case; all fail as Client::execute does. The order in which they may be used is the
// migration machine's business.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "qmp/client.hpp"

namespace qmp {

/// MigrationInfo. Numbers QEMU did not tell are 0.
struct MigrationInfo {
    /// "none", "setup", "active", "pre-switchover", "device", "completed", ... or ""
    std::string status;
    std::string error;  ///< QEMU's reason when it failed.
    std::vector<std::string> blocked_reasons;  ///< Why this guest cannot migrate at all.
    std::uint64_t ram_total_bytes = 0;
    std::uint64_t ram_transferred_bytes = 0;
    std::uint64_t ram_remaining_bytes = 0;
    std::uint64_t ram_dirty_sync_count = 0;
    std::uint64_t ram_dirty_pages_per_second = 0;
    std::uint64_t ram_page_bytes = 0;
    double ram_mbit_per_second = 0;
    int cpu_throttle_percent = 0;  ///< Of capability auto-converge; 0: the guest runs freely.
    std::uint64_t total_ms = 0;
    std::uint64_t setup_ms = 0;
    std::uint64_t downtime_ms = 0;
    std::uint64_t expected_downtime_ms = 0;
};
Task<Result<MigrationInfo>> query_migrate(Client& client, Deadline deadline);

using Capability = std::pair<std::string, bool>;
Task<Result<>> migrate_set_capabilities(Client& client, std::vector<Capability> capabilities,
                                        Deadline deadline);
Task<Result<std::vector<Capability>>> query_migrate_capabilities(Client& client, Deadline deadline);
/// {"max-bandwidth": ..., "downtime-limit": ..., "tls-creds": ..., ...}
Task<Result<>> migrate_set_parameters(Client& client, Json parameters, Deadline deadline);
Task<Result<Json>> query_migrate_parameters(Client& client, Deadline deadline);

/// Starts sending to "tcp:HOST:PORT", "unix:PATH", "fd:NAME". Prefer a connected socket of ours,
/// given with getfd(): with the others QEMU connects on its own time, and on 10.0 a migration
/// cancelled meanwhile goes on in the name of the next one, or kills the guest (see
/// cancel_migration()).
Task<Result<>> migrate(Client& client, std::string uri, Deadline deadline);
/// For a QEMU started with -incoming defer.
Task<Result<>> migrate_incoming(Client& client, std::string uri, Deadline deadline);
/// Lets a migration paused by pause-before-switchover go on; `state`: "pre-switchover".
Task<Result<>> migrate_continue(Client& client, std::string state, Deadline deadline);
/// The bare command: returns when QEMU has begun to cancel. Use cancel_migration().
Task<Result<>> migrate_cancel(Client& client, Deadline deadline);
/// Cancels and waits for the end: the status it came to, "cancelled", "failed", "none", or
/// "completed" when it was too late. Goes round three faults of QEMU:
/// 10.0, "setup" while it connects: cancelled at once, but what connects is not, and the next
/// migrate meets it. So "setup" is waited for; shut the socket down to make that short.
/// 7.2, cancelled in the instant before "pre-switchover": stays in "cancelling" with the guest
/// stopped, for ever. A migrate-continue for the state "cancelling" wakes it.
/// 7.2, cancelled in "device" while it inactivates its disks: goes on with the guest over inactive
/// disks, and aborts. So its connection is torn down (yank), which it takes for a failure and
/// undoes; what has not ended by that is cancelled after all.
/// Quicker with the capability "events".
Task<Result<std::string>> cancel_migration(Client& client, Deadline deadline);

/// Where a QEMU that listens for a migration does so (its socket-address), as {"type": ...}; null:
/// nowhere.
Task<Result<Json>> incoming_address(Client& client, Deadline deadline);

/// Tears hung connections down: {"type": "migration"} and the like.
Task<Result<>> yank(Client& client, std::vector<Json> instances, Deadline deadline);

}  // namespace qmp
