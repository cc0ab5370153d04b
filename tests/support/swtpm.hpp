// swtpm as an administrator starts it for a guest, and what is in the NVRAM of a TPM 2.0.
// Invariant: only one swtpm uses a state at a time.
#pragma once

#include <string>

#include "tests/support/command.hpp"

namespace lab {

/// Listens on `socket` for a QEMU, and ends with it. `version`: "1.2" or "2.0"; the directory of
/// its state is made. `more`: options.
Daemon start_swtpm(std::string const& name, fs::path const& state, fs::path const& socket,
                   Place const& place, std::string const& version = "2.0", Argv const& more = {});
/// The options of a QEMU with that TPM. `device`: "tpm-crb", "tpm-tis".
Argv tpm_options(fs::path const& socket, std::string const& device);

/// Keeps a text in the NVRAM of the TPM 2.0 with that state. Throws if it does not work.
void write_tpm_secret(fs::path const& state, std::string const& text);
/// That text. Throws if this TPM has none.
std::string read_tpm_secret(fs::path const& state, std::size_t bytes);

}  // namespace lab
