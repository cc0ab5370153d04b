// What QEMU says about its devices and their backends beyond QMP's commands of one answer:
// properties that a kind of device has, cards and taps, USB ports.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "qmp/client.hpp"

namespace qmp {

/// A property that a device of some kind can be given.
struct DeviceProperty {
    std::string name;
    std::string type;  ///< "bool", "uint32", "str", "link<iothread>", an enum's name, ...
    Json default_value;  ///< Null: QEMU does not say it.
};
Task<Result<std::vector<DeviceProperty>>> device_list_properties(Client& client, std::string kind,
                                                                 Deadline deadline);

/// What a command of QEMU's human monitor prints.
Task<Result<std::string>> human_monitor_command(Client& client, std::string line,
                                                Deadline deadline);

/// A client of QEMU's network layer: a card, or a backend ("netdev"). (HMP's info network: QMP has
/// no such command.)
struct NetClient {
    std::string name;
    std::string type;  ///< "nic", "tap", "user", ...
    std::string ifname;  ///< Of a tap that QEMU opened by name; else empty.
    std::string model = {};  ///< Of a card: "virtio-net-pci".
    std::string card = {};   ///< Of a backend: the card that uses it; empty: none.
    int fd = -1;  ///< Of a tap that QEMU got by descriptor: its number in QEMU.
    unsigned queues = 1;
};
Task<Result<std::vector<NetClient>>> info_network(Client& client, Deadline deadline);
/// The port of each USB device that has an id, by id: "1", "2.1". (HMP's info usb.)
Task<Result<std::map<std::string, std::string>>> info_usb(Client& client, Deadline deadline);
namespace detail {
std::vector<NetClient> parse_info_network(std::string const& text);
std::map<std::string, std::string> parse_info_usb(std::string const& text);
}  // namespace detail

}  // namespace qmp
