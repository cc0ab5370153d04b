// distance: the cost of a long line. Ours and QEMU's own mirror copy the same disk in turn: first
// all of it, then a delta of scattered blocks. The line is our own program, because this machine's
// kernel has no netem. Without loss it is a relay that delays every byte, so that only the distance
// counts. With loss it carries packets, and TCP is the kernel's.
#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <random>
#include <set>

#include "qmp/block.hpp"
#include "storage/exports.hpp"
#include "storage/limits.hpp"
#include "storage/mirror.hpp"
#include "storage/nbd.hpp"
#include "tests/bench/bare_line.hpp"
#include "tests/bench/bench.hpp"
#include "tests/bench/bulk.hpp"
#include "tests/support/delay_line.hpp"
#include "tests/support/lab.hpp"
#include "tests/support/packet_line.hpp"

namespace bench {

namespace {

using core::Json;
using namespace std::chrono_literals;

constexpr std::uint64_t mib = 1024 * 1024;
/// The first part of the disk is random bytes, the rest holes, so that a delta can be scattered.
constexpr std::uint64_t disk_bytes = 2048 * mib;
constexpr std::uint64_t data_bytes = 256 * mib;
/// For a line that loses packets, on which one TCP connection carries less than 1 MB/s.
constexpr std::uint64_t data_bytes_lossy = 16 * mib;
constexpr std::uint64_t block_bytes = 4096;
constexpr std::size_t delta_blocks = 4096;
constexpr auto copy_limit = std::chrono::minutes(5);
/// A line.
struct Distance {
    std::chrono::milliseconds round_trip;
    double loss;  ///< The share of lost packets.
    bool quick;  ///< Also measured with --quick.
    [[nodiscard]] std::uint64_t data() const { return loss > 0 ? data_bytes_lossy : data_bytes; }
};
constexpr Distance distances[] = {{10ms, 0, false},    {50ms, 0, true},    {100ms, 0, false},
                                  {50ms, 0.001, true}, {50ms, 0.01, true}, {100ms, 0.001, false}};

core::Deadline soon() { return core::Deadline::after(copy_limit); }

double ms_since(core::Clock::time_point begun) {
    return std::chrono::duration<double, std::milli>(core::Clock::now() - begun).count();
}

/// Milliseconds of both parts.
struct Parts {
    double bulk = 0;
    double delta = 0;
};

void fill(lab::fs::path const& image, std::uint64_t data) {
    core::Fd const file(open(image.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600));
    if (!file || ftruncate(file.get(), static_cast<off_t>(disk_bytes)) != 0) {
        throw lab::Failure("cannot make " + image.string());
    }
    std::mt19937_64 random(1);
    std::vector<std::uint64_t> words(mib / sizeof(std::uint64_t));
    for (std::uint64_t at = 0; at < data; at += mib) {
        for (auto& word : words) word = random();
        if (pwrite(file.get(), words.data(), mib, static_cast<off_t>(at)) !=
            static_cast<ssize_t>(mib)) {
            throw lab::Failure("cannot fill " + image.string());
        }
    }
}

constexpr char const* movers[] = {"ours", "mirror", "mirror of 4k"};

core::Task<core::Result<>> write_blocks(storage::Nbd& nbd, storage::Buffers& buffers,
                                        std::byte pattern) {
    CO_TRY(auto buffer, co_await buffers.take(block_bytes, soon()));
    std::ranges::fill(buffer.bytes(), pattern);
    std::mt19937_64 random(2);
    std::set<std::uint64_t> blocks;
    while (blocks.size() < delta_blocks) {
        blocks.insert(random() % (disk_bytes / block_bytes) * block_bytes);
    }
    for (auto const offset : blocks) {
        CO_TRY_VOID(co_await nbd.pwrite(buffer, 0, block_bytes, offset, soon()));
    }
    co_return core::Result<>{};
}

/// Both QEMUs with the line between them.
struct Far {
    Far(core::Loop& loop, std::string const& qemu, lab::fs::path const& directory,
        Distance const& distance)
        : hosts(distance.loss > 0 ? std::make_unique<lab::Lab>() : nullptr),
          pair(loop, qemu, directory, disk_bytes, ends()) {
        if (hosts) {
            packets.emplace(hosts->a().netns, hosts->b().netns, distance.round_trip, distance.loss);
        } else {
            relay.emplace(std::stoi(pair.port()), distance.round_trip);
        }
    }
    ~Far() {
        if (writer) pair.loop().run(writer->close());
    }
    Far(Far const&) = delete;

