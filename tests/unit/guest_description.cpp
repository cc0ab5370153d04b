// What a description tells of a guest besides its disks, and what a peer may not send in it.
#include "sidecar/guest/description.hpp"

#include <catch2/catch.hpp>

namespace guest_description_cases {

using namespace sidecar;
using core::Json;

namespace {

Description described() {
    Description made;
    made.guest = "web1";
    made.migration_id = "0123456789abcdef";
    made.argv = {"qemu-system-x86_64"};
    made.working_directory = "/";
    made.machine_type = "pc-q35-7.2";
    MovedDisk disk;
    disk.name = "d0";
    disk.path = "/srv/d0.raw";
    disk.format = "raw";
    disk.limits = Json::object({{"iops", 100}, {"iops_max", 200}, {"group", "d0"}});
    made.disks.push_back(disk);
    return made;
}

}  // namespace

TEST_CASE("a description has the run state, and only one that is kept", "[description]") {
    auto const with = [](std::string const& state) {
        return Description::from_json(described().to_json().set("state", state));
    };
    for (auto const* const state :
         {"running", "prelaunch", "paused", "io-error", "guest-panicked", "watchdog", "shutdown"}) {
        INFO(state);
        auto const made = with(state);
        REQUIRE(made);
        CHECK(name(made->state) == state);
    }
    CHECK_FALSE(with("postmigrate"));
    CHECK_FALSE(with(""));
    auto const refused = movable_state("suspended");
    REQUIRE_FALSE(refused);
    CHECK(refused.error().sentence().find("system_wakeup") != std::string::npos);
    CHECK_FALSE(movable_state("postmigrate"));
    CHECK(movable_state("io-error") == GuestState::io_error);
}

TEST_CASE("limits and ROMs of a description from a peer are checked", "[description]") {
    auto good = described();
    good.throttle_groups = {{"tg0", Json::object({{"iops-total", 7}})}};
    good.option_roms = {{"card0", "efi-virtio.rom", 262144}};
    good.firmware = {{"/usr/share/OVMF/CODE.fd", 4096, std::string(64, 'a')}};
    auto const again = Description::from_json(good.to_json());
    REQUIRE(again);
    CHECK(again->disks.at(0).limits.dump() == good.disks.at(0).limits.dump());
    CHECK(again->throttle_groups.at(0).id == "tg0");
    CHECK(again->option_roms.at(0).bytes == 262144);
    CHECK(again->firmware.at(0).bytes == 4096);
    auto const spoil = [&](auto change) {
        auto bad = good;
        change(bad);
        return Description::from_json(bad.to_json());
    };
    auto const limit = [](char const* key, Json value) {
        return [key, value](Description& d) { d.disks[0].limits = Json::object({{key, value}}); };
    };
    CHECK_FALSE(spoil(limit("iops", -1)));
    CHECK_FALSE(spoil(limit("iops", "many")));
    CHECK_FALSE(spoil(limit("ID", 1)));
    CHECK(spoil(limit("group", "/machine/peripheral/d0")));
    CHECK_FALSE(spoil(limit("group", std::string(300, 'g'))));
    CHECK_FALSE(spoil([](Description& d) { d.throttle_groups[0].id = "../machine"; }));
    CHECK_FALSE(spoil([](Description& d) { d.throttle_groups[0].limits = Json(); }));
    CHECK_FALSE(spoil([](Description& d) { d.option_roms[0].file = "../../etc/passwd"; }));
    CHECK_FALSE(spoil([](Description& d) { d.firmware[0].path = "CODE.fd"; }));
    CHECK_FALSE(spoil([](Description& d) { d.option_roms.resize(5000, d.option_roms[0]); }));
}

TEST_CASE("a disk is found in another QEMU by its drive's name, else by its device",
          "[description]") {
    auto const drive = [](std::string device, std::string qdev) {
        qmp::BlockDevice made;
        made.device = std::move(device);
        made.qdev = std::move(qdev);
        made.inserted = true;
        return made;
    };
    std::vector<qmp::BlockDevice> const drives{
        drive("ide0-hd0", "/machine/unattached/device[24]"),
        drive("", "/machine/peripheral/disk1/virtio-backend")};
    MovedDisk disk;
    disk.device = "ide0-hd0";
    disk.qdev = "/machine/unattached/device[23]";
    CHECK(find_drive(drives, disk) == &drives[0]);
    disk.device = "";
    CHECK(find_drive(drives, disk) == nullptr);
    disk.qdev = drives[1].qdev;
    CHECK(find_drive(drives, disk) == &drives[1]);
}

}  // namespace guest_description_cases
