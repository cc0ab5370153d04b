// What a Mirror has and does, in five files: mirror.cpp (life: prepare, final, drop),
// mirror_rounds.cpp (bulk and rounds), mirror_connect.cpp (connections to the source),
// mirror_verify.cpp (what arrived is what was sent), mirror_report.cpp (progress and report). Used
// by these only.
#pragma once

#include <deque>
#include <span>

#include "storage/copier.hpp"
#include "storage/exports.hpp"
#include "storage/hot_blocks.hpp"
#include "storage/limits.hpp"
#include "storage/mirror.hpp"

namespace storage {

/// Rounded up.
inline core::milliseconds in_ms(core::Clock::duration span) {
    return std::chrono::ceil<core::milliseconds>(span);
}

/// One disk and its connections.
struct MirrorDisk {
    MirrorDisk(core::Loop& loop, Disk disk_)
        : disk(std::move(disk_)), source(loop), target(loop), base(loop), all_read(loop) {
        report.name = disk.name;
        report.virtual_bytes = disk.virtual_bytes;
        report.has_base = disk.layers_above_base > 0;
    }
    /// From that offset on; what is before it has been copied.
    void begin_bulk(std::uint64_t from) {
        bulk.emplace(source, target, from, Layers{disk.layers_above_base, disk.table != nullptr});
        bulk->target_is_zero_before(disk.target_zero_bytes);
    }
    Disk disk;
    NbdPool source;  ///< The disk's data, without bitmaps: open from prepare() to drop().
    std::unique_ptr<Reader> reader;  ///< Over `source`, or the image itself.
    NbdPool target;
    NbdPool base;  ///< Of what was not sent, to be verified: open as `source` is, or never.
    /// One for each of Implementation::rounds: the export of that round's bitmap. Null: not open.
    std::deque<std::unique_ptr<Nbd>> bitmaps;
    CopyCounters counters;
    std::vector<Extent> dirty;  ///< Listed, and not yet given to a copier.
    std::vector<Extent> written;  ///< By the last round, for verify_copied().
    std::vector<Extent> hot;  ///< Those of it that an earlier round found dirty too.
    HotBlocks hot_blocks;
    /// Hot blocks that the last round left to the end: dirty beside what the bitmap holds.
    std::vector<Extent> postponed;
    std::vector<Extent>
        postponing;  ///< What `postponed` becomes when the round under way has ended.
    core::Event all_read;  ///< Of the last delta.
    Copier const* copier = nullptr;  ///< Of the bulk pass, while it runs.
    SkipRedirtied const* fresh = nullptr;  ///< The same.
    std::optional<AllocationScan> bulk;  ///< From the bulk pass's begin to its end.
    core::Clock::time_point bulk_begun{};
    std::uint64_t bulk_left_out_bytes = 0;  ///< Of the bulk pass: dirty already.
    bool bulk_done = false;
    std::uint64_t bulk_flushed_offset = 0;  ///< Of the bulk pass: outlives the destination's QEMU.
    std::uint64_t dirty_bytes_total = 0;  ///< What the rounds found dirty, for progress.
    DiskReport report;
};

/// How fast it goes, as measured.
struct Rates {
    double bytes_per_second = 0;
    double requests_per_second = 0;
    core::Clock::duration flush{};  ///< One flush of all disks at the destination.

    /// A round over all disks has ended.
    void note_round(std::uint64_t bytes, std::uint64_t requests, core::Clock::duration took);
    /// So has the bulk pass, which also looks for what there is to copy: when it was short, that is
    /// what took the time.
    void note(std::uint64_t bytes, std::uint64_t requests, core::Clock::duration took);
    [[nodiscard]] core::Clock::duration copy_time(std::uint64_t bytes,
                                                  std::uint64_t requests) const;
};

/// What the disks owe, as measure() counts it.
struct Delta {
    struct Part {
        std::uint64_t bytes = 0;
        std::uint64_t requests = 0;
        void add(std::vector<Extent> const& extents);
    };
    Part all;
    Part hot;
    Part cold;
    std::uint64_t dirty_bytes = 0;  ///< By the bitmaps alone.
};

/// Which connections to the source are being opened: those of the data, or of the bitmap in `slot`
/// of Implementation::rounds.
struct PendingConnection {
    bool data = false;
    std::size_t slot = 0;
};

/// Where the destination holds what was not sent.
struct Difference {
    std::string disk;
    std::uint64_t offset = 0;
};

/// How far mirror_verify.cpp is.
struct Verification {
    explicit Verification(core::Loop& loop);
    bool whole_begun = false;
    bool whole_verified = false;
    bool identical = false;  ///< The last delta as well.
    std::uint64_t verified_bytes = 0;
    core::Clock::duration whole_took{};
    core::Clock::duration final_took{};
    std::optional<Difference> difference;
    std::string hash;
    core::Semaphore slots;  ///< Requests to the destination.
};

struct Mirror::Implementation {
    Implementation(core::Loop& loop_, qmp::Client& client_, std::vector<Disk> disks_,
                   Destination destination_, MirrorOptions options_);