    /// Writes the same blocks for all movers, with another pattern each time, through `node`, where
    /// a guest's writes would arrive. It uses NBD, because each qemu-io command drains, and the
    /// mirror's drain waits while the line is held.
    void write_delta(std::string const& node) {
        static int pattern = 0;
        pattern = pattern % 255 + 1;
        qmp::NbdExport writable;
        writable.id = writable.name = "writer";
        writable.node = node;
        writable.writable = true;
        pair.must(qmp::block_export_add(pair.source(), writable, soon()));
        writer = pair.must(
            storage::Nbd::connect(pair.loop(), {socket(), "", "", "", ""}, "writer", {}, soon()));
        pair.must(write_blocks(*writer, buffers, static_cast<std::byte>(pattern)));
    }
    /// Deletes the export first: see Nbd::close().
    void end_writer() {
        pair.must(storage::delete_exports(pair.loop(), pair.source(), {"writer"}, soon()));
        pair.loop().run(writer->close());
    }
    [[nodiscard]] std::string socket() const { return pair.directory() + "/nbd.sock"; }
    /// The destination's host as reached through the line.
    [[nodiscard]] std::string host() const {
        return hosts ? lab::PacketLine::far_address : "127.0.0.1";
    }
    [[nodiscard]] std::string port() const {
        return hosts ? pair.port() : std::to_string(relay->port());
    }
    [[nodiscard]] std::string near_netns() const { return hosts ? hosts->a().netns : ""; }
    void hold() { hosts ? packets->hold() : relay->hold(); }
    void release() { hosts ? packets->release() : relay->release(); }

private:
    [[nodiscard]] Ends ends() const {
        if (!hosts) return {};
        return {hosts->a().netns, hosts->b().netns, ""};  // its address is set later
    }
    std::unique_ptr<lab::Lab> hosts;

public:
    BulkPair pair;
    std::optional<lab::PacketLine> packets;
    std::optional<lab::DelayLine> relay;
    storage::Buffers buffers{pair.loop(), mib, 16};
    std::unique_ptr<storage::Nbd> writer;
};

// The delta is the part for which a guest would be stopped: the last bitmap is read, copied and
// flushed.
Parts mirrored(Far& far) {
    BulkPair& pair = far.pair;
    storage::MirrorOptions options;
    options.directory = pair.directory();
    options.migration_id = "distance";
    lab::Visit const converged(far.near_netns());
    storage::Mirror mirror(pair.loop(), pair.source(), {{"d0", "d0", "raw", pair.bytes(), "d0"}},
                           {far.host(), far.port(), "", ""}, options);
    pair.must(mirror.prepare(soon()));
    Parts parts;
    auto begun = core::Clock::now();
    auto const convergence = pair.must(mirror.copy_until_converged(soon()));
    parts.bulk = ms_since(begun);
    if (convergence.delta_bytes != 0) throw lab::Failure("an idle disk has a delta");
    far.write_delta("d0");
    far.end_writer();
    begun = core::Clock::now();
    pair.must(mirror.list_final(soon()));
    pair.must(mirror.copy_final(soon()));
    parts.delta = ms_since(begun);
    auto const copied = mirror.report().disks[0].final_bytes;
    if (copied != delta_blocks * block_bytes) throw lab::Failure("the delta has another size");
    pair.must(mirror.drop(soon()));
    return parts;
}

// The line is held while the delta is written. The mirror copies at once, and so still has all of
// the delta to copy, as ours has. Then, as libvirt does at the switchover: end the job and wait for
// its end.
Parts peer(Far& far, std::uint64_t granularity) {
    BulkPair& pair = far.pair;
    lab::fs::remove(far.socket());
    pair.must(
        qmp::nbd_server_start(pair.source(), {qmp::unix_address(far.socket()), "", 0}, soon()));
    auto events = pair.source().subscribe({"BLOCK_JOB_READY", "BLOCK_JOB_COMPLETED"});
    pair.must(qmp::blockdev_add(pair.source(),
                                Json::object({{"driver", "nbd"},
                                              {"node-name", "there"},
                                              {"server", qmp::inet_address(far.host(), far.port())},
                                              {"export", "d0"}}),
                                soon()));
    auto arguments = Json::object({{"job-id", "m"},
                                   {"device", "d0"},
                                   {"target", "there"},
                                   {"sync", "full"},
                                   {"filter-node-name", "filter"}});
    if (granularity != 0) arguments.set("granularity", Json(granularity));
    Parts parts;
    auto begun = core::Clock::now();
    pair.must(pair.source().execute("blockdev-mirror", arguments, soon()));
    if (pair.must(events.next(soon())).name != "BLOCK_JOB_READY") {
        throw lab::Failure("QEMU's mirror ended early");
    }
    parts.bulk = ms_since(begun);
    far.hold();
    far.write_delta("filter");
    begun = core::Clock::now();
    far.release();
    pair.must(pair.source().execute("block-job-cancel", Json::object({{"device", "m"}}), soon()));
    if (pair.must(events.next(soon())).name != "BLOCK_JOB_COMPLETED") {
        throw lab::Failure("QEMU's mirror did not end");
    }
    parts.delta = ms_since(begun);
    pair.must(
        pair.source().execute("blockdev-del", Json::object({{"node-name", "there"}}), soon()));
    return parts;
}

/// The capacity of the line: the same bytes over as many connections as ours uses.
double bare(Distance const& distance) {
    if (distance.loss == 0) {
        std::optional<lab::DelayLine> relay;
        return bare_line_ms({}, {}, "127.0.0.1", distance.data(), storage::limits::connections_max,
                            [&](int port) {
                                relay.emplace(port, distance.round_trip);
                                return std::pair<std::string, int>("127.0.0.1", relay->port());
                            });
    }
    lab::Lab const hosts;
    lab::PacketLine const packets(hosts.a().netns, hosts.b().netns, distance.round_trip,
                                  distance.loss);
    return bare_line_ms(hosts.a().place(), hosts.b().place(), lab::PacketLine::far_address,
                        distance.data(), storage::limits::connections_max, [&](int port) {
                            return std::pair<std::string, int>(lab::PacketLine::far_address, port);
                        });
}

/// One QEMU and one round trip.
class Situation {
public:
    Situation(std::string qemu, Distance const& distance)
        : name_(fmt::format("{} {} ms {} % lost", qemu, distance.round_trip.count(),
                            distance.loss * 100)),
          qemu_(std::move(qemu)),
          distance_(distance) {
        for (auto const* metric : {"delta", "delta vs 4k", "bulk", "bulk vs 4k"}) {
            rows_.push_back({name_, metric, "ms", {}, {}, {}});
        }
    }
    [[nodiscard]] std::string const& name() const { return name_; }
    [[nodiscard]] std::vector<Row> const& rows() const { return rows_; }

