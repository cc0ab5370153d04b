// The commands about disks: nodes, dirty bitmaps, NBD exports. One function for each QMP command,
// with QEMU's name in snake_case; all fail as Client::execute does. `node` is a node-name or a
// device name, as QEMU allows.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "qmp/client.hpp"

namespace qmp {

/// BlockDirtyInfo
struct DirtyBitmap {
    std::string name;
    std::uint64_t granularity_bytes = 0;
    std::uint64_t dirty_bytes = 0;  ///< QEMU's "count".
    bool recording = false;
    bool busy = false;  ///< Exported, or used by a job: nothing can be done with it.
    bool persistent = false;
    bool inconsistent = false;
};

/// A guest's drive with its medium (query-block).
struct BlockDevice {
    std::string device;     ///< -drive id=; empty for -blockdev
    std::string qdev;       ///< Id or QOM path of the guest device; empty: no device uses it.
    /// The node of its image, below any filter; perhaps generated ("#block123"). All below are
    /// empty without medium, and are those of this node.
    std::string node_name;
    std::string top_node;  ///< The node that the device uses: a filter, or the same.
    /// Of the image; QEMU's "json:" form is resolved where it names one local file.
    std::string file_name;
    std::string format;  ///< "raw", "qcow2", ...
    std::uint64_t virtual_bytes = 0;
    bool read_only = false;
    bool removable = false;
    bool inserted = false;
    bool writeback = true;  ///< False: each write of the guest is flushed (cache.writeback=off).
    std::int64_t backing_depth = 0;  ///< Images below this one.
    std::string backing_file;  ///< Empty: none.
    std::uint64_t cluster_bytes = 0;  ///< 0: the format has none.
    bool encrypted = false;
    /// Limits of bytes or operations are set on the device. A filter's are not among them.
    bool throttled = false;
    Json limits;  ///< All of them, as block_set_io_throttle() takes them.
    std::vector<DirtyBitmap> bitmaps;
    std::size_t snapshots = 0;  ///< Internal ones.
};
/// One QMP command, or three if a filter (throttle, copy-on-read, ...) is over an image.
Task<Result<std::vector<BlockDevice>>> query_block(Client& client, Deadline deadline);

/// The iothread (its QOM path) whose thread serves the disk; empty: QEMU's main loop. Asked of the
/// guest device, or of the SCSI controller it hangs on.
Task<Result<std::string>> iothread_of(Client& client, BlockDevice disk, Deadline deadline);
/// The QOM path of what query-block calls `qdev`: an id, or a path already.
std::string device_path(std::string const& qdev);

/// A node of the block graph (query-named-block-nodes flat=true).
struct BlockNode {
    std::string node_name;
    std::string driver;
    std::string file_name;  ///< QEMU's "json:" form is resolved where it names one local file.
    std::string file_name_told;  ///< As QEMU has it: a path only where the node is nothing but that
                                 ///< file in its format, without an offset or a node in between.
    std::uint64_t virtual_bytes = 0;
    bool read_only = false;
    bool cache_direct = false;  ///< O_DIRECT
    std::optional<bool> active;  ///< Told by QEMU 10.0 and later.
    std::vector<DirtyBitmap> bitmaps;
    bool cache_no_flush = false;
    std::string detect_zeroes;  ///< "off", "on", "unmap"
};
Task<Result<std::vector<BlockNode>>> query_named_block_nodes(Client& client, Deadline deadline);

/// One image of a backing chain, and how it is laid out.
struct ImageLayer {
    std::string file_name;  ///< As BlockDevice::file_name.
    std::string format;  ///< "raw", "qcow2", ...; that of a filter is its driver.
    std::uint64_t virtual_bytes = 0;
    std::uint64_t cluster_bytes = 0;  ///< 0: the format has none.
    // Of qcow2; else empty.
    std::string compat;
    std::string compression;
    std::uint64_t refcount_bits = 0;
    bool extended_l2 = false;
    bool lazy_refcounts = false;
};
/// The chain under a node from the node itself down, with its filters: counted as
/// qemu:allocation-depth counts, from 1. Fails with refused when there is no such node.
Task<Result<std::vector<ImageLayer>>> query_backing_chain(Client& client, std::string node,
                                                          Deadline deadline);

Task<Result<>> blockdev_add(Client& client, Json options, Deadline deadline);
Task<Result<>> blockdev_del(Client& client, std::string node_name, Deadline deadline);
/// Each element as blockdev_add takes it; what it does not name gets its default. All of them or
/// none, and no request of a guest is between the first and the last: QEMU drains them together.
Task<Result<>> blockdev_reopen(Client& client, std::vector<Json> options, Deadline deadline);

/// A bitmap by node and name; in exports the {"node", "name"} form, which may be an enabled one.
struct BitmapName {
    std::string node;
    std::string name;
};

struct BitmapAdd {
    std::string node;
    std::string name;
    std::uint32_t granularity_bytes = 0;  ///< 0: QEMU's default (64 KiB or the cluster).
    bool disabled = false;
    bool persistent = false;
};
Task<Result<>> block_dirty_bitmap_add(Client& client, BitmapAdd bitmap, Deadline deadline);
Task<Result<>> block_dirty_bitmap_remove(Client& client, std::string node, std::string name,
                                         Deadline deadline);
Task<Result<>> block_dirty_bitmap_clear(Client& client, std::string node, std::string name,
                                        Deadline deadline);
Task<Result<>> block_dirty_bitmap_enable(Client& client, std::string node, std::string name,
                                         Deadline deadline);
Task<Result<>> block_dirty_bitmap_disable(Client& client, std::string node, std::string name,
                                          Deadline deadline);
/// Adds what `sources` have marked to `target` (a bitmap of `node`).
Task<Result<>> block_dirty_bitmap_merge(Client& client, std::string node, std::string target,
                                        std::vector<BitmapName> sources, Deadline deadline);

/// Actions for transaction(): all happen at one instant, or none.
namespace action {
Json block_dirty_bitmap_add(BitmapAdd const& bitmap);
Json block_dirty_bitmap_remove(std::string const& node, std::string const& name);
Json block_dirty_bitmap_clear(std::string const& node, std::string const& name);
Json block_dirty_bitmap_enable(std::string const& node, std::string const& name);
Json block_dirty_bitmap_disable(std::string const& node, std::string const& name);
Json block_dirty_bitmap_merge(std::string const& node, std::string const& target,
                              std::vector<BitmapName> const& sources);
}  // namespace action
Task<Result<>> transaction(Client& client, std::vector<Json> actions, Deadline deadline);

/// Addresses in QMP's SocketAddress form.
Json unix_address(std::string const& path);
Json inet_address(std::string const& host, std::string const& port);
/// A listening socket given with getfd().
Json fd_address(std::string const& name);
/// The same in the older SocketAddressLegacy form {"type", "data"}, which nbd-server-start takes.
Json legacy_address(Json const& address);

struct NbdServer {
    Json address;  ///< From unix_address(), inet_address(), fd_address().
    std::string tls_creds = {};  ///< Id of a tls-creds object; empty: plaintext.
    std::uint32_t connections_max = 0;  ///< 0: QEMU's default, 100.
};
/// QEMU has one NBD server: refused when it runs already.
Task<Result<>> nbd_server_start(Client& client, NbdServer server, Deadline deadline);
/// Removes all NBD exports with it. QEMU 7.2.22 stands still in it, guest and all, while a client
/// is connected that has not finished negotiating: close ours first, and where strangers may
/// connect delete the exports and leave the server until the guest no longer needs this QEMU.
Task<Result<>> nbd_server_stop(Client& client, Deadline deadline);

struct NbdExport {
    std::string id;
    std::string node;
    std::string name;  ///< What NBD clients ask for.
    bool writable = false;
    /// Each as {"node", "name"}, or by name alone when `node` is empty.
    std::vector<BitmapName> bitmaps = {};
    bool allocation_depth = false;
    std::string iothread = {};  ///< Empty: the thread the node is in.
    bool writethrough = false;
};
Task<Result<>> block_export_add(Client& client, NbdExport nbd_export, Deadline deadline);
enum class ExportRemoval {
    safe,  ///< Refused while clients are connected.
    hard,  ///< Clients are thrown out.
};
/// Returns when QEMU has begun; wait for BLOCK_EXPORT_DELETED {"id"} (subscribe before) for its
/// end.
Task<Result<>> block_export_del(Client& client, std::string id, ExportRemoval mode,
                                Deadline deadline);

struct BlockExport {
    std::string id;
    std::string type;
    std::string node_name;
    bool shutting_down = false;
};
Task<Result<std::vector<BlockExport>>> query_block_exports(Client& client, Deadline deadline);

/// Sets all limits of a guest's disk: {"bps", "iops_wr", "bps_wr_max", "group", ...}; what is not
/// named is not limited. `qdev`: BlockDevice::qdev.
Task<Result<>> block_set_io_throttle(Client& client, std::string qdev, Json limits,
                                     Deadline deadline);

struct BlockStats {
    std::string qdev;  ///< Empty: no device of the guest uses it.
    std::uint64_t written_bytes = 0;  ///< By the guest, since it began.
};
Task<Result<std::vector<BlockStats>>> query_blockstats(Client& client, Deadline deadline);

}  // namespace qmp
