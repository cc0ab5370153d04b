// The lab itself, with plain QEMU: the base of the other vm tests must work without the program.
#include <fcntl.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <catch2/catch.hpp>

#include "tests/support/guest.hpp"

using namespace lab;

TEST_CASE("lab: hosts reach each other and the client in both families", "[vm][lab]") {
    Lab lab;
    for (auto const* address : {"10.77.0.1", "10.77.0.2", "fd77::1", "fd77::2"}) {
        CHECK(run({"ping", "-c", "1", "-W", "5", address}, {lab.client_netns(), {}}).exit_status ==
              0);
    }
    CHECK(run({"ping", "-c", "1", "-W", "5", lab.b().ip6}, lab.a().place()).exit_status == 0);
    lab.shape(100);
    CHECK(run({"ping", "-c", "1", "-W", "5", lab.b().ip4}, lab.a().place()).exit_status == 0);
    lab.link(lab.b(), false);
    CHECK(run({"ping", "-c", "1", "-W", "1", lab.b().ip4}, lab.a().place()).exit_status != 0);
    lab.link(lab.b(), true);
    lab.shape(0);
}

TEST_CASE("lab: a guest boots, writes, answers in both families and finds nothing wrong",
          "[vm][lab]") {
    auto const version = GENERATE(from_range(qemus("10.0")));
    Lab lab;
    Guest const guest(lab, {.qemu = version, .format = "qcow2", .disks = 2, .iothread = true});
    guest.make_disks(lab.a());
    guest.make_tap(lab.a());
    Daemon qemu = guest.start_plainly(lab.a());
    guest.wait_alive();
    guest.learn();
    guest.must_be_alive();
    guest.must_be_whole();
    CHECK(guest.runs_on(lab.a()));
    CHECK_FALSE(guest.runs_on(lab.b()));
    CHECK(accepts(lab.client_netns(), guest_ip6, 7003));
    CHECK(qemu.end() == 0);
}

TEST_CASE("lab: is removed even when its test is killed", "[vm][lab]") {
    int ends[2];
    REQUIRE(pipe2(ends, O_CLOEXEC) == 0);
    core::Fd reader(ends[0]);
    core::Fd writer(ends[1]);
    pid_t const doomed = fork();
    if (doomed == 0) {
        Lab lab;
        Daemon sleeper("sleeper", {"sleep", "1000"}, lab.a().place(), lab.a().logs);
        // `ip netns exec` enters the namespace before it becomes `sleep`: only then does the lab
        // find it.
        auto const comm = fmt::format("/proc/{}/comm", sleeper.pid());
        wait_until("the sleeper", 10s, [&] { return read_file(comm) == "sleep\n"; });
        std::string const names = lab.a().netns + "\n" + lab.directory().string();
        (void)!write(writer.get(), names.data(), names.size());
        kill(getpid(), SIGKILL);
    }
    writer.reset();
    std::string names(4096, '\0');
    names.resize(static_cast<std::size_t>(
        std::max<ssize_t>(read(reader.get(), names.data(), names.size()), 0)));
    int status = 0;
    waitpid(doomed, &status, 0);
    REQUIRE(WIFSIGNALED(status));
    auto const netns = names.substr(0, names.find('\n'));
    auto const directory = names.substr(names.find('\n') + 1);
    REQUIRE(netns.starts_with("lab"));
    wait_until("the end of " + netns, 30s, [&] { return !fs::exists("/run/netns/" + netns); });
    wait_until("the end of " + directory, 30s, [&] { return !fs::exists(directory); });
}
