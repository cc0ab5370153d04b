// Disks with filters over their images (throttle, copy-on-read), and limits that were changed while
// the guest ran: `sidecar migrate` there and back between two real QEMUs.
#include "tests/process/move_lab.hpp"
#include "tests/support/qmp_probe.hpp"

namespace filters_cases {

using namespace move_lab;

namespace {

/// Disk d1 is a qcow2 below a throttle and a copy-on-read node, d2 a raw image with limits of its
/// own. The guest has a monitor at `qmp` of the host's directory, wherever it is.
struct FilterLab : MoveLab {
    explicit FilterLab(std::string const& qemu, std::vector<std::string> const& environment = {})
        : MoveLab(Empty()) {
        for (auto* const host : {&a, &b}) start_serve(*host);
        lab::must_run({"qemu-img", "create", "-q", "-f", "qcow2", image(a, 1), "1M"});
        lab::write_file(image(a, 2), std::string(disk_bytes, 'e'));
        a.qemu = qemu;
        a.start_guest({"-object", "throttle-group,id=tg0,x-iops-total=5000", "-blockdev",
                       "driver=file,node-name=f1,filename=" + image(a, 1), "-blockdev",
                       "driver=qcow2,node-name=q1,file=f1", "-blockdev",
                       "driver=throttle,node-name=t1,throttle-group=tg0,file=q1", "-blockdev",
                       "driver=copy-on-read,node-name=c1,file=t1", "-device",
                       "virtio-blk-pci,id=disk1,drive=c1", "-drive",
                       "if=none,id=d2,format=raw,throttling.iops-total=4000,file=" + image(a, 2),
                       "-device", "virtio-blk-pci,id=disk2,drive=d2", "-qmp",
                       "unix:" + socket(a) + ",server=on,wait=off"},
                      environment);
    }
    static std::string image(MoveHost const& host, int number) {
        return fmt::format("{}/d{}", host.directory, number);
    }
    static std::string socket(MoveHost const& host) { return host.directory + "/qmp"; }
    /// As the guest would write, through the filters.
    static void write(MoveHost const& host, std::string const& device, std::string const& what) {
        lab::Qmp qmp(socket(host));
        qmp.execute(
            "human-monitor-command",
            core::Json::object({{"command-line", fmt::format("qemu-io -d /machine/peripheral/{}/"
                                                             "virtio-backend \"write {}\"",
                                                             device, what)}}));
    }
    /// The limits that both disks have there.
    static std::string limits(MoveHost const& host) {
        lab::Qmp qmp(socket(host));
        auto text =
            qmp.execute("qom-get", core::Json::object({{"path", "/objects/tg0"},
                                                       {"property", "limits"}}))["iops-total"]
                .dump();
        for (auto const& drive : qmp.execute("query-block").elements()) {
            if (drive["device"].text_or("") == "d2") text += " " + drive["inserted"]["iops"].dump();
        }
        return text;
    }
    /// The node that disk1 uses there.
    static std::string top(MoveHost const& host) {
        lab::Qmp qmp(socket(host));
        for (auto const& drive : qmp.execute("query-block").elements()) {
            if (contains(drive["qdev"].text_or(""), "disk1"))
                return drive["inserted"]["drv"].text_or("");
        }
        return "none";
    }
};

}  // namespace

TEST_CASE("filters: a disk below throttle and copy-on-read moves there and back, with its limits",
          "[migrate][filters]") {
    for (auto const& [version, qemu] : storage_lab::qemus()) {
        INFO(version);
        FilterLab const lab(qemu, {"SIDECAR_TEST_STOP_AT=start_ram"});
        FilterLab::write(lab.a, "disk1", "-P 17 0 64k");
        {
            lab::Qmp qmp(FilterLab::socket(lab.a));
            qmp.execute("qom-set", core::Json::object(
                                       {{"path", "/objects/tg0"},
                                        {"property", "limits"},
                                        {"value", core::Json::object({{"iops-total", 7000}})}}));
            auto limits = core::Json::object(
                {{"id", "/machine/peripheral/disk2/virtio-backend"}, {"iops", 6000}});
            for (auto const* none : {"bps", "bps_rd", "bps_wr", "iops_rd", "iops_wr"})
                limits.set(none, 0);
            qmp.execute("block_set_io_throttle", limits);
        }
        CHECK(FilterLab::limits(lab.a) == "7000 6000");
        auto migration = lab.a.start_migration(lab.b, {"--network=anchor"});
        auto const stopped = lab.a.wait_stopped(migration);
        // After the bulk pass: the bitmaps must see it.
        FilterLab::write(lab.a, "disk1", "-P 34 128k 64k");
        FilterLab::write(lab.a, "disk2", "-P 51 128k 64k");
        REQUIRE(MoveHost::finish(migration, stopped) == 0);
        CHECK(FilterLab::limits(lab.b) == "7000 6000");
        CHECK(FilterLab::top(lab.b) == "copy-on-read");
        FilterLab::write(lab.b, "disk1", "-P 68 256k 64k");
        auto const back = lab.b.migrate(lab.a, {"--network", "anchor"});
        INFO(back.out << back.err);
        REQUIRE(back.exit_status == 0);
        CHECK(FilterLab::limits(lab.a) == "7000 6000");
        CHECK(FilterLab::top(lab.a) == "copy-on-read");
        lab.a.kill_all();
        for (auto const* const pattern : {"-P 17 0 64k", "-P 34 128k 64k", "-P 68 256k 64k"}) {
            auto const read =
                lab::run({"qemu-io", "-f", "qcow2", "-c", fmt::format("read {}", pattern),
                          FilterLab::image(lab.a, 1)});
            CHECK_FALSE(contains(read.out, "Pattern verification failed"));
            CHECK(read.exit_status == 0);
        }
        auto const second = lab::read_file(FilterLab::image(lab.a, 2));
        CHECK(second.substr(128 << 10, 64 << 10) == std::string(64 << 10, 51));
    }
}

}  // namespace filters_cases
