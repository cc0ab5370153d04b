#include "tests/vm/expect.hpp"

#include <poll.h>
#include <signal.h>

#include <catch2/catch.hpp>

namespace expect {

using core::Json;
using lab::Host;
using lab::Scene;
using namespace std::chrono_literals;

namespace {

/// The longest that a host may clean up after `migrate` has ended.
constexpr lab::Milliseconds tidy_limit = 30s;
/// Files that may stay: the tombstones of moved disks, their backing files, and the journal.
std::vector<std::string> const may_stay = {
    R"(images/.*\.moved-[^/]*)", R"(images/.*-(base|middle)\.(raw|qcow2))", R"(state/.*)"};
/// After a killed QEMU also the socket of its own command line. QEMU replaces it.
std::string const killed_socket = R"(.*-probe\.sock)";

/// Waits until `left` is empty; fails with its last value.
template <class Left>
void becomes_clean(std::string const& what, Left left) {
    std::string last;
    try {
        lab::wait_until(what, tidy_limit, [&] {
            last = left();
            return last.empty();
        });
    } catch (lab::Failure const& failure) {
        INFO(what << ": " << failure.what());
        CHECK(last == "");
        if (last.empty()) FAIL_CHECK("it could not be looked at");
    }
}

/// The host of the guest has: its own sidecar, tap, disks and sockets, and no key.
std::vector<std::string> of_a_running_guest(Scene const& scene) {
    auto const& name = scene.guest().name();
    return {R"(images/)" + name + R"(-\d\.(raw|qcow2))",
            "run/" + name + R"(/(?!.*(psk|key|nbd)).*)",
            name + R"(-probe\.sock)",
            R"(state/.*)",
            R"(images/.*\.moved-[^/]*)",
            R"(images/.*-(base|middle)\.(raw|qcow2))",
            scene.guest().tap() + "(-6)?",
            R"(\d+ (sidecar|qemu-system-x86_64|ip|env) .*)"};
}

void check_disk(Json const& disk, lab::GuestOptions const& guest) {
    INFO(disk.dump());
    auto const virtual_bytes = static_cast<std::int64_t>(guest.disk_mib << 20);
    auto const random_bytes =
        static_cast<std::int64_t>(guest.base.empty() ? guest.random_mib << 20 : 0);
    CHECK_FALSE(disk["name"].text_or("").empty());
    CHECK(disk["virtual_bytes"].integer_or(-1) == virtual_bytes);
    CHECK(disk["copied_bytes"].integer_or(-1) >= random_bytes);
    CHECK(disk["final_bytes"].integer_or(-1) >= 0);
    REQUIRE(disk["rounds"].size() > 0);
    for (auto const& round : disk["rounds"].elements()) {
        CHECK(round["dirty_bytes"].integer_or(-1) >= 0);
        CHECK(round["copied_bytes"].integer_or(-1) >= 0);
        CHECK(round["ms"].number_or(-1) >= 0);
    }
}

}  // namespace

void report_of_a_move(Json const& report, lab::GuestOptions const& guest) {
    INFO(report.dump());
    CHECK(report["outcome"].text_or("") == "moved");
    CHECK(report["downtime_ms"].number_or(-1) > 0);
    CHECK(report["stop_to_fire_ms"].number_or(-1) >= 0);
    CHECK(report["stop_to_fire_ms"].number_or(1e9) <= report["downtime_ms"].number_or(-1));
    REQUIRE(report["phases"].size() >= 4);
    double last_start = 0;
    for (auto const& phase : report["phases"].elements()) {
        CHECK_FALSE(phase["name"].text_or("").empty());
        CHECK(phase["start_ms"].number_or(-1) >= last_start);
        CHECK(phase["ms"].number_or(-1) >= 0);
        last_start = phase["start_ms"].number_or(0);
    }
    REQUIRE(report["disks"].size() == static_cast<std::size_t>(guest.disks));
    for (auto const& disk : report["disks"].elements()) check_disk(disk, guest);
    CHECK(report["ram"]["transferred_bytes"].integer_or(0) > 1 << 20);
    CHECK(report["ram"]["ms"].number_or(0) > 0);
    CHECK(report["network"]["fired_ms"].number_or(-1) >= 0);
    auto const moved = report["network"]["moved"].dump();
    CHECK((moved.find(lab::guest_ip4) != std::string::npos) == guest.ipv4);
    CHECK((moved.find(lab::guest_ip6) != std::string::npos) == guest.ipv6);
}

void guest_whole(Scene& scene, Host const& on) {
    scene.guest().must_be_alive();
    scene.guest().must_be_whole();
    CHECK(scene.guest().runs_on(on));
    Host const& other = scene.net().other(on);
    becomes_clean("no QEMU of the guest on host " + other.name, [&] {
        auto const pid = scene.guest().qemu_pid(other);
        return pid < 0 ? "" : "QEMU " + std::to_string(pid);
    });
}

void frames_handed_over(lab::Migration const& moved) {
    auto const frames = moved.report["network"]["frames"];
    INFO(frames.dump());
    CHECK(frames["caught"].integer_or(0) + frames["waited"].integer_or(0) > 0);
    CHECK(frames["replayed"].integer_or(-1) == frames["caught"].integer_or(-2));
    CHECK(frames["dropped"].integer_or(-1) == 0);
    CHECK(frames["lost"].integer_or(-1) == 0);
}

void no_packet_lost(core::Json const& seen, bool in_order) {
    INFO(seen.dump());
    for (auto const* family : {"ipv4", "ipv6"}) {
        auto const one = seen[family];
        CHECK(one["udp_sent"].integer_or(0) > 1000);
        CHECK(one["udp_lost"].integer_or(-1) == 0);
        CHECK(one["udp_duplicated"].integer_or(-1) == 0);
        if (in_order) CHECK(one["udp_reordered"].integer_or(-1) == 0);
    }
}

void nothing_left_after_move(Scene& scene, Host const& from, Host const& to) {
    becomes_clean("left on the host that the guest was on",
                  [&] { return lab::new_since(scene.bare(from), lab::traces_of(from), may_stay); });
    becomes_clean("left on the host that the guest is on", [&] {
        return lab::new_since(scene.bare(to), lab::traces_of(to), of_a_running_guest(scene));
    });
    becomes_clean("left in QEMU", [&] { return lab::left_in_qemu(scene.guest(), to); });
}

void nothing_left_after_failure(Scene& scene, Host const& on) {
    Host const& other = scene.net().other(on);
    becomes_clean("left on the host that the guest did not move to", [&] {
        auto allowed = may_stay;
        allowed.push_back(killed_socket);
        return lab::new_since(scene.bare(other), lab::traces_of(other), allowed);
    });
    becomes_clean("left on the host that the guest stayed on", [&] {
        return lab::new_since(scene.bare(on), lab::traces_of(on), of_a_running_guest(scene));
    });
    becomes_clean("left in QEMU", [&] { return lab::left_in_qemu(scene.guest(), on); });
}

Json anchors(Scene& scene, Host const& host) {
    auto const told = scene.sidecar(host, {"anchor", "list", "--json"});
    INFO(told.err);
    REQUIRE(told.exit_status == 0);
    return lab::parse_json(told.out);
}

std::string links(Host const& host, std::string const& begin) {
    std::string found;
    auto const all = lab::must_run({"ip", "-n", host.netns, "-o", "link", "show"});
    for (auto at = all.find(": " + begin); at != std::string::npos;
         at = all.find(": " + begin, at + 1)) {
        found += all.substr(at + 2, all.find(':', at + 2) - at - 2) + " ";
    }
    return found;
}

void no_anchor_left(Scene& scene, Host const& host) {
    INFO("host " << host.name);
    CHECK(anchors(scene, host).size() == 0);
    for (auto const* begin : {"sca", "sat", "sas", "sax"}) CHECK(links(host, begin).empty());
    auto const records = host.state_dir / ".anchors";
    CHECK((!lab::fs::exists(records) || lab::fs::is_empty(records)));
    for (auto const& process : lab::processes_in(host.netns)) {
        bool const holder = process.argv.size() > 1 && process.argv[1] == "anchor-holder";
        CHECK_FALSE(holder);
    }
}

void moves(Scene& scene, Host const& from) {
    Host const& to = scene.net().other(from);
    auto running = scene.start_migration(from);
    auto const ended = scene.finish_past_hooks(running);
    INFO(ended.text());
    REQUIRE(ended.exit_status == 0);
    report_of_a_move(ended.report, scene.guest().options());
    guest_whole(scene, to);
    nothing_left_after_move(scene, from, to);
}

void moves_and_disks_are_equal(Scene& scene, Host const& from) {
    Host const& to = scene.net().other(from);
    auto running = scene.start_migration(from);
    pid_t held = -1;
    try {
        held = scene.wait_stopped(to);
    } catch (lab::Failure const& failure) {
        FAIL(failure.what() << "; " << running.err() << running.out());
    }
    CHECK_FALSE(scene.guest().runs_on(from));
    CHECK_FALSE(scene.guest().runs_on(to));
    for (int disk = 0; disk < scene.guest().options().disks; ++disk) {
        lab::compare_images(lab::image_left(scene.guest().image(from, disk)),
                            scene.guest().options().format, scene.guest().image(to, disk));
    }
    lab::signal_process(held, SIGCONT);
    auto const ended = Scene::finish(running);
    INFO(ended.text());
    REQUIRE(ended.exit_status == 0);
    report_of_a_move(ended.report, scene.guest().options());
    guest_whole(scene, to);
    nothing_left_after_move(scene, from, to);
}

void kill_watchdog(Scene& scene) {
    for (auto const& seen : lab::processes_in(scene.a().netns)) {
        if (seen.argv.size() > 1 && seen.argv[1] == "watchdog") {
            return lab::kill_process(seen.pid);
        }
    }
    throw lab::Failure("the migration has no watchdog");
}

}  // namespace expect
