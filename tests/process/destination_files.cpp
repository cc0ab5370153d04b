// The destination's files: the real program creates a guest's images, fails, is killed, and starts
// again. It removes the files that it created, and never any other file.
#include <signal.h>

#include <algorithm>

#include "sidecar/guest/description.hpp"
#include "storage/owned_file.hpp"
#include "tests/process/incoming.hpp"
#include "tests/support/loop_device.hpp"

namespace destination_files_cases {

using namespace storage_lab;
using core::Json;

namespace {

constexpr std::uint64_t disk_bytes = 64ULL << 20;
constexpr char const* foreign_text = "the only copy of something else\n";

/// The directories of a destination, and a source's requests for one guest with one disk.
class Destination {
public:
    Destination() {
        lab::fs::create_directory(directory.path("images"));
        paths = {directory.path("run"), directory.path("state")};
    }
    [[nodiscard]] std::string image() const { return directory.path("images/disk.raw"); }
    [[nodiscard]] std::string incoming_record(std::string const& guest = "web1") const {
        return paths.state(guest) + "/incoming.json";
    }
    Incoming connect(IncomingOptions const& options) {
        return {runner, directory.text(), paths, options};
    }
    /// The arguments of `check` and `prepare`.
    Json request(std::string const& migration_id, std::string const& guest = "web1") {
        sidecar::Description description;
        description.guest = guest;
        description.migration_id = migration_id;
        description.argv = {binary, "-M",          "pc,accel=tcg", "-m",
                            "64",   "-nodefaults", "-display",     "none"};
        auto const drive = "if=none,id=drive0,format=raw,file=" + image();
        for (auto const& word : {std::string("-drive"), drive, std::string("-device"),
                                 std::string("virtio-blk-pci,drive=drive0,id=disk0")}) {
            description.argv.push_back(word);
        }
        description.working_directory = "/";
        description.machine_type = machine_type;
        description.qemu_version = "any";
        sidecar::MovedDisk disk;
        disk.name = "disk0";
        disk.device = "drive0";
        disk.node = "#block1";
        disk.qdev = "/machine/peripheral/disk0/virtio-backend";
        disk.path = image();
        disk.target = target;
        disk.format = "raw";
        disk.virtual_bytes = disk_bytes;
        description.disks.push_back(disk);
        return sidecar::protocol::Prepare{description.to_json(), ""}.to_json();
    }
    /// Names in the directory of the images.
    [[nodiscard]] std::vector<std::string> files() const {
        std::vector<std::string> names;
        for (auto const& entry : lab::fs::directory_iterator(directory.path("images"))) {
            names.push_back(entry.path().filename().string());
        }
        std::ranges::sort(names);
        return names;
    }
    void put_foreign() const { lab::write_file(image(), foreign_text); }
    void check_foreign() const {
        CHECK(lab::read_file(image()) == foreign_text);
        CHECK(files() == std::vector<std::string>{"disk.raw"});
    }
    /// The pid that incoming.json names.
    [[nodiscard]] pid_t recorded_qemu() const {
        return static_cast<pid_t>(
            lab::parse_json(lab::read_file(incoming_record()))["pid"].integer_or(-1));
    }
    /// A sidecar that has prepared everything and is killed; its QEMU keeps running.
    void prepared_and_killed(std::string const& migration_id) {
        auto to = connect({.migration_id = migration_id});
        runner.must(to.ask("prepare", request(migration_id)));
        to.kill();
    }

