// RecordFiles: writes and removes the records of this host's anchors, on the loop. `serve` forwards
// the frames of many guests, and none of them may wait for a disk. Owned by AnchorService.
//
// Invariant: what was asked for last of a record is what stays.
#pragma once

#include <map>
#include <optional>
#include <string>

#include "core/sync.hpp"
#include "sidecar/anchor/anchor_record.hpp"

namespace sidecar {

class RecordFiles {
public:
    RecordFiles(core::Loop& loop, Paths paths)
        : loop_(loop), paths_(std::move(paths)), turn_(loop) {}

    [[nodiscard]] Paths const& paths() const { return paths_; }
    /// The record as it is at this call. Ends when it is durable. Fails with io.
    core::Task<core::Result<>> write(HomeRecord const& record);
    core::Task<core::Result<>> write(FarRecord const& record);
    /// Also when there is no such record. Fails with io.
    core::Task<core::Result<>> remove(HomeRecord const& record);
    core::Task<core::Result<>> remove(FarRecord const& record);

private:
    using Content = std::optional<std::string>;  ///< None: the record is removed.

    core::Task<core::Result<>> change(std::string path, Content content);
    core::Task<core::Result<>> apply_wanted(std::string path);
    core::Task<core::Result<>> apply(std::string path, Content content);
    core::Task<core::Result<>> sync(std::string path);

    core::Loop& loop_;
    Paths paths_;
    core::Turn turn_;  ///< One file at a time.
    std::map<std::string, Content> wanted_;  ///< By path: what is not durable yet.
};

}  // namespace sidecar
