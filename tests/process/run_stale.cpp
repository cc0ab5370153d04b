// `sidecar run` and guests that have left this host: which guests it refuses to start, and for
// which it first renames the images back. A real QEMU without a guest.
#include <signal.h>

#include <catch2/catch.hpp>

#include "sidecar/guest/description.hpp"
#include "sidecar/host/journal.hpp"
#include "storage/stale_image.hpp"
#include "tests/process/storage_lab.hpp"
#include "tests/support/lab.hpp"

namespace run_stale_cases {

using namespace lab;

namespace {

using Record = sidecar::SourceEntry::Record;
using Outcome = sidecar::SourceEntry::Outcome;

/// A host's state directory, and QEMUs without a guest.
struct RunLab {
    RunLab() {
        fs::create_directory(directory.path("run"));
        fs::create_directory(directory.path("state"));
    }
    [[nodiscard]] Argv line(std::string const& name, Argv const& options, Argv const& qemu) const {
        Argv argv{
            program("sidecar"),     "run", name, "--run-dir", directory.path("run"), "--state-dir",
            directory.path("state")};
        argv.insert(argv.end(), options.begin(), options.end());
        argv.insert(argv.end(),
                    {"--", "qemu-system-x86_64", "-M", "none", "-nodefaults", "-display", "none"});
        argv.insert(argv.end(), qemu.begin(), qemu.end());
        return argv;
    }
    void refuses(std::string const& name, Argv const& qemu, std::string const& why) const {
        auto const done = lab::run(line(name, {}, qemu));
        INFO(done.err);
        CHECK(done.exit_status == 3);
        CHECK(done.err.find(why) != std::string::npos);
    }
    void starts(std::string const& name, Argv const& options, Argv const& qemu) const {
        Daemon sidecar("run", line(name, options, qemu), {}, directory.path("."));
        wait_until("QEMU beside its sidecar", 30s, [&] {
            if (sidecar.wait(0ms)) throw Failure(sidecar.err());
            return fs::exists(directory.path("run/" + name + "/control.sock"));
        });
        auto const manifest =
            parse_json(read_file(directory.path("state/" + name + "/guest.json")));
        CHECK(sidecar.end() == 0);
        kill(static_cast<pid_t>(manifest["pid"].integer_or(-1)), SIGKILL);
    }
    void record(std::string const& guest, Record what, Outcome outcome = Outcome::none) {
        auto journal = sidecar::Journal::open(directory.path("state/" + guest));
        REQUIRE(journal);
        REQUIRE(journal->record({"e1", sidecar::SourceEntry{what, outcome, "hostb:4790"}}));
    }
    /// Writes what the sidecar of that migration had recorded.
    void describe(std::string const& guest, std::string const& image) {
        sidecar::Description made;
        made.guest = guest;
        made.migration_id = "e1";
        made.argv = {"qemu-system-x86_64"};
        made.working_directory = "/";
        made.machine_type = "none";
        made.qemu_version = "7.2";
        sidecar::MovedDisk disk;
        disk.name = disk.device = disk.node = "d0";
        disk.path = image;
        disk.format = "raw";
        made.disks.push_back(disk);
        write_file(
            directory.path("state/" + guest + "/migration.json"),
            core::Json::object({{"migration_id", "e1"}, {"description", made.to_json()}}).dump());
    }
    storage_lab::Directory directory;
};

Argv drive(std::string const& image) {
    return {"-drive", "if=none,id=d0,format=raw,file=" + image};
}

}  // namespace

TEST_CASE("run: a guest without disks that moved away is not started again, another is",
          "[run][stale]") {
    RunLab host;
    host.record("web1", Record::ended, Outcome::moved);
    host.refuses("web1", {}, "web1 moved to hostb:4790 in migration e1");
    host.starts("web1", {"--new-guest"}, {});
    host.starts("web1", {}, {});  // now it is the guest of that name
}

TEST_CASE("run: a stale image is not started under any name", "[run][stale]") {
    RunLab host;
    for (auto const* mark : {".moved-e1", ".leaving-e1"}) {
        auto const image = host.directory.path(std::string("disk.raw") + mark);
        write_file(image, std::string(4096, 'x'));
        host.refuses("other", drive(image), image);
        auto const link = host.directory.path(std::string("link") + mark[1]);
        fs::create_symlink(image, link);
        host.refuses("other", drive(link), link);
    }
}

TEST_CASE("run: an image of a migration in doubt is not started under any name", "[run][stale]") {
    RunLab host;
    auto const image = host.directory.path("disk.raw");
    write_file(image, std::string(4096, 'x'));
    fs::create_symlink("disk.raw", host.directory.path("link"));
    host.record("web1", Record::committed);
    host.describe("web1", image);
    host.refuses("web1", drive(image), "in doubt");
    host.refuses("other", drive(image), "in doubt");
    host.refuses("other", drive(host.directory.path("link")), "in doubt");
}

TEST_CASE("run: after a power loss before COMMIT the images get their names back", "[run][stale]") {
    for (auto const record : {Record::begun, Record::rolled_back}) {
        RunLab host;
        auto const image = host.directory.path("disk.raw");
        write_file(image + ".leaving-e1", std::string(4096, 'x'));
        host.record("web1", record);
        host.describe("web1", image);
        host.starts("web1", {}, drive(image));
        CHECK(fs::exists(image));
        CHECK_FALSE(fs::exists(image + ".leaving-e1"));
    }
}

}  // namespace run_stale_cases
