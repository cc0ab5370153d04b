// What the vm tests expect after a migration, each said once. Used by all files of this folder.
// Invariant: what holds is asked of QEMU, the kernel, the guest and the client; only the report is
// the program's own word.
#pragma once

#include "tests/support/scene.hpp"
#include "tests/support/watch.hpp"

namespace expect {

/// The report of a migration that moved: every field of `sidecar migrate --json`, and sane.
void report_of_a_move(core::Json const& report, lab::GuestOptions const& guest);

/// The guest runs on `on` and only there, goes on, and finds nothing wrong anywhere.
void guest_whole(lab::Scene& scene, lab::Host const& on);

/// What waited while the guest stood still was delivered where it went on, all of it.
void frames_handed_over(lab::Migration const& moved);

/// What a client's Watch saw: each of its numbered datagrams came once, in both families. Frames
/// that a rollback gave back may be overtaken (not `in_order`).
void no_packet_lost(core::Json const& seen, bool in_order);

/// After a move: nothing on the host it left but tombstones and journal, nothing on the host it is
/// on that a guest does not need, and nothing in its QEMU.
void nothing_left_after_move(lab::Scene& scene, lab::Host const& from, lab::Host const& to);

/// After a migration that did not move the guest from `on`: QEMU there holds nothing of it, and the
/// other host is as it was before any guest (but for its journal).
void nothing_left_after_failure(lab::Scene& scene, lab::Host const& on);

/// A migration from `from` succeeds, whatever hooks its sidecars stop at; then all of the above.
void moves(lab::Scene& scene, lab::Host const& from);

/// A migration with every disk compared byte for byte while the destination's sidecar is held just
/// before it lets the guest go on. Needs SIDECAR_TEST_STOP_AT=start_guest in `serve`.
void moves_and_disks_are_equal(lab::Scene& scene, lab::Host const& from);

}  // namespace expect
