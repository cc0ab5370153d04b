// Two QEMUs and a mirror between them, and the steps of a migration's disk part. Used by the tests
// of the mirror. During the copy, writes go through the source's node, which marks bitmaps as a
// guest's writes do.
#pragma once

#include <functional>

#include "qmp/block.hpp"
#include "qmp/vm.hpp"
#include "storage/image.hpp"
#include "tests/process/storage_lab.hpp"

namespace storage_lab {

using storage::Mirror;
using storage::Target;

inline constexpr std::uint64_t mib = 1024 * 1024;
inline constexpr std::uint64_t disk_bytes = 64 * mib;
inline constexpr char const* migration_id = "e1";

inline Deadline soon() { return Deadline::after(limit); }

inline std::vector<TestDisk> disks(Directory const& directory, std::string const& side,
                                   std::string const& format, std::size_t count,
                                   bool iothread = false, bool direct = false) {
    std::vector<TestDisk> list;
    for (std::size_t i = 0; i < count; ++i) {
        list.push_back({directory.path(fmt::format("{}{}", side, i)), format, iothread, direct});
    }
    return list;
}

/// The options of a Pair that differ from the default.
struct PairOptions {
    std::string from_format = "raw";
    std::string to_format = "raw";
    /// Makes one disk of `disk_bytes` at each end.
    std::function<void(TestDisk const& from, TestDisk const& to)> make;
    unsigned layers_above_base = 0;  ///< storage::Disk's, of all disks.
};

/// Two QEMUs: one with filled disks, one that waits with empty ones.
class Pair {
public:
    Pair(std::string const& binary, std::string const& format, std::size_t count,
         bool iothread = false, bool tls = false, bool direct = false)
        : from_(disks(directory_, "source", format, count, iothread, direct)),
          to_(disks(directory_, "target", format, count)) {
        for (std::size_t i = 0; i < count; ++i) {
            make_raw(from_[i].path, disk_bytes,
                     {{0, 3 * mib}, {8 * mib + 4096, 12 * mib}, {disk_bytes - 8192, 8192}});
            convert(from_[i].path, format);
            runner_.must(
                storage::create_image(runner_.loop(), to_[i].path, format, disk_bytes, {}, soon()));
        }
        start(binary, tls);
    }
    Pair(std::string const& binary, PairOptions const& options)
        : from_(disks(directory_, "source", options.from_format, 1)),
          to_(disks(directory_, "target", options.to_format, 1)),
          layers_above_base_(options.layers_above_base) {
        options.make(from_[0], to_[0]);
        start(binary, false);
    }
    void start(std::string const& binary, bool tls) {
        source_.emplace(runner_, directory_, binary, TestQemu::Role::source, from_);
        destination_.emplace(runner_, directory_, binary, TestQemu::Role::destination, to_);
        open_target(tls);
    }
    ~Pair() {
        if (mirror_) (void)runner_.loop().run(mirror_->drop(soon()));
    }

    void open_target(bool tls) {
        if (tls) {
            auto const directory = make_psk(directory_, "psk", "sidecar", 'c');
            runner_.must(qmp::object_add(destination_->client(),
                                         core::Json::object({{"qom-type", "tls-creds-psk"},
                                                             {"id", "tls0"},
                                                             {"endpoint", "server"},
                                                             {"dir", directory}}),
                                         soon()));
            where_.psk_username = "sidecar";
            where_.psk_file = directory + "/keys.psk";
        }
        offer();
        int const port = runner_.must(target_->open("127.0.0.1", {}, tls ? "tls0" : "", soon()));
        where_.host = "127.0.0.1";
        where_.port = fmt::format("{}", port);
    }

    /// For MirrorOptions::reexport. Refused during a cut: two re-exports at once would remove each
    /// other's exports.
    Task<Result<storage::Reexported>> reexport(Deadline deadline) {
        if (!target_ || cutting_) {
            co_return core::fail(core::Errc::closed, "the destination is not ready");
        }
        CO_TRY_VOID(co_await target_->reexport(std::move(deadline)));
        co_return storage::Reexported{where_.port, generation_};
    }
    /// Ends all connections to the destination's exports, as a link failure does.
    /// New ones are possible.
    Task<Result<>> cut_connections() {
        cutting_ = true;
        auto done = co_await target_->reexport(soon());
        cutting_ = false;
        co_return done;
    }
    /// The destination's QEMU is killed; another one with the same disks is there a moment later.
    Task<Result<>> replace_destination() {
        target_.reset();
        CO_TRY_VOID(co_await destination_->kill_and_start_another());
        offer();
        CO_TRY(int const port, co_await target_->open("127.0.0.1", {}, "", soon()));
        where_.port = fmt::format("{}", port);
        ++generation_;
        co_return Result<>{};
    }

    storage::Mirror& make_mirror(
        storage::MirrorOptions options = {},
        std::vector<std::shared_ptr<storage::BlockTable>> const& tables = {}) {
        std::vector<storage::Disk> list;
        for (std::size_t i = 0; i < from_.size(); ++i) {
            list.push_back({fmt::format("disk{}", i), TestQemu::node(i), from_[i].format,
                            disk_bytes, fmt::format("disk{}", i),
                            i < tables.size() ? tables[i] : nullptr, layers_above_base_,
                            base_node_});
        }
        if (options.directory.empty()) options.directory = directory_.text();
        if (options.migration_id.empty()) options.migration_id = migration_id;
        mirror_.emplace(runner_.loop(), source_->client(), list, where_, options);
        return *mirror_;
    }

