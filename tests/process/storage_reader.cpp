// Images read by our own reader: which files may be read, every byte of them, and the error when a
// file has changed. storage_mirror.cpp tests the mirror on top of it.
#include <fcntl.h>
#include <unistd.h>

#include "storage/copier.hpp"
#include "storage/image.hpp"
#include "storage/limits.hpp"
#include "tests/process/storage_lab.hpp"

namespace storage_reader_cases {

using namespace storage_lab;
using storage::ImageFile;
using storage::NbdPool;

namespace {

constexpr std::uint64_t mib = 1024 * 1024;
/// Not a multiple of 4 KiB.
constexpr std::uint64_t odd_bytes = 32 * mib + 512;

Deadline soon() { return Deadline::after(limit); }

bool direct_works(std::string const& path) {
    return static_cast<bool>(core::Fd(open(path.c_str(), O_RDONLY | O_CLOEXEC | O_DIRECT)));
}

qmp::BlockNode node_of(std::string const& path, std::uint64_t bytes, bool direct) {
    qmp::BlockNode node;
    node.node_name = "drive0";
    node.driver = "raw";
    node.file_name = node.file_name_told = path;
    node.virtual_bytes = bytes;
    node.cache_direct = direct;
    return node;
}

/// An image that one server holds open, and an empty image on another server.
struct Line {
    explicit Line(std::uint64_t bytes)
        : from(directory.path("source")), to(directory.path("target")) {
        make_raw(from, bytes, {{0, 3 * mib}, {8 * mib + 4096, 5 * mib}, {bytes - 1536, 1536}});
        make_raw(to, bytes, {});
        source_server.emplace(Server::qemu_nbd(directory, {"-f", "raw", "-r", from}));
        target_server.emplace(Server::qemu_nbd(directory, {"-f", "raw", "--discard=unmap", to}));
        runner.must(source.open(source_server->address(), "", {"base:allocation"}, 1, soon()));
        runner.must(target.open(target_server->address(), "", {"base:allocation"}, 4, soon()));
    }
    ~Line() {
        runner.loop().run(source.close());
        runner.loop().run(target.close());
    }
    Result<ImageFile> open_image(std::string const& path, std::uint64_t bytes, bool direct) {
        return ImageFile::open(node_of(path, bytes, direct), source_server->daemon().pid());
    }
    Task<Result<>> copy(ImageFile image, storage::Scan& scan) {
        storage::ImageReader reader(runner.loop(), std::move(image), source);
        storage::Copier copier(runner.loop(), {"vda", reader, target}, buffers, nullptr, counters);
        co_return co_await copier.run(scan, soon());
    }

