// The TPM of a guest, which swtpm emulates for QEMU. QEMU sends the whole state of swtpm with the
// RAM. Here: what the destination must know about it, and what becomes of the state that stays
// behind at the source. Used by the description and by the source's driver; software_tpm.hpp has
// the destination's part.
#pragma once

#include <optional>
#include <string>

#include "core/json.hpp"
#include "qmp/vm.hpp"
#include "sidecar/guest/guest.hpp"

namespace sidecar {

struct Tpm {
    qmp::TpmVersion version = qmp::TpmVersion::tpm_2_0;
    /// At the source, absolute: the directory, or the file, in which swtpm keeps its state. Empty:
    /// no process of this host listens there, as far as its arguments say.
    std::string state = {};

    [[nodiscard]] core::Json to_json() const;
    /// Fails with protocol.
    static core::Result<Tpm> from_json(core::Json const& json);
};
/// "1.2"
std::string_view name(qmp::TpmVersion version);

/// The state that swtpm keeps for a guest of this name that came from another host.
std::string tpm_directory(Paths const& paths, std::string const& guest);
/// The files with the state of swtpm in a directory, absolute; not those that were set aside.
std::vector<std::string> tpm_state_files(std::string const& directory);

/// The name of such a file when the guest has moved away.
std::string stale_tpm_state(std::string const& file, std::string const& migration_id);

/// None: the guest has no TPM. Fails with refused if swtpm encrypts its state: the destination does
/// not have the key.
core::Task<core::Result<std::optional<Tpm>>> tpm_of(Guest& guest, core::Deadline deadline);

/// The guest runs on another host: renames the state here to NAME.moved-ID, as the images, so that
/// no swtpm is started with it. Call when QEMU has ended. What cannot be renamed is logged.
void set_tpm_state_aside(Tpm const& tpm, std::string const& guest, std::string const& migration_id);

}  // namespace sidecar
