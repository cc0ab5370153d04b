// bulk: how fast an idle disk is copied from one QEMU to another, ours next to the programs in use
// today. They run in turn, so that other load on the machine affects all alike.
#include "tests/bench/bulk.hpp"

#include <fcntl.h>
#include <unistd.h>

#include <array>
#include <cstdio>
#include <random>

#include "storage/mirror.hpp"
#include "tests/bench/bench.hpp"

namespace bench {

namespace {

constexpr std::uint64_t mib = 1024 * 1024;
constexpr std::uint64_t gib = 1024 * mib;
/// The length of each data area and hole, for the disk that is half of each.
constexpr std::uint64_t run_bytes = 16 * mib;
constexpr auto copy_limit = std::chrono::minutes(5);

/// A disk's contents, and the encryption of its copy.
struct Contents {
    char const* name;
    std::uint64_t bytes;
    bool holes;
    bool encrypted;
};
constexpr Contents contents[] = {
    {"half", 4 * gib, true, false}, {"full", 2 * gib, false, false}, {"tls", 2 * gib, false, true}};

struct Where {
    char const* name;
    char const* parent;
};
constexpr Where paths[] = {{"memory", "/dev/shm"}, {"disk", LAB_SOURCE_DIRECTORY "/build"}};

void fill(lab::fs::path const& image, Contents const& what, std::uint64_t bytes) {
    core::Fd const file(open(image.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600));
    if (!file || ftruncate(file.get(), static_cast<off_t>(bytes)) != 0) {
        throw lab::Failure("cannot make " + image.string());
    }
    std::mt19937_64 random(1);
    std::vector<std::uint64_t> words(mib / sizeof(std::uint64_t));
    for (std::uint64_t at = 0; at < bytes; at += mib) {
        if (what.holes && at / run_bytes % 2 == 1) continue;
        for (auto& word : words) word = random();
        if (pwrite(file.get(), words.data(), mib, static_cast<off_t>(at)) !=
            static_cast<ssize_t>(mib)) {
            throw lab::Failure("cannot fill " + image.string());
        }
    }
}

/// The largest size that fits: source and destination, and as much again for others.
std::uint64_t bytes_that_fit(lab::fs::path const& parent, std::uint64_t bytes) {
    while (lab::fs::space(parent).available < 4 * bytes && bytes > 64 * mib) bytes /= 2;
    return bytes;
}

/// The peak memory of this process since reset(), in MiB.
struct PeakMemory {
    static void reset() { lab::write_file("/proc/self/clear_refs", "5"); }
    static double mib_since() {
        auto const text = lab::read_file("/proc/self/status");
        auto const at = text.find("VmHWM:");
        return at == std::string::npos ? 0 : std::atof(text.c_str() + at + 6) / 1024;
    }
};

// The program's own copier, in this process. Its time includes the flush, as the peers' does.
Copied mirrored(BulkPair& pair, bool images_by_nbd) {
    auto const deadline = core::Deadline::after(copy_limit);
    storage::MirrorOptions options;
    options.directory = pair.directory();
    options.migration_id = "bench";
    options.images_by_nbd = images_by_nbd;
    storage::Mirror mirror(pair.loop(), pair.source(), {{"d0", "d0", "raw", pair.bytes(), "d0"}},
                           pair.target(), options);
    PeakMemory::reset();
    pair.must(mirror.prepare(deadline));
    auto const begun = core::Clock::now();
    auto const converged = pair.must(mirror.copy_until_converged(deadline));
    double const seconds = std::chrono::duration<double>(core::Clock::now() - begun).count();
    double const rss = PeakMemory::mib_since();
    if (!converged.converged) throw lab::Failure("an idle disk did not become converged");
    pair.must(mirror.drop(deadline));
    Copied copied;
    copied.seconds = seconds;
    copied.rss_mib = rss;
    return copied;
}

struct Mover {
    char const* name;
    Copied (*copy)(BulkPair&);
};
constexpr Mover ours{"ours", [](BulkPair& pair) { return mirrored(pair, false); }};
constexpr Mover peers[] = {{"nbdcopy", [](BulkPair& pair) { return pair.nbdcopy(); }},
                           {"convert", [](BulkPair& pair) { return pair.convert(); }},
                           {"mirror", [](BulkPair& pair) { return pair.mirror(); }},
                           {"ours by NBD", [](BulkPair& pair) { return mirrored(pair, true); }}};

/// One situation. For each peer there is a row of speed and one of processor time. One row compares
/// the processor time of our loop with that of the loop of the destination's QEMU. One row is
/// memory.
class Situation {
public:
    Situation(std::string name, std::string qemu, std::uint64_t bytes, bool encrypted)
        : name_(std::move(name)),
          qemu_(std::move(qemu)),
          bytes_(bytes),
          encrypted_(encrypted),
          loops_{name_, "cpu loops", "ms/GB", {}, {}, {}},
          memory_{name_, "peak rss", "MiB", {}, {}, {}} {
        for (auto const& peer : peers) {
            rates_.push_back({name_, std::string("vs ") + peer.name, "MB/s", {}, {}, {}});
            costs_.push_back({name_, std::string("cpu ") + peer.name, "ms/GB", {}, {}, {}});
        }
    }

