// `serve --disk-command`: the destination's administrator gives each disk its place: a file, or a
// device that his program makes. What it made goes when the migration fails.
#include "tests/process/move_lab.hpp"
#include "tests/support/loop_device.hpp"

namespace disk_command_cases {

using namespace move_lab;

namespace {

/// Host b has a disk command, which logs how it was run.
struct CommandLab : MoveLab {
    /// `body`: of a shell script; $directory is the lab's.
    explicit CommandLab(std::string const& body, Argv allowed = {},
                        std::string const& qemu = storage_lab::oldest_qemu())
        : MoveLab(Empty()) {
        a.qemu = qemu;
        lab::write_file(log, "");
        lab::write_file(program, fmt::format("#!/bin/sh\necho \"$*\" >>{}\ndirectory={}\n{}\n", log,
                                             directory.text(), body));
        lab::must_run({"chmod", "0755", program});
        start_serve(a);
        allowed.insert(allowed.end(),
                       {"--disk-command", program, "--allow-path", directory.text()});
        start_serve(b, allowed);
        a.start_guest();
    }
    [[nodiscard]] std::string runs() const { return lab::read_file(log); }

    std::string log = directory.path("log");
    std::string program = directory.path("disk-command");
};

constexpr char const* check_line = "check web1 d0 1048576\n";
constexpr char const* create_line = "create web1 d0 1048576\n";
constexpr char const* remove_line = "remove web1 d0 1048576\n";

}  // namespace

TEST_CASE("disk command: a disk goes to the file that it names", "[migrate][disk-command]") {
    // LVM warns on stderr that a pool promises more than it has.
    CommandLab const lab(R"sh(echo "WARNING: a pool is small" >&2
[ "$1" = remove ] || echo "$directory/$2-$3.raw")sh");
    auto const checked = lab.a.migrate(lab.b, {"--network", "anchor", "--check"});
    INFO(checked.out << checked.err);
    REQUIRE(checked.exit_status == 0);
    CHECK(lab.runs() == check_line);
    auto const moved = lab.a.migrate(lab.b, {"--network", "anchor"});
    INFO(moved.out << moved.err);
    REQUIRE(moved.exit_status == 0);
    CHECK(lab.runs() ==
          std::string(check_line) + check_line + check_line + create_line);  // `prepare` asks again
    CHECK(lab::read_file(lab.directory.path("web1-d0.raw")) == std::string(disk_bytes, 'd'));
    CHECK_FALSE(lab::fs::exists(lab.b.directory + "/d0"));
}

TEST_CASE("disk command: a disk goes to the device that it makes", "[migrate][disk-command]") {
    for (auto const& [version, qemu] : storage_lab::qemus()) {
        INFO(version);
        CommandLab const lab(R"sh(image="$directory/volume"
case $1 in
check) echo "/dev/sidecar-test/$2-$3" ;;
create) truncate --size=$4 "$image" && losetup -f --show "$image" | tee "$directory/device" ;;
remove) losetup -d "$(cat "$directory/device")" && rm "$image" ;;
esac)sh",
                             {"--allow-path", "/dev"}, qemu);
        auto const moved = lab.a.migrate(lab.b, {"--network", "anchor"});
        INFO(moved.out << moved.err);
        auto const device = lab::read_file(lab.directory.path("device"));
        lab.b.kill_all();
        auto const content = lab::read_file(lab.directory.path("volume"));
        lab::run({"losetup", "-d", device.substr(0, device.find('\n'))});
        REQUIRE(moved.exit_status == 0);
        CHECK(content == std::string(disk_bytes, 'd'));
    }
}

TEST_CASE("disk command: what it made is removed when the guest does not come",
          "[migrate][disk-command]") {
    // The file is there before sidecar could make it.
    CommandLab const lab(R"sh(place="$directory/$2-$3.raw"
case $1 in
check) echo "$place" ;;
create) echo another >"$place"; echo "$place" ;;
remove) rm "$place" ;;
esac)sh");
    auto const moved = lab.a.migrate(lab.b, {"--network", "anchor"});
    INFO(moved.out << moved.err);
    CHECK(moved.exit_status == 1);
    CHECK(contains(moved.err, "exists on the destination already"));
    CHECK(lab.runs().ends_with(std::string(create_line) + remove_line));
    CHECK_FALSE(lab::fs::exists(lab.directory.path("web1-d0.raw")));
    CHECK(contains(lab.a.sidecar({"status", "web1"}).out, "running"));
}

TEST_CASE("disk command: its failure is quoted in the check", "[migrate][disk-command]") {
    for (auto const& [body, sentence] :
         {std::pair(R"sh(echo "vg0 has 3 GiB free" >&2; exit 5)sh", "vg0 has 3 GiB free"),
          std::pair("echo relative.raw",
                    "printed no absolute path for disk d0, but `relative.raw`"),
          std::pair("exit 0", "printed no absolute path for disk d0, but ``"),
          std::pair("yes /srv", "did not check disk d0"),
          std::pair("echo /etc/web1.raw", "is not in a directory that guests may use")}) {
        INFO(body);
        CommandLab const lab(body);
        auto const checked = lab.a.migrate(lab.b, {"--network", "anchor", "--check"});
        INFO(checked.out << checked.err);
        CHECK(checked.exit_status == 3);
        CHECK(contains(checked.err, sentence));
        CHECK(lab.runs() == check_line);
    }
}

TEST_CASE("disk command: --disk names another place, and it is not asked",
          "[migrate][disk-command]") {
    CommandLab const lab("exit 1");
    auto const target = lab.directory.path("named.raw");
    auto const moved = lab.a.migrate(lab.b, {"--network", "anchor", "--disk", "d0=" + target});
    INFO(moved.out << moved.err);
    REQUIRE(moved.exit_status == 0);
    CHECK(lab.runs().empty());
    CHECK(lab::read_file(target) == std::string(disk_bytes, 'd'));
}

}  // namespace disk_command_cases
