// Rounds of a warm copy between two QEMUs without a guest. Two disks are written in lockstep: in
// every point that arrived, the second disk holds what the first does, except for at most one block
// that was between the two writes at that instant.
#include <catch2/catch.hpp>

#include <array>
#include <fstream>

#include "qmp/vm.hpp"
#include "storage/disk_replicator.hpp"
#include "storage/limits.hpp"
#include "storage/when_all.hpp"
#include "tests/process/storage_pair.hpp"

namespace storage_replicator_cases {

using namespace storage_lab;

namespace {

constexpr std::size_t slots = 32;
constexpr int patterns = 255;  // a byte that is not 0
/// Two more disks lie between the first and the last, which are written in turn. QEMU takes one
/// command of the writer for each of ours; with two disks alone the writer would hardly get between
/// them.
constexpr std::size_t disk_count = 4;
constexpr std::size_t first_disk = 0;
constexpr std::size_t last_disk = disk_count - 1;
constexpr std::uint64_t slot_bytes = 256 * 1024;  // far apart: each slot is a cluster of its own

/// Writes slot after slot, on the first disk and then on the last, each time with the next number.
class Lockstep {
public:
    Lockstep(core::Loop& loop, TestQemu& qemu) : loop_(loop), qemu_(qemu), scope_(loop) {}
    /// Until every slot has had a number.
    Task<Result<>> whole_turn() {
        auto const enough = written_ + slots;
        auto const deadline = Deadline::after(limit);
        while (written_ < enough && !error_) {
            if (deadline.passed()) co_return core::fail(core::Errc::timed_out, "no turn");
            CO_TRY_VOID(co_await core::sleep_for(loop_, 1ms));
        }
        co_return Result<>{};
    }
    void start() {
        stop_ = std::stop_source();
        scope_.spawn(write(*this));
    }
    Task<void> stop() {
        stop_.request_stop();
        co_await scope_.join();
    }
    [[nodiscard]] std::size_t written() const { return written_; }
    [[nodiscard]] std::optional<core::Error> const& error() const { return error_; }

private:
    static Task<void> write(Lockstep& self) {
        while (!self.stop_.stop_requested() && !self.error_) {
            auto const at = (self.written_ % slots) * slot_bytes;
            auto const pattern = 1 + self.written_ % patterns;
            for (auto const disk : {first_disk, last_disk}) {
                if (self.error_) break;
                auto const wrote = co_await self.qemu_.device_io(
                    disk, fmt::format("write -P {} {} 4096", pattern, at));
                if (!wrote) self.error_ = wrote.error();
            }
            ++self.written_;
        }
    }
    core::Loop& loop_;
    TestQemu& qemu_;
    std::size_t written_ = 0;
    std::optional<core::Error> error_;
    std::stop_source stop_;
    core::TaskGroup scope_;
};

std::array<int, slots> numbers_in(std::string const& image) {
    std::array<int, slots> numbers{};
    std::ifstream file(image, std::ios::binary);
    for (std::size_t slot = 0; slot < slots; ++slot) {
        file.seekg(static_cast<std::streamoff>(slot * slot_bytes));
        numbers[slot] = file.get();
    }
    REQUIRE(file.good());
    return numbers;
}

/// Checks that the destination's two disks are of one instant: equal, except for the slot being
/// written, in which the first disk is one turn ahead.
void check_one_instant(Pair& pair) {
    auto const first = numbers_in(pair.to(first_disk).path);
    auto const second = numbers_in(pair.to(last_disk).path);
    std::size_t between = 0;
    for (std::size_t slot = 0; slot < slots; ++slot) {
        if (first[slot] == second[slot]) continue;
        ++between;
        INFO("slot " << slot << ": " << first[slot] << " and " << second[slot]);
        CHECK((first[slot] - second[slot] + patterns) % patterns == static_cast<int>(slots));
    }
    CHECK(between <= 1);
}

std::vector<storage::WarmDisk> warm_disks(std::size_t count) {
    std::vector<storage::WarmDisk> list;
    for (std::size_t i = 0; i < count; ++i) {
        list.push_back({fmt::format("disk{}", i),
                        {TestQemu::node(i),
                         fmt::format("/machine/peripheral/disk{}/virtio-backend", i), disk_bytes}});
    }
    return list;
}

/// A warm copy of a Pair's disks, and a writer on the same disks.
class Scene {
public:
    explicit Scene(std::string const& binary, std::string const& format = "raw",
                   bool iothread = false, std::uint64_t bandwidth = 0,
                   std::string const& fleecing = "")
        : pair(binary, format, disk_count, iothread),
          writer(pair.runner().loop(), pair.source()),
          copy(pair.runner().loop(), pair.source().client(), warm_disks(disk_count),
               {pair.directory().text(), fleecing.empty() ? pair.directory().text() : fleecing,
                "w1", bandwidth}) {
        for (auto const disk : {first_disk, last_disk}) {
            auto const all = fmt::format("write -P 1 0 {}", slots * slot_bytes);
            pair.runner().must(pair.source().device_io(disk, all));
        }
        pair.runner().must(copy.begin(soon()));
    }
    ~Scene() {
        pair.runner().loop().run(writer.stop());
        (void)pair.runner().loop().run(copy.drop(soon()));
    }
    Task<Result<storage::WarmRound>> round(bool full, std::stop_token stop = {}) {
        return copy.round(pair.where(), {"disk0", "disk1", "disk2", "disk3"}, full,
                          Deadline::after(limit, std::move(stop)));
    }
    /// The guest's devices are on their own nodes, and nothing of the copy is left.
    void check_untouched() {
        pair.runner().must(copy.drop(soon()));
        pair.nothing_left();
        auto const nodes =
            pair.runner().must(qmp::query_named_block_nodes(pair.source().client(), soon()));
        for (auto const& node : nodes) CHECK_FALSE(node.node_name.starts_with("sidecar-"));
        auto const devices = pair.runner().must(qmp::query_block(pair.source().client(), soon()));
        for (std::size_t i = 0; i < disk_count; ++i) {
            CHECK(devices.at(i).node_name == TestQemu::node(i));
        }
    }
    void check_writer() {
        pair.runner().loop().run(writer.stop());
        if (writer.error()) FAIL("the guest saw an error: " << writer.error()->sentence());
    }
    Pair pair;
    Lockstep writer;
    storage::DiskReplicator copy;
};

}  // namespace

TEST_CASE("replicator: each point is one instant of all disks", "[storage][warm]") {
    struct Kind {
        char const* format;
        bool iothread;
    };
    for (auto const& [version, binary] : qemus()) {
        for (auto const& kind : {Kind{"raw", false}, Kind{"raw", true}}) {
            DYNAMIC_SECTION("QEMU " << version << (kind.iothread ? ", iothread" : "")) {
                Scene scene(binary, kind.format, kind.iothread);
                scene.writer.start();
                scene.pair.runner().must(scene.writer.whole_turn());
                std::size_t before = 0;
                for (int i = 0; i < 8; ++i) {
                    auto const round = scene.pair.runner().must(scene.round(i == 0));
                    check_one_instant(scene.pair);
                    if (i > 0) CHECK(round.owed_bytes < 20 * mib);
                    if (i == 0) CHECK(round.copied_bytes >= 15 * mib);
                    scene.pair.runner().must(scene.copy.accept(soon()));
                    CHECK(scene.writer.written() > before);
                    before = scene.writer.written();
                }
                scene.check_writer();
                scene.pair.runner().must(scene.round(false));
                scene.pair.runner().must(scene.copy.accept(soon()));
                scene.check_untouched();
                scene.pair.compare();
            }
        }
    }
}

TEST_CASE("replicator: qcow2, and what is discarded meanwhile", "[storage][warm]") {
    for (auto const& [version, binary] : qemus()) {
        DYNAMIC_SECTION("QEMU " << version) {
            Scene scene(binary, "qcow2");
            scene.pair.runner().must(scene.round(true));
            scene.pair.runner().must(scene.copy.accept(soon()));
            for (auto const* line : {"discard 1048576 1048576", "write -z 4194304 65536",
                                     "write -P 9 50331648 8192"}) {
                scene.pair.runner().must(scene.pair.source().device_io(0, line));
            }
            auto const round = scene.pair.runner().must(scene.round(false));
            CHECK(round.owed_bytes > 0);
            CHECK(round.owed_bytes <= 2 * mib);
            CHECK(round.copied_bytes <= mib / 16);
            scene.check_untouched();
            scene.pair.compare();
        }
    }
}

TEST_CASE("replicator: after a round that was cut its blocks are still dirty", "[storage][warm]") {
    for (auto const& [version, binary] : qemus()) {
        DYNAMIC_SECTION("QEMU " << version) {
            Scene scene(binary, "raw", false, 24 * mib);
            scene.pair.runner().must(scene.round(true));
            scene.pair.runner().must(scene.copy.accept(soon()));
            scene.writer.start();
            for (auto const* line : {"write -P 7 16777216 8M", "write -P 8 33554432 8M"}) {
                scene.pair.runner().must(scene.pair.source().device_io(0, line));
            }
            auto& loop = scene.pair.runner().loop();
            auto const cut_in_the_middle = [&]() -> Task<Result<>> {
                while (scene.copy.copied_bytes() < 2 * mib) {
                    CO_TRY_VOID(co_await core::sleep_for(loop, 1ms));
                }
                co_return co_await scene.pair.cut_connections();
            };
            auto const round = [&]() -> Task<Result<>> {
                auto const done = co_await scene.round(false);
                if (done) co_return core::fail(core::Errc::invalid, "the round was not cut");
                INFO(done.error().sentence());
                CHECK(done.error().sentence().find("copying disk disk") != std::string::npos);
                co_return Result<>{};
            };
            std::vector<Task<Result<>>> both;
            both.push_back(round());
            both.push_back(cut_in_the_middle());
            scene.pair.runner().must(storage::when_all(loop, std::move(both)));
            // A round that was never reported complete must be sent again as well.
            scene.pair.runner().must(scene.round(false));
            scene.check_writer();
            auto const last = scene.pair.runner().must(scene.round(false));
            CHECK(last.owed_bytes >= 16 * mib);
            scene.check_untouched();
            scene.pair.compare();
        }
    }
}

TEST_CASE("replicator: a fleecing image without space ends the round, not the guest's write",
          "[storage][warm]") {
    for (auto const& [version, binary] : qemus()) {
        DYNAMIC_SECTION("QEMU " << version) {
            Directory place;
            SmallDisk const small(place.path("small"), "size=3m");
            Scene scene(binary, "raw", false, 8 * mib, small.path());
            scene.writer.start();
            auto const failed = scene.pair.runner().must_fail(scene.round(true));
            INFO(failed.sentence());
            CHECK(failed.sentence().find("disk") != std::string::npos);
            auto const before = scene.writer.written();
            CHECK(before > slots);  // each slot was overwritten: more than the image holds
            scene.check_writer();
            scene.pair.runner().must(scene.pair.source().device_io(last_disk, "write -P 3 0 4096"));
            scene.check_untouched();
            // Now nothing is overwritten, and the image has room.
            scene.pair.runner().must(scene.copy.begin(soon()));
            scene.pair.runner().must(scene.round(true));
            scene.check_untouched();
            scene.pair.compare();
        }
    }
}

TEST_CASE("replicator: what a killed sidecar left is removed from the guest's disks",
          "[storage][warm]") {
    for (auto const& [version, binary] : qemus()) {
        DYNAMIC_SECTION("QEMU " << version) {
            Scene scene(binary);
            auto& client = scene.pair.source().client();
            auto& runner = scene.pair.runner();
            std::vector<storage::PointDisk> points;
            for (auto const& disk : warm_disks(disk_count)) points.push_back(disk.point);
            storage::RecoveryPoint point(runner.loop(), client, points,
                                         scene.pair.directory().text());
            runner.must(point.take(nullptr, soon()));
            runner.must(scene.pair.source().device_io(0, "write -P 5 0 64k"));
            runner.must(storage::clear_warm_copy(runner.loop(), client, warm_disks(disk_count),
                                                 scene.pair.directory().text(), soon()));
            scene.check_untouched();
            runner.must(scene.pair.source().device_io(0, "read -P 5 0 64k"));
        }
    }
}

}  // namespace storage_replicator_cases
