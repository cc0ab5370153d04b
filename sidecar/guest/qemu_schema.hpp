// What a guest's QEMU can do, by its schema. QEMU holds its main loop for 100 ms while it builds
// the answer to query-qmp-schema, and the guest's packets with it. So a running guest's QEMU is
// asked only if nothing else helps: another process of the same binary answers, and the answer is
// kept in the state directory under the identity of that file.
#pragma once

#include "qmp/schema.hpp"
#include "sidecar/guest/guest.hpp"

namespace sidecar {

/// The schema of the guest's QEMU: the one kept, else that of another process of its binary, else
/// its own answer, at the price of a stall. Fails with what QEMU says.
core::Task<core::Result<qmp::Schema>> schema_of(Guest& guest, core::Deadline deadline);

/// Has the schema kept before it is needed. `guest_runs` false: QEMU itself is asked, since it has
/// no guest yet that would notice. What fails is only logged: schema_of() tries again.
core::Task<void> keep_schema(Guest& guest, bool guest_runs, core::Deadline deadline);

}  // namespace sidecar
