// What an incoming migration leaves on this host if its sidecar is killed, and how that is removed.
// EarlierMigration: the remains of another migration of the same guest, whose source did not come
// back. Used by the destination's driver and by DestinationDisks. Invariant: only what the recorded
// migration created is removed.
#pragma once

#include <string>
#include <vector>

#include "sidecar/guest/preflight.hpp"
#include "sidecar/host/journal.hpp"
#include "sidecar/migration/destination_context.hpp"
#include "storage/destination_image.hpp"

namespace sidecar {

class EarlierMigration {
public:
    /// `journal` must outlive it.
    EarlierMigration(DestinationContext context, Journal const& journal)
        : context_(context), journal_(journal) {}

    /// `record`: the incoming.json of another migration. Changes nothing. Fails with refused if
    /// that migration's guest is owned here.
    core::Result<> found(core::Json record);
    /// What clear() removes.
    [[nodiscard]] core::Result<Leftovers> leftovers() const;
    /// Ends its QEMU and its swtpm, and removes its images, the state of its TPM, its key and its
    /// record. Ok if there was none. Fails
    /// with refused as found() does, or with the error of one of these.
    core::Task<core::Result<>> clear();

private:
    [[nodiscard]] core::Result<> check() const;

    DestinationContext context_;
    Journal const& journal_;
    core::Json record_;  ///< Null: there is none.
};

/// Removes those of `images` that the migration `id` created, and no other file. A device stays.
core::Result<> remove_created(std::vector<storage::DestinationImage> const& images,
                              std::string const& guest, std::string const& id);

/// Ends the swtpm that was started for the guest, and removes the state of its TPM. Call when its
/// QEMU has ended, and only if a migration that is undone made that state.
core::Task<core::Result<>> remove_software_tpm(DestinationContext context);

/// Ends the QEMU that an earlier sidecar prepared and that this one could not join; none if this
/// one holds a QEMU. `recorded`: its process; no pid: the sidecar was killed before it was
/// recorded.
core::Task<core::Result<>> end_prepared_qemu(DestinationContext context,
                                             core::ProcessIdentity recorded);

}  // namespace sidecar
