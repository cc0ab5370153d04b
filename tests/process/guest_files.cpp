// Files that a guest only reads: a CD, a seed, a kernel. They are copied where there are none, used
// where they are the same, and never overwritten: `sidecar migrate` between two real QEMUs.
#include <sys/stat.h>

#include "tests/process/move_lab.hpp"
#include "tests/support/qmp_probe.hpp"

namespace guest_files_cases {

using namespace move_lab;

namespace {

/// Its end is no multiple of a piece or a block, and there is a hole in it.
constexpr std::size_t cd_bytes = (3 << 20) + 2048;

struct FilesLab : MoveLab {
    /// `more`: options of the guest's QEMU besides the CD and the seed.
    explicit FilesLab(Argv const& more = {}, std::vector<std::string> const& serve_environment = {},
                      std::string const& qemu = storage_lab::oldest_qemu())
        : MoveLab(Empty()) {
        a.qemu = qemu;
        b.serve_environment = serve_environment;
        for (auto* const host : {&a, &b}) start_serve(*host);
        std::string cd(cd_bytes, 'c');
        cd.replace(1 << 20, 1 << 20, std::string(1 << 20, '\0'));
        lab::write_file(cd_of(a), cd);
        lab::write_file(a.directory + "/seed.raw", std::string(4096, 's'));
        lab::must_run({"chmod", "0640", cd_of(a)});
        lab::must_run({"chown", "nobody:disk", cd_of(a)});
        Argv options{"-drive",
                     "if=none,id=cd0,media=cdrom,format=raw,file=" + cd_of(a),
                     "-device",
                     "ide-cd,drive=cd0,id=drive0",
                     "-blockdev",
                     "driver=raw,node-name=seed,read-only=on,file.driver=file,file.filename=" +
                         a.directory + "/seed.raw",
                     "-device",
                     "virtio-blk-pci,drive=seed,id=seed0"};
        options.insert(options.end(), more.begin(), more.end());
        a.start_guest(options);
    }
    static std::string cd_of(MoveHost const& host) { return host.directory + "/cd.iso"; }
    static std::string access(MoveHost const& host) {
        return host.in("stat -c '%U %G %a %s' " + cd_of(host));
    }
    static std::string listing(MoveHost const& host) {
        return host.in("cd " + host.directory +
                       "; ls | grep -v '^serve\\|^run\\|^migrate\\|^state' || true");
    }
    [[nodiscard]] lab::Output check(Argv more = {}) const {
        more.insert(more.end(), {"--network", "anchor", "--check"});
        return a.migrate(b, more);
    }
};

}  // namespace

TEST_CASE("guest files: what is missing is copied, there and back", "[migrate][guest-files]") {
    for (auto const& [version, qemu] : storage_lab::qemus()) {
        INFO(version);
        FilesLab const lab({}, {}, qemu);
        auto const before = FilesLab::listing(lab.b);
        auto const checked = lab.check();
        INFO(checked.out << checked.err);
        REQUIRE(checked.exit_status == 0);
        CHECK(contains(checked.out, "the read-only image of cd0: " + FilesLab::cd_of(lab.a) +
                                        " is missing at the destination, and is copied: 3 MiB"));
        CHECK(FilesLab::listing(lab.b) == before);
        auto const moved = lab.a.migrate(lab.b, {"--network", "anchor", "--json"});
        INFO(moved.out << moved.err);
        REQUIRE(moved.exit_status == 0);
        auto const files = lab::parse_json(moved.out)["files"];
        CHECK(files.size() == 2);
        CHECK(lab::read_file(FilesLab::cd_of(lab.b)) == lab::read_file(FilesLab::cd_of(lab.a)));
        CHECK(FilesLab::access(lab.b) == FilesLab::access(lab.a));
        // A hole stays one.
        struct stat status{};
        REQUIRE(stat(FilesLab::cd_of(lab.b).c_str(), &status) == 0);
        CHECK(static_cast<std::size_t>(status.st_blocks) * 512 < cd_bytes - (1 << 19));
        // Nothing unfinished is left, and the way back uses the source's own files.
        CHECK_FALSE(contains(FilesLab::listing(lab.b), ".new-"));
        auto const inode = lab.a.in("stat -c %i " + FilesLab::cd_of(lab.a));
        auto const back = lab.b.migrate(lab.a, {"--network", "anchor", "--json"});
        INFO(back.out << back.err);
        REQUIRE(back.exit_status == 0);
        CHECK(lab::parse_json(back.out)["files"].is_null());
        CHECK(lab.a.in("stat -c %i " + FilesLab::cd_of(lab.a)) == inode);
    }
}

TEST_CASE("guest files: another one at its place is refused by name", "[migrate][guest-files]") {
    FilesLab const lab;
    auto const refused = [&](Argv const& more, std::string const& sentence) {
        auto const checked = lab.check(more);
        INFO(checked.out << checked.err);
        CHECK(checked.exit_status == 3);
        CHECK(contains(checked.err, sentence));
    };
    refused({"--no-copy"}, "(" + FilesLab::cd_of(lab.b) +
                               ") is missing on the destination, and is not copied: --no-copy "
                               "says so");
    lab::write_file(FilesLab::cd_of(lab.b), "short");
    refused({}, FilesLab::cd_of(lab.b) +
                    " on the destination is not the read-only image of cd0 of the source: it has "
                    "5 bytes there and 3147776 on the source");
    auto other = lab::read_file(FilesLab::cd_of(lab.a));
    other[2 << 20] = 'x';
    lab::write_file(FilesLab::cd_of(lab.b), other);
    refused({}, "the read-only image of cd0 (" + FilesLab::cd_of(lab.a) +
                    ") differs at byte 2097152 (within 4096 bytes) from the destination's");
    CHECK(lab::read_file(FilesLab::cd_of(lab.b)) == other);
    lab::must_run({"cp", "--sparse=always", FilesLab::cd_of(lab.a), FilesLab::cd_of(lab.b)});
    lab::must_run({"cp", lab.a.directory + "/seed.raw", lab.b.directory + "/seed.raw"});
    auto const same = lab.check({"--no-copy"});
    INFO(same.out << same.err);
    CHECK(same.exit_status == 0);
    CHECK(contains(same.out, "is the same at the destination"));
}

TEST_CASE("guest files: the check counts their space, and where guests may have files",
          "[migrate][guest-files]") {
    FilesLab lab;
    auto const restart = [&](Argv const& more) {
        lab.b.serve.reset();
        lab.start_serve(lab.b, more);
    };
    auto const refused = [&](std::string const& sentence) {
        auto const checked = lab.check();
        INFO(checked.out << checked.err);
        CHECK(checked.exit_status == 3);
        CHECK(contains(checked.err, sentence));
    };
    restart({"--map-path", FilesLab::cd_of(lab.a) + "=/usr/share/sidecar-test/cd.iso"});
    refused("the directory /usr/share/sidecar-test for the read-only image of cd0 does not exist");
    auto const small = lab.b.directory + "/small";
    // Less than the 64 MiB that must remain, and the 3 MiB of the CD.
    storage_lab::SmallDisk const disk(small, "size=65m");
    restart({"--map-path", FilesLab::cd_of(lab.a) + "=" + small + "/cd.iso"});
    refused("the guest's images need 67 MiB in " + small);
}

TEST_CASE("guest files: one that needs others is not copied", "[migrate][guest-files]") {
    storage_lab::Directory const directory;
    auto const base = directory.path("base.raw");
    auto const top = directory.path("top.qcow2");
    lab::write_file(base, std::string(1 << 20, 'b'));
    lab::must_run({"qemu-img", "create", "-q", "-f", "qcow2", "-b", base, "-F", "raw", top});
    FilesLab lab({"-drive", "if=none,id=ro0,format=qcow2,readonly=on,file=" + top, "-device",
                  "virtio-blk-pci,drive=ro0"});
    lab.b.serve.reset();
    lab.start_serve(lab.b, {"--map-path", directory.text() + "=" + lab.b.directory});
    auto const checked = lab.check();
    INFO(checked.out << checked.err);
    CHECK(checked.exit_status == 3);
    CHECK(contains(checked.err, "is not copied: its backing file " + base +
                                    " would be missing too: put both there"));
}

TEST_CASE("guest files: a migration that fails removes what it copied, and no more",
          "[migrate][guest-files]") {
    // The destination's sidecar stops when all files are there and have not got their names.
    FilesLab lab({}, {"SIDECAR_TEST_STOP_AT=publish_images"});
    lab::must_run({"cp", lab.a.directory + "/seed.raw", lab.b.directory + "/seed.raw"});
    auto const before = FilesLab::listing(lab.b);
    auto migration = lab.a.start_migration(lab.b, {"--network=anchor"});
    auto const stopped = lab.b.wait_stopped(migration);
    CHECK(contains(FilesLab::listing(lab.b), "cd.iso.new-"));
    lab::write_file(FilesLab::cd_of(lab.b), "another one");
    CHECK(MoveHost::finish(migration, stopped) == 1);
    CHECK(contains(migration.err(), "appeared on the destination since the check"));
    CHECK(lab::read_file(FilesLab::cd_of(lab.b)) == "another one");
    lab::fs::remove(FilesLab::cd_of(lab.b));
    CHECK(FilesLab::listing(lab.b) == before);
    CHECK(contains(lab.a.sidecar({"status", "web1"}).out, "running"));
}

TEST_CASE("guest files: what a killed destination leaves, the next migration removes",
          "[migrate][guest-files]") {
    FilesLab lab({}, {"SIDECAR_TEST_STOP_AT=publish_images"});
    auto migration = lab.a.start_migration(lab.b, {"--network=anchor"});
    auto const stopped = lab.b.wait_stopped(migration);
    CHECK(contains(FilesLab::listing(lab.b), "cd.iso.new-"));
    must(stopped.signal(SIGKILL));
    CHECK(migration.wait(120s) == 1);
    INFO(migration.err());
    lab.b.serve.reset();
    lab.b.serve_environment = {};
    lab.start_serve(lab.b);
    auto const moved = lab.a.migrate(lab.b, {"--network", "anchor"});
    INFO(moved.out << moved.err);
    REQUIRE(moved.exit_status == 0);
    CHECK_FALSE(contains(FilesLab::listing(lab.b), ".new-"));
    CHECK(lab::read_file(FilesLab::cd_of(lab.b)) == lab::read_file(FilesLab::cd_of(lab.a)));
}

TEST_CASE("guest files: cancel while they are copied leaves nothing", "[migrate][guest-files]") {
    FilesLab const lab;
    auto const before = FilesLab::listing(lab.b);
    auto migration = lab.a.start_migration(
        lab.b, {"--network=anchor", "--bandwidth", "256K", "--progress=json"});
    lab::wait_until("a part of the CD to be copied", 30s, [&] {
        if (!migration.running()) throw lab::Failure("`migrate` ended: " + migration.err());
        return contains(FilesLab::listing(lab.b), "cd.iso.new-") &&
               contains(lab.a.sidecar({"status", "web1"}).out, "preparing");
    });
    auto const cancelled = lab.a.sidecar({"cancel", "web1"});
    INFO(cancelled.out << cancelled.err);
    CHECK(cancelled.exit_status == 0);
    CHECK(migration.wait(60s) == 5);
    CHECK(FilesLab::listing(lab.b) == before);
    // The second try has all the bandwidth.
    auto const moved = lab.a.migrate(lab.b, {"--network", "anchor"});
    INFO(moved.out << moved.err);
    CHECK(moved.exit_status == 0);
}

TEST_CASE("guest files: a kernel is copied, and another one is a warning",
          "[migrate][guest-files]") {
    storage_lab::Directory const directory;
    auto const data = directory.path("config.json");
    lab::write_file(data, "{\"one\":1}");
    auto const there = [](MoveHost const& host) { return host.directory + "/config.json"; };
    FilesLab lab({"-fw_cfg", "name=opt/config,file=" + data});
    lab.b.serve.reset();
    lab.start_serve(lab.b, {"--map-path", directory.text() + "=" + lab.b.directory});
    lab::write_file(there(lab.b), "{\"one\":2}");
    auto const checked = lab.check();
    INFO(checked.out << checked.err);
    CHECK(checked.exit_status == 0);
    CHECK(
        contains(checked.out, "differs from the destination's, which the guest has after a reset"));
    lab::fs::remove(there(lab.b));
    auto const moved = lab.a.migrate(lab.b, {"--network", "anchor"});
    INFO(moved.out << moved.err);
    REQUIRE(moved.exit_status == 0);
    CHECK(lab::read_file(there(lab.b)) == "{\"one\":1}");
}

}  // namespace guest_files_cases
