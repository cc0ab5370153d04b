// What the mirror makes inside the source's QEMU: the NBD server, exports, bitmaps; and how all of
// it goes away again. Used by the mirror and, for deleting exports, by the target. Everything of
// ours is named "sidecar-...", which is how a later sidecar recognises what an earlier one left.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "qmp/block.hpp"

namespace storage {

inline constexpr std::string_view name_prefix = "sidecar-";

/// Deletes exports in QEMU, clients thrown out, and waits for BLOCK_EXPORT_DELETED of each. One
/// that is not there is fine.
core::Task<core::Result<>> delete_exports(core::Loop& loop, qmp::Client& client,
                                          std::vector<std::string> ids, core::Deadline deadline);

/// A bitmap of ours on a node.
struct OwnBitmap {
    std::string node;
    std::string name;
};

class SourceExports {
public:
    SourceExports(core::Loop& loop, qmp::Client& client, std::string directory,
                  std::string migration_id);

    [[nodiscard]] std::string const& socket_path() const { return socket_path_; }
    [[nodiscard]] std::string bitmap_name(unsigned round) const;
    [[nodiscard]] std::string export_id(std::string_view what, std::size_t disk) const;

    /// Removes what an earlier try left, of any migration_id, and says what it was. Refused when
    /// QEMU's NBD server has exports that are not ours.
    core::Task<core::Result<std::vector<std::string>>> clear_leftovers(core::Deadline deadline);
    /// Instead of that, for an earlier try of this very migration_id: keeps the bitmaps of `round`
    /// if they are on all nodes and none is older (they hold all that newer ones do), and removes
    /// the rest. None: it is not so, and nothing was touched.
    core::Task<core::Result<std::optional<unsigned>>> adopt(std::vector<std::string> nodes,
                                                            unsigned round,
                                                            core::Deadline deadline);
    /// The NBD server that an earlier try left, when it is ours: nothing else shall reach the
    /// disks.
    core::Task<core::Result<>> stop_left_server(core::Deadline deadline);
    core::Task<core::Result<>> start_server(std::uint32_t connections_max, core::Deadline deadline);
    /// Ours, if we started it and it has no exports left.
    core::Task<core::Result<>> stop_server(core::Deadline deadline);
    /// The bitmap of `round` on all nodes, in one transaction.
    core::Task<core::Result<>> add_bitmaps(std::vector<std::string> nodes, unsigned round,
                                           core::Deadline deadline);
    core::Task<core::Result<>> remove_bitmaps(std::vector<std::string> nodes, unsigned round,
                                              core::Deadline deadline);
    /// A read-only export called as its id; with `bitmap` it offers qemu:dirty-bitmap:BITMAP,
    /// enabled or not; with `depth` qemu:allocation-depth.
    core::Task<core::Result<>> add_export(std::string id, std::string node, std::string bitmap,
                                          core::Deadline deadline, bool depth = false);
    core::Task<core::Result<>> remove_exports(std::vector<std::string> ids,
                                              core::Deadline deadline);
    /// Every export and bitmap of ours, then the server if we started it.
    core::Task<core::Result<>> remove_all(core::Deadline deadline);

private:
    core::Task<core::Result<>> take_over_server(core::Deadline deadline);
    core::Task<core::Result<>> refuse_foreign_exports(core::Deadline deadline);

    core::Loop& loop_;
    qmp::Client& client_;
    std::string socket_path_;
    std::string migration_id_;
    bool server_started_ = false;
};

/// Ids of exports of ours that QEMU has.
core::Task<core::Result<std::vector<std::string>>> own_exports(qmp::Client& client,
                                                               core::Deadline deadline);
/// Bitmaps of ours that QEMU has.
core::Task<core::Result<std::vector<OwnBitmap>>> own_bitmaps(qmp::Client& client,
                                                             core::Deadline deadline);

}  // namespace storage
