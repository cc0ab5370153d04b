// Addresses on which the guest's QEMU listens (-vnc, hostfwd=): those that the destination does not
// have, or has in use, are refused in the check; `serve --map-address` replaces them.
#include "core/stream.hpp"
#include "tests/process/move_lab.hpp"

namespace guest_addresses_cases {

using namespace move_lab;

namespace {

std::string listeners(MoveHost const& host) {
    return host.in("ss -Hltn | awk '{print $4}'; ss -Hlun | awk '{print $4}'");
}

}  // namespace

TEST_CASE("addresses: one that the destination does not have is refused, and a mapped one is used",
          "[migrate][addresses]") {
    MoveLab lab({"-vnc", "192.0.2.1:7", "-netdev",
                 "user,id=u0,hostfwd=tcp:192.0.2.1:2222-:22,hostfwd=udp:192.0.2.1:5353-:53",
                 "-device", "virtio-net-pci,netdev=u0,romfile="},
                {"--map-address", "192.0.2.2=192.0.2.1"});
    auto const before = listeners(lab.b);
    CHECK(contains(lab.refused({}),
                   "`-vnc 192.0.2.1:7` listens on 192.0.2.1, which is not an "
                   "address of the destination"));
    lab.b.serve->kill();
    lab.start_serve(lab.b, {"--map-address", "192.0.2.1=192.0.2.2"});
    {
        auto const taken = [&] {
            lab::Visit const visit(lab.b.netns);
            return must(core::listen_tcp("192.0.2.2", "2222"));
        }();
        auto const refused = lab.refused({});
        CHECK(contains(refused, "listens on TCP port 2222 of 192.0.2.2 on the destination"));
        CHECK(contains(refused, "in use"));
    }
    CHECK(soon([&] { return listeners(lab.b) == before; }));
    auto const moved = lab.a.migrate(lab.b, {"--network", "anchor"});
    INFO(moved.out << moved.err);
    REQUIRE(moved.exit_status == 0);
    for (auto const* const address : {"192.0.2.2:5907", "192.0.2.2:2222", "192.0.2.2:5353"}) {
        INFO(address);
        CHECK(contains(listeners(lab.b), address));
    }
    auto const back = lab.b.migrate(lab.a, {"--network", "anchor"});
    INFO(back.out << back.err);
    REQUIRE(back.exit_status == 0);
    CHECK(contains(listeners(lab.a), "192.0.2.1:5907"));
}

}  // namespace guest_addresses_cases
