// Taps that came after QEMU's start belong to the guest as well: for a sidecar that moves it, and
// for one that joins it later.
#include "tests/process/move_lab.hpp"
#include "tests/support/qmp_probe.hpp"

namespace plugged_taps_cases {

using namespace move_lab;
using core::Json;

TEST_CASE("plugged: a sidecar that joins a guest has the taps that were plugged in",
          "[migrate][plugged]") {
    storage_lab::Directory const directory;
    auto const socket = directory.path("qmp");
    MoveLab lab({"-qmp", "unix:" + socket + ",server=on,wait=off"},
                {"--map-path", socket + "=" + directory.path("there")});
    {
        lab::Qmp qmp(socket);
        qmp.execute("netdev_add", Json::object({{"type", "tap"},
                                                {"id", "n1"},
                                                {"ifname", "plugged1"},
                                                {"script", "no"},
                                                {"downscript", "no"},
                                                {"vhost", false}}));
        (void)lab.a.in("ip link set plugged1 master br0 up");
        qmp.execute("device_add", Json::object({{"driver", "virtio-net-pci"},
                                                {"netdev", "n1"},
                                                {"romfile", ""},
                                                {"mac", "52:54:00:10:00:11"}}));
    }
    auto const taps = [&] {
        std::vector<std::string> names;
        auto const status = lab.a.sidecar({"status", "web1", "--json"});
        INFO(status.out << status.err);
        REQUIRE(status.exit_status == 0);
        for (auto const& one : lab::parse_json(status.out)["interfaces"].elements())
            names.push_back(one["tap"].text_or(""));
        return names;
    };
    std::vector<std::string> const both{"web1", "plugged1"};
    auto const checked = lab.a.migrate(lab.b, {"--network", "anchor", "--check"});
    INFO(checked.out << checked.err);
    CHECK(checked.exit_status == 0);
    CHECK(taps() == both);

    lab.a.run->kill();
    lab::Daemon attached("attach", lab.a.command({"attach", "web1"}), lab::Place{lab.a.netns, {}},
                         lab.a.directory);
    lab::wait_until("`sidecar attach` to answer", 20s, [&] {
        return attached.running() && lab.a.sidecar({"status", "web1"}).exit_status == 0;
    });
    CHECK(taps() == both);
}

}  // namespace plugged_taps_cases
