// What a guest's QEMU can do, according to its schema. To answer query-qmp-schema, QEMU blocks its
// main loop for 100 ms, and the guest's packets with it. So a running guest's QEMU is asked only if
// nothing else helps. Otherwise another process of the same binary answers, and the answer is kept
// in the state directory under the identity of that file.
#pragma once

#include "qmp/schema.hpp"
#include "sidecar/guest/guest.hpp"

namespace sidecar {

/// The schema of the guest's QEMU: the kept one, else that of another process of its binary, else
/// its own answer, which stalls the guest. Fails with QEMU's error.
core::Task<core::Result<qmp::Schema>> schema_of(Guest& guest, core::Deadline deadline);

/// Makes sure that the schema is kept before it is needed. `guest_runs` false: QEMU itself is
/// asked, because it has no guest yet that would notice. Failures are only logged:
/// schema_of() tries again.
core::Task<void> keep_schema(Guest& guest, bool guest_runs, core::Deadline deadline);

}  // namespace sidecar
