// Image files: their formats, creating them, whether a QEMU holds them open, and tombstones.
#include <sys/stat.h>

#include <cerrno>

#include "storage/image.hpp"
#include "storage/stale_image.hpp"
#include "tests/process/storage_lab.hpp"

namespace storage_image_cases {

using namespace storage_lab;

namespace {

constexpr std::uint64_t mib = 1024 * 1024;

Deadline soon() { return Deadline::after(limit); }

}  // namespace

TEST_CASE("image: created sparse, reported as it is, never over an existing one",
          "[storage][image]") {
    Directory directory;
    Runner runner;
    for (std::string const format : {"raw", "qcow2"}) {
        auto const path = directory.path("disk." + format);
        storage::CreateOptions options;
        if (format == "qcow2") options.layout.cluster_bytes = 32 * 1024;
        runner.must(
            storage::create_image(runner.loop(), path, format, 10240 * mib, options, soon()));
        auto const info = runner.must(storage::image_info(runner.loop(), path, "", soon()));
        CHECK(info.format == format);
        CHECK(info.virtual_bytes == 10240 * mib);
        CHECK(info.backing_file.empty());
        CHECK(*storage::allocated_bytes(path) < mib);
        if (format == "qcow2") CHECK(info.cluster_bytes == 32 * 1024);
        struct stat status{};
        REQUIRE(stat(path.c_str(), &status) == 0);
        CHECK((status.st_mode & 0777) == 0600);
        auto const error =
            runner.must_fail(storage::create_image(runner.loop(), path, format, mib, {}, soon()));
        CHECK(error.os == EEXIST);
        CHECK(runner.must(storage::image_info(runner.loop(), path, format, soon())).virtual_bytes ==
              10240 * mib);
    }
    CHECK(*storage::free_bytes(directory.text()) > mib);
    CHECK_FALSE(storage::free_bytes(directory.path("none")).has_value());
}

TEST_CASE("image: laid out as asked, and over a base", "[storage][image]") {
    Directory directory;
    Runner runner;
    auto const base = directory.path("base");
    auto const path = directory.path("disk");
    make_raw(base, mib, {});
    storage::Qcow2Layout const layout{.cluster_bytes = 128 * 1024,
                                      .compat = "1.1",
                                      .refcount_bits = 32,
                                      .compression = "zstd",
                                      .extended_l2 = true,
                                      .lazy_refcounts = true};
    runner.must(storage::create_image(runner.loop(), path, "qcow2", 4 * mib,
                                      {layout, "base", "raw"}, soon()));
    auto const info = runner.must(storage::image_info(runner.loop(), path, "qcow2", soon()));
    CHECK(info.backing_file == "base");
    CHECK(info.backing_format == "raw");
    auto const told = lab::must_run({"qemu-img", "info", "--output=json", path});
    for (auto const* word : {"\"compat\": \"1.1\"", "\"refcount-bits\": 32", "\"zstd\"",
                             "\"extended-l2\": true", "\"lazy-refcounts\": true"}) {
        INFO(word << " in " << told);
        CHECK(told.find(word) != std::string::npos);
    }
    auto const old = directory.path("old");
    runner.must(storage::create_image(runner.loop(), old, "qcow2", mib,
                                      {{.compat = "0.10", .refcount_bits = 16}}, soon()));
    CHECK(lab::must_run({"qemu-img", "info", "--output=json", old}).find("0.10") !=
          std::string::npos);
    runner.must_fail(storage::create_image(runner.loop(), path + "2", "qcow2", mib,
                                           {{}, "none", "raw"}, soon()));
    CHECK_FALSE(lab::fs::exists(path + "2"));
}

TEST_CASE("image: what cannot be is refused and leaves nothing", "[storage][image]") {
    Directory directory;
    Runner runner;
    auto const path = directory.path("disk");
    auto error =
        runner.must_fail(storage::create_image(runner.loop(), path, "vmdk", mib, {}, soon()));
    CHECK(error.code == core::Errc::invalid);
    storage::CreateOptions odd;
    odd.layout.cluster_bytes = 777;
    error = runner.must_fail(storage::create_image(runner.loop(), path, "qcow2", mib, odd, soon()));
    CHECK_FALSE(lab::fs::exists(path));
    error = runner.must_fail(storage::image_info(runner.loop(), path, "", soon()));
    CHECK(error.os == ENOENT);
    lab::write_file(path, "no qcow2 at all");
    error = runner.must_fail(storage::image_info(runner.loop(), path, "qcow2", soon()));
    CHECK(error.code == core::Errc::invalid);
}

TEST_CASE("image: a disk that a QEMU holds is in use", "[storage][image]") {
    Directory directory;
    Runner runner;
    auto const path = directory.path("disk");
    runner.must(storage::create_image(runner.loop(), path, "raw", mib, {}, soon()));
    CHECK_FALSE(*storage::in_use(path));
    {
        TestQemu qemu(runner, directory, oldest_qemu(), TestQemu::Role::source, {{path, "raw"}});
        CHECK(*storage::in_use(path));
        auto const info = runner.must(storage::image_info(runner.loop(), path, "raw", soon()));
        CHECK(info.virtual_bytes == mib);
    }
    CHECK_FALSE(*storage::in_use(path));
    CHECK_FALSE(storage::in_use(directory.path("none")).has_value());
}

TEST_CASE("image: a tombstone takes the name away, once and for each migration_id",
          "[storage][image]") {
    Directory directory;
    Runner runner;
    auto const path = directory.path("disk");
    lab::write_file(path, "first");
    REQUIRE(storage::tombstone(path, "e1"));
    CHECK_FALSE(lab::fs::exists(path));
    CHECK(lab::read_file(storage::tombstone_path(path, "e1")) == "first");
    REQUIRE(storage::tombstone(path, "e1"));  // repeated after a crash
    lab::write_file(path, "second");
    CHECK_FALSE(storage::tombstone(path, "e1").has_value());  // never over another file
    REQUIRE(storage::tombstone(path, "e2"));
    REQUIRE(storage::untombstone(path, "e2"));
    REQUIRE(storage::untombstone(path, "e2"));
    CHECK(lab::read_file(path) == "second");
    CHECK_FALSE(storage::tombstone(directory.path("none"), "e1").has_value());
    lab::write_file(path + ".moved-e3", "of another guest of that name");
    auto const removed = storage::remove_tombstone(path, "e1");
    REQUIRE(removed);
    CHECK(removed->size() == 1);
    REQUIRE(storage::remove_tombstone(path, "e1"));
    CHECK(*storage::tombstones_of(path) == std::vector<std::string>{path + ".moved-e3"});
    CHECK(lab::read_file(path) == "second");
}

TEST_CASE("image: set aside, restored and marked, each repeated without harm", "[storage][image]") {
    Directory directory;
    Runner runner;
    lab::fs::create_directory(directory.path("store"));
    auto const plain = directory.path("plain");
    auto const link = directory.path("link");
    auto const file = directory.path("store/file");
    lab::write_file(plain, "plain");
    lab::write_file(file, "linked");
    lab::fs::create_symlink("store/file", link);
    std::vector<std::string> const paths{plain, link};
    auto const aside = [&] {
        return runner.loop().run(storage::set_images_aside(runner.loop(), paths, "e1"));
    };
    for (int twice = 0; twice < 2; ++twice) {
        REQUIRE(aside());
        CHECK_FALSE(lab::fs::exists(plain));
        CHECK_FALSE(lab::fs::exists(link));  // a dangling link
        CHECK(lab::read_file(file + ".leaving-e1") == "linked");
        CHECK(storage::stale_name(link, "e1") == file + ".leaving-e1");
    }
    for (int twice = 0; twice < 2; ++twice) {
        REQUIRE(storage::restore_images(paths, "e1"));
        CHECK(lab::read_file(plain) == "plain");
        CHECK(lab::read_file(link) == "linked");
    }
    REQUIRE(aside());
    for (int twice = 0; twice < 2; ++twice) {
        for (auto const& path : paths) REQUIRE(storage::tombstone(path, "e1"));
        REQUIRE(aside());  // repeated after a restart
        CHECK(lab::read_file(file + ".moved-e1") == "linked");
        CHECK_FALSE(lab::fs::is_symlink(link));  // the name is free for a guest that comes back
    }
    for (auto const& path : paths) CHECK_FALSE(storage::restore_images({path}, "e1").has_value());
    for (auto const& path : paths) REQUIRE(storage::remove_tombstone(path, "e1"));
    CHECK(lab::fs::is_empty(directory.path("store")));
    CHECK_FALSE(lab::fs::is_symlink(link + ".moved-e1"));
}

TEST_CASE("image: a file that takes the name meanwhile is kept", "[storage][image]") {
    Directory directory;
    Runner runner;
    auto const first = directory.path("first");
    auto const second = directory.path("second");
    lab::write_file(first, "first");
    lab::write_file(second, "second");
    std::vector<std::string> const paths{first, second};
    REQUIRE(runner.loop().run(storage::set_images_aside(runner.loop(), paths, "e1")));
    lab::write_file(first, "other");
    CHECK_FALSE(storage::restore_images(paths, "e1").has_value());
    CHECK(lab::read_file(first) == "other");
    CHECK(lab::read_file(first + ".leaving-e1") == "first");
    CHECK(lab::read_file(second) == "second");
}

TEST_CASE("image: what could not be renamed is refused by name", "[storage][image]") {
    Directory directory;
    auto const path = directory.path("disk");
    lab::write_file(path, "disk");
    REQUIRE(storage::check_can_be_set_aside(path, "e1"));
    lab::fs::create_hard_link(path, directory.path("other"));
    auto const linked = storage::check_can_be_set_aside(path, "e1");
    REQUIRE_FALSE(linked);
    CHECK(linked.error().code == core::Errc::refused);
    CHECK(linked.error().what.find(path) != std::string::npos);
    CHECK(linked.error().what.find("2 hard links") != std::string::npos);
    lab::fs::remove(directory.path("other"));
    auto const longest = directory.path(std::string(250, 'x'));
    lab::write_file(longest, "disk");
    CHECK_FALSE(storage::check_can_be_set_aside(longest, "e1").has_value());
}

}  // namespace storage_image_cases
