// The mirror of a real QEMU's disks into faulty destinations: nbdkit with its fault filters. A
// failure ends with a sentence that names the disk and says what to do; a slow destination
// succeeds. In both cases the guest sees no error, and nothing of ours is left in its QEMU.
#include <poll.h>
#include <unistd.h>

#include <cerrno>
#include <random>

#include "core/stream.hpp"
#include "storage/limits.hpp"
#include "tests/process/storage_lab.hpp"

namespace storage_bad_destinations_cases {

using namespace storage_lab;
using storage::Mirror;

namespace {

constexpr std::uint64_t mib = 1024 * 1024;
constexpr std::uint64_t disk_bytes = 64 * mib;
/// Of data in each of the source's disks.
constexpr std::uint64_t data_bytes = 15 * mib;
/// Slow enough that a test can act in the middle of the bulk pass.
constexpr std::uint64_t unhurried_bytes_per_second = 16 * mib;
/// Blocks that the guest writes while the disks are kept converged.
constexpr std::size_t near_blocks = 100;

Deadline soon() { return Deadline::after(limit); }

/// When a fault is switched on.
enum class Moment { from_the_start, bulk, converged, last_delta, never };

/// A QEMU with filled disks, a guest that writes, and an NBD server as the destination.
class Scene {
public:
    explicit Scene(std::string const& binary, std::size_t count = 1) {
        for (std::size_t i = 0; i < count; ++i) {
            from_.push_back({directory_.path(fmt::format("source{}", i)), "raw"});
            make_raw(from_[i].path, disk_bytes, {{0, 3 * mib}, {8 * mib, data_bytes - 3 * mib}});
            make_raw(to(i), disk_bytes, {});
        }
        source_.emplace(runner_, directory_, binary, TestQemu::Role::source, from_);
        guest_.emplace(runner_.loop(), *source_, count, disk_bytes);
    }
    ~Scene() {
        runner_.loop().run(guest_->stop());
        if (mirror_) (void)runner_.loop().run(mirror_->drop(soon()));
    }

    /// nbdkit over the first disk's file: `filters`, then their parameters.
    void serve(std::vector<std::string> filters, std::vector<std::string> const& words) {
        filters.insert(filters.end(), {"file", to(0)});
        filters.insert(filters.end(), words.begin(), words.end());
        server_.emplace(Server::nbdkit_tcp(directory_, std::move(filters)));
    }
    void serve_with(Server server) { server_.emplace(std::move(server)); }

    Mirror& make_mirror(storage::MirrorOptions options = {}) {
        std::vector<storage::Disk> list;
        for (std::size_t i = 0; i < from_.size(); ++i) {
            auto const name = fmt::format("disk{}", i);
            list.push_back({name, TestQemu::node(i), "raw", disk_bytes, name});
        }
        options.directory = directory_.text();
        options.migration_id = "e1";
        // An error from a server that answers is not a cut of the link.
        options.reexport = [this](Deadline) { return reexported(renewals_); };
        mirror_.emplace(runner_.loop(), source_->client(), list, server_->destination(), options);
        return *mirror_;
    }
    /// Switches on the faults of the filters that have an error-file.
    void break_it() { lab::write_file(trigger(), ""); }
    void mend_it() { lab::fs::remove(trigger()); }

    /// The source has nothing of the mirror left, and its guest keeps writing.
    void check_unharmed() {
        runner_.must(mirror_->drop(soon()));
        check_nothing_left(runner_, *source_, directory_);
        guest_->start();
        runner_.must(guest_->wait_for(near_blocks));
        runner_.loop().run(guest_->stop());
        CHECK_FALSE(guest_->error());
        CHECK(renewals_ == 0);
    }
    /// Ends both sides and compares every byte.
    void check_equal() {
        CHECK_FALSE(guest_->error());
        check_nothing_left(runner_, *source_, directory_);
        CHECK(renewals_ == 0);
        source_->quit();
        CHECK(server_->daemon().end() == 0);
        for (std::size_t i = 0; i < from_.size(); ++i) {
            CHECK(same(from_[i].path, "raw", to(i), "raw"));
        }
    }

