// Target: the destination's half: the NBD server of a QEMU that waits with `-S -incoming defer`,
// one writable export per disk. The sidecar of the incoming guest opens it before anything is
// copied, and must have sealed it before the guest may continue: a writable export survives `cont`,
// and a stale client would write into the running guest's disk.
#pragma once

#include <string>
#include <vector>

#include "core/fd.hpp"
#include "core/port_range.hpp"
#include "core/sync.hpp"

namespace qmp {
class Client;
}

namespace storage {

struct TargetDisk {
    std::string node;
    std::string export_name;
};

class Target {
public:
    /// `client` must outlive the target.
    Target(core::Loop& loop, qmp::Client& client, std::vector<TargetDisk> disks);

    /// Starts QEMU's NBD server on `host` ("" any address), on a free port of `ports`, and
    /// exports the disks. The listening socket is ours and is handed to QEMU, so no process can
    /// take the port in between. `tls_creds` is the id of a tls-creds-psk object (endpoint server)
    /// in that QEMU; empty: plaintext. Returns the port. What it made is undone when it fails.
    core::Task<core::Result<int>> open(std::string host, core::PortRange ports,
                                       std::string tls_creds, core::Deadline deadline);

    /// Instead of open(): the server runs already, without exports, started by a sidecar before us.
    void adopt() { server_started_ = true; }
    /// Closes the exports and offers them again, on the same port: every connection is cut, and
    /// when it returns no request of theirs is under way any more, so that what is written next
    /// cannot be overtaken. Before seal() only.
    core::Task<core::Result<>> reexport(core::Deadline deadline);
    /// Flushes the disks, deletes the exports (hard: clients are dropped), waits for
    /// BLOCK_EXPORT_DELETED of each, takes no more connections. Afterwards only QEMU's own
    /// guest can write. Idempotent.
    core::Task<core::Result<>> seal(core::Deadline deadline);
    /// After the guest continued: the NBD server, which has no exports left, goes too. Not part of
    /// seal(): QEMU 7.2 waits in it for clients that never finished their handshake.
    core::Task<core::Result<>> stop_server(core::Deadline deadline);
    /// As seal(), but goes on after errors and does not flush: for what is to be destroyed.
    core::Task<core::Result<>> drop(core::Deadline deadline);

    [[nodiscard]] bool sealed() const { return sealed_; }

private:
    core::Task<core::Result<int>> start(std::string host, core::PortRange ports,
                                        std::string tls_creds, core::Deadline deadline);
    core::Task<core::Result<>> add_exports(core::Deadline deadline);
    core::Task<core::Result<>> remove_exports(core::Deadline deadline);

    core::Loop& loop_;
    qmp::Client& client_;
    std::vector<TargetDisk> disks_;
    bool server_started_ = false;
    bool sealed_ = false;
    core::Fd listener_;
};

}  // namespace storage
