// SourceDisks: the source's half of moving the guest's disks. It drives storage::Mirror, passes the
// mirror's requests to the destination, throttles a guest that writes too fast, and records the
// progress of the copy. SourceMigration calls it, mostly one function for one action of the
// machine. All of these are idempotent, and do nothing for a guest without disks.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "core/priority.hpp"
#include "core/sync.hpp"
#include "sidecar/migration/copy_record.hpp"
#include "sidecar/migration/migration_record.hpp"
#include "sidecar/migration/source_context.hpp"
#include "sidecar/migration/throttle.hpp"
#include "sidecar/migration/verify_tables.hpp"
#include "storage/mirror.hpp"

namespace sidecar {

class SourceDisks {
public:
    template <class T = void>
    using Outcome = core::Task<core::Result<T>>;

    /// `record` must outlive it.
    SourceDisks(SourceContext context, MigrationRecord& record)
        : context_(context), record_(record), tables_(context), copy_record_(context) {}

    /// The files for --verify; see VerifyTables.
    core::Result<> make_tables() { return tables_.make(); }
    void remove_tables() const { tables_.remove(); }
    /// Whether an earlier sidecar left a copy that prepare() will continue.
    bool find_copy();
    /// The ports of the destination's QEMU: its answer to `prepare` and `reexport`. Fails with
    /// protocol if they do not fit the disks.
    core::Result<> take_endpoints(protocol::Endpoints endpoints);
    [[nodiscard]] protocol::Endpoints const& endpoints() const { return endpoints_; }
    /// Makes the mirror and prepares it. Fails as Mirror::prepare(), and with refused if the disks
    /// differ from the description.
    Outcome<> prepare();
    /// Copies until the disks have converged. Fails with refused if the guest was changed, or if it
    /// writes too fast and may not be slowed further; otherwise as Mirror::copy_until_converged().
    Outcome<> copy();
    /// Whether the link to the destination ended the last copy().
    [[nodiscard]] bool link_down() const { return link_down_; }
    /// Whether this process runs at a lower priority than others, so that the copy does not slow
    /// the guest. copy() restores the priority if the copy is too slow.
    void give_way(bool whether);
    /// Records the progress of the copy. Only in the copying phase; see CopyRecord.
    void write_copy_record();
    void remove_copy_record() const { copy_record_.remove(); }
    /// QEMU reported a block job.
    void note_block_job(std::string id) { block_job_ = std::move(id); }
    /// Fails with refused if a block job ran and a disk has a base.
    [[nodiscard]] core::Result<> check_no_block_job() const;
    /// Before RAM begins; see Mirror::arm().
    Outcome<> arm();
    /// While RAM converges, until `stop`; see Mirror::keep_converged().
    core::Task<void> keep_converged(std::stop_token stop);
    /// The last delta, while the guest is stopped; see the functions of Mirror.
    Outcome<> list_final();
    Outcome<> copy_final();
    Outcome<> final_read();
    /// Removes the mirror and the throttle from QEMU, also those of an earlier sidecar. Fails with
    /// the first error.
    Outcome<> drop(core::Deadline deadline);
    /// Removes only the mirror, for a QEMU that is about to be ended. Best effort.
    core::Task<void> drop_mirror(core::Deadline deadline);

    struct Shares {
        std::uint64_t disks;  ///< Bytes per second; 0: no limit.
        std::uint64_t ram;
    };
    /// How disks and RAM share --bandwidth. `ram_flows`: RAM has begun, or does now.
    [[nodiscard]] Shares bandwidth_shares(bool ram_flows) const;
    void set_bandwidth(std::uint64_t bytes_per_second);
    /// The downtime limit in the options has changed.
    void downtime_limit_changed();

    /// Null before prepare() and for a guest without disks.
    [[nodiscard]] storage::Mirror* mirror() const { return mirror_.get(); }
    /// The write limit of all disks together; none: they are not throttled.
    [[nodiscard]] std::optional<std::uint64_t> throttle() const;

private:
    /// Where QEMU makes the socket of its NBD server.
    [[nodiscard]] core::Result<std::string> sockets() const;
    [[nodiscard]] storage::MirrorOptions mirror_options();
    core::Task<void> watch_guest(core::LinkedStop& copying);
    Outcome<> copy_until_converged(std::stop_token token);
    Outcome<storage::Reexported> reexport(core::Deadline deadline);
    Outcome<std::string> hash_destination(std::size_t disk, std::vector<storage::Extent> ranges,
                                          core::Deadline deadline);
    Outcome<> remove_throttle(core::Deadline deadline);

    SourceContext context_;
    MigrationRecord& record_;
    VerifyTables tables_;
    CopyRecord copy_record_;
    protocol::Endpoints endpoints_;
    std::unique_ptr<storage::Mirror> mirror_;
    std::optional<Throttle> throttle_;
    std::optional<core::ScopedNice> nice_;
    std::optional<storage::CopyProgress> resume_;  ///< Of an earlier sidecar's copy.
    std::string block_job_;  ///< A job that began since the check.
    std::optional<core::Error> changed_;  ///< The change of the guest that ends the copy.
    bool link_down_ = false;
    bool hash_asked_ = false;
    bool final_hash_asked_ = false;
};

}  // namespace sidecar
