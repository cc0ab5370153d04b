// sidecar/ is the program: it may use every other folder, and none uses it.
//
// Paths: where a host stores files. The run directory (sockets, keys; gone after a boot) and the
// state directory (journals; must survive power loss), each with one directory per guest, all 0700.
#pragma once

#include <string>

#include "core/result.hpp"

namespace sidecar {

struct Paths {
    std::string run_directory;  ///< default /run/sidecar, or $SIDECAR_RUN_DIR
    std::string state_directory;  ///< default /var/lib/sidecar, or $SIDECAR_STATE_DIR
    /// URL of the registry that all hosts share (sidecar/registry/); empty: none. Default:
    /// $SIDECAR_REGISTRY
    std::string registry = {};

    static Paths defaults();
    [[nodiscard]] std::string run(std::string const& guest) const {
        return run_directory + "/" + guest;
    }
    [[nodiscard]] std::string state(std::string const& guest) const {
        return state_directory + "/" + guest;
    }
    /// Shared by all guests of the host; no guest can have that name.
    [[nodiscard]] std::string file_hashes() const { return state_directory + "/.file-hashes"; }
    /// The records of `sidecar network`; no guest can have that name either.
    [[nodiscard]] std::string networks() const { return state_directory + "/.networks"; }
    /// This host's own registry of guests, and the id of the host in it.
    [[nodiscard]] std::string local_registry() const { return state_directory + "/.registry"; }
    [[nodiscard]] std::string host_id() const { return state_directory + "/.host-id"; }
    /// The records of anchors, and the socket of `serve` for the processes of this host.
    [[nodiscard]] std::string anchors() const { return state_directory + "/.anchors"; }
    /// The bindings of `sidecar home-agent`, a directory for each home link.
    [[nodiscard]] std::string home_agents() const { return state_directory + "/.home-agent"; }
    [[nodiscard]] std::string serve_socket() const { return run_directory + "/.serve.sock"; }
    [[nodiscard]] std::string control_socket(std::string const& guest) const {
        return run(guest) + "/control.sock";
    }
    /// Exists while we may have frozen the guest's file systems: contains the agent's socket.
    [[nodiscard]] std::string frozen_mark(std::string const& guest) const {
        return run(guest) + "/frozen";
    }
    [[nodiscard]] std::string qmp_socket(std::string const& guest) const {
        return run(guest) + "/qmp.sock";
    }
};

/// This program's own file, to start it again as another process.
std::string own_program();

/// fsync of a directory: the names in it are durable.
core::Result<> sync_directory(std::string const& path);

/// Creates a directory and its parents, 0700, durably. Fails with refused if an existing one
/// belongs to a user other than root and us, or if others may write in it: they could replace our
/// journals, keys and sockets. A sticky directory, such as /tmp, is accepted.
core::Result<> make_directory(std::string const& path);

/// Whether the process at the other end of a unix socket belongs to root or to our user: no other
/// may use our sockets. Their mode says the same.
bool is_from_our_user(int socket);

/// Checks a guest's name, which becomes part of file names: letters, digits, `-`, `_`, `.`, at most
/// 64, no leading dot or dash.
core::Result<> check_guest_name(std::string const& name);

/// Writes `text` to `path` durably: a temporary file in the same directory, fsync, rename, fsync of
/// the directory.
core::Result<> write_durably(std::string const& path, std::string const& text,
                             unsigned mode = 0600);
/// The same without fsync: complete or absent, for as long as the host runs.
core::Result<> write_replacing(std::string const& path, std::string const& text);
core::Result<std::string> read_file(std::string const& path, std::size_t bytes_max);

/// Whether both paths lead to one file now, links followed. False if either does not exist.
bool same_file(std::string const& one, std::string const& other);

}  // namespace sidecar
