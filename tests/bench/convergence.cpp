// convergence: how long until a constantly written disk has converged, over a link that is not much
// faster than the writing. Ours next to QEMU's blockdev-mirror, in turn. There is no guest. Threads
// of this process write through a writable export of the source's QEMU, so that the rate does not
// depend on how fast a guest is emulated.
#include <fcntl.h>
#include <libnbd.h>
#include <sched.h>
#include <unistd.h>

#include <atomic>
#include <cstdio>
#include <ctime>
#include <latch>
#include <random>
#include <thread>

#include "qmp/block.hpp"
#include "storage/mirror.hpp"
#include "storage/target.hpp"
#include "tests/bench/bench.hpp"
#include "tests/support/lab.hpp"

namespace bench {

using core::Deadline;
using core::Json;

namespace {

constexpr std::uint64_t mib = 1024 * 1024;
constexpr std::uint64_t disk_bytes = 1024 * mib;
/// This much of the disk, from its start, holds random bytes and is written to.
constexpr std::uint64_t span_bytes = 512 * mib;
constexpr std::size_t block_bytes = 4096;
constexpr unsigned writes_per_second = 1500;
/// Writes in flight at once, as in a guest's queue.
constexpr unsigned writers_count = 4;
constexpr std::uint64_t link_mbit = 400;
/// A copy that has not converged by then counts as one that does not converge.
constexpr auto copy_limit = std::chrono::seconds(60);
constexpr auto step_limit = std::chrono::minutes(2);
constexpr int own_runs = 3;

Deadline soon() { return Deadline::after(step_limit); }

/// While this lives, sockets of this thread are made in another network namespace.
class Inside {
public:
    explicit Inside(std::string const& netns)
        : before_(open("/proc/thread-self/ns/net", O_RDONLY | O_CLOEXEC)) {
        core::Fd const there(open(("/run/netns/" + netns).c_str(), O_RDONLY | O_CLOEXEC));
        if (!before_ || !there || setns(there.get(), CLONE_NEWNET) < 0) {
            throw lab::Failure("cannot enter the network namespace " + netns);
        }
    }
    ~Inside() {
        if (setns(before_.get(), CLONE_NEWNET) < 0) std::abort();
    }
    Inside(Inside const&) = delete;

private:
    core::Fd before_;
};

/// Writes random blocks at a steady rate until end().
class Writers {
public:
    /// Returns once all writers are connected: QEMU 10.0 may hang when an NBD handshake ends while
    /// a starting block job drains its node.
    explicit Writers(std::string const& socket) {
        for (unsigned i = 0; i < writers_count; ++i) {
            threads_.emplace_back([this, socket, i] { write(socket, i); });
        }
        connected_.wait();
        begun_ = core::Clock::now();
    }
    ~Writers() { end(); }
    Writers(Writers const&) = delete;

    void end() {
        if (over_.exchange(true)) return;
        for (auto& thread : threads_) thread.join();
        seconds_ = std::chrono::duration<double>(core::Clock::now() - begun_).count();
    }
    /// After end(): the actual rate.
    [[nodiscard]] double rate() const { return static_cast<double>(writes_.load()) / seconds_; }
    /// After end(): throws if a write failed.
    void must_be_good() const {
        if (failed_) throw lab::Failure("the writer's export refused a write");
    }

private:
    void write(std::string const& socket, unsigned number) {
        nbd_handle* nbd = nbd_create();
        bool good = nbd != nullptr && nbd_set_export_name(nbd, "writer") == 0 &&
                    nbd_connect_unix(nbd, socket.c_str()) == 0;
        connected_.count_down();
        std::mt19937_64 random(number);
        std::vector<std::uint64_t> words(block_bytes / sizeof(std::uint64_t));
        timespec next{};
        clock_gettime(CLOCK_MONOTONIC, &next);
        while (good && !over_) {
            for (auto& word : words) word = random();
            auto const at = random() % (span_bytes / block_bytes) * block_bytes;
            good = nbd_pwrite(nbd, words.data(), block_bytes, at, 0) == 0;
            ++writes_;
            next.tv_nsec += 1'000'000'000L * writers_count / writes_per_second;
            next.tv_sec += next.tv_nsec / 1'000'000'000L;
            next.tv_nsec %= 1'000'000'000L;
            // Paces the writes; late writes are made up for.
            clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &next, nullptr);
        }
        if (!good) failed_ = true;
        if (nbd != nullptr) nbd_close(nbd);
    }

