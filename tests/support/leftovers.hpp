// What a migration may leave behind, and what it may not: links, listening ports, files and
// processes of a host, and what QEMU itself still holds. Used by the vm tests. Invariant:
// everything is asked of the kernel and of QEMU, nothing of the program under test.
#pragma once

#include <set>
#include <string>
#include <vector>

#include "tests/support/guest.hpp"

namespace lab {

/// What can be seen of a host at a moment. Logs lie elsewhere and are not part of it.
struct Traces {
    std::set<std::string> links;      ///< Names of network interfaces.
    std::set<std::string> ports;      ///< Listening TCP sockets, "address:port".
    std::set<std::string> files;      ///< Paths below the host's directory.
    std::set<std::string> processes;  ///< "number program first-argument"
};
Traces traces_of(Host const& host);

/// What `after` has that `before` had not and no regular expression of `allowed` matches whole, one
/// item a line; empty when nothing.
std::string new_since(Traces const& before, Traces const& after,
                      std::vector<std::string> const& allowed = {});
/// What `before` had and `after` has not.
std::string lost_since(Traces const& before, Traces const& after,
                       std::vector<std::string> const& allowed = {});

/// What a migration left in the guest's QEMU on that host: bitmaps, exports, jobs, nodes, an NBD
/// server, credentials; one item a line, empty when nothing. Stops a left-over NBD server.
std::string left_in_qemu(Guest const& guest, Host const& host);

}  // namespace lab
