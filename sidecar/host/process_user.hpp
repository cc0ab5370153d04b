// The user of a process: QEMU may have given up the rights of root for those of another user
// (-runas, -run-with user=, libvirt).
#pragma once

#include <sys/types.h>

#include <string>

#include "core/result.hpp"
#include "storage/file_access.hpp"

namespace sidecar {

/// The effective user and group of a process. Fails with io.
core::Result<storage::UserIds> user_of(pid_t process);
/// Neither root nor the user of this process.
bool is_other_user(storage::UserIds const& user);

/// A directory that belongs to the user of QEMU. One that is there must belong to this user
/// already, or to us; it is refused otherwise, as make_directory does.
core::Result<> make_directory_of(storage::UserIds const& user, std::string const& path);
/// Removes a directory that was given to another user: what is in it may not be ours any more.
core::Result<> remove_if_given_away(std::string const& directory);

/// Lets others pass a directory of ours, without reading it.
core::Result<> let_pass(std::string const& directory);
/// The directory in which QEMU makes sockets for us: the guest's run directory, or a directory in
/// it that belongs to the user of QEMU. Made if it is missing.
core::Result<std::string> socket_directory(std::string const& guest_run_directory, pid_t qemu);

}  // namespace sidecar
