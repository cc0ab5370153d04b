// The allowed and forbidden leftovers of a migration: links, listening ports, files and processes
// of a host, and the state of QEMU itself. Used by the vm tests. Invariant: the kernel and QEMU are
// asked, never the program under test.
#pragma once

#include <set>
#include <string>
#include <vector>

#include "tests/support/guest.hpp"

namespace lab {

/// The visible state of a host at one moment. Logs are in another directory and not part of it.
struct Traces {
    std::set<std::string> links;  ///< Names of network interfaces.
    std::set<std::string> ports;  ///< Listening TCP sockets, "address:port".
    std::set<std::string> files;  ///< Paths below the host's directory.
    std::set<std::string> processes;  ///< "number program first-argument"
};
Traces traces_of(Host const& host);

/// The items of `after` that are not in `before` and that no regular expression of `allowed`
/// matches whole; one a line, empty when there are none.
std::string new_since(Traces const& before, Traces const& after,
                      std::vector<std::string> const& allowed = {});
/// The items of `before` that are not in `after`.
std::string lost_since(Traces const& before, Traces const& after,
                       std::vector<std::string> const& allowed = {});

/// A migration's leftovers in the guest's QEMU on that host: bitmaps, exports, jobs, nodes, an NBD
/// server, credentials; one a line, empty when there are none. Stops a left-over NBD server.
std::string left_in_qemu(Guest const& guest, Host const& host);

}  // namespace lab