    Directory directory;
    Runner runner;
    std::string from;
    std::string to;
    std::optional<Server> source_server;
    std::optional<Server> target_server;
    storage::Buffers buffers{runner.loop(), 16 * mib, storage::limits::in_flight_requests_max};
    NbdPool source{runner.loop()};
    NbdPool target{runner.loop()};
    storage::CopyCounters counters;
};

}  // namespace

TEST_CASE("reader: an image is copied whole, and its holes stay holes", "[storage][reader]") {
    for (bool const direct : {false, true}) {
        DYNAMIC_SECTION((direct ? "O_DIRECT" : "buffered")) {
            Line line(odd_bytes);
            if (direct && !direct_works(line.from)) {
                WARN("skipped: no O_DIRECT in /dev/shm before Linux 6.6");
                continue;
            }
            auto image = line.open_image(line.from, odd_bytes, direct);
            REQUIRE(image);
            CHECK(image->direct == direct);
            storage::AllocationScan scan(line.source, line.target);
            line.runner.must(line.copy(std::move(*image), scan));
            CHECK(line.counters.data_bytes >= 8 * mib);
            CHECK(line.counters.data_bytes < 9 * mib);
            CHECK(line.buffers.bytes_taken() == 0);
            CHECK(same(line.from, "raw", line.to, "raw"));
            CHECK(*storage::allocated_bytes(line.to) <=
                  *storage::allocated_bytes(line.from) + mib / 4);
        }
    }
}

TEST_CASE("reader: with O_DIRECT, what starts within a block is read over NBD",
          "[storage][reader]") {
    Line line(odd_bytes);
    if (!direct_works(line.from)) {
        WARN("skipped: no O_DIRECT in /dev/shm before Linux 6.6");
        return;
    }
    auto image = line.open_image(line.from, odd_bytes, true);
    REQUIRE(image);
    storage::DirtyScan scan(line.source, {{512, 9 * mib, false}, {odd_bytes - 512, 512, false}},
                            false);
    line.runner.must(line.copy(std::move(*image), scan));
    lab::must_run(
        {"cmp", "--ignore-initial=512", fmt::format("--bytes={}", 9 * mib), line.from, line.to});
    lab::must_run({"cmp", fmt::format("--ignore-initial={}", odd_bytes - 512), line.from, line.to});
}

TEST_CASE("reader: an image that was cut off ends the copy", "[storage][reader]") {
    for (bool const direct : {false, true}) {
        DYNAMIC_SECTION((direct ? "O_DIRECT" : "buffered")) {
            Line line(32 * mib);
            if (direct && !direct_works(line.from)) {
                WARN("skipped: no O_DIRECT in /dev/shm before Linux 6.6");
                continue;
            }
            auto image = line.open_image(line.from, 32 * mib, direct);
            REQUIRE(image);
            REQUIRE(truncate(line.from.c_str(), 2 * mib + 700) == 0);
            storage::DirtyScan scan(line.source, {{0, 8 * mib, false}}, false);
            auto const error = line.runner.must_fail(line.copy(std::move(*image), scan));
            INFO(error.sentence());
            CHECK(error.code == core::Errc::io);
            CHECK(error.sentence().find(line.from) != std::string::npos);
            CHECK(error.sentence().find("disk vda") != std::string::npos);
            CHECK(line.buffers.bytes_taken() == 0);
        }
    }
}

TEST_CASE("reader: only the very file that QEMU has open", "[storage][reader]") {
    Line line(32 * mib);
    auto const refused = [&](qmp::BlockNode const& node) {
        auto const image = ImageFile::open(node, line.source_server->daemon().pid());
        REQUIRE_FALSE(image);
        return image.error().sentence();
    };
    auto node = node_of(line.from, 32 * mib, false);
    CHECK(ImageFile::open(node, line.source_server->daemon().pid()));
    CHECK_FALSE(ImageFile::open(node, getpid()));
    CHECK_FALSE(ImageFile::open(node, 0));
    // A file that QEMU may not read is not read for it.
    for (int const mode : {O_RDONLY, O_PATH, O_WRONLY}) {
        core::Fd const held(open(line.from.c_str(), mode));
        lab::Daemon const other("held", {"sleep", "60"}, {}, line.directory.text());
        CHECK(ImageFile::open(node, other.pid()).has_value() == (mode == O_RDONLY));
    }

    node.driver = "qcow2";
    CHECK(refused(node).find("not a plain raw image") != std::string::npos);
    node = node_of(line.from, 32 * mib, false);
    node.file_name_told = R"(json:{"driver":"raw","offset":4096,"file":{}})";
    CHECK(refused(node).find("not a plain raw image") != std::string::npos);
    CHECK(refused(node_of(line.from, 31 * mib, false)).find("bytes") != std::string::npos);
    CHECK_FALSE(refused(node_of(line.directory.path("none"), 32 * mib, false)).empty());

    // Another file with the name of the image, as after a restore from a backup.
    lab::fs::rename(line.from, line.from + ".old");
    make_raw(line.from, 32 * mib, {{0, mib}});
    CHECK(refused(node_of(line.from, 32 * mib, false)).find("another file") != std::string::npos);
    CHECK(line.open_image(line.from + ".old", 32 * mib, false));
    lab::fs::remove(line.from);
    lab::must_run({"mkfifo", line.from});
    CHECK(refused(node_of(line.from, 32 * mib, false)).find("neither") != std::string::npos);
}

}  // namespace storage_reader_cases