    Directory directory;
    Runner runner;
    sidecar::Paths paths;
    std::string target;  ///< Of the disk; empty: image().
    std::string binary = qemus().begin()->second;
    std::string machine_type = newest_pc();

private:
    [[nodiscard]] std::string newest_pc() const {
        auto const help = lab::must_run({binary, "-machine", "help"});
        auto const begin = help.find("pc-i440fx-");
        return help.substr(begin, help.find_first_of(" )", begin) - begin);
    }
};

/// At the end of the test, ends a QEMU that a killed sidecar left.
class EndLater {
public:
    explicit EndLater(pid_t pid) : process_(core::Process::open(pid)) {}
    ~EndLater() {
        if (process_) (void)process_->signal(SIGKILL);
    }
    [[nodiscard]] bool ends_within(lab::Milliseconds limit) const {
        try {
            lab::wait_until("the end of a process", limit,
                            [&] { return !process_ || !process_->running(); });
        } catch (lab::Failure const&) {
            return false;
        }
        return true;
    }

private:
    core::Result<core::Process> process_;
};

}  // namespace

TEST_CASE("destination files: a file that appears after the check is not touched",
          "[destination-files]") {
    Destination here;
    // The image appears at the second `-machine help`, the last check before creation.
    auto const wrapper = here.directory.path("qemu");
    lab::write_file(wrapper, fmt::format("#!/bin/sh\n"
                                         "if [ \"$2\" = help ]; then\n"
                                         "  echo >> {0}\n"
                                         "  [ $(wc -l < {0}) = 2 ] && printf '{1}' > {2}\n"
                                         "fi\n"
                                         "exec {3} \"$@\"\n",
                                         here.directory.path("helps"), foreign_text, here.image(),
                                         here.binary));
    lab::fs::permissions(wrapper, lab::fs::perms::owner_all);
    auto to = here.connect({.more = {"--qemu", wrapper}});
    here.runner.must(to.ask("check", here.request("m1")));
    auto const error = here.runner.must_fail(to.ask("prepare", here.request("m1")));
    INFO(error.sentence());
    CHECK(error.sentence().find(here.image() + ": File exists") != std::string::npos);
    to.hang_up();
    here.check_foreign();
    CHECK_FALSE(lab::fs::exists(here.incoming_record()));
}

TEST_CASE("destination files: of two guests with one image path, the second fails",
          "[destination-files]") {
    Destination here;
    std::vector<std::string> const stop{"SIDECAR_TEST_STOP_AT=publish_images"};
    auto first = here.connect({.guest = "web1", .migration_id = "m1", .environment = stop});
    auto second = here.connect({.guest = "web2", .migration_id = "m2", .environment = stop});
    here.runner.must(first.send("prepare", here.request("m1", "web1")));
    here.runner.must(second.send("prepare", here.request("m2", "web2")));
    first.wait_stopped();
    second.wait_stopped();
    first.go_on();
    here.runner.must(first.answer());
    auto const size = lab::fs::file_size(here.image());
    second.go_on();
    auto const error = here.runner.must_fail(second.answer());
    CHECK(error.sentence().find("File exists") != std::string::npos);
    second.hang_up();
    REQUIRE(lab::fs::exists(here.image()));
    CHECK(lab::fs::file_size(here.image()) == size);
    CHECK(here.files() == std::vector<std::string>{"disk.raw"});
    here.runner.must(first.ask("abort", Json::object()));
    first.hang_up();
    CHECK(here.files().empty());
}

TEST_CASE("destination files: the next migration removes what a killed sidecar created",
          "[destination-files]") {
    for (std::string const at :
         {"record_images", "publish_images", "record_qemu", "reply_prepared"}) {
        DYNAMIC_SECTION("killed at " << at) {
            Destination here;
            auto killed = here.connect({.environment = {"SIDECAR_TEST_STOP_AT=" + at}});
            here.runner.must(killed.send("prepare", here.request("m1")));
            killed.wait_stopped();
            EndLater const qemu(here.recorded_qemu());
            killed.kill();
            auto const left = here.files();
            CHECK(left.size() == 1);
            auto next = here.connect({.migration_id = "m2"});
            here.runner.must(next.ask("prepare", here.request("m2")));
            CHECK(here.files() == std::vector<std::string>{"disk.raw"});
            here.runner.must(next.ask("abort", Json::object()));
            next.hang_up();
            CHECK(here.files().empty());
            CHECK_FALSE(lab::fs::exists(here.incoming_record()));
            CHECK(qemu.ends_within(10s));
        }
    }
}

TEST_CASE("destination files: the next migration takes the device that a killed sidecar had begun",
          "[destination-files][device]") {
    for (std::string const at : {"record_images", "record_qemu", "reply_prepared"}) {
        DYNAMIC_SECTION("killed at " << at) {
            Destination here;
            auto const backing = here.directory.path("backing");
            lab::write_file(backing, std::string(disk_bytes, 'x'));
            lab::LoopDevice const device(backing);
            here.target = device.path();
            lab::Argv const allow{"--allow-path", device.path()};
            auto killed =
                here.connect({.more = allow, .environment = {"SIDECAR_TEST_STOP_AT=" + at}});
            here.runner.must(killed.send("prepare", here.request("m1")));
            killed.wait_stopped();
            EndLater const qemu(here.recorded_qemu());
            killed.kill();
            auto next = here.connect({.migration_id = "m2", .more = allow});
            here.runner.must(next.ask("check", here.request("m2")));
            auto const endpoints = here.runner.must(next.ask("prepare", here.request("m2")));
            REQUIRE(endpoints["zero_bytes"].size() == 1);
            CHECK(endpoints["zero_bytes"].elements()[0].integer_or(0) ==
                  static_cast<std::int64_t>(disk_bytes));
            here.runner.must(next.ask("abort", Json::object()));
            next.hang_up();
            CHECK(here.files().empty());
            CHECK(lab::fs::is_block_file(device.path()));
            CHECK_FALSE(device.read_only());
            CHECK_FALSE(lab::fs::exists(here.incoming_record()));
            CHECK(qemu.ends_within(10s));
        }
    }
}

TEST_CASE("destination files: a file that replaced ours stays", "[destination-files]") {
    Destination here;
    here.prepared_and_killed("m1");
    EndLater const qemu(here.recorded_qemu());
    lab::fs::rename(here.image(), here.directory.path("ours"));
    here.put_foreign();
    auto next = here.connect({.migration_id = "m2"});
    auto const error = here.runner.must_fail(next.ask("prepare", here.request("m2")));
    CHECK(error.sentence().find("exists on the destination already") != std::string::npos);
    next.hang_up();
    here.check_foreign();
    CHECK(qemu.ends_within(10s));
}

TEST_CASE("destination files: a check removes nothing", "[destination-files]") {
    Destination here;
    here.prepared_and_killed("m1");
    EndLater const qemu(here.recorded_qemu());
    auto const record = lab::read_file(here.incoming_record());
    auto other = here.connect({.migration_id = "m2"});
    here.runner.must(other.ask("check", here.request("m2")));
    other.hang_up();
    CHECK(here.files() == std::vector<std::string>{"disk.raw"});
    CHECK(lab::read_file(here.incoming_record()) == record);
    CHECK_FALSE(qemu.ends_within(0ms));
    INFO("the migration that made them goes on");
    auto again = here.connect({.migration_id = "m1"});
    here.runner.must(again.ask("prepare", here.request("m1")));
    here.runner.must(again.ask("abort", Json::object()));
    again.hang_up();
    CHECK(here.files().empty());
    CHECK(qemu.ends_within(10s));
}

TEST_CASE("destination files: a process that got the number of the recorded QEMU is not killed",
          "[destination-files]") {
    Destination here;
    here.prepared_and_killed("m1");
    auto record = lab::parse_json(lab::read_file(here.incoming_record()));
    EndLater const qemu(here.recorded_qemu());
    // The command line names the image too, as a backup or an editor would.
    lab::Daemon bystander("bystander", {"tail", "-f", here.image()}, {}, here.directory.text());
    record.set("pid", static_cast<std::int64_t>(bystander.pid()));
    lab::write_file(here.incoming_record(), record.dump());
    auto next = here.connect({.migration_id = "m2"});
    (void)here.runner.loop().run(next.ask("prepare", here.request("m2")));
    next.kill();
    CHECK(bystander.running());
}

}  // namespace destination_files_cases