    /// All movers once; each run starts with another one; every byte is compared.
    void run(core::Loop& loop, lab::fs::path const& directory, std::size_t number) {
        Parts parts[std::size(movers)];
        for (std::size_t i = 0; i < std::size(parts); ++i) {
            auto const turn = (i + number) % std::size(parts);
            fill(BulkPair::source_image(directory),
                 distance_.data());  // without the delta of the last copy
            Far far(loop, qemu_, directory, distance_);
            parts[turn] = turn == 0 ? mirrored(far) : peer(far, turn == 1 ? 0 : block_bytes);
            fmt::print(stderr, "{}: {} delta {:.0f} ms, bulk {:.0f} ms\n", name_, movers[turn],
                       parts[turn].delta, parts[turn].bulk);
            far.pair.compare();
        }
        double const line = bare(distance_);
        fmt::print(stderr, "{}: the line alone, bulk {:.0f} ms\n", name_, line);
        for (std::size_t i = 0; i < 2; ++i) {
            rows_[2 + i].floor.push_back(line);
            rows_[i].ours.push_back(parts[0].delta);
            rows_[i].peer.push_back(parts[1 + i].delta);
            rows_[2 + i].ours.push_back(parts[0].bulk);
            rows_[2 + i].peer.push_back(parts[1 + i].bulk);
        }
    }

private:
    std::string name_;
    std::string qemu_;
    Distance distance_;
    std::vector<Row> rows_;
};

}  // namespace

Result distance(Options const& options) {
    auto loop = core::Loop::create();
    if (!loop) throw lab::Failure(loop.error().sentence());
    Directory const directory("/dev/shm");
    Result result{options.runs(runs_full, runs_quick), {}};
    for (auto const* qemu : {"7.2", "10.0"}) {
        for (auto const& distance : distances) {
            if (options.quick && !distance.quick) continue;
            Situation situation(qemu, distance);
            if (!options.wants(situation.name())) continue;
            for (int run = 0; run < result.runs; ++run) {
                situation.run(**loop, directory.path, static_cast<std::size_t>(run));
            }
            for (auto const& row : situation.rows()) result.rows.push_back(row);
        }
    }
    return result;
}

}  // namespace bench
