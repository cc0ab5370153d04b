// The destination of a mirror. The real program receives rounds from a real QEMU's disks, and is
// disconnected and killed during them. At every moment the last complete point and the one before
// it are there, byte for byte. Then it fails over to one of them.
#include <signal.h>

#include <algorithm>

#include "qmp/vm.hpp"
#include "sidecar/replication/replica_record.hpp"
#include "storage/disk_replicator.hpp"
#include "tests/process/dns_lab.hpp"
#include "tests/process/incoming.hpp"
#include "tests/process/storage_pair.hpp"

namespace replication_target_cases {

using namespace storage_lab;
using core::Json;
using sidecar::ReplicaRecord;

namespace {

constexpr std::size_t disk_count = 2;
constexpr char const* guest = "web1";

/// A source with two disks, and the directories of a destination.
class Mirrored {
public:
    Mirrored(std::string const& binary, std::string const& format)
        : format_(format),
          from_(make_disks()),
          source(runner, directory, binary, TestQemu::Role::source, from_),
          copy(runner.loop(), source.client(), warm_disks(),
               {directory.text(), directory.text(), "m", 0}) {
        paths = {directory.path("run"), directory.path("state")};
        describe(binary);
        runner.must(copy.begin(soon()));
    }
    ~Mirrored() { (void)runner.loop().run(copy.drop(soon())); }

