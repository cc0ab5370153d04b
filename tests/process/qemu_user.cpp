// A QEMU that has given up the rights of root (-runas) reads the key of its migration, and no other
// user does.
#include "core/tls.hpp"
#include "tests/process/move_lab.hpp"

namespace qemu_user_cases {

using namespace move_lab;

namespace {

void use_key(MoveLab& lab) {
    auto const file = lab.directory.path("keys.psk");
    lab::write_file(file, "lab:" + core::random_hex(32) + "\n");
    (void)lab.a.in("chmod 0600 " + file);
    for (auto* const host : {&lab.a, &lab.b}) host->credentials = {"--key", file};
}

/// QEMU 10 has another option for it.
Argv as_nobody() {
    bool const is_old = storage_lab::qemus().contains("7.2");
    return is_old ? Argv{"-runas", "nobody"} : Argv{"-run-with", "user=nobody"};
}

/// The effective user of the guest's QEMU there.
std::string user_of_qemu(MoveHost const& host) {
    for (auto const& seen : lab::processes_in(host.netns)) {
        if (seen.argv.empty() || !contains(seen.argv[0], "qemu-system")) continue;
        return host.in(fmt::format("awk '/^Uid:/ {{print $3}}' /proc/{}/status", seen.pid));
    }
    return "none";
}

/// Encrypted migrations of a guest whose QEMU is nobody's.
struct UserLab : MoveLab {
    explicit UserLab(std::vector<std::string> const& environment = {}) : MoveLab(Empty{}) {
        use_key(*this);
        // Everything above the key is the system's, on a real host.
        (void)a.in("chmod 0711 " + directory.text() + " " + a.directory + " " + b.directory);
        for (auto* const host : {&a, &b}) start_serve(*host);
        a.start_guest(as_nobody(), environment);
    }
};

Argv const in_place{"--network", "anchor"};

}  // namespace

TEST_CASE("QEMU's user: it moves there and back, encrypted", "[migrate][user]") {
    UserLab const lab;
    auto const refused = lab.refused({});
    CHECK(contains(refused, "who may not write " + lab.a.disk + " (disk d0)"));
    (void)lab.a.in("chown nobody " + lab.a.disk);
    auto const nobody = user_of_qemu(lab.a);
    CHECK(nobody == lab.a.in("id -u nobody"));
    for (auto const& [from, to] : {std::pair(&lab.a, &lab.b), std::pair(&lab.b, &lab.a)}) {
        auto const moved = from->migrate(*to, in_place);
        INFO(moved.out << moved.err);
        REQUIRE(moved.exit_status == 0);
        CHECK(user_of_qemu(*to) == nobody);
        // Only directories let others pass; what is in them is for its owner alone.
        CHECK(to->in("find " + to->directory + "/run ! -type d -perm /077") == "");
        CHECK(to->in("find " + to->directory + "/run -type d -perm /066") == "");
        CHECK(to->in("find " + to->directory + "/run -name 'keys-*'") == "");
    }
}

TEST_CASE("QEMU's user: it moves after a migration that was undone", "[migrate][user]") {
    UserLab const lab({"SIDECAR_TEST_STOP_AT=copy_final"});
    (void)lab.a.in("chown nobody " + lab.a.disk);
    {
        auto migration = lab.a.start_migration(lab.b, in_place);
        auto const stopped = lab.a.wait_stopped(migration);
        lab.b.kill_qemu();
        CHECK(MoveHost::finish(migration, stopped) == 1);
        CHECK(user_of_qemu(lab.a) == lab.a.in("id -u nobody"));
    }
    auto again = lab.a.start_migration(lab.b, in_place);
    auto const stopped = lab.a.wait_stopped(again);
    CHECK(MoveHost::finish(again, stopped) == 0);
}

TEST_CASE("QEMU's user: the destination's QEMU is started again", "[migrate][user]") {
    UserLab const lab({"SIDECAR_TEST_STOP_AT=copy_disks"});
    (void)lab.a.in("chown nobody " + lab.a.disk);
    auto migration = lab.a.start_migration(lab.b, in_place);
    auto const stopped = lab.a.wait_stopped(migration);
    lab.b.kill_qemu();
    CHECK(MoveHost::finish(migration, stopped) == 0);
    CHECK(user_of_qemu(lab.b) == lab.b.in("id -u nobody"));
}

TEST_CASE("QEMU's user: one that the destination has not is refused by name", "[migrate][user]") {
    MoveLab lab{MoveLab::Empty{}};
    (void)lab.a.in("chmod 0711 " + lab.directory.text() + " " + lab.a.directory);
    for (auto* const host : {&lab.a, &lab.b}) lab.start_serve(*host);
    lab.a.start_guest(as_nobody());
    (void)lab.a.in("chown nobody " + lab.a.disk);
    // Its own /etc/passwd, which has no such user.
    auto const passwd = lab.directory.path("passwd");
    lab::write_file(passwd, "root:x:0:0:root:/root:/bin/sh\n");
    lab.b.serve.reset();
    lab.b.wrapper = {
        "unshare", "-m", "sh", "-c", "mount --bind " + passwd + " /etc/passwd && exec \"$@\"",
        "sh"};
    lab.start_serve(lab.b);
    auto const checked = lab.a.migrate(lab.b, {"--network", "anchor", "--check"});
    INFO(checked.out << checked.err);
    CHECK(checked.exit_status == 3);
    CHECK(contains(checked.err,
                   "QEMU runs as user nobody: the destination has no user of that name"));
}

}  // namespace qemu_user_cases
