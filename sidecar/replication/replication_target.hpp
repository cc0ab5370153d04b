// ReplicationTarget: the destination's half of `sidecar replicate`, for one connection of the
// source: a round, or the end of the replication. It belongs to a sidecar that `serve` starts as
// for an incoming guest, and that ends with the connection. Its lasting state is in replica.json
// (ReplicaRecord) and in the images. The QEMU that receives the blocks never starts a guest.
//
// Invariant: after any interruption or kill, the points that replica.json names stay intact. A
// round writes only an overlay that replica.json does not name yet; before there is any point, it
// writes the images.
#pragma once

#include <memory>
#include <optional>
#include <string>

#include "core/process.hpp"
#include "qmp/client.hpp"
#include "sidecar/channel/protocol.hpp"
#include "sidecar/host/journal.hpp"
#include "sidecar/replication/replica_record.hpp"
#include "storage/target.hpp"

namespace sidecar {

/// Ends the QEMU that a killed sidecar left in a round. It holds the images and runs no guest.
core::Task<core::Result<>> end_left_replica(core::Loop& loop, Paths paths, std::string guest);

class ReplicationTarget {
public:
    /// `journal` must outlive it. `replication_id`: from the source's hello.
    ReplicationTarget(core::Loop& loop, Paths paths, std::string guest, std::string replication_id,
                      Journal const& journal, ServeOptions options);
    ~ReplicationTarget();

    /// One request of the source. One at a time.
    core::Task<core::Result<protocol::Packed>> handle(protocol::FromReplicationSource request);
    /// The connection is gone: an incomplete round is dropped.
    core::Task<void> end();
    /// Ends long operations: a failover needs the guest.
    void stop() { stop_.request_stop(); }
    [[nodiscard]] bool round_under_way() const { return number_ != 0; }

private:
    core::Task<core::Result<protocol::ReplicateBeginAnswer>> on(protocol::ReplicateBegin begin);
    core::Task<core::Result<protocol::Nothing>> on(protocol::ReplicateComplete complete);
    core::Task<core::Result<protocol::Nothing>> on(protocol::ReplicateHandOver hand_over);
    core::Task<core::Result<protocol::Nothing>> on(protocol::ReplicateForget);
    core::Result<> check_not_failed_over() const;
    core::Result<> check_same_disks(Description const& now) const;
    core::Task<core::Result<>> take_in(Description description);
    core::Task<core::Result<>> make_images();
    core::Task<core::Result<>> make_overlays();
    core::Task<core::Result<>> start_qemu();
    core::Task<core::Result<>> open_endpoints(std::string key);
    core::Task<void> stop_qemu();
    [[nodiscard]] std::string key_directory() const {
        return paths_.run(name_) + "/keys-" + replication_id_;
    }

    core::Loop& loop_;
    Paths paths_;
    std::string name_;
    std::string replication_id_;
    Journal const& journal_;
    ServeOptions options_;
    std::optional<ReplicaRecord> record_;
    Description coming_;  ///< Of the round under way.
    unsigned number_ = 0;  ///< Of the round under way; 0: none.
    core::Process qemu_;
    std::unique_ptr<qmp::Client> client_;
    std::unique_ptr<storage::Target> target_;
    std::vector<std::string> export_names_;
    int nbd_port_ = 0;
    core::Semaphore turn_;
    std::stop_source stop_;
};

}  // namespace sidecar