    Incoming connect(std::string const& replication) {
        auto const map = directory.path("from") + "=" + directory.path("to");
        return {runner, directory.text(), paths, {guest, replication, true, {"--map-path", map}}};
    }
    void write(std::string const& line) {
        for (std::size_t i = 0; i < disk_count; ++i) runner.must(source.device_io(i, line));
    }
    Json begin(Incoming& to) {
        return runner.must(to.ask("replicate_begin",
                                  sidecar::protocol::ReplicateBegin{description.to_json(),
                                                                    static_cast<unsigned>(base), ""}
                                      .to_json()));
    }
    Task<Result<storage::WarmRound>> copy_to(Json reply) {
        storage::Destination const where{
            "127.0.0.1", fmt::format("{}", reply["nbd_port"].integer_or(0)), "", ""};
        std::vector<std::string> names;
        for (auto const& name : reply["exports"].elements()) names.push_back(name.text_or(""));
        co_return co_await copy.round(where, names, reply["full"].boolean_or(true), soon());
    }
    Json complete(Incoming& to, Json const& reply) {
        return runner.must(to.ask("replicate_complete",
                                  sidecar::protocol::ReplicateComplete{
                                      static_cast<unsigned>(reply["number"].integer_or(0)), 1000, 0,
                                      sidecar::protocol::ConsistencyKind::crash, ""}
                                      .to_json()));
    }
    /// A whole round; returns its number.
    std::int64_t round() {
        auto to = connect(description.migration_id);
        auto const reply = begin(to);
        auto const number = reply["number"].integer_or(0);
        runner.must(copy_to(reply));
        (void)complete(to, reply);
        runner.must(copy.accept(soon()));
        base = number;
        to.hang_up();
        remember(number);
        return number;
    }
    /// A round that fails, at its begin or later; returns the error.
    core::Error failed_round() {
        auto to = connect(description.migration_id);
        auto const reply = runner.loop().run(to.ask(
            "replicate_begin", sidecar::protocol::ReplicateBegin{description.to_json(),
                                                                 static_cast<unsigned>(base), ""}
                                   .to_json()));
        auto const error = reply ? runner.must_fail(copy_to(*reply)) : core::Error(reply.error());
        to.hang_up();
        return error;
    }
    /// Point `number` must hold what the disks hold now.
    void remember(std::int64_t number) {
        for (std::size_t i = 0; i < disk_count; ++i) {
            lab::must_run({"qemu-img", "convert", "-U", "-f", format_, "-O", "raw", from_[i].path,
                           expected(number, i)});
        }
    }
    ReplicaRecord record() {
        auto const found = ReplicaRecord::read(paths, guest);
        REQUIRE(found);
        REQUIRE(found->has_value());
        return **found;
    }
    /// Both points of the record are complete, and there are no other files beside the images.
    void check_points(unsigned last, unsigned previous) {
        auto const now = record();
        CHECK(now.last() == last);
        CHECK(now.previous() == previous);
        for (std::size_t i = 0; i < disk_count; ++i) {
            check_point(now, last, i);
            if (previous != 0) check_point(now, previous, i);
        }
        REQUIRE_FALSE(now.points.empty());
        CHECK(now.points.back().number == last);
        CHECK(now.points.size() == (previous == 0 ? 1 : 2));
    }
    void check_overlays(std::vector<unsigned> const& numbers) {
        std::size_t files = 0;
        for (auto const& entry : lab::fs::directory_iterator(directory.path("to"))) {
            if (entry.path().string().find(".point-") != std::string::npos) ++files;
        }
        CHECK(files == numbers.size() * disk_count);
        CHECK(record().overlays == numbers);
    }
    [[nodiscard]] std::string image(std::size_t disk) const {
        return directory.path(fmt::format("to/d{}", disk));
    }
    [[nodiscard]] std::string expected(std::int64_t number, std::size_t disk) const {
        return directory.path(fmt::format("expected-{}-{}", number, disk));
    }
    void check_same(std::string const& left, std::string const& left_format,
                    std::string const& right) {
        auto const compared =
            lab::run({"qemu-img", "compare", "-U", "-f", left_format, "-F", "raw", left, right});
        INFO(left << ": " << compared.out << compared.err);
        CHECK(compared.exit_status == 0);
    }
    /// Runs `sidecar failover` with these words; ended with the object.
    lab::Daemon failover(lab::Argv const& more, std::vector<std::string> environment = {}) {
        lab::Argv argv{
            lab::program("sidecar"), "failover",           guest, "--run-dir", paths.run_directory,
            "--state-dir",           paths.state_directory};
        argv.insert(argv.end(), more.begin(), more.end());
        return {"failover-" + lab::unique_suffix(),
                argv,
                {"", std::move(environment)},
                directory.text()};
    }
    [[nodiscard]] std::string manifest() const { return paths.state(guest) + "/guest.json"; }
    [[nodiscard]] bool has_manifest() const { return lab::fs::exists(manifest()); }

private:
    std::vector<TestDisk> make_disks() {
        lab::fs::create_directory(directory.path("from"));
        lab::fs::create_directory(directory.path("to"));
        std::vector<TestDisk> list;
        for (std::size_t i = 0; i < disk_count; ++i) {
            list.push_back({directory.path(fmt::format("from/d{}", i)), format_});
            make_raw(list[i].path, disk_bytes, {{0, 3 * mib}, {9 * mib, 4 * mib}});
            convert(list[i].path, format_);
        }
        return list;
    }
    static std::vector<storage::WarmDisk> warm_disks() {
        std::vector<storage::WarmDisk> list;
        for (std::size_t i = 0; i < disk_count; ++i) {
            auto const device = fmt::format("/machine/peripheral/disk{}/virtio-backend", i);
            list.push_back({fmt::format("disk{}", i), {TestQemu::node(i), device, disk_bytes}});
        }
        return list;
    }
    void describe(std::string const& binary) {
        description.guest = guest;
        description.migration_id = "m1";
        description.argv = {binary, "-M",          "pc,accel=tcg", "-m",
                            "64",   "-nodefaults", "-display",     "none"};
        description.working_directory = "/";
        description.machine_type = runner.must(qmp::machine_type(source.client(), soon()));
        description.qemu_version = "any";
        for (std::size_t i = 0; i < disk_count; ++i) {
            sidecar::MovedDisk disk;
            disk.name = fmt::format("disk{}", i);
            disk.node = TestQemu::node(i);
            disk.path = from_[i].path;
            disk.format = format_;
            disk.virtual_bytes = disk_bytes;
            description.disks.push_back(disk);
            description.argv.insert(
                description.argv.end(),
                {"-drive", fmt::format("if=virtio,file={},format={}", disk.path, format_)});
        }
    }
    void check_point(ReplicaRecord const& now, unsigned number, std::size_t disk) {
        bool const in_image = number == now.base;
        auto const path = in_image ? image(disk) : storage::point_path(now.disk(disk), number);
        check_same(path, in_image ? format_ : "qcow2", expected(number, disk));
    }

public:
    Directory directory;
    Runner runner;

private:
    std::string format_;
    std::vector<TestDisk> from_;

public:
    TestQemu source;
    storage::DiskReplicator copy;
    sidecar::Paths paths;
    sidecar::Description description;
    std::int64_t base = 0;
};

/// Rounds 1 to 3, and further writes that are in no point.
void three_points(Mirrored& mirrored) {
    CHECK(mirrored.round() == 1);
    mirrored.check_points(1, 0);
    mirrored.write("write -P 11 1M 1M");
    mirrored.write("discard 9M 1M");
    CHECK(mirrored.round() == 2);
    mirrored.check_points(2, 1);
    mirrored.write("write -P 12 1536k 1M");
    mirrored.write("write -z 10M 64k");
    CHECK(mirrored.round() == 3);
    mirrored.check_points(3, 2);
    mirrored.write("write -P 13 2M 8M");
}

}  // namespace

TEST_CASE("replica: the last point and the one before it survive each way that a round can end",
          "[replica][warm]") {
    for (auto const& [version, binary] : qemus()) {
        for (std::string const format : {"raw", "qcow2"}) {
            DYNAMIC_SECTION("QEMU " << version << ", " << format) {
                Mirrored mirrored(binary, format);
                auto const connect = [&](std::string const& mirror) {
                    return mirrored.connect(mirror);
                };
                three_points(mirrored);
                {
                    INFO("the source goes away with its blocks copied");
                    auto to = connect("m1");
                    mirrored.runner.must(mirrored.copy_to(mirrored.begin(to)));
                    to.hang_up();
                    mirrored.check_points(3, 2);
                    mirrored.check_overlays({3});
                }
                {
                    INFO("the destination is killed, its QEMU stays and holds the images");
                    auto to = connect("m1");
                    mirrored.runner.must(mirrored.copy_to(mirrored.begin(to)));
                    to.kill();
                    mirrored.check_points(3, 2);
                }
                INFO("the next round owes it all");
                mirrored.write("write -P 14 40M 64k");
                CHECK(mirrored.round() == 4);
                mirrored.check_points(4, 3);
                INFO("another mirror copies everything, as a point like others");
                mirrored.description.migration_id = "m2";
                mirrored.base = 0;
                CHECK(mirrored.round() == 5);
                mirrored.check_points(5, 4);
                auto to = connect("m2");
                mirrored.runner.must(to.ask("replicate_forget", Json::object()));
                to.hang_up();
                CHECK(lab::fs::is_empty(mirrored.directory.path("to")));
            }
        }
    }
}

TEST_CASE("replica: files of others are neither written nor removed", "[replica][warm]") {
    for (auto const& [version, binary] : qemus()) {
        DYNAMIC_SECTION("QEMU " << version) {
            Mirrored mirrored(binary, "raw");
            std::string const text = "the only copy of something else\n";
            auto const forget = [&] {
                auto to = mirrored.connect("m1");
                mirrored.runner.must(to.ask("replicate_forget", Json::object()));
                to.hang_up();
            };
            {
                INFO("a first round is cut, and another file takes the place of an image");
                auto to = mirrored.connect("m1");
                (void)mirrored.begin(to);
                to.kill();
            }
            lab::fs::rename(mirrored.image(1), mirrored.directory.path("ours"));
            lab::write_file(mirrored.image(1), text);
            auto const error = mirrored.failed_round();
            CHECK(error.sentence().find(mirrored.image(1) + ": File exists") != std::string::npos);
            forget();
            CHECK(lab::read_file(mirrored.image(1)) == text);
            CHECK_FALSE(lab::fs::exists(mirrored.image(0)));
            CHECK(lab::fs::directory_iterator(mirrored.directory.path("to"))->path() ==
                  mirrored.image(1));
            lab::fs::remove(mirrored.image(1));

            INFO("files that are named like overlays");
            std::vector<std::string> const others{mirrored.image(0) + ".point-7",
                                                  mirrored.image(0) + ".point-of-sale",
                                                  mirrored.image(0) + ".point-m1-2.backup"};
            for (auto const& path : others) lab::write_file(path, text);
            CHECK(mirrored.round() == 1);
            mirrored.write("write -P 11 1M 1M");
            CHECK(mirrored.round() == 2);
            mirrored.write("write -P 12 1M 1M");
            CHECK(mirrored.round() == 3);
            forget();
            for (auto const& path : others) CHECK(lab::read_file(path) == text);
        }
    }
}

TEST_CASE("replica: a destination without space fails the round, and nothing else",
          "[replica][warm]") {
    for (auto const& [version, binary] : qemus()) {
        DYNAMIC_SECTION("QEMU " << version) {
            Mirrored mirrored(binary, "raw");
            auto const too_full = [&](std::string const& named) {
                auto const error = mirrored.failed_round();
                INFO(error.sentence());
                CHECK(error.sentence().find(named) != std::string::npos);
                CHECK(error.sentence().find("make room") != std::string::npos);
            };
            // The free space that the first copy requires beside its data.
            SmallDisk room(mirrored.directory.path("to"), "size=80m");
            {
                INFO("in the first copy");
                auto to = mirrored.connect("m1");
                auto const reply = mirrored.begin(to);
                room.resize("size=6m");
                (void)mirrored.runner.must_fail(mirrored.copy_to(reply));
                to.hang_up();
                CHECK(mirrored.record().points.empty());
                room.resize("size=80m");
            }
            CHECK(mirrored.round() == 1);
            mirrored.write("write -P 11 1M 1M");
            CHECK(mirrored.round() == 2);
            mirrored.write("write -P 12 16M 40M");
            auto const before = lab::fs::space(room.path()).free;
            for (int i = 0; i < 2; ++i) {
                INFO("in a later round");
                too_full("disk disk");
                mirrored.check_points(2, 1);
                mirrored.check_overlays({2});
                CHECK(lab::fs::space(room.path()).free >= before);
            }
            room.resize("size=120m");
            CHECK(mirrored.round() == 3);
            CHECK(mirrored.round() == 4);
            INFO("while an older point is written into the image");
            too_full("to/d");
            mirrored.check_points(4, 3);
            room.resize("size=300m");
            CHECK(mirrored.round() == 5);
            mirrored.check_points(5, 4);
            mirrored.check_overlays({4, 5});
        }
    }
}

TEST_CASE("replica: a failover that is killed continues to the point it chose", "[replica][warm]") {
    for (auto const& [version, binary] : qemus()) {
        for (bool const previous : {false, true}) {
            DYNAMIC_SECTION("QEMU " << version << (previous ? ", the previous point" : "")) {
                Mirrored mirrored(binary, "raw");
                three_points(mirrored);
                lab::Argv words{"--i-have-fenced"};
                if (previous) words.emplace_back("--previous");
                auto killed = mirrored.failover(words, {"SIDECAR_TEST_STOP_AT=fold"});
                lab::wait_until("the choice", 20s, [&] { return mirrored.record().chosen != 0; });
                killed.kill();
                // Killed once more, after QEMU has started and before the guest runs.
                auto late = mirrored.failover(words, {"SIDECAR_TEST_STOP_AT=start_guest"});
                lab::wait_until("the manifest", 30s, [&] { return mirrored.has_manifest(); });
                late.kill();
                lab::fs::remove(mirrored.manifest());
                // Later options do not change the choice: the other point may be gone.
                auto again = mirrored.failover({"--i-have-fenced"});
                lab::wait_until("the guest's manifest", 30s, [&] {
                    if (!again.running()) throw lab::Failure("failover ended: " + again.err());
                    return mirrored.has_manifest();
                });
                for (std::size_t i = 0; i < disk_count; ++i) {
                    mirrored.check_same(mirrored.image(i), "raw",
                                        mirrored.expected(previous ? 2 : 3, i));
                }
                mirrored.check_overlays({});
                auto const manifest = lab::parse_json(lab::read_file(mirrored.manifest()));
                auto const qemu =
                    core::Process::open(static_cast<pid_t>(manifest["pid"].integer_or(0)));
                REQUIRE(qemu);
                REQUIRE(qemu->signal(SIGKILL));
                REQUIRE(again.wait(20s) == 0);
                INFO("the old source is refused");
                auto to = mirrored.connect("m1");
                auto const refused = mirrored.runner.must_fail(to.ask(
                    "replicate_begin",
                    sidecar::protocol::ReplicateBegin{mirrored.description.to_json(),
                                                      static_cast<unsigned>(mirrored.base), ""}
                        .to_json()));
                CHECK(refused.code == core::Errc::refused);
                CHECK(refused.sentence().find("failed over") != std::string::npos);
                to.hang_up();
            }
        }
    }
}

namespace {

/// A copy with one point, in the namespace of a name server.
struct Named {
    lab::Daemon failover(std::string const& key_file) {
        return mirrored.failover({"--i-have-fenced", "--dns-name", dns_lab::guest_name,
                                  "--dns-server", "[::1]", "--dns-key", key_file, "--dns-address",
                                  "198.51.100.7", "--dns-address", "2001:db8:7::7"});
    }
    /// Waits until the name has its new addresses; then ends the guest.
    void gets_its_name(lab::Daemon& failover) {
        lab::wait_until("the guest's name to change", 30s, [&] {
            if (!failover.running()) throw lab::Failure("failover ended: " + failover.err());
            return names.records(dns_lab::guest_name, "A") == "77 198.51.100.7\n";
        });
        CHECK(names.records(dns_lab::guest_name, "AAAA") == "77 2001:db8:7::7\n");
        CHECK(names.serial() == dns_lab::first_serial + 1);
        auto const manifest = lab::parse_json(lab::read_file(mirrored.manifest()));
        auto const qemu = core::Process::open(static_cast<pid_t>(manifest["pid"].integer_or(0)));
        REQUIRE(qemu);
        REQUIRE(qemu->signal(SIGKILL));
        REQUIRE(failover.wait(20s) == 0);
    }