    [[nodiscard]] core::Result<> check() const;
    [[nodiscard]] std::vector<std::string> nodes() const;
    [[nodiscard]] unsigned connections() const;
    /// Of the base's own export, for --verify.
    [[nodiscard]] static bool reads_base(MirrorDisk const& one);
    [[nodiscard]] std::string bitmap_export(unsigned round, std::size_t disk) const;
    [[nodiscard]] std::string bitmap_context(unsigned round) const;
    [[nodiscard]] CopyCounters counters() const;  ///< Of all disks.

    // Life.
    core::Task<core::Result<>> prepare(core::Deadline deadline);
    void go_on(unsigned round);
    [[nodiscard]] BulkProgress bulk_progress(MirrorDisk const& one) const;
    core::Task<core::Result<>> open_target(std::size_t index, core::Deadline deadline);
    void choose_in_flight();
    core::Task<core::Result<>> learn_iothreads(core::Deadline deadline);
    core::Task<core::Result<>> choose_readers(core::Deadline deadline);
    core::Task<core::Result<>> list_final(core::Deadline deadline);
    core::Task<core::Result<>> copy_final(core::Deadline deadline);
    core::Task<core::Result<>> final_read(core::Deadline deadline);
    core::Task<core::Result<>> finish_disk(std::size_t index, core::Deadline deadline);
    core::Task<core::Result<>> drop(core::Deadline deadline);
    core::Task<void> close_connections();

    // Bulk and rounds.
    core::Task<core::Result<>> bulk(core::Deadline deadline);
    core::Task<core::Result<>> bulk_disk(std::size_t index, core::Deadline deadline);
    core::Task<core::Result<>> copy_bulk(MirrorDisk& one, SkipRedirtied& scan, Copier& copier,
                                         core::Deadline deadline);
    core::Task<core::Result<>> flush_bulk(MirrorDisk& one, std::stop_token copied,
                                          core::Deadline deadline);
    void forget_unflushed();
    core::Task<core::Result<>> reconnect(core::Error lost, core::Deadline deadline);
    core::Task<core::Result<>> reopen_targets(core::Deadline deadline);
    core::Task<core::Result<>> round(core::Deadline deadline);
    core::Task<core::Result<>> rotate(core::Deadline deadline);
    core::Task<core::Result<>> open_bitmaps(std::size_t slot, core::Deadline deadline);
    core::Task<core::Result<>> drop_bitmaps(std::size_t slot, core::Deadline deadline);
    /// What the oldest bitmap says, into MirrorDisk::dirty.
    core::Task<core::Result<>> list_owed(std::size_t index, Nbd& bitmap, std::string context,
                                         core::Deadline deadline);
    core::Task<core::Result<>> copy_round(std::vector<RoundReport>& reports,
                                          core::Deadline deadline);
    /// Leaves hot blocks to the last delta, if all of them fit there; else they come last.
    void put_off_hot(std::vector<RoundReport>& reports);
    [[nodiscard]] bool hot_may_wait(std::uint64_t bytes, std::uint64_t requests) const;
    core::Task<core::Result<>> copy_owed(std::size_t index, RoundReport& report,
                                         core::Deadline deadline);
    core::Task<core::Result<>> copy_last(std::size_t index, RoundReport& report,
                                         core::Deadline deadline);
    core::Task<core::Result<>> run_copier(MirrorDisk& one, Scan& scan, RateLimiter* limit,
                                          RoundReport& report, core::Deadline deadline);
    core::Task<core::Result<>> flush_target(MirrorDisk& one, core::Deadline deadline);
    core::Task<core::Result<>> flush_targets(core::Deadline deadline);
    core::Task<core::Result<>> flush_both(core::Deadline deadline);
    core::Task<core::Result<>> measure(core::Deadline deadline);
    core::Task<core::Result<>> count_dirty(std::size_t index, Delta& delta,
                                           core::Deadline deadline);
    core::Task<core::Result<ConvergenceReport>> copy_until_converged(core::Deadline deadline);
    core::Task<void> keep_converged(std::stop_token stop);
    core::Task<core::Result<>> look_at_delta(core::Deadline deadline);

