// A guest behind a stateful filter on both hosts. Its sessions survive moves, because the second
// host gets the first host's entries before a frame arrives there. The filter is in the forward
// hook, through which bridged packets pass too (br_netfilter).
#include <poll.h>
#include <signal.h>
#include <sys/socket.h>

#include <catch2/catch.hpp>

#include <fstream>

#include "tests/vm/expect.hpp"

using namespace lab;

namespace {

// A session begins with its first packet towards the guest. Packets that belong to no known
// connection are dropped.
constexpr char const* filter = R"(
table inet guard {
    chain forward {
        type filter hook forward priority filter; policy drop;
        meta l4proto { icmp, ipv6-icmp } accept
        ct state established,related accept
        ct state invalid counter drop
        ip daddr 10.77.0.10 tcp flags & (fin|syn|rst|ack) == syn accept
        ip daddr 10.77.0.10 meta l4proto udp accept
        ip6 daddr fd77::10 tcp flags & (fin|syn|rst|ack) == syn accept
        ip6 daddr fd77::10 meta l4proto udp accept
        counter drop
    }
}
)";

void guard(Lab const& lab) {
    auto const path = lab.directory() / "guard.nft";
    std::ofstream(path) << filter;
    for (auto const* host : {&lab.a(), &lab.b()}) {
        must_run({"sysctl", "-qw", "net.bridge.bridge-nf-call-iptables=1",
                  "net.bridge.bridge-nf-call-ip6tables=1", "net.ipv4.ip_forward=0"},
                 host->place());
        must_run({"nft", "-f", path}, host->place());
    }
}

/// The number of entries of the host's table that concern the guest.
int tracked(Host const& host) {
    auto const table = must_run({"cat", "/proc/net/nf_conntrack"}, host.place());
    int count = 0;
    std::istringstream lines(table);
    for (std::string line; std::getline(lines, line);) {
        bool const ours =
            line.find(std::string("=") + guest_ip4 + " ") != std::string::npos ||
            line.find("=fd77:0000:0000:0000:0000:0000:0000:0010 ") != std::string::npos;
        count += ours ? 1 : 0;
    }
    return count;
}

/// A session between the client and the guest, which echoes.
class Session {
public:
    Session(Lab const& lab, std::string const& address)
        : socket_(connect_in(lab.client_netns(), address, echo_port)) {
        if (!socket_) throw Failure("the guest does not accept at " + address);
    }
    /// TCP retransmits dropped segments at growing intervals.
    [[nodiscard]] bool passes() const {
        char byte = 'x';
        if (::send(socket_.get(), &byte, 1, MSG_NOSIGNAL) != 1) return false;
        pollfd readable{socket_.get(), POLLIN, 0};
        constexpr int limit_ms = 15'000;
        return ::poll(&readable, 1, limit_ms) == 1 &&
               ::recv(socket_.get(), &byte, 1, MSG_DONTWAIT) == 1;
    }

private:
    static constexpr int echo_port = 7001;
    core::Fd socket_;
};

core::Json conntrack_of(Migration const& ended) { return ended.report["network"]["conntrack"]; }

}  // namespace

TEST_CASE("conntrack: sessions through stateful filters live, there and back", "[vm][conntrack]") {
    GuestOptions const guest{};
    Scene scene({.guest = guest, .furnish = guard});
    auto watch = Watch::of_sessions(scene.net(), scene.guest());
    std::vector<Session> sessions;
    for (auto const* address : {guest_ip4, guest_ip6}) sessions.emplace_back(scene.net(), address);
    for (auto const* from : {&scene.a(), &scene.b()}) {
        auto const& to = scene.net().other(*from);
        CHECK(tracked(*from) > 0);
        auto const moved = scene.migrate(*from);
        INFO(moved.text());
        REQUIRE(moved.exit_status == 0);
        auto const seen = conntrack_of(moved);
        INFO(seen.dump());
        CHECK(seen["sent"].integer_or(0) >= 4);  // at least two sessions a family
        CHECK(seen["restored"].integer_or(-1) == seen["sent"].integer_or(-2));
        CHECK(seen["failed"].size() == 0);
        CHECK(seen["removed"].integer_or(0) > 0);
        CHECK(seen["kept"].integer_or(-1) == 0);
        CHECK(seen["in_pause_ms"].number_or(-1) >= 0);
        CHECK(tracked(*from) == 0);
        CHECK(tracked(to) > 0);
        for (auto const& session : sessions) CHECK(session.passes());
    }
    must_have_kept_sessions(watch.finish(), guest);
}

TEST_CASE("conntrack: a migration that is undone leaves nothing tracked at the destination",
          "[vm][conntrack]") {
    GuestOptions const guest{};
    Scene scene(
        {.guest = guest, .run_environment = {"SIDECAR_TEST_STOP_AT=list_final"}, .furnish = guard});
    auto watch = Watch::of_sessions(scene.net(), scene.guest());
    auto migration = scene.start_migration(scene.a());
    auto const held = scene.wait_stopped(scene.a());
    CHECK(tracked(scene.b()) > 0);
    Qmp(scene.guest().probe_socket(scene.a())).execute("migrate_cancel");
    signal_process(held, SIGCONT);
    auto const ended = Scene::finish(migration);
    INFO(ended.text());
    CHECK(ended.exit_status == 1);
    // (Frames of the client may have arrived there meanwhile: the remaining entries are theirs.)
    CHECK(tracked(scene.b()) == 0);
    CHECK(tracked(scene.a()) > 0);
    expect::nothing_left_after_failure(scene, scene.a());
    must_have_kept_sessions(watch.finish(), guest);
}

TEST_CASE("conntrack: what begins and ends shortly before and after STOP is known there too",
          "[vm][conntrack]") {
    // Where the kernel sends no events, its table is read once more.
    bool const told = GENERATE(true, false);
    INFO((told ? "the kernel tells what changes" : "it does not"));
    auto const furnish = [told](Lab const& lab) {
        guard(lab);
        if (told) return;
        must_run({"sysctl", "-qw", "net.netfilter.nf_conntrack_events=0"}, lab.a().place());
    };
    GuestOptions const guest{};
    Scene scene({.guest = guest, .furnish = furnish});
    auto const dial = fmt::format(
        "while :; do exec 3<>/dev/tcp/{}/7001 || exit 1; echo x >&3; read -r -u 3 || exit 2; "
        "exec 3>&-; done",
        guest_ip4);
    Daemon dialler("dialler", {"bash", "-c", dial}, {scene.net().client_netns(), {}},
                   scene.net().directory());
    auto const moved = scene.migrate(scene.a());
    INFO(moved.text());
    REQUIRE(moved.exit_status == 0);
    INFO(dialler.err());
    CHECK(dialler.running());
    auto const seen = conntrack_of(moved);
    CHECK(seen["changed"].integer_or(0) > 0);
    CHECK(seen["failed"].size() == 0);
    CHECK(seen["restored"].integer_or(0) > 0);
    CHECK(Session(scene.net(), guest_ip4).passes());
}
