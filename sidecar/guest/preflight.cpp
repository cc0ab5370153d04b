#include "sidecar/guest/preflight.hpp"

#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <sstream>

#include "core/log.hpp"
#include "netmove/evpn_mover.hpp"
#include "netmove/network.hpp"
#include "netmove/routed_tap.hpp"
#include "netmove/routes_mover.hpp"
#include "netmove/vxlan_mover.hpp"
#include "qmp/launch.hpp"
#include "sidecar/guest/address_check.hpp"
#include "sidecar/guest/allowed_files.hpp"
#include "sidecar/guest/destination_line.hpp"
#include "sidecar/guest/disk_places.hpp"
#include "sidecar/guest/qemu_user.hpp"
#include "sidecar/guest/software_tpm.hpp"
#include "storage/block_device.hpp"
#include "storage/shared_storage.hpp"

namespace sidecar {

using core::Deadline;
using core::Errc;
using core::fail;
using core::fail_errno;
using core::Result;
using core::Task;
using qmp::FileAccess;

namespace {

/// `qemu-system-x86_64 -machine help` prints 5 KiB.
constexpr std::size_t help_bytes_max = 1 << 20;

Task<Result<>> check_qemu(core::Loop& loop, std::string program, std::string machine_type,
                          Deadline deadline) {
    auto const help =
        co_await core::output_of(loop, {program, "-machine", "help"}, help_bytes_max, deadline);
    if (!help) {
        co_return fail(Errc::refused,
                       "QEMU ({}) cannot be started on the destination: {}; name another with "
                       "`serve --qemu`",
                       program, help.error().what);
    }
    std::istringstream lines(*help);
    for (std::string line; std::getline(lines, line);) {
        if (line.starts_with(machine_type + " ")) co_return Result<>{};
    }
    co_return fail(
        Errc::refused,
        "QEMU on the destination ({}) does not know the machine type {}: it is older than "
        "the source's",
        program, machine_type);
}

/// QEMU here knows every option: it looks at all their names before it acts on -version.
Task<Result<>> check_options(core::Loop& loop, qmp::CommandLine line, Deadline deadline) {
    auto argv = line.argv();
    argv.insert(argv.begin() + 1, "-version");
    auto const version = co_await core::output_of(loop, argv, help_bytes_max, deadline);
    if (version) co_return Result<>{};
    co_return fail(Errc::refused, "QEMU on the destination does not take this command line: {}",
                   version.error().what);
}

/// The numbers of the descriptors that the guest's taps will have: they suffice to map its command
/// line.
std::vector<qmp::TapDescriptors> tap_numbers(Description const& description) {
    std::vector<qmp::TapDescriptors> taps;
    int number = qmp::first_tap_fd_in_qemu;
    for (auto const& interface : description.interfaces) {
        qmp::TapDescriptors one{interface.netdev, {}};
        for (int queue = 0; queue < interface.queues; ++queue) one.fds.push_back(number++);
        taps.push_back(std::move(one));
    }
    return taps;
}

Result<> check_file(std::string const& path, std::string const& what) {
    if (access(path.c_str(), R_OK) == 0) return {};
    return fail(Errc::refused, "{} is needed as {} on the destination and cannot be read there: {}",
                what, path, std::strerror(errno));
}

/// Checks the files that the guest needs and that are not among those of its description (firmware,
/// secrets, devices), and the directories of its sockets.
Result<> check_files(HostMaps const& maps, Description const& description) {
    TRY(auto const line, flattened(description));
    auto const here = [&](std::string const& path) {
        return map_path(maps, absolute(path, description.working_directory));
    };
    auto const described = [&](std::string const& path) {
        return std::ranges::find(description.files, absolute(path, description.working_directory),
                                 &GuestFile::path) != description.files.end();
    };
    for (auto const& file : line.files()) {
        if (!described(file.path)) TRY_VOID(check_file(here(file.path), file.option));
    }
    for (auto const& disk : line.disks()) {
        bool const only_read = disk.read_only || disk.cdrom;
        if (!disk.local || !only_read || disk.file_name.empty() || described(disk.file_name))
            continue;
        TRY_VOID(check_file(here(disk.file_name), "the read-only image of " + disk.id));
    }
    for (auto const& socket : line.sockets()) {
        auto const directory = std::filesystem::path(here(socket.path)).parent_path().string();
        if (access(directory.c_str(), W_OK) != 0) {
            return fail(Errc::refused, "`{}` needs the directory {} on the destination: {}",
                        socket.option, directory, std::strerror(errno));
        }
    }
    return {};
}

/// The sockets that are made here for character devices have names.
Result<> check_chardev_sockets(Paths const& paths, Description const& description) {
    TRY(auto const line, flattened(description));
    for (auto const& id : line.inherited_sockets())
        TRY_VOID(chardev_socket(paths, description.guest, id));
    return {};
}

/// The disks that are not copied are, as the source says, on storage that this host sees too.
Result<> check_shared(HostMaps const& maps, Description const& description) {
    for (auto const& disk : description.shared) {
        auto const path = map_path(maps, disk.path);
        if (!storage::is_same_storage(path, disk.shared_inode, description.migration_id,
                                      description.shared_secret)) {
            return fail(Errc::refused,
                        "{} (for disk {}) is not the file on the destination that it is on the "
                        "source: was its storage unmounted?",
                        path, disk.name);
        }
        if (access(path.c_str(), R_OK | W_OK) != 0) {
            return fail(Errc::refused, "{} (for disk {}) cannot be opened on the destination: {}",
                        path, disk.name, std::strerror(errno));
        }
    }
    return {};
}

Result<> check_memory(Description const& description) {
    std::ifstream file("/proc/meminfo");
    for (std::string line; std::getline(file, line);) {
        constexpr std::string_view key = "MemAvailable:";
        if (!line.starts_with(key)) continue;
        auto const available = std::strtoull(line.c_str() + key.size(), nullptr, 10) * 1024;
        if (available < description.ram_bytes) {
            return fail(Errc::refused,
                        "the guest has {} MiB of RAM, and the destination has {} MiB available",
                        description.ram_bytes >> 20, available >> 20);
        }
    }
    return {};
}

/// If the source's network separates the guest's protocols, this host's network must do so too.
Result<> check_same_network(netmove::GuestInterface const& interface, netmove::Link const& bridge) {
    TRY(auto const network, netmove::network_of(bridge));
    if (network == interface.network) return {};
    auto const kind = [](std::string const& protocol) {
        return protocol.empty()     ? "any bridge"
               : protocol == "ipv4" ? "an IPv4 network"
                                    : "an IPv6 network";
    };
    return fail(Errc::refused,
                "the guest's interface {} is in {} at the source, and {} on the destination is {}: "
                "make such a network there (`sidecar network create`), or map the bridge to one "
                "(`serve --map-bridge {}=NAME`)",
                interface.netdev, kind(interface.network), bridge.name, kind(network),
                interface.bridge);
}

/// The guest's L2 network is the same on both hosts, and the MTU here is large enough.
Result<> check_vxlan(netmove::Netlink& netlink, std::string const& bridge,
                     netmove::GuestInterface interface) {
    TRY(auto const device, netmove::vxlan_port(netlink, bridge));
    TRY(interface.vxlan_destination, netmove::vxlan_end(netlink, bridge));
    TRY_VOID(netmove::check_vxlan_ends(interface));
    if (!device || !interface.vxlan_source) return {};
    return netmove::check_vxlan_mtu(netlink, *device, interface.vxlan_source->local, interface.mtu);
}

/// This host can be the gateway of a routed guest.
Result<> check_routed(netmove::Netlink& netlink, netmove::GuestInterface const& interface) {
    auto checked = netmove::check_routing(netlink, interface.addresses);
    if (checked) return checked;
    return fail(Errc::refused, "the guest's interface {} is routed, and not on the destination: {}",
                interface.netdev, checked.error().sentence());
}

/// A bridge that is mapped to another one may be that of the VLAN: the operator has said so.
Result<> check_vlans(netmove::GuestInterface const& interface, netmove::Link const& bridge) {
    bool const mapped = bridge.name != interface.bridge;
    if (!interface.port || interface.port->in_default_vlan() || bridge.vlan_filtering || mapped) {
        return {};
    }
    return fail(
        Errc::refused,
        "the guest's interface {} is in {} of its bridge, and {} on the destination filters "
        "no VLANs: `ip link set {} type bridge vlan_filtering 1`, or map the bridge to that "
        "of the VLAN (`serve --map-bridge`)",
        interface.netdev, interface.port->vlans_text(), bridge.name, bridge.name);
}

Result<> check_network(HostMaps const& maps, Description const& description) {
    if (description.interfaces.empty()) return {};
    if (access("/dev/net/tun", R_OK | W_OK) != 0) {
        return fail_errno(errno, "the destination cannot open /dev/net/tun, which taps need");
    }
    TRY(auto netlink, netmove::Netlink::open());
    for (auto const& interface : description.interfaces) {
        if (interface.routed) TRY_VOID(check_routed(netlink, interface));
        // An anchor's bridge is made, or found, when the guest comes.
        if (interface.bridge.empty() || interface.has_anchors_bridge()) continue;
        auto const bridge = map_bridge(maps, interface.bridge);
        if (!is_allowed_bridge(maps, bridge)) {
            return fail(Errc::refused,
                        "guests may not use the bridge {} on the destination: map theirs to "
                        "another with `serve --map-bridge {}=NAME`, or allow it with "
                        "`--allow-bridge`",
                        bridge, interface.bridge);
        }
        TRY(auto const link, netlink.find_link(bridge));
        if (!link || link->kind != "bridge") {
            return fail(Errc::refused,
                        "there is no bridge {} on the destination: make it, or map it with `serve "
                        "--map-bridge {}=NAME`",
                        bridge, interface.bridge);
        }
        if (link->mtu < interface.mtu) {
            return fail(
                Errc::refused,
                "bridge {} on the destination has MTU {}, the guest's interface {}: raise it",
                bridge, link->mtu, interface.mtu);
        }
        TRY_VOID(check_vlans(interface, *link));
        TRY_VOID(check_same_network(interface, *link));
        TRY_VOID(check_vxlan(netlink, bridge, interface));
    }
    return {};
}

}  // namespace

Result<std::optional<std::vector<std::string>>> subnets_of(netmove::Netlink& netlink,
                                                           std::string const& bridge) {
    TRY(auto const link, netlink.find_link(bridge));
    if (!link || link->kind != "bridge") return std::optional<std::vector<std::string>>();
    TRY(auto const addresses, netlink.addresses(link->index));
    std::vector<std::string> subnets;
    for (auto const& one : addresses) {
        auto const bytes = one.address.bytes();
        auto const length = static_cast<std::size_t>(one.prefix_length);
        // A host route says nothing about what is on the wire.
        if (one.address.is_link_local() || length >= 8 * bytes.size()) continue;
        std::array<std::uint8_t, 16> network{};
        for (std::size_t bit = 0; bit < length; ++bit) {
            auto const mask = static_cast<std::uint8_t>(0x80U >> bit % 8);
            network[bit / 8] |= static_cast<std::uint8_t>(bytes[bit / 8] & mask);
        }
        auto const address = one.address.is_ipv4()
                                 ? netmove::Address::ipv4(std::span(network).first<4>())
                                 : netmove::Address::ipv6(std::span(network));
        subnets.push_back(fmt::format("{}/{}", address.text(), length));
    }
    return std::optional(std::move(subnets));
}

Result<std::vector<std::optional<netmove::VxlanEnd>>> vxlan_ends_here(
    HostMaps const& maps, Description const& description) {
    std::vector<std::optional<netmove::VxlanEnd>> out;
    if (description.interfaces.empty()) return out;
    TRY(auto netlink, netmove::Netlink::open());
    for (auto const& interface : description.interfaces) {
        std::optional<netmove::VxlanEnd> end;
        if (!interface.bridge.empty() && !interface.anchor) {
            auto const bridge = map_bridge(maps, interface.bridge);
            TRY(end, netmove::vxlan_end(netlink, bridge));
            if (end) {
                TRY(end->evpn, netmove::evpn_knows(netlink, bridge, interface.mac));
            }
        }
        out.push_back(end);
    }
    return out;
}

Result<std::vector<netmove::GuestInterface>> map_interfaces(
    netmove::Netlink& netlink, HostMaps const& maps,
    std::vector<netmove::GuestInterface> interfaces) {
    constexpr int names_max = 4096;
    std::vector<std::string> ours;
    for (auto& interface : interfaces) {
        if (!interface.has_anchors_bridge()) {
            interface.bridge = map_bridge(maps, interface.bridge);
        }
        auto name = interface.tap;
        for (int number = 0; number < names_max; ++number) {
            TRY(auto const existing, netlink.find_link(name));
            if (!existing && std::find(ours.begin(), ours.end(), name) == ours.end()) break;
            name = fmt::format("sct{}", number);
        }
        interface.tap = name;
        interface.renewals = netmove::renewed(interface.renewals, 1);
        ours.push_back(name);
    }
    return interfaces;
}

Result<> check_allowed(Paths const& paths, HostMaps const& maps, Description const& description) {
    auto const policy = policy_of(maps, description);
    auto const check = [&]() -> Result<> {
        TRY(auto const allowed, map_command_line(maps, description, tap_numbers(description)));
        auto uses = allowed.files;
        for (auto const& disk : description.disks) {
            uses.push_back({"disk " + disk.name, image_path(maps, disk), FileAccess::image});
            for (auto const& base : disk.bases) {
                uses.push_back(
                    {"the base of disk " + disk.name, map_path(maps, base.path), FileAccess::read});
            }
        }
        for (auto const& disk : description.shared) {
            uses.push_back({"disk " + disk.name, map_path(maps, disk.path), FileAccess::image});
        }
        for (auto const& file : description.files) {
            auto const path = map_path(maps, file.path);
            uses.push_back({file.what, path, FileAccess::read});
            // It is created like an image: not in the directories of firmware.
            if (file.copied && is_missing(maps, file, {}))
                uses.push_back({file.what, path, FileAccess::image});
        }
        std::vector<std::string> refusals;
        for (auto const& use : uses) {
            auto const checked = check_file_use(paths, policy, use);
            if (!checked && refusals.size() < qmp::refusals_told)
                refusals.push_back(checked.error().sentence());
        }
        if (refusals.empty()) return {};
        return fail(Errc::refused, "the destination does not let this guest use its files: {}",
                    fmt::format("{}", fmt::join(refusals, "; ")));
    };
    auto checked = check();
    if (!checked)
        core::log::warning("guest={} refused: {}", description.guest, checked.error().sentence());
    return checked;
}

namespace {

/// What QEMU here has of its own: addresses, ROMs, firmware.
Task<Result<>> check_line(core::Loop& loop, HostMaps maps, Description const& description,
                          Deadline deadline) {
    CO_TRY(auto const allowed, map_command_line(maps, description, tap_numbers(description)));
    CO_TRY_VOID(check_bound_addresses(allowed.line));
    CO_TRY(auto const line, co_await fit_user_option(loop, allowed.line, deadline));
    CO_TRY_VOID(co_await check_options(loop, line, deadline));
    co_return co_await check_roms(loop, maps, allowed, description, deadline);
}

}  // namespace

Task<std::vector<std::string>> arrival_warnings(core::Loop& loop, HostMaps const& maps,
                                                Description const& description, Deadline deadline) {
    std::vector<std::string> lines;
    auto const line = map_command_line(maps, description, tap_numbers(description));
    if (line) lines = co_await firmware_warnings(loop, maps, *line, description, deadline);
    auto const warn = [&](std::string const& what, storage::FileAccess const& access) {
        for (auto const& missing : storage::local_access(access).missing) {
            lines.push_back(fmt::format(
                "{}: the destination has no {}: its file there belongs to root", what, missing));
        }
    };
    for (auto const& disk : description.disks) {
        if (disk.access && !storage::is_block_device(image_path(maps, disk)))
            warn("disk " + disk.name, *disk.access);
    }
    for (auto const& file : description.files) {
        if (file.copied && is_missing(maps, file, {})) warn(file.what, file.access);
    }
    co_return lines;
}

Task<Result<>> preflight(core::Loop& loop, Paths const& paths, HostMaps const& maps,
                         Description const& description, Leftovers leftovers, Deadline deadline) {
    CO_TRY(auto const manifest, read_manifest(paths, description.guest));
    if (!manifest.is_null()) {
        auto const process = core::Process::open(core::ProcessIdentity::from_json(manifest));
        if (process && process->running()) {
            co_return fail(Errc::refused, "a guest named {} runs on the destination already",
                           description.guest);
        }
    }
    // First: what is refused must not even be looked for.
    CO_TRY_VOID(check_allowed(paths, maps, description));
    CO_TRY_VOID(check_bases(maps, description));
    CO_TRY_VOID(check_files(maps, description));
    CO_TRY_VOID(check_guest_files(maps, description, leftovers.images));
    CO_TRY_VOID(check_chardev_sockets(paths, description));
    CO_TRY_VOID(check_user_here(description, policy_of(maps, description).images));
    CO_TRY_VOID(check_places(paths, maps, description, leftovers.images));
    CO_TRY_VOID(check_shared(maps, description));
    CO_TRY_VOID(check_memory(description));
    CO_TRY_VOID(check_network(maps, description));
    CO_TRY(auto const program, map_program(maps, description.argv.front()));
    CO_TRY_VOID(co_await check_qemu(loop, program, description.machine_type, deadline));
    CO_TRY_VOID(
        co_await check_software_tpm(loop, paths, maps.swtpm, description, leftovers.tpm, deadline));
    co_return co_await check_line(loop, maps, description, deadline);
}

}  // namespace sidecar