    std::latch connected_{writers_count};
    core::Clock::time_point begun_;
    double seconds_ = 0;
    std::atomic<bool> over_ = false;
    std::atomic<bool> failed_ = false;
    std::atomic<std::uint64_t> writes_ = 0;
    std::vector<std::thread> threads_;
};

struct Converged {
    double seconds = 0;
    bool converged = false;
    double write_rate = 0;
};

/// Two QEMUs on two hosts, new for each copy.
class Hosts {
public:
    Hosts(core::Loop& loop, lab::Lab const& net, std::string const& qemu,
          std::string const& directory)
        : loop_(loop), net_(net), directory_(directory) {
        auto const image = directory + "/target.raw";
        lab::fs::remove(image);
        lab::write_file(image, "");
        lab::fs::resize_file(image, disk_bytes);
        from_.emplace(start(qemu, "source", net.a()));
        to_.emplace(start(qemu, "target", net.b()));
        source_ = must(qmp::Client::connect(loop, directory + "/source.qmp", soon()));
        destination_ = must(qmp::Client::connect(loop, directory + "/target.qmp", soon()));
        target_.emplace(loop, *destination_, std::vector<storage::TargetDisk>{{"d0", "d0"}});
        Inside const there(net.b().netns);
        port_ = std::to_string(must(target_->open(net.b().ip4, {}, "", soon())));
    }
    ~Hosts() {
        from_->kill();
        to_->kill();
        loop_.run(source_->close());
        loop_.run(destination_->close());
    }
    Hosts(Hosts const&) = delete;

    Converged ours() {
        storage::MirrorOptions options;
        options.directory = directory_;
        options.migration_id = "bench";
        storage::Mirror mirror(loop_, *source_, {{"d0", "d0", "raw", disk_bytes, "d0"}},
                               {net_.b().ip4, port_, "", ""}, options);
        Inside const here(net_.a().netns);
        must(mirror.prepare(soon()));
        add_writer();
        Writers writers(directory_ + "/nbd.sock");
        auto const begun = core::Clock::now();
        auto const converged = loop_.run(mirror.copy_until_converged(Deadline::after(copy_limit)));
        Converged const result = end(writers, begun, converged && converged->converged);
        if (result.converged) {
            must(mirror.list_final(soon()));
            must(mirror.copy_final(soon()));
        }
        fmt::print(stderr, "  rounds: {}\n", mirror.report().json().dump());
        must(mirror.drop(soon()));
        if (!converged && converged.error().code != core::Errc::timed_out) {
            throw lab::Failure(converged.error().sentence());
        }
        if (result.converged) compare();
        return result;
    }

    Converged mirror(std::uint64_t granularity_bytes) {
        auto const socket = directory_ + "/source.nbd";
        lab::fs::remove(socket);
        must(qmp::nbd_server_start(*source_, {qmp::unix_address(socket), "", 0}, soon()));
        add_writer();
        auto events = source_->subscribe({"BLOCK_JOB_READY", "BLOCK_JOB_COMPLETED"});
        must(qmp::blockdev_add(*source_,
                               Json::object({{"driver", "nbd"},
                                             {"node-name", "there"},
                                             {"server", qmp::inet_address(net_.b().ip4, port_)},
                                             {"export", "d0"}}),
                               soon()));
        auto arguments = Json::object(
            {{"job-id", "m"}, {"device", "d0"}, {"target", "there"}, {"sync", "full"}});
        if (granularity_bytes != 0) arguments.set("granularity", granularity_bytes);
        Writers writers(socket);
        auto const begun = core::Clock::now();
        must(source_->execute("blockdev-mirror", arguments, soon()));
        auto const event = loop_.run(events.next(Deadline::after(copy_limit)));
        if (!event && event.error().code != core::Errc::timed_out) {
            throw lab::Failure(event.error().sentence());
        }
        Converged const result = end(writers, begun, event && event->name == "BLOCK_JOB_READY");
        must(source_->execute("block-job-cancel",
                              Json::object({{"device", "m"}, {"force", !result.converged}}),
                              soon()));
        if (!result.converged) return result;
        (void)must(events.next(soon()));
        compare();
        return result;
    }

private:
    template <class T>
    T must(core::Task<core::Result<T>> task) {
        auto result = loop_.run(std::move(task));
        if (!result) throw lab::Failure(result.error().sentence());
        if constexpr (!std::is_void_v<T>) return std::move(*result);
    }
    lab::Daemon start(std::string const& qemu, std::string const& side, lab::Host const& host) {
        auto const binary = lab::deps() / "bin" / ("qemu-system-x86_64-" + qemu);
        auto const socket = directory_ + "/" + side + ".qmp";
        lab::fs::remove(socket);
        lab::Daemon daemon(
            side,
            {binary, "-M", "none", "-S", "-nodefaults", "-no-user-config", "-display", "none",
             "-qmp", fmt::format("unix:{},server=on,wait=off", socket), "-blockdev",
             fmt::format("driver=raw,node-name=d0,discard=unmap,file.driver=file,file.filename={}/"
                         "{}.raw,file.discard=unmap",
                         directory_, side)},
            {host.netns, {}}, directory_);
        lab::wait_until("QEMU's monitor", lab::command_limit,
                        [&] { return !daemon.running() || lab::listens(daemon.pid(), socket); });
        if (!daemon.running()) throw lab::Failure("QEMU did not start: " + daemon.err());
        return daemon;
    }
    void add_writer() {
        qmp::NbdExport disk;
        disk.id = disk.name = "writer";
        disk.node = "d0";
        disk.writable = true;
        must(qmp::block_export_add(*source_, disk, soon()));
    }
    /// Takes the time first, then ends the writing so that the rest can be copied.
    static Converged end(Writers& writers, core::Clock::time_point begun, bool converged) {
        double const seconds = std::chrono::duration<double>(core::Clock::now() - begun).count();
        writers.end();
        writers.must_be_good();
        return {seconds, converged, writers.rate()};
    }
    /// Compares every byte of the disk. Ends both QEMUs.
    void compare() {
        must(target_->seal(soon()));
        from_->end();
        to_->end();
        lab::must_run({"cmp", directory_ + "/source.raw", directory_ + "/target.raw"}, {},
                      step_limit);
    }