    /// A copy that is compared but not measured. It also makes the machine provide its memory,
    /// which costs the first process that touches it.
    void warm_up(core::Loop& loop, lab::fs::path const& directory) {
        BulkPair pair(loop, qemu_, directory, bytes_, {.encrypted = encrypted_});
        (void)ours.copy(pair);
        pair.compare();
    }
    /// Each of the movers once; each run starts with another one.
    void run(core::Loop& loop, lab::fs::path const& directory, std::size_t number) {
        constexpr auto count = std::size(peers) + 1;
        std::array<Copied, count> copied;
        for (std::size_t i = 0; i < count; ++i) {
            auto const turn = (i + number) % count;
            copied[turn] = copy(loop, directory, turn == 0 ? ours : peers[turn - 1]);
        }
        loops_.ours.push_back(copied[0].own_cpu_seconds * 1000 / gigabytes());
        loops_.peer.push_back(copied[0].target_loop_seconds * 1000 / gigabytes());
        memory_.ours.push_back(copied[0].rss_mib);
        memory_.peer.push_back(copied[1].rss_mib);
        for (std::size_t i = 0; i < std::size(peers); ++i) {
            rates_[i].ours.push_back(rate(copied[0]));
            rates_[i].peer.push_back(rate(copied[i + 1]));
            costs_[i].ours.push_back(cost(copied[0]));
            costs_[i].peer.push_back(cost(copied[i + 1]));
        }
    }
    void add_rows(std::vector<Row>& rows) const {
        rows.insert(rows.end(), rates_.begin(), rates_.end());
        rows.insert(rows.end(), costs_.begin(), costs_.end());
        rows.push_back(loops_);
        rows.push_back(memory_);
    }

private:
    [[nodiscard]] double gigabytes() const { return static_cast<double>(bytes_) / 1e9; }
    [[nodiscard]] double rate(Copied const& copied) const {
        return gigabytes() * 1000 / copied.seconds;
    }
    [[nodiscard]] double cost(Copied const& copied) const {
        return copied.cpu_seconds * 1000 / gigabytes();
    }
    Copied copy(core::Loop& loop, lab::fs::path const& directory, Mover const& mover) {
        BulkPair pair(loop, qemu_, directory, bytes_, {.encrypted = encrypted_});
        double const before = pair.cpu_seconds();
        double const own_before = BulkPair::own_cpu_seconds();
        double const loop_before = pair.target_loop_seconds();
        auto copied = mover.copy(pair);
        copied.cpu_seconds = pair.cpu_seconds() - before;
        copied.own_cpu_seconds = BulkPair::own_cpu_seconds() - own_before;
        copied.target_loop_seconds = pair.target_loop_seconds() - loop_before;
        fmt::print(stderr, "{}: {} {:.0f} MB/s, {:.0f} ms/GB, {:.0f} MiB\n", name_, mover.name,
                   rate(copied), cost(copied), copied.rss_mib);
        return copied;
    }

    std::string name_;
    std::string qemu_;
    std::uint64_t bytes_;
    bool encrypted_;
    std::vector<Row> rates_;
    std::vector<Row> costs_;
    Row loops_;
    Row memory_;
};

}  // namespace

Result bulk(Options const& options) {
    auto loop = core::Loop::create();
    if (!loop) throw lab::Failure(loop.error().sentence());
    Result result{options.runs(runs_full, runs_quick), {}};
    for (auto const& where : paths) {
        for (auto const& what : contents) {
            Directory const directory(where.parent);
            auto const bytes =
                bytes_that_fit(where.parent, options.quick ? what.bytes / 2 : what.bytes);
            std::vector<Situation> situations;
            for (std::string const qemu : {"7.2", "10.0"}) {
                auto const name = fmt::format("{} {} {}", qemu, where.name, what.name);
                if (options.wants(name)) situations.emplace_back(name, qemu, bytes, what.encrypted);
            }
            if (situations.empty()) continue;
            fill(BulkPair::source_image(directory.path), what, bytes);
            for (auto& one : situations) one.warm_up(**loop, directory.path);
            for (int run = 0; run < result.runs; ++run) {
                auto const number = static_cast<std::size_t>(run);
                for (auto& one : situations) one.run(**loop, directory.path, number);
            }
            for (auto const& one : situations) one.add_rows(result.rows);
        }
    }
    return result;
}

}  // namespace bench
