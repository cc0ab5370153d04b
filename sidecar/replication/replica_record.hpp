// ReplicaRecord: replica.json, the one durable record of the copy of a guest that `sidecar
// replicate` on another host keeps here: the complete points, and the files they consist of. Used
// by the replica, by `failover` and by `status`. Invariant: a point exists from the moment when
// this file names it; an overlay of this copy that it does not name is not used.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "sidecar/guest/description.hpp"
#include "sidecar/host/settings.hpp"
#include "sidecar/replication/guest_freeze.hpp"
#include "storage/owned_file.hpp"
#include "storage/recovery_point_chain.hpp"

namespace sidecar {

struct ReplicaPoint {
    unsigned number = 0;  ///< From 1 on.
    std::int64_t taken_at = 0;  ///< Seconds since 1970, by this host's clock.
    std::uint64_t copied_bytes = 0;  ///< Sent in the round that made it.
    Consistency consistency;
    [[nodiscard]] core::Json to_json() const;
};

struct ReplicaRecord {
    std::string replication_id;  ///< Id of the `sidecar replicate`, chosen by itself.
    Description description;  ///< The guest's, as of the last round.
    HostMaps maps;  ///< Of the `serve` that received the guest.
    /// Id of the replication that received the guest; part of its files' names.
    std::string copy_id;
    /// On this host; one for each disk of the description.
    std::vector<storage::OwnedFile> images;
    unsigned base = 0;  ///< The point that the images hold; 0: they are not complete.
    std::vector<unsigned> overlays;  ///< Points above it, oldest first.
    std::vector<ReplicaPoint> points;  ///< The last, and the one before it; newest last.
    unsigned chosen = 0;  ///< The point that a failover has begun to restore; 0: none.
    std::int64_t failed_over_at = 0;  ///< Seconds since 1970; 0: never.
    /// The point at which the source gave the guest up; its images there are set aside. 0: the
    /// guest may still run there.
    unsigned handed_over = 0;

    [[nodiscard]] unsigned last() const { return overlays.empty() ? base : overlays.back(); }
    /// 0: there is none.
    [[nodiscard]] unsigned previous() const;
    [[nodiscard]] storage::ChainDisk disk(std::size_t index) const;
    [[nodiscard]] core::Json status() const;  ///< For `sidecar status`.

    [[nodiscard]] core::Json to_json() const;
    static core::Result<ReplicaRecord> from_json(core::Json const& json);
    /// None: there is no copy of that guest here.
    static core::Result<std::optional<ReplicaRecord>> read(Paths const& paths,
                                                           std::string const& guest);
    [[nodiscard]] core::Result<> write(Paths const& paths, std::string const& guest) const;
    static core::Result<> remove(Paths const& paths, std::string const& guest);
};

/// Merges the oldest overlays into the images until `keep` of them are left, and removes files that
/// no record names. Each step is recorded; it may be interrupted anywhere and repeated.
core::Task<core::Result<>> fold_replica(core::Loop& loop, Paths paths, std::string guest,
                                        ReplicaRecord& record, std::size_t keep,
                                        core::Deadline deadline);

}  // namespace sidecar
