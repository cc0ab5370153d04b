// The key of one migration: 256 bits, generated for it and sent over the peer channel. The RAM
// stream and NBD use it as tls-creds-psk on both hosts. It is deleted at the end of the migration.
#pragma once

#include <sys/types.h>

#include <string>

#include "core/result.hpp"
#include "qmp/client.hpp"

namespace sidecar {

/// The user name in the key file, the same on both sides; the secret is the key.
constexpr char const* key_user = "sidecar";

/// Whether `hex` is a key: 64 hex digits.
bool is_key(std::string const& hex);
/// The file in `directory` that QEMU and libnbd read.
std::string key_file(std::string const& directory);
/// Writes the key file, mode 0600, in a directory with mode 0700.
core::Result<> write_key(std::string const& directory, std::string const& hex);
/// The key in that file; empty: there is none.
std::string read_key(std::string const& directory);
void remove_key(std::string const& directory);

/// The id of QEMU's object for the key of `migration_id`.
std::string key_object(std::string const& migration_id);
/// object-add tls-creds-psk in the QEMU `qemu`. `endpoint` is "client" or "server". Also ok if the
/// object exists already. If QEMU runs as another user (-runas, libvirt), the key belongs to that
/// user from then on, and the two directories above it let others pass: the run directory, and the
/// guest's in it. What is in them stays as it was: readable by our user alone.
core::Task<core::Result<>> add_key_object(qmp::Client& client, pid_t qemu, std::string directory,
                                          std::string endpoint, std::string migration_id,
                                          core::Deadline deadline);

}  // namespace sidecar
