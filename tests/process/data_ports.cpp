// The TCP ports on which disks and RAM arrive (`serve --data-ports`), between two real QEMUs.
#include "tests/process/move_lab.hpp"

namespace data_ports_cases {

using namespace move_lab;

namespace {

/// A firewall of the host that lets none of these ports be reached, silently.
void filter(MoveHost const& host, std::string const& ports) {
    (void)host.in(
        "nft add table inet fw; nft flush table inet fw;"
        "nft \"add chain inet fw in { type filter hook input priority 0; }\";"
        "nft add rule inet fw in tcp dport " +
        ports + " drop");
}

/// The TCP ports on which the host listens.
std::string listeners(MoveHost const& host) { return host.in("ss -Hltn | awk '{print $4}'"); }

}  // namespace

TEST_CASE("data ports: one that a firewall closes is refused in the check, others are used",
          "[migrate][data-ports]") {
    MoveLab lab;
    auto const before = listeners(lab.b);
    filter(lab.b, "4800-4899");
    auto const closed = lab.a.migrate(lab.b, {"--network", "anchor", "--check"});
    INFO(closed.out << closed.err);
    CHECK(closed.exit_status == 3);
    CHECK(contains(closed.err, "port 4800 of 192.0.2.2 cannot be reached"));
    CHECK(contains(closed.err, "open TCP 4800-4899"));
    CHECK(soon([&] { return listeners(lab.b) == before; }));

    // Only the ports that `serve` was given are open, besides its own.
    lab.b.serve->kill();
    lab.start_serve(lab.b, {"--data-ports", "4901-4902"});
    filter(lab.b, "!= {4790, 4901, 4902}");
    auto const checked = lab.a.migrate(lab.b, {"--network", "anchor", "--check"});
    INFO(checked.out << checked.err);
    CHECK(checked.exit_status == 0);
    CHECK(contains(checked.out, "port 4901 of 192.0.2.2: reached"));
    auto const moved = lab.a.migrate(lab.b, {"--network", "anchor"});
    INFO(moved.out << moved.err);
    CHECK(moved.exit_status == 0);
}

TEST_CASE("data ports: a range that is in use is refused, and says so", "[migrate][data-ports]") {
    MoveLab lab;
    lab.b.serve->kill();
    lab.start_serve(lab.b, {"--data-ports", "4901-4901"});
    auto const full = [&] {
        lab::Visit const visit(lab.b.netns);
        return must(core::listen_tcp("", "4901"));
    }();
    auto const refused = lab.a.migrate(lab.b, {"--network", "anchor", "--check"});
    INFO(refused.out << refused.err);
    CHECK(refused.exit_status == 3);
    CHECK(contains(refused.err, "TCP port 4901 is in use"));
}

}  // namespace data_ports_cases