    void write(std::size_t disk, std::string const& line) { runner_.must(source_->io(disk, line)); }
    /// The node from which the base is read when it is verified.
    void set_base_node(std::string node) { base_node_ = std::move(node); }
    void nothing_left() { check_nothing_left(runner_, *source_, directory_); }
    /// Ends both QEMUs and compares every byte of every disk.
    void compare() {
        source_->quit();
        destination_->quit();
        for (std::size_t i = 0; i < from_.size(); ++i) {
            CHECK(same(from_[i].path, from_[i].format, to_[i].path, to_[i].format));
        }
    }

    Runner& runner() { return runner_; }
    TestQemu& source() { return *source_; }
    TestQemu& destination() { return *destination_; }
    Target& target() { return *target_; }
    storage::Destination& where() { return where_; }
    TestDisk const& from(std::size_t i) { return from_[i]; }
    TestDisk const& to(std::size_t i) { return to_[i]; }
    Directory& directory() { return directory_; }

private:
    void offer() {
        std::vector<storage::TargetDisk> offered;
        for (std::size_t i = 0; i < to_.size(); ++i) {
            offered.push_back({TestQemu::node(i), fmt::format("disk{}", i)});
        }
        target_.emplace(runner_.loop(), destination_->client(), offered);
    }

    Directory directory_;
    Runner runner_;
    unsigned generation_ = 0;
    bool cutting_ = false;
    std::vector<TestDisk> from_;
    std::vector<TestDisk> to_;
    unsigned layers_above_base_ = 0;
    std::string base_node_;
    std::optional<TestQemu> source_;
    std::optional<TestQemu> destination_;
    std::optional<Target> target_;
    storage::Destination where_;
    std::optional<Mirror> mirror_;
};

/// Writes like a guest: 4 KiB blocks here and there, each with another pattern, until `stop`.
inline Task<void> write_blocks(TestQemu& qemu, std::size_t count, core::Loop& loop,
                               std::stop_token stop, std::optional<core::Error>& error) {
    std::uint64_t seed = 12345;
    while (!stop.stop_requested() && !error) {
        seed = seed * 6364136223846793005ULL + 1442695040888963407ULL;
        std::size_t const disk = (seed >> 20) % count;
        std::uint64_t const block = (seed >> 33) % (disk_bytes / 4096);
        auto written = co_await qemu.io(
            disk, fmt::format("write -P {} {} 4096", 1 + (seed >> 40) % 255, block * 4096));
        if (!written) error = written.error();
        (void)co_await core::sleep_for(loop, 1ms);
    }
}

/// A writer that runs until `stop`; two tests have their own.
using Writes = Task<void> (*)(TestQemu& qemu, std::size_t count, core::Loop& loop,
                              std::stop_token stop, std::optional<core::Error>& error);

/// The disk part of a migration. The guest writes from before the bulk pass until its STOP.
inline Task<Result<>> whole_move(Pair& pair, Mirror& mirror, std::size_t count,
                                 Writes writer = write_blocks) {
    core::Loop& loop = pair.runner().loop();
    core::TaskGroup scope(loop);
    std::stop_source guest_stops;
    std::optional<core::Error> guest_error;
    CO_TRY_VOID(co_await mirror.prepare(soon()));
    scope.spawn(writer(pair.source(), count, loop, guest_stops.get_token(), guest_error));
    auto converged = co_await mirror.copy_until_converged(soon());
    Result<> armed;
    if (converged) armed = co_await mirror.arm(soon());
    if (converged && armed) {
        std::stop_source enough;
        scope.spawn(mirror.keep_converged(enough.get_token()));
        (void)co_await core::sleep_for(loop, 400ms);
        // STOP: the guest's writes end, then keep_converged is stopped, as the driver does.
        guest_stops.request_stop();
        enough.request_stop();
    }
    guest_stops.request_stop();
    co_await scope.join();
    CO_TRY_VOID(std::move(converged));
    CO_TRY_VOID(std::move(armed));
    if (guest_error) co_return std::unexpected(*guest_error);
    if (mirror.broken()) co_return std::unexpected(*mirror.broken());
    CO_TRY_VOID(co_await mirror.list_final(soon()));
    CO_TRY_VOID(co_await mirror.copy_final(soon()));
    CO_TRY_VOID(co_await pair.target().seal(soon()));
    co_return co_await mirror.drop(soon());
}

/// The same without a guest that writes: only the bulk pass copies.
inline Task<Result<>> quiet_move(Pair& pair, Mirror& mirror) {
    CO_TRY_VOID(co_await mirror.prepare(soon()));
    CO_TRY_VOID(co_await mirror.copy_until_converged(soon()));
    CO_TRY_VOID(co_await mirror.arm(soon()));
    CO_TRY_VOID(co_await mirror.list_final(soon()));
    CO_TRY_VOID(co_await mirror.copy_final(soon()));
    CO_TRY_VOID(co_await pair.target().seal(soon()));
    co_return co_await mirror.drop(soon());
}

}  // namespace storage_lab
