// The expectations of the vm tests after a migration, each in one place. Used by all files of this
// folder. Invariant: QEMU, the kernel, the guest and the client are asked; only the report comes
// from the program itself.
#pragma once

#include "tests/support/scene.hpp"
#include "tests/support/watch.hpp"

constexpr std::int64_t mib = 1 << 20;

namespace expect {

/// The report of a migration that moved: each field of `sidecar migrate --json`, with a sane value.
void report_of_a_move(core::Json const& report, lab::GuestOptions const& guest);

/// The guest runs on `on` and only there, makes progress, and finds no error.
void guest_whole(lab::Scene& scene, lab::Host const& on);

/// All frames that waited during the pause were delivered to the guest.
void frames_handed_over(lab::Migration const& moved);

/// A client's Watch received each of its numbered datagrams once, in both families. Frames that a
/// rollback returned may be out of order (not `in_order`).
void no_packet_lost(core::Json const& seen, bool in_order);

/// After a move: only tombstones and journal on the old host, only what a guest needs on the new
/// host, and nothing of the migration in its QEMU.
void nothing_left_after_move(lab::Scene& scene, lab::Host const& from, lab::Host const& to);

/// After a migration that left the guest on `on`: nothing of the migration in QEMU there, and the
/// other host as before any guest (except for its journal).
void nothing_left_after_failure(lab::Scene& scene, lab::Host const& on);

/// What `sidecar anchor list` of the host says.
core::Json anchors(lab::Scene& scene, lab::Host const& host);

/// The names of the host's interfaces that begin so.
std::string links(lab::Host const& host, std::string const& begin);

/// Nothing of an anchor is on the host: no record, interface or process.
void no_anchor_left(lab::Scene& scene, lab::Host const& host);

/// A migration from `from` succeeds, even if its sidecars stop at hooks; then all of the above.
void moves(lab::Scene& scene, lab::Host const& from);

/// A migration in which every disk is compared byte for byte while the destination's sidecar is
/// stopped just before it continues the guest. Needs SIDECAR_TEST_STOP_AT=start_guest in `serve`.
void moves_and_disks_are_equal(lab::Scene& scene, lab::Host const& from);

/// Kills the watchdog of the migration from host a.
void kill_watchdog(lab::Scene& scene);

}  // namespace expect
