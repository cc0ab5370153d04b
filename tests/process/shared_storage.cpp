// Disks on storage that both hosts see are left where they are: `sidecar migrate` with and without
// --with-storage, from one real QEMU to another. Both hosts of the lab are namespaces of one
// machine, so a directory that no map renames is such storage.
#include "storage/shared_storage.hpp"

#include <sys/stat.h>

#include "storage/image.hpp"
#include "tests/process/move_lab.hpp"

namespace shared_storage_cases {

using namespace move_lab;

namespace {

/// The guest's disk is in a directory that both hosts see.
struct SharedLab : MoveLab {
    /// `environment`: of the guest's sidecar on host a.
    explicit SharedLab(Argv const& more = {}, std::vector<std::string> const& environment = {})
        : MoveLab(Empty()) {
        a.disk = both.path("d0");
        for (auto* const host : {&a, &b}) start_serve(*host, {"--allow-path", both.text()});
        a.start_guest(more, environment);
        inode = must(storage::inode_of(a.disk));
    }
    /// `sidecar migrate` without --with-storage.
    static lab::Output migrate(MoveHost const& from, MoveHost const& to, Argv const& more = {}) {
        Argv words{"migrate",          "web1",  to.address,        "--plaintext",
                   "--downtime-limit", "20000", "--network=anchor"};
        words.insert(words.end(), more.begin(), more.end());
        return from.sidecar(words);
    }
    /// The shared directory has the guest's disks, and nothing else.
    [[nodiscard]] bool has_only(std::set<std::string> const& names) const {
        std::set<std::string> found;
        for (auto const& entry : lab::fs::directory_iterator(both.text()))
            found.insert(entry.path().filename());
        return found == names;
    }
    [[nodiscard]] bool is_untouched() const {
        return has_only({"d0"}) && must(storage::inode_of(a.disk)) == inode;
    }

    storage_lab::Directory both;
    std::string inode;
};

}  // namespace

TEST_CASE("shared storage: a guest moves there and back without --with-storage",
          "[migrate][shared-storage]") {
    SharedLab lab;
    auto const checked = SharedLab::migrate(lab.a, lab.b, {"--check"});
    INFO(checked.out << checked.err);
    REQUIRE(checked.exit_status == 0);
    CHECK(contains(checked.out, "is on storage that both hosts see, and stays there"));
    CHECK(lab.is_untouched());
    for (auto const& [from, to] : {std::pair(&lab.a, &lab.b), std::pair(&lab.b, &lab.a)}) {
        auto const moved = SharedLab::migrate(*from, *to);
        INFO(moved.out << moved.err);
        REQUIRE(moved.exit_status == 0);
        CHECK(contains(to->sidecar({"status", "web1"}).out, "running"));
        CHECK(must(storage::in_use(lab.a.disk)));
        CHECK(lab.is_untouched());
    }
    // It has moved away from host b, whose image is the one that the guest writes.
    auto const again = lab.b.sidecar({"run", "web1", "--", storage_lab::oldest_qemu(), "-drive",
                                      "format=raw,file=" + lab.a.disk});
    INFO(again.out << again.err);
    CHECK(again.exit_status != 0);
    CHECK(contains(again.err, "web1 moved to"));
}

TEST_CASE("shared storage: one disk of two is copied, the other stays",
          "[migrate][shared-storage]") {
    storage_lab::Directory const own;
    auto const second = own.path("d1.raw");
    lab::write_file(second, std::string(disk_bytes, 'e'));
    SharedLab lab({"-drive", "if=none,id=d1,format=raw,file=" + second, "-device",
                   "virtio-blk-pci,drive=d1"});
    lab::fs::create_directory(own.path("there"));
    lab.start_serve(lab.b, {"--allow-path", lab.both.text(), "--map-path",
                            own.text() + "=" + own.path("there")});
    auto const missing = SharedLab::migrate(lab.a, lab.b, {"--check"});
    INFO(missing.out << missing.err);
    CHECK(missing.exit_status == 3);
    CHECK(contains(missing.err, "does not see the image of disk d1"));
    CHECK(contains(missing.err, "--with-storage"));
    auto const moved =
        SharedLab::migrate(lab.a, lab.b, {"--with-storage", "--report", own.path("report")});
    INFO(moved.out << moved.err);
    REQUIRE(moved.exit_status == 0);
    CHECK(lab.is_untouched());
    auto const report = lab::parse_json(lab::read_file(own.path("report")));
    CHECK(report["disks"].size() == 1);
    REQUIRE(report["shared_disks"].size() == 1);
    CHECK(report["shared_disks"].elements()[0]["path"].text_or("") == lab.a.disk);
    CHECK_FALSE(lab::fs::exists(second));  // it is set aside
    CHECK(lab::read_file(own.path("there/d1.raw")) == std::string(disk_bytes, 'e'));
}

TEST_CASE("shared storage: a migration that is undone after STOP leaves the disk to the source",
          "[migrate][shared-storage]") {
    SharedLab lab({}, {"SIDECAR_TEST_STOP_AT=copy_final"});
    auto migration = lab.a.start_migration(lab.b, {"--network=anchor"});
    auto const stopped = lab.a.wait_stopped(migration);
    lab.b.kill_qemu();
    CHECK(MoveHost::finish(migration, stopped) == 1);
    CHECK(contains(lab.a.sidecar({"status", "web1"}).out, "running"));
    CHECK(must(storage::in_use(lab.a.disk)));
    CHECK(lab.is_untouched());
}

TEST_CASE("shared storage: a file with the same name and another inode is not the same",
          "[storage][shared-storage]") {
    storage_lab::Directory const directory;
    auto const image = directory.path("d0");
    lab::write_file(image, "1");
    lab::write_file(directory.path("other"), "2");
    auto const inode = must(storage::inode_of(image));
    auto const other = must(storage::inode_of(directory.path("other")));
    {
        storage::DirectoryMarks const marks({image, directory.path("other")}, "id", "secret");
        CHECK(storage::is_same_storage(image, inode, "id", "secret"));
        CHECK_FALSE(storage::is_same_storage(image, other, "id", "secret"));
        CHECK_FALSE(storage::is_same_storage(image, inode, "id", "guessed"));
        CHECK_FALSE(storage::is_same_storage(image, inode, "id2", "secret"));
        CHECK_FALSE(storage::is_same_storage(image, inode, "id", ""));
        lab::fs::remove(storage::mark_path(image, "id"));
        lab::fs::create_symlink(image, storage::mark_path(image, "id"));
        CHECK_FALSE(storage::is_same_storage(image, inode, "id", "1"));
    }
    CHECK_FALSE(lab::fs::exists(storage::mark_path(image, "id")));
    CHECK_FALSE(storage::is_same_storage(image, inode, "id", "secret"));
    CHECK_FALSE(must(storage::is_cached_per_host(image)));
}

}  // namespace shared_storage_cases