    core::Loop& loop_;
    lab::Lab const& net_;
    std::string directory_;
    std::optional<lab::Daemon> from_;
    std::optional<lab::Daemon> to_;
    std::unique_ptr<qmp::Client> source_;
    std::unique_ptr<qmp::Client> destination_;
    std::optional<storage::Target> target_;
    std::string port_;
};

/// The source's image, in memory; removed at the end.
class Image {
public:
    Image() {
        std::string name = "/dev/shm/sidecar-convergence-XXXXXX";
        if (mkdtemp(name.data()) == nullptr) throw lab::Failure("cannot make " + name);
        directory = name;
        core::Fd const file(
            open((directory + "/source.raw").c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0600));
        if (!file || ftruncate(file.get(), static_cast<off_t>(disk_bytes)) != 0) {
            throw lab::Failure("cannot make the image in " + directory);
        }
        std::mt19937_64 random(1);
        std::vector<std::uint64_t> words(mib / sizeof(std::uint64_t));
        for (std::uint64_t at = 0; at < span_bytes; at += mib) {
            for (auto& word : words) word = random();
            if (pwrite(file.get(), words.data(), mib, static_cast<off_t>(at)) !=
                static_cast<ssize_t>(mib)) {
                throw lab::Failure("cannot fill the image in " + directory);
            }
        }
    }
    ~Image() {
        std::error_code ignored;
        lab::fs::remove_all(directory, ignored);
    }
    Image(Image const&) = delete;
    std::string directory;
};

double told(std::string const& qemu, char const* who, Converged const& result) {
    fmt::print(stderr, "qemu-{} {}: {:.1f} s{}, {:.0f} writes/s\n", qemu, who, result.seconds,
               result.converged ? "" : " and not converged", result.write_rate);
    return result.seconds;
}

}  // namespace

Result convergence(Options const& options) {
    auto loop = core::Loop::create();
    if (!loop) throw lab::Failure(loop.error().sentence());
    Result result{options.runs(own_runs, 1), {}};
    lab::Lab const net(link_mbit);
    Image const image;
    for (std::string const qemu : {"7.2", "10.0"}) {
        if (!options.wants("qemu-" + qemu)) continue;
        Row coarse{"qemu-" + qemu, "vs 64 KiB", "s", {}, {}, {}};
        Row fine{"qemu-" + qemu, "vs 4 KiB", "s", {}, {}, {}};
        Row rate{"qemu-" + qemu, "writes", "1/s", {}, {}, {}};
        for (int run = 0; run < result.runs; ++run) {
            auto const ours = Hosts(**loop, net, qemu, image.directory).ours();
            auto const usual = Hosts(**loop, net, qemu, image.directory).mirror(0);
            auto const small = Hosts(**loop, net, qemu, image.directory).mirror(block_bytes);
            coarse.ours.push_back(told(qemu, "ours", ours));
            coarse.peer.push_back(told(qemu, "mirror", usual));
            fine.ours.push_back(ours.seconds);
            fine.peer.push_back(told(qemu, "mirror, 4 KiB", small));
            rate.ours.push_back(ours.write_rate);
            rate.peer.push_back(usual.write_rate);
        }
        result.rows.insert(result.rows.end(), {coarse, fine, rate});
    }
    return result;
}

}  // namespace bench
