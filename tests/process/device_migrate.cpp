// Disks on block devices: `sidecar migrate` from files to loop devices, from one device to another,
// and back, with one real QEMU on each host. Both hosts of the lab are namespaces of one kernel,
// and see the same devices.
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "storage/image.hpp"
#include "tests/process/move_lab.hpp"
#include "tests/support/loop_device.hpp"
#include "tests/support/qmp_probe.hpp"

namespace device_migrate_cases {

using namespace move_lab;

namespace {

constexpr std::size_t mib = 1 << 20;
constexpr std::size_t data_bytes = 16 * mib;
/// Islands of data in a disk of holes.
constexpr std::pair<std::size_t, char> islands[] = {
    {0, 's'}, {5 * mib + 4096, 't'}, {9 * mib, 'u'}, {data_bytes - 4096, 'v'}};

std::string content() {
    std::string text(data_bytes, '\0');
    for (auto const& [offset, byte] : islands) text.replace(offset, 4096, 4096, byte);
    return text;
}

/// The same on a file or a device, which keeps its holes.
void write_content(std::string const& path) {
    core::Fd const file(open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
    REQUIRE(file);
    struct stat status{};
    REQUIRE(fstat(file.get(), &status) == 0);
    if (S_ISREG(status.st_mode)) REQUIRE(ftruncate(file.get(), data_bytes) == 0);
    for (auto const& [offset, byte] : islands) {
        std::string const block(4096, byte);
        REQUIRE(pwrite(file.get(), block.data(), block.size(), static_cast<off_t>(offset)) == 4096);
    }
}

/// A disk without a hole, so that its copy takes a while.
std::string write_full(std::string const& path) {
    std::string text;
    text.reserve(data_bytes);
    while (text.size() < data_bytes) text += fmt::format("{:08x}", text.size());
    core::Fd const file(open(path.c_str(), O_WRONLY | O_CLOEXEC));
    REQUIRE(pwrite(file.get(), text.data(), text.size(), 0) == static_cast<ssize_t>(text.size()));
    return text;
}

/// Compares without printing megabytes.
bool is_same(std::string const& path, std::string const& text) {
    return lab::read_file(path) == text;
}
bool has_content(std::string const& path) {
    return lab::read_file(path).substr(0, data_bytes) == content();
}

/// A loop device full of a stranger's data.
struct Loop {
    Loop(std::string const& directory, std::string const& name, std::size_t bytes = data_bytes)
        : backing(directory + "/" + name) {
        lab::write_file(backing, std::string(bytes, old));
        device.emplace(backing);
    }
    [[nodiscard]] std::string const& path() const { return device->path(); }
    [[nodiscard]] bool is_untouched() const {
        return lab::read_file(backing).find_first_not_of(old) == std::string::npos;
    }
    [[nodiscard]] std::uint64_t allocated() const {
        return must(storage::allocated_bytes(backing));
    }

    static constexpr char old = 'O';
    std::string backing;
    std::optional<lab::LoopDevice> device;
};

/// The guest has a second disk, d1, on a file or a device; its own stay files.
struct DeviceLab : MoveLab {
    /// `d1`: its image; empty: a file. `allowed`: of each `serve`. `more`: options of QEMU.
    explicit DeviceLab(std::string d1 = {}, Argv const& allowed = {},
                       std::vector<std::string> const& environment = {}, Argv const& more = {})
        : MoveLab(Empty()), second(d1.empty() ? a.directory + "/d1" : std::move(d1)) {
        for (auto* const host : {&a, &b}) start_serve(*host, allowed);
        write_content(second);
        Argv words{"-drive",  "if=none,id=d1,format=raw,file=" + second,
                   "-device", "virtio-blk-pci,drive=d1",
                   "-qmp",    "unix:" + a.directory + "/qmp,server=on,wait=off"};
        words.insert(words.end(), more.begin(), more.end());
        a.start_guest(words, environment);
    }
    static lab::Output move(MoveHost const& from, MoveHost const& to, Argv more) {
        more.insert(more.begin(), "--network=anchor");
        return from.migrate(to, more);
    }
    /// `migrate --check` from host a is refused with status 3, and says why.
    void refuses(Argv more, std::string const& why) const {
        more.emplace_back("--check");
        auto const checked = move(a, b, more);
        INFO(checked.out << checked.err);
        CHECK(checked.exit_status == 3);
        CHECK(contains(checked.err, why));
    }
    /// The size of d1 that its QEMU shows to the guest.
    static std::uint64_t guests_bytes(MoveHost const& host) {
        lab::Qmp qmp(host.directory + "/qmp");
        for (auto const& drive : qmp.execute("query-block").elements()) {
            if (drive["device"].text_or("") != "d1") continue;
            return static_cast<std::uint64_t>(
                drive["inserted"]["image"]["virtual-size"].integer_or(0));
        }
        return 0;
    }
    static void runs_on(MoveHost const& host) {
        CHECK(contains(host.sidecar({"status", "web1"}).out, "running"));
    }

    std::string second;  ///< The image of d1 at its start.
};

Argv disk(std::string const& path) { return {"--disk", "d1=" + path}; }
Argv allow(std::vector<std::string> const& paths) {
    Argv words;
    for (auto const& path : paths) words.insert(words.end(), {"--allow-path", path});
    return words;
}

void must_move(lab::Output const& moved) {
    INFO(moved.out << moved.err);
    REQUIRE(moved.exit_status == 0);
}

}  // namespace

TEST_CASE("device: a disk goes from a file to a device, and back to a file", "[migrate][device]") {
    storage_lab::Directory const own;
    Loop const loop(own.text(), "there");
    DeviceLab const lab({}, allow({loop.path()}));
    auto const checked = DeviceLab::move(lab.a, lab.b, [&] {
        auto words = disk(loop.path());
        words.emplace_back("--check");
        return words;
    }());
    INFO(checked.out << checked.err);
    CHECK(checked.exit_status == 0);
    CHECK(contains(checked.out, "fits on " + loop.path()));
    CHECK(loop.is_untouched());

    auto words = disk(loop.path());
    words.insert(words.end(), {"--report", own.path("report")});
    must_move(DeviceLab::move(lab.a, lab.b, words));
    DeviceLab::runs_on(lab.b);
    CHECK(has_content(loop.path()));
    CHECK(loop.allocated() < 2 * mib);  // thin stays thin
    CHECK_FALSE(lab::fs::exists(lab.second));  // it is set aside
    auto const report = lab::parse_json(lab::read_file(own.path("report")));
    CHECK(report["disks"].elements()[1]["target"].text_or("") == loop.path());

    auto const home = lab.a.directory + "/d1-again";
    must_move(DeviceLab::move(lab.b, lab.a, disk(home)));
    DeviceLab::runs_on(lab.a);
    CHECK(has_content(home));
    CHECK(lab::fs::file_size(home) == data_bytes);
    CHECK(must(storage::allocated_bytes(home)) < 2 * mib);
    CHECK(loop.device->read_only());
    CHECK(has_content(loop.path()));
}

TEST_CASE("device: from a device to a larger one and back, old data does not show through",
          "[migrate][device]") {
    storage_lab::Directory const own;
    Loop const here(own.text(), "here");
    Loop const there(own.text(), "there", data_bytes + 3 * mib);
    DeviceLab const lab(here.path(), allow({here.path(), there.path()}));
    // What is on the device at first belongs to the guest.
    auto const whole = lab::read_file(here.path());
    must_move(DeviceLab::move(lab.a, lab.b, disk(there.path())));
    DeviceLab::runs_on(lab.b);
    CHECK(is_same(there.path(), whole + std::string(3 * mib, Loop::old)));
    CHECK(DeviceLab::guests_bytes(lab.b) == data_bytes);
    CHECK(here.device->read_only());
    CHECK_FALSE(there.device->read_only());

    INFO("back to the device that it left");
    must_move(DeviceLab::move(lab.b, lab.a, disk(here.path())));
    DeviceLab::runs_on(lab.a);
    CHECK(DeviceLab::guests_bytes(lab.a) == data_bytes);
    CHECK_FALSE(here.device->read_only());
    CHECK(there.device->read_only());
    CHECK(is_same(here.path(), whole));

    INFO("and once more");
    must_move(DeviceLab::move(lab.a, lab.b, disk(there.path())));
    DeviceLab::runs_on(lab.b);
    CHECK(DeviceLab::guests_bytes(lab.b) == data_bytes);
    CHECK(is_same(there.path(), whole + std::string(3 * mib, Loop::old)));
}

TEST_CASE("device: a guest returns to the device that it left without --disk, another one does not",
          "[migrate][device]") {
    storage_lab::Directory const own;
    Loop const here(own.text(), "here");
    Loop const there(own.text(), "there");
    // As LVM and ZFS name theirs.
    auto const name_here = own.path("vg-a/lv");
    auto const name_there = own.path("vg-b/lv");
    for (auto const& [name, loop] : {std::pair(name_here, &here), std::pair(name_there, &there)}) {
        lab::fs::create_directory(lab::fs::path(name).parent_path());
        lab::fs::create_symlink(loop->path(), name);
    }
    DeviceLab lab(name_here, allow({own.path("vg-a"), own.path("vg-b")}));
    auto const maps = [&](MoveHost& host, std::string const& from, std::string const& to) {
        auto words = allow({own.path("vg-a"), own.path("vg-b")});
        words.insert(words.end(), {"--map-path", own.path(from) + "=" + own.path(to)});
        lab.start_serve(host, words);
    };
    maps(lab.b, "vg-a", "vg-b");
    maps(lab.a, "vg-b", "vg-a");
    lab.refuses({}, fmt::format("name it with `--disk d1={}` to overwrite it", name_there));
    CHECK(there.is_untouched());
    must_move(DeviceLab::move(lab.a, lab.b, disk(name_there)));
    must_move(DeviceLab::move(lab.b, lab.a, {}));
    DeviceLab::runs_on(lab.a);
    CHECK_FALSE(here.device->read_only());
    must_move(DeviceLab::move(lab.a, lab.b, {}));
    DeviceLab::runs_on(lab.b);
    INFO("it was made writable: it is not the guest's any more");
    here.device->set_read_only(false);
    auto const refused = DeviceLab::move(lab.b, lab.a, {"--check"});
    INFO(refused.out << refused.err);
    CHECK(refused.exit_status == 3);
    CHECK(contains(refused.err, "this guest did not leave it there"));
}

TEST_CASE("device: what would destroy data, or cannot work, is refused in the check",
          "[migrate][device]") {
    storage_lab::Directory const own;
    Loop const loop(own.text(), "there");
    Loop const small(own.text(), "small", data_bytes - 4096);
    Loop const foreign(own.text(), "foreign");
    auto const qcow2 = own.path("d2.qcow2");
    lab::must_run({"qemu-img", "create", "-q", "-f", "qcow2", qcow2, "16M"});
    auto paths =
        std::vector<std::string>{loop.path(), small.path(), "/dev/sidecar-no-such", own.text()};
    DeviceLab const lab({}, allow(paths), {},
                        {"-drive", "if=none,id=d2,format=qcow2,file=" + qcow2, "-device",
                         "virtio-blk-pci,drive=d2"});
    auto const d2 = "d2=" + own.path("d2-there.qcow2");
    auto const with_d2 = [&](std::string const& d1) {
        return Argv{"--disk", "d1=" + d1, "--disk", d2};
    };

    INFO("nothing is in the way");
    auto words = with_d2(loop.path());
    words.emplace_back("--check");
    auto const good = DeviceLab::move(lab.a, lab.b, words);
    INFO(good.out << good.err);
    REQUIRE(good.exit_status == 0);

    lab.refuses(with_d2(small.path()),
                fmt::format("has {} bytes, and disk d1 has {}", data_bytes - 4096, data_bytes));
    lab.refuses(with_d2(foreign.path()), "is not in a directory that guests may use");
    lab.refuses(with_d2("/dev/sidecar-no-such"), "there is no block device");
    lab.refuses({"--disk", "d1=" + own.path("file"), "--disk", "d2=" + loop.path()},
                "only a raw disk can be put on a block device");
    lab.refuses({"--disk", "d9=" + loop.path()}, "no such disk that is written; it has d0, d1, d2");
    auto const link = own.path("link");
    lab::fs::create_symlink(loop.path(), link);
    lab.refuses({"--disk", "d0=" + link, "--disk", "d1=" + loop.path(), "--disk", d2},
                "have the same place");
    {
        core::Fd const exclusive(open(loop.path().c_str(), O_RDONLY | O_EXCL | O_CLOEXEC));
        REQUIRE(exclusive);
        lab.refuses(with_d2(loop.path()), "is in use: it is mounted");
    }
    {
        core::Fd const writer(open(loop.path().c_str(), O_RDWR | O_CLOEXEC));
        REQUIRE(writer);
        lab.refuses(with_d2(loop.path()), fmt::format("(pid {}) has it open", getpid()));
    }
    loop.device->set_read_only(true);
    lab.refuses(with_d2(loop.path()), "is read-only on the destination: `blockdev --setrw");
    loop.device->set_read_only(false);
    CHECK(loop.is_untouched());
    CHECK(small.is_untouched());
    CHECK(foreign.is_untouched());
    DeviceLab::runs_on(lab.a);
}

TEST_CASE("device: the source's own device is in use, so it is no target", "[migrate][device]") {
    storage_lab::Directory const own;
    Loop const loop(own.text(), "here");
    DeviceLab const lab(loop.path(), allow({loop.path()}));
    lab.refuses(disk(loop.path()), "is in use");
    // Not as storage that both hosts see, either: nothing marks it.
    lab.refuses({}, fmt::format("name it with `--disk d1={}`", loop.path()));
}

TEST_CASE("device: a migration that is undone after STOP leaves the source's device writable",
          "[migrate][device]") {
    storage_lab::Directory const own;
    Loop const here(own.text(), "here");
    Loop const there(own.text(), "there");
    DeviceLab lab(here.path(), allow({there.path()}), {"SIDECAR_TEST_STOP_AT=record_commit"});
    auto words = disk(there.path());
    words.insert(words.begin(), "--network=anchor");
    auto migration = lab.a.start_migration(lab.b, words);
    auto const stopped = lab.a.wait_stopped(migration);
    CHECK(here.device->read_only());
    lab.b.kill_qemu();
    lab.b.wait_given_up();
    REQUIRE(MoveHost::finish(migration, stopped) == 1);
    DeviceLab::runs_on(lab.a);
    CHECK_FALSE(here.device->read_only());
    CHECK_FALSE(there.device->read_only());
    CHECK(lab::fs::exists(there.path()));
    lab::Qmp qmp(lab.a.directory + "/qmp");
    qmp.execute("human-monitor-command",
                core::Json::object({{"command-line", "qemu-io d1 \"write -P 7 1M 4k\""}}));
    CHECK(lab::read_file(here.path()).substr(mib, 4096) == std::string(4096, 7));
    INFO("the next migration is not undone");
    auto again = lab.a.start_migration(lab.b, words);
    must(lab.a.wait_stopped(again).signal(SIGCONT));
    CHECK(again.wait(60s) == 0);
    DeviceLab::runs_on(lab.b);
    CHECK(here.device->read_only());
}

TEST_CASE("device: the device that a guest left is not started, under any guest's name",
          "[migrate][device][stale]") {
    storage_lab::Directory const own;
    Loop const here(own.text(), "here");
    Loop const there(own.text(), "there");
    DeviceLab const lab(here.path(), allow({there.path()}));
    must_move(DeviceLab::move(lab.a, lab.b, disk(there.path())));
    Argv const line{"--",
                    storage_lab::oldest_qemu(),
                    "-M",
                    "none",
                    "-nodefaults",
                    "-display",
                    "none",
                    "-drive",
                    "if=none,format=raw,file=" + here.path()};
    auto const run = [&](std::string const& name) {
        Argv words{"run", name};
        words.insert(words.end(), line.begin(), line.end());
        return lab.a.sidecar(words);
    };
    auto const other = run("other");
    INFO(other.err);
    CHECK(other.exit_status == 3);
    CHECK(contains(other.err, "is the stale disk of web1"));
    auto const same = run("web1");
    INFO(same.err);
    CHECK(same.exit_status == 3);
    for (auto const& [version, binary] : storage_lab::qemus()) {
        INFO("QEMU " << version);
        auto const plain =
            lab::run({binary, "-M", "pc,accel=tcg", "-nodefaults", "-display", "none", "-S",
                      "-drive", "if=virtio,format=raw,file=" + here.path()});
        INFO(plain.err);
        CHECK(plain.exit_status == 1);
        CHECK(contains(plain.err, "not writable"));
    }
}

TEST_CASE("device: the destination's QEMU is killed while it is copied to, and the copy goes on",
          "[migrate][device]") {
    storage_lab::Directory const own;
    Loop const there(own.text(), "there");
    DeviceLab const lab({}, allow({there.path()}));
    auto words = disk(there.path());
    words.insert(words.end(), {"--network=anchor", "--bandwidth", "1M"});
    auto const text = write_full(lab.second);
    auto migration = lab.a.start_migration(lab.b, words);
    lab::wait_until("the copy to begin", 60s, [&] {
        if (!migration.running()) throw lab::Failure(migration.err());
        return contains(lab.a.sidecar({"status", "web1"}).out, "copying");
    });
    lab.b.kill_qemu();
    (void)lab.a.sidecar({"set", "web1", "bandwidth=100M"});
    auto const status = migration.wait(120s);
    INFO(migration.err());
    CHECK(status == 0);
    DeviceLab::runs_on(lab.b);
    CHECK(is_same(there.path(), text));
}

TEST_CASE("device: a cancelled copy leaves the device, which is taken the next time",
          "[migrate][device]") {
    storage_lab::Directory const own;
    Loop const there(own.text(), "there");
    DeviceLab const lab({}, allow({there.path()}));
    auto words = disk(there.path());
    words.insert(words.end(), {"--network=anchor", "--bandwidth", "1M"});
    auto const text = write_full(lab.second);
    auto migration = lab.a.start_migration(lab.b, words);
    lab::wait_until("the copy to begin", 60s, [&] {
        if (!migration.running()) throw lab::Failure(migration.err());
        return contains(lab.a.sidecar({"status", "web1"}).out, "copying");
    });
    auto const cancelled = lab.a.sidecar({"cancel", "web1"});
    INFO(cancelled.err);
    CHECK(cancelled.exit_status == 0);
    (void)migration.wait(60s);
    CHECK(lab::fs::exists(there.path()));
    CHECK_FALSE(there.device->read_only());
    CHECK(lab::fs::exists(lab.second));
    must_move(DeviceLab::move(lab.a, lab.b, disk(there.path())));
    CHECK(is_same(there.path(), text));
}

}  // namespace device_migrate_cases
