// Weaker rules, put into the machines or the model on purpose. The search must catch each, and with
// the right violation: that shows that the search can find such errors.
//
// Most mutations change the result that a machine hears of an action; the others are branches of
// the model world.
#pragma once

#include <cstdint>
#include <string_view>

#include "sidecar/machine/destination.hpp"
#include "sidecar/machine/source.hpp"

namespace sim {

/// `none` is the unchanged design.
enum class Mutation : std::uint8_t {
    none,
    // Two copies run.
    destination_without_S,  ///< Its QEMU runs the guest as soon as it has loaded it.
    destination_starts_on_loaded,  ///< It treats its own `completed` as COMMIT.
    source_resumes_on_silence,  ///< It treats silence as ABORTED.
    commit_sent_before_durable,
    aborted_sent_before_durable,
    stale_disk_named,  ///< The images keep their names until the destination has answered.
    operator_fences_nothing,  ///< An operator gives the guest to the source; the other host runs.
    // The guest's writes are lost, or its images.
    watchdog_records_nothing,  ///< It resumes a completed QEMU without ROLLBACK in the journal.
    watchdog_ignores_commit,  ///< It ignores a recorded COMMIT.
    unknown_commit_is_failed,  ///< A COMMIT whose sync failed is treated as not recorded.
    silence_is_aborted,  ///< A COMMIT that may be durable is dropped if the destination is silent.
    rollback_not_durable,  ///< The guest resumes although ROLLBACK could not be recorded.
    guest_before_images,  ///< The guest resumes although its images could not be renamed back.
    lost_delta_is_copied,  ///< The last delta failed, and COMMIT still follows.
    failed_seal_is_sealed,  ///< The guest runs while the destination's exports are open.
    owner_not_durable,  ///< The destination starts the guest although OWNER could not be recorded.
    // The guest is paused for ever.
    watchdog_leaves_switchover,  ///< It does nothing about a QEMU that waits at pre-switchover.
    guest_not_started,  ///< The destination's `cont` failed, but it reports that the guest runs.
    failed_migration_not_heard,  ///< QEMU's migration failed after STOP; the source keeps waiting.
    // A guest that its operator stopped is continued.
    watchdog_forgets_stopped,  ///< It resumes a guest that did not run when the migration began.
    destination_forgets_stopped,  ///< It starts such a guest.
    // The guest's addresses are at the wrong host.
    network_before_stop,  ///< The addresses move when RAM migration starts.
    network_not_returned,  ///< The addresses could not be moved back, and the rollback ends anyway.
    // Leftovers.
    images_not_marked,  ///< The moved images could not be renamed, and the migration ends anyway.
    source_qemu_left,
    source_exports_left,
    destination_left,  ///< Removing its QEMU and its images failed, and it forgets them.
};

[[nodiscard]] std::string_view name(Mutation mutation);

/// What a machine with the mutation hears instead of `event`.
[[nodiscard]] sidecar::machine::source::Event heard(Mutation mutation,
                                                    sidecar::machine::source::Event const& event);
[[nodiscard]] sidecar::machine::destination::Event heard(
    Mutation mutation, sidecar::machine::destination::Event const& event);

}  // namespace sim
