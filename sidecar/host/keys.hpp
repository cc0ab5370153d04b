// The key of one migration: 256 bits, made for it, sent over the peer channel, used as
// tls-creds-psk by the RAM stream and by NBD on both hosts, deleted at its end.
#pragma once

#include <string>

#include "core/result.hpp"
#include "qmp/client.hpp"

namespace sidecar {

/// The user name in the key file, the same on both sides; the secret is the key.
constexpr char const* key_user = "sidecar";

/// Whether that is one: 64 hex digits.
bool is_key(std::string const& hex);
/// The file QEMU and libnbd read, in `directory`.
std::string key_file(std::string const& directory);
/// Writes it, mode 0600, in a directory 0700.
core::Result<> write_key(std::string const& directory, std::string const& hex);
/// The key in that file; empty: there is none.
std::string read_key(std::string const& directory);
void remove_key(std::string const& directory);

/// The id of QEMU's object for the key of `migration_id`.
std::string key_object(std::string const& migration_id);
/// object-add tls-creds-psk. `endpoint` is "client" or "server". Ok also when it is there already.
core::Task<core::Result<>> add_key_object(qmp::Client& client, std::string directory,
                                          std::string endpoint, std::string migration_id,
                                          core::Deadline deadline);

}  // namespace sidecar
