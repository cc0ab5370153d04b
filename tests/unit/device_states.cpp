// Devices whose state does not pass between two QEMUs: sidecar/guest/device_states.hpp.
#include <catch2/catch.hpp>

#include "sidecar/guest/device_states.hpp"

namespace device_states_cases {

TEST_CASE("a device whose state another QEMU cannot read is named", "[device-states]") {
    using sidecar::unreadable_devices;
    auto const line = qmp::CommandLine::parse({"qemu-system-x86_64", "-device", "am53c974,id=scsi0",
                                               "-device", "virtio-scsi-pci", "-device", "dc390"})
                          .value();
    std::vector<std::string> const both{"scsi0", "dc390"};
    CHECK(unreadable_devices(line, 7, 10) == both);
    CHECK(unreadable_devices(line, 8, 9) == both);
    CHECK(unreadable_devices(line, 10, 7) == both);
    CHECK(unreadable_devices(line, 7, 8).empty());
    CHECK(unreadable_devices(line, 9, 10).empty());
    auto const other = qmp::CommandLine::parse({"qemu-system-x86_64", "-device", "lsi"}).value();
    CHECK(unreadable_devices(other, 7, 10).empty());
}

TEST_CASE("a machine type without a version is known by its name", "[device-states]") {
    for (auto const* const name : {"pc-i440fx-7.2", "pc-q35-10.0", "pc-q35-noble"})
        CHECK(sidecar::has_version(name));
    for (auto const* const name : {"microvm", "isapc", ""}) CHECK_FALSE(sidecar::has_version(name));
}

}  // namespace device_states_cases