    dns_lab::NameServer names;
    Mirrored mirrored{qemus().begin()->second, "raw"};
};

}  // namespace

TEST_CASE("replica: a failover changes the guest's name, and a wrong key refuses it",
          "[replica][dns]") {
    Named scene;
    CHECK(scene.mirrored.round() == 1);
    auto refused = scene.failover(scene.names.key_file("mover", 'x'));
    CHECK(refused.wait(20s) == 3);
    CHECK(refused.err().find("another secret for the TSIG key mover (BADSIG)") !=
          std::string::npos);
    CHECK_FALSE(scene.mirrored.has_manifest());
    CHECK(scene.mirrored.record().chosen == 0);
    auto failover = scene.failover(scene.names.key_file("mover"));
    scene.gets_its_name(failover);
}

TEST_CASE("replica: a failover does not wait for a name server that is lost", "[replica][dns]") {
    Named scene;
    CHECK(scene.mirrored.round() == 1);
    scene.names.pause();
    auto failover = scene.failover(scene.names.key_file("mover"));
    lab::wait_until("the guest to start", 40s, [&] {
        if (!failover.running()) throw lab::Failure("failover ended: " + failover.err());
        return scene.mirrored.has_manifest();
    });
    CHECK(failover.err().find("::1: it does not answer") != std::string::npos);
    scene.names.daemon().signal(SIGCONT);
    scene.gets_its_name(failover);
}

}  // namespace replication_target_cases
