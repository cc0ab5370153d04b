// Weaker rules, put into the machines or the model on purpose. Each must be caught: that the search
// finds it, and how, shows that the search can see.
//
// Most are what one machine hears instead of how an action really ended; the others are branches of
// the model world.
#pragma once

#include <cstdint>
#include <string_view>

#include "sidecar/machine/destination.hpp"
#include "sidecar/machine/source.hpp"

namespace sim {

/// `none` is the design.
enum class Mutation : std::uint8_t {
    none,
    // Two copies run.
    destination_without_S,  ///< Its QEMU runs the guest as soon as it has loaded it.
    destination_starts_on_loaded,  ///< It takes its own `completed` for COMMIT.
    source_resumes_on_silence,  ///< It takes no answer for ABORTED.
    commit_sent_before_durable,
    aborted_sent_before_durable,
    stale_disk_named,  ///< The images keep their names until the destination has answered.
    operator_fences_nothing,  ///< An operator gives the guest to the source; the other host lives.
    // What the guest wrote is lost, or its images.
    watchdog_records_nothing,  ///< It continues a completed QEMU without ROLLBACK in the journal.
    watchdog_ignores_commit,  ///< It acts on a recorded COMMIT as on none.
    unknown_commit_is_failed,  ///< A COMMIT whose sync failed is taken for one that is not there.
    silence_is_aborted,  ///< A COMMIT that may be durable is void when the destination is silent.
    rollback_not_durable,  ///< The guest goes on although ROLLBACK could not be recorded.
    guest_before_images,  ///< The guest goes on although its images could not be renamed back.
    lost_delta_is_copied,  ///< The last delta failed, and COMMIT follows.
    failed_seal_is_sealed,  ///< The destination's exports are open, and the guest runs.
    owner_not_durable,  ///< The destination starts the guest although OWNER could not be recorded.
    // The guest is paused for ever.
    watchdog_leaves_switchover,  ///< It does nothing for a QEMU that waits at pre-switchover.
    guest_not_started,  ///< The destination's `cont` failed, and it says that the guest runs.
    failed_migration_not_heard,  ///< QEMU's migration failed behind STOP, and the source waits on.
    // Its addresses are elsewhere.
    network_before_stop,  ///< The addresses move when RAM begins to travel.
    network_not_returned,  ///< They could not be moved back, and the rollback ends.
    // Something is left over.
    images_not_marked,  ///< The moved images could not be renamed, and the migration ends.
    source_qemu_left,
    source_exports_left,
    destination_left,  ///< Its QEMU and its images could not be removed, and it forgets them.
};

[[nodiscard]] std::string_view name(Mutation mutation);

/// What a machine that has the mutation hears instead of `event`.
[[nodiscard]] sidecar::machine::source::Event heard(Mutation mutation,
                                                    sidecar::machine::source::Event const& event);
[[nodiscard]] sidecar::machine::destination::Event heard(
    Mutation mutation, sidecar::machine::destination::Event const& event);

}  // namespace sim