    Runner& runner() { return runner_; }
    core::Loop& loop() { return runner_.loop(); }
    TestQemu& source() { return *source_; }
    Writer& guest() { return *guest_; }
    Mirror& mirror() { return *mirror_; }
    Directory const& directory() { return directory_; }
    [[nodiscard]] std::string to(std::size_t i) const {
        return directory_.path(fmt::format("target{}", i));
    }
    [[nodiscard]] std::string trigger() const { return directory_.path("trigger"); }

private:
    static Task<Result<storage::Reexported>> reexported(int& count) {
        ++count;
        co_return storage::Reexported{};
    }
    Directory directory_;
    Runner runner_;
    std::vector<TestDisk> from_;
    std::optional<TestQemu> source_;
    std::optional<Writer> guest_;
    std::optional<Server> server_;
    std::optional<Mirror> mirror_;
    int renewals_ = 0;
};

/// From the pass that converges the disks until the guest stops.
Task<Result<>> keep_converged(Scene& scene) {
    Mirror& mirror = scene.mirror();
    std::stop_source enough;
    core::TaskGroup scope(scene.loop());
    scope.spawn(mirror.keep_converged(enough.get_token()));
    auto const waited = co_await scene.guest().wait_for(near_blocks);
    co_await scene.guest().stop();
    enough.request_stop();
    co_await scope.join();
    CO_TRY_VOID(waited);
    // One block, so that the last delta is never empty.
    co_return co_await scene.source().io(0, "write -P 99 4096 4096");
}

Task<Result<>> copy(Scene& scene, Moment moment) {
    Mirror& mirror = scene.mirror();
    if (moment == Moment::from_the_start) scene.break_it();
    CO_TRY_VOID(co_await mirror.prepare(soon()));
    CO_TRY_VOID(co_await mirror.copy_until_converged(soon()));
    CO_TRY_VOID(co_await mirror.arm(soon()));
    if (moment == Moment::converged) scene.break_it();
    CO_TRY_VOID(co_await keep_converged(scene));
    if (mirror.broken()) co_return std::unexpected(*mirror.broken());
    CO_TRY_VOID(co_await mirror.list_final(soon()));
    if (moment == Moment::last_delta) scene.break_it();
    CO_TRY_VOID(co_await mirror.copy_final(soon()));
    co_return co_await mirror.drop(soon());
}

Task<void> break_in_the_middle(Scene& scene, std::stop_token stop) {
    while (scene.mirror().progress().copied_bytes < data_bytes / 3 && !stop.stop_requested()) {
        (void)co_await core::sleep_for(scene.loop(), 1ms);
    }
    scene.break_it();
}

/// The disks' part of a migration, with a guest that writes from its begin until it stops.
Task<Result<>> move(Scene& scene, Moment moment) {
    core::TaskGroup scope(scene.loop());
    std::stop_source over;
    scene.guest().start();
    if (moment == Moment::bulk) scope.spawn(break_in_the_middle(scene, over.get_token()));
    auto copied = co_await copy(scene, moment);
    over.request_stop();
    co_await scope.join();
    co_await scene.guest().stop();
    co_return copied;
}

storage::MirrorOptions unhurried() {
    storage::MirrorOptions options;
    options.bandwidth_bytes_per_second = unhurried_bytes_per_second;
    return options;
}

/// The error names the disk, and says what to do.
void check_sentence(core::Error const& error, std::string const& disk, std::string const& advice) {
    auto const sentence = error.sentence();
    INFO(sentence);
    CHECK(sentence.find("disk " + disk) != std::string::npos);
    CHECK(sentence.find(advice) != std::string::npos);
}

struct Fault {
    char const* name;
    int os;
    char const* rate;
    Moment moment;
    char const* advice;
};
constexpr char const* make_room = "make room there and start again";
constexpr char const* look_there = "look at its QEMU and disk";
constexpr Fault faults[] = {
    {"EIO", EIO, "10%", Moment::from_the_start, look_there},
    {"EIO", EIO, "100%", Moment::bulk, look_there},
    {"EIO", EIO, "100%", Moment::converged, look_there},
    {"EIO", EIO, "100%", Moment::last_delta, look_there},
    {"ENOSPC", ENOSPC, "10%", Moment::from_the_start, make_room},
    {"ENOSPC", ENOSPC, "100%", Moment::bulk, make_room},
    {"ENOSPC", ENOSPC, "100%", Moment::last_delta, make_room},
    {"EPERM", EPERM, "100%", Moment::bulk, look_there},
    {"ENOMEM", ENOMEM, "100%", Moment::bulk, look_there},
    {"ESHUTDOWN", ESHUTDOWN, "100%", Moment::bulk, look_there},
};

std::string name(Moment moment) {
    constexpr char const* names[] = {"from the start", "in the bulk pass", "once converged",
                                     "in the last delta", "never"};
    return names[static_cast<std::size_t>(moment)];
}

/// Copies into a destination that always fails; checks the error and what is left.
core::Error must_fail(Scene& scene, Moment moment, std::string const& disk,
                      std::string const& advice) {
    auto error = scene.runner().must_fail(move(scene, moment));
    check_sentence(error, disk, advice);
    CHECK(error.code == core::Errc::nbd);
    scene.check_unharmed();
    return error;
}

/// Controls the pause filter through its socket.
Task<Result<>> control(core::Loop& loop, std::string socket, char letter) {
    CO_TRY(auto const fd, co_await core::connect_unix(loop, socket, soon()));
    CO_TRY(int const writable, co_await loop.poll(fd.get(), POLLOUT, soon()));
    bool ok = (writable & POLLOUT) != 0 && ::write(fd.get(), &letter, 1) == 1;
    CO_TRY_VOID(co_await loop.poll(fd.get(), POLLIN, soon()));
    char answer = 0;
    ok = ok && ::read(fd.get(), &answer, 1) == 1 && answer == letter - 'a' + 'A';
    if (!ok) co_return core::fail(core::Errc::protocol, "the pause filter does not answer");
    co_return Result<>{};
}

/// What happened while the destination did not answer.
struct Pause {
    Result<> result;
    std::uint64_t copied_before = 0;
    std::uint64_t copied_after = 0;
};

Task<Result<>> pause_at_a_third(Scene& scene, std::string socket, Pause& pause) {
    Mirror& mirror = scene.mirror();
    while (mirror.progress().copied_bytes < data_bytes / 3) {
        CO_TRY_VOID(co_await core::sleep_for(scene.loop(), 1ms));
    }
    CO_TRY_VOID(co_await control(scene.loop(), socket, 'p'));
    CO_TRY_VOID(co_await scene.guest().wait_for(near_blocks));  // the last answers arrive
    pause.copied_before = mirror.progress().copied_bytes;
    CO_TRY_VOID(co_await scene.guest().wait_for(near_blocks));
    pause.copied_after = mirror.progress().copied_bytes;
    co_return Result<>{};
}

Task<void> pause_and_release(Scene& scene, std::string socket, Pause& pause) {
    pause.result = co_await pause_at_a_third(scene, socket, pause);
    auto released = co_await control(scene.loop(), socket, 'r');
    if (pause.result) pause.result = std::move(released);
}

Task<void> pause_and_stop(Scene& scene, std::string socket, Pause& pause, std::stop_source& stop) {
    pause.result = co_await pause_at_a_third(scene, socket, pause);
    stop.request_stop();
}

Task<Result<>> move_beside_pause(Scene& scene, std::string socket, Pause& pause) {
    core::TaskGroup scope(scene.loop());
    scope.spawn(pause_and_release(scene, socket, pause));
    auto moved = co_await move(scene, Moment::never);
    co_await scope.join();
    co_return moved;
}

Task<Result<storage::ConvergenceReport>> stopped_in_pause(Scene& scene, std::string socket,
                                                          Pause& pause,
                                                          core::Clock::time_point& stopped_at) {
    CO_TRY_VOID(co_await scene.mirror().prepare(soon()));
    scene.guest().start();
    std::stop_source stop;
    std::stop_callback const note(stop.get_token(), [&] { stopped_at = core::Clock::now(); });
    core::TaskGroup scope(scene.loop());
    scope.spawn(pause_and_stop(scene, socket, pause, stop));
    auto converged =
        co_await scene.mirror().copy_until_converged(Deadline::after(limit, stop.get_token()));
    co_await scope.join();
    co_await scene.guest().stop();
    co_return converged;
}

/// nbdkit's eval plugin over all disks' files. The shell command `refuses` runs before each write.
Server made_of_shell(Scene& scene, std::string const& refuses) {
    scene.guest().set_pause(20ms);  // each write starts three processes there
    auto const file = scene.to(0).substr(0, scene.to(0).size() - 1) + "${2#disk}";
    return Server::nbdkit_tcp(
        scene.directory(),
        {"eval", "open=echo $3", fmt::format("get_size=echo {}", disk_bytes), "can_write=exit 0",
         "can_flush=exit 0", "can_multi_conn=exit 0",
         fmt::format("pread=dd bs=1M iflag=skip_bytes,count_bytes skip=$4 count=$3 if={} "
                     "status=none",
                     file),
         fmt::format("pwrite=if {}; then echo EIO broken >&2; exit 1; fi; "
                     "dd bs=1M iflag=fullblock oflag=seek_bytes seek=$4 conv=notrunc of={} "
                     "status=none",
                     refuses, file),
         "flush=exit 0"});
}

/// nbdkit over the first disk's file; its flush fails while the trigger file exists.
Server with_flush_fault(Scene& scene) {
    auto const fault = lab::fs::read_symlink("/proc/self/exe").parent_path() / "flush-fault.so";
    REQUIRE(lab::fs::exists(fault));
    return Server::nbdkit_tcp(
        scene.directory(), {"file", scene.to(0)},
        {"env", "LD_PRELOAD=" + fault.string(), "FLUSH_FAULT=" + scene.trigger()});
}

}  // namespace

TEST_CASE("bad destinations: a failed write is reported by disk, with what to do",
          "[storage][mirror]") {
    for (auto const& [version, binary] : qemus()) {
        for (auto const& fault : faults) {
            DYNAMIC_SECTION("QEMU " << version << ", " << fault.name << " of " << fault.rate << " "
                                    << name(fault.moment)) {
                Scene scene(binary);
                scene.serve({"--filter=error"}, {fmt::format("error={}", fault.name),
                                                 fmt::format("error-pwrite-rate={}", fault.rate),
                                                 fmt::format("error-zero-rate={}", fault.rate),
                                                 "error-file=" + scene.trigger()});
                scene.make_mirror(unhurried());
                CHECK(must_fail(scene, fault.moment, "disk0", fault.advice).os == fault.os);
            }
        }
    }
}

TEST_CASE("bad destinations: a full one, at any offset", "[storage][mirror]") {
    auto const seed = std::random_device()();
    INFO("seed " << seed);
    for (auto const& [version, binary] : qemus()) {
        DYNAMIC_SECTION("QEMU " << version) {
            Scene scene(binary);
            // A file system of its own, in a mount namespace that ends with nbdkit.
            constexpr auto page = 4096;
            auto const room = page * (16 + std::mt19937(seed)() % (data_bytes / page - 32));
            auto const disk = scene.directory().path("full/disk");
            lab::fs::create_directory(scene.directory().path("full"));
            auto const script =
                fmt::format("mount -t tmpfs -o size={} none {} && truncate -s {} {} && exec \"$@\"",
                            room, scene.directory().path("full"), disk_bytes, disk);
            scene.serve_with(Server::nbdkit_tcp(scene.directory(), {"file", disk},
                                                {"unshare", "-m", "sh", "-c", script, "sh"}));
            scene.make_mirror();
            CHECK(must_fail(scene, Moment::never, "disk0", make_room).os == ENOSPC);
        }
    }
}

TEST_CASE("bad destinations: after space was made, the next try is complete", "[storage][mirror]") {
    for (auto const& [version, binary] : qemus()) {
        DYNAMIC_SECTION("QEMU " << version) {
            Scene scene(binary);
            scene.serve({"--filter=error"}, {"error=ENOSPC", "error-pwrite-rate=100%",
                                             "error-file=" + scene.trigger()});
            scene.make_mirror(unhurried());
            must_fail(scene, Moment::bulk, "disk0", make_room);
            scene.mend_it();
            scene.make_mirror();
            scene.runner().must(move(scene, Moment::never));
            scene.check_equal();
        }
    }
}

TEST_CASE("bad destinations: an error while other writes hang is not a cut of the link",
          "[storage][mirror]") {
    static_assert(storage::limits::wind_down < 3s, "the delay below outlasts the winding down");
    for (auto const& [version, binary] : qemus()) {
        DYNAMIC_SECTION("QEMU " << version) {
            Scene scene(binary);
            scene.serve({"--filter=error", "--filter=delay"},
                        {"error-pwrite-rate=20%", "wdelay=3"});
            scene.make_mirror();
            CHECK(must_fail(scene, Moment::never, "disk0", look_there).os == EIO);
        }
    }
}

TEST_CASE("bad destinations: a flush that fails is reported by disk", "[storage][mirror]") {
    for (auto const& [version, binary] : qemus()) {
        for (auto const moment : {Moment::bulk, Moment::converged, Moment::last_delta}) {
            DYNAMIC_SECTION("QEMU " << version << ", " << name(moment)) {
                Scene scene(binary);
                scene.serve_with(with_flush_fault(scene));
                scene.make_mirror();
                CHECK(must_fail(scene, moment, "disk0", look_there).os == EIO);
            }
        }
    }
}

TEST_CASE("bad destinations: when one disk fails the others are not copied to their end",
          "[storage][mirror]") {
    for (auto const& [version, binary] : qemus()) {
        DYNAMIC_SECTION("QEMU " << version) {
            Scene scene(binary, 2);
            scene.serve_with(made_of_shell(scene, "[ $2 = disk1 ]"));
            auto options = unhurried();
            options.bandwidth_bytes_per_second /= 4;
            scene.make_mirror(options);
            must_fail(scene, Moment::never, "disk1", look_there);
            CHECK(scene.mirror().progress().copied_bytes < data_bytes / 2);
        }
    }
}

TEST_CASE("bad destinations: slow ones get every byte", "[storage][mirror]") {
    struct Slow {
        char const* name;
        std::vector<std::string> filters;
        std::vector<std::string> words;
    };
    std::vector<Slow> const slow{
        {"delay", {"--filter=delay"}, {"wdelay=50ms", "delay-open=200ms", "delay-close=1"}},
        {"rate", {"--filter=rate"}, {"rate=40M"}},
        {"block sizes",
         {"--filter=blocksize-policy"},
         {"blocksize-error-policy=error", "blocksize-minimum=4K", "blocksize-preferred=64K",
          "blocksize-maximum=128K"}},
        {"one connection, no zeroes, no extents",
         {"--filter=multi-conn", "--filter=nozero", "--filter=noextents"},
         {"multi-conn-mode=disable"}},
        {"block status fails", {"--filter=error"}, {"error-extents-rate=100%"}},
    };
    for (auto const& [version, binary] : qemus()) {
        for (auto const& one : slow) {
            DYNAMIC_SECTION("QEMU " << version << ", " << one.name) {
                Scene scene(binary);
                scene.serve(one.filters, one.words);
                scene.make_mirror();
                scene.runner().must(move(scene, Moment::never));
                scene.check_equal();
            }
        }
    }
}

TEST_CASE("bad destinations: one that pauses holds up the copy, not the guest",
          "[storage][mirror]") {
    for (auto const& [version, binary] : qemus()) {
        for (bool const released : {true, false}) {
            DYNAMIC_SECTION("QEMU " << version << (released ? ", released" : ", stopped")) {
                Scene scene(binary);
                auto const socket = scene.directory().path("pause.sock");
                scene.serve({"--filter=pause"}, {"pause-control=" + socket});
                scene.make_mirror(unhurried());
                Pause pause;
                if (released) {
                    scene.runner().must(move_beside_pause(scene, socket, pause));
                    scene.check_equal();
                } else {
                    core::Clock::time_point stopped_at{};
                    auto const error = scene.runner().must_fail(
                        stopped_in_pause(scene, socket, pause, stopped_at));
                    CHECK(error.code == core::Errc::cancelled);
                    CHECK(core::Clock::now() - stopped_at < storage::limits::wind_down + 2s);
                    scene.check_unharmed();
                }
                CHECK(pause.result);
                CHECK(pause.copied_before == pause.copied_after);
                CHECK(pause.copied_after < data_bytes);
            }
        }
    }
}

}  // namespace storage_bad_destinations_cases