    // Verification (mirror_verify.cpp).
    [[nodiscard]] bool verifies() const;
    [[nodiscard]] bool verify_owed() const;
    [[nodiscard]] MirrorPhase told_phase() const;
    core::Task<core::Result<>> verify_whole(core::Deadline deadline);
    core::Task<core::Result<>> verify_source(std::size_t index, core::Deadline deadline);
    core::Task<core::Result<>> verify_copied(core::Deadline deadline);
    core::Task<core::Result<>> verify_final(core::Deadline deadline);
    core::Task<core::Result<>> verify_extents(std::size_t index, std::vector<Extent> extents,
                                              core::Deadline deadline);
    core::Task<void> verify_ranges(std::size_t index, std::vector<Extent> ranges,
                                   std::optional<core::Error>& error, core::Deadline deadline);
    core::Task<core::Result<bool>> same_there(std::size_t index, std::vector<Extent> ranges,
                                              core::Deadline deadline);
    core::Task<core::Result<>> find_difference(std::size_t index, std::vector<Extent> ranges,
                                               core::Deadline deadline);
    core::Task<void> digest_tables();

    // Connections to the source (mirror_connect.cpp).
    core::Task<core::Result<>> connect_source(PendingConnection what, core::Deadline deadline);
    core::Task<core::Result<>> connect_one(PendingConnection what, std::size_t disk,
                                           core::Deadline deadline);
    core::Task<void> discard(PendingConnection what);

    // Report.
    [[nodiscard]] Progress progress();

    core::Loop& loop;
    qmp::Client& client;
    Destination destination;
    MirrorOptions options;
    SourceExports exports;
    Buffers buffers;
    RateLimiter pace;
    std::vector<std::unique_ptr<MirrorDisk>> disks;
    /// Numbers of the bitmaps there are, oldest first; there are two only within a round.
    std::deque<unsigned> rounds;
    /// Which of them holds everything that the destination lacks: the oldest, or the other
    /// while the oldest is being removed.
    std::size_t owed_slot = 0;
    core::Event no_round_copies;  ///< Set while no write of a round is in flight.
    std::stop_token keep_converged_stop;  ///< keep_converged()'s.
    bool stop_expected = false;
    unsigned stagnant_rounds = limits::stagnant_rounds_max;
    bool settled = false;  ///< A round has ended since the stop is expected.
    unsigned next_round = 0;
    core::Clock::time_point rotated_at{};
    core::Clock::duration round_trip{};  ///< The longest to the destination, as measured once.
    bool bulk_done = false;
    bool iothread = false;  ///< A disk belongs to an iothread, or may.
    bool listed = false;  ///< list_final() has succeeded.
    bool complete = false;  ///< copy_final() has succeeded.
    bool connected = false;  ///< Connections may exist.
    MirrorPhase phase = MirrorPhase::idle;
    ConvergenceReport convergence;
    Rates rates;
    Verification verification;
    bool regaining = false;
    std::optional<core::Error> link_lost;  ///< The destination did not come back in time.
    unsigned generation = 0;  ///< Of the destination's QEMU.
    unsigned cuts = 0;
    std::optional<core::Error> broken;
    std::vector<std::string> cleared;
    core::Clock::duration final_status{};
    core::Clock::duration final_copy{};
    core::Clock::duration final_flush{};

    struct Sample {
        core::Clock::time_point at;
        std::uint64_t done_bytes;
        std::uint64_t copied_bytes;
    };
    std::deque<Sample> samples;
    Progress told;  ///< What progress() said last: it never goes back.
};

}  // namespace storage
