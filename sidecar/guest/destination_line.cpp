#include "sidecar/guest/destination_line.hpp"

#include <sys/un.h>

#include <algorithm>
#include <filesystem>

#include "qmp/launch.hpp"
#include "storage/block_device.hpp"

namespace sidecar {

using core::Errc;
using core::fail;
using core::Result;

std::vector<std::string> const& default_guest_directories() {
    static std::vector<std::string> const directories{"/srv/vm", "/var/lib/libvirt/images"};
    return directories;
}

qmp::LaunchPolicy policy_of(HostMaps const& maps, Description const& description) {
    qmp::LaunchPolicy policy;
    policy.programs = maps.programs;
    policy.directories = default_guest_directories();
    for (auto const& [from, to] : maps.paths) policy.directories.push_back(to);
    policy.directories.insert(policy.directories.end(), maps.allowed_paths.begin(),
                              maps.allowed_paths.end());
    policy.bridges = maps.allowed_bridges;
    policy.devices = maps.allowed_devices;
    for (auto const* const disks : {&description.disks, &description.shared}) {
        for (auto const& disk : *disks) policy.images.push_back(image_path(maps, disk));
    }
    policy.descriptors = {qmp::qmp_fd_in_qemu};
    return policy;
}

std::string map_path(HostMaps const& maps, std::string const& path) {
    auto mapped = qmp::map_path(maps.paths, path);
    if (mapped == path) return path;
    return std::filesystem::path(mapped).lexically_normal().string();
}

std::string image_path(HostMaps const& maps, MovedDisk const& disk) {
    return disk.target.empty() ? map_path(maps, disk.path) : disk.target;
}

bool is_device_to_be_made(MovedDisk const& disk) {
    std::error_code error;
    return disk.made_here && qmp::path_below("/dev", disk.target) &&
           !std::filesystem::exists(disk.target, error);
}

std::string map_bridge(HostMaps const& maps, std::string const& bridge) {
    for (auto const& [from, to] : maps.bridges) {
        if (from == bridge) return to;
    }
    return bridge;
}

bool is_allowed_bridge(HostMaps const& maps, std::string const& bridge) {
    auto const& named = maps.allowed_bridges;
    return named.empty() || std::ranges::find(named, bridge) != named.end();
}

Result<qmp::CommandLine> flattened(Description const& description) {
    TRY(auto line, qmp::CommandLine::parse(description.argv));
    std::vector<qmp::ImageChain> chains;
    for (auto const& disk : description.disks)
        chains.push_back({disk.name, disk.node, disk.path, disk.layers_above_base});
    TRY_VOID(line.flatten(chains, description.working_directory));
    return line;
}

namespace {

/// What a guest may not use is not looked at.
bool may_be_looked_at(qmp::LaunchPolicy const& policy, std::string const& path) {
    return std::ranges::any_of(policy.directories, [&](std::string const& directory) {
        return qmp::path_below(directory, path).has_value();
    });
}

/// The images of the disks that are copied: whether each is a device here, and how much of it the
/// guest sees.
std::vector<qmp::ImagePlace> places_of(HostMaps const& maps, Description const& description,
                                       qmp::LaunchPolicy const& policy) {
    std::vector<qmp::ImagePlace> places;
    for (auto const& disk : description.disks) {
        auto& place = places.emplace_back(disk.path, image_path(maps, disk));
        if (is_device_to_be_made(disk)) place.kind = qmp::ImagePlace::Kind::device;
        if (!may_be_looked_at(policy, place.to) || !storage::is_block_device(place.to)) continue;
        place.kind = qmp::ImagePlace::Kind::device;
        auto const device = storage::look_at_device(place.to);
        if (device && device->bytes > disk.virtual_bytes) place.size_bytes = disk.virtual_bytes;
    }
    return places;
}

}  // namespace

int tpm_descriptor(std::vector<qmp::TapDescriptors> const& taps, std::size_t sockets) {
    int last = qmp::first_tap_fd_in_qemu - 1;
    for (auto const& tap : taps) {
        for (int const fd : tap.fds) last = std::max(last, fd);
    }
    return last + 1 + static_cast<int>(sockets);
}

namespace {

/// A swtpm is started only for a QEMU that uses it: it ends with that. An older source does not say
/// enough of a guest with a TPM.
Result<> check_tpm_described(qmp::CommandLine const& line, Description const& description) {
    auto const tpm = line.tpm();
    bool const emulated = tpm && tpm->type == "emulator";
    if (emulated == description.tpm.has_value()) return {};
    if (!emulated)
        return fail(Errc::protocol, "a TPM is described, and the command line has none of swtpm");
    return fail(Errc::refused,
                "the guest has a TPM, and the sidecar of its source is too old to move it");
}

}  // namespace

std::vector<qmp::SocketDescriptor> socket_numbers(qmp::CommandLine const& line,
                                                  std::vector<qmp::TapDescriptors> const& taps) {
    int number = qmp::first_tap_fd_in_qemu;
    for (auto const& tap : taps) number += static_cast<int>(tap.fds.size());
    std::vector<qmp::SocketDescriptor> sockets;
    for (auto const& id : line.inherited_sockets()) sockets.push_back({id, number++});
    return sockets;
}

Result<std::string> chardev_socket(Paths const& paths, std::string const& guest,
                                   std::string const& id) {
    auto path = fmt::format("{}/chardev-{}.sock", paths.run(guest), id);
    bool const is_name = check_guest_name(id).has_value();  // a slash would lead elsewhere
    if (is_name && path.size() < sizeof(sockaddr_un::sun_path)) return path;
    return core::fail(
        core::Errc::refused,
        "the character device `{}` is given by the descriptor of another process, and "
        "its id is no name for a socket in {} on the destination",
        id, paths.run(guest));
}

Result<qmp::AllowedLine> map_command_line(HostMaps const& maps, Description const& description,
                                          std::vector<qmp::TapDescriptors> const& taps,
                                          bool incoming) {
    TRY(auto const line, flattened(description));
    TRY_VOID(check_tpm_described(line, description));
    auto policy = policy_of(maps, description);
    for (auto const& tap : taps) {
        policy.descriptors.insert(policy.descriptors.end(), tap.fds.begin(), tap.fds.end());
    }
    qmp::Mapping mapping;
    mapping.sockets = socket_numbers(line, taps);
    for (auto const& socket : mapping.sockets) policy.descriptors.push_back(socket.fd);
    mapping.tpm_fd = tpm_descriptor(taps, mapping.sockets.size());
    if (description.tpm) policy.descriptors.push_back(mapping.tpm_fd);
    // Without one, allow() refuses the source's.
    mapping.qemu = qmp::choose_program(policy, line.program()).value_or("");
    mapping.machine_type = description.machine_type;
    mapping.qmp_fd = qmp::qmp_fd_in_qemu;
    mapping.working_directory = description.working_directory;
    mapping.images = places_of(maps, description, policy);
    mapping.prefixes = maps.paths;
    mapping.addresses = maps.addresses;
    mapping.taps = taps;
    mapping.incoming = incoming;
    TRY(auto const mapped, line.for_destination(mapping));
    auto allowed = qmp::allow(mapped, policy);
    if (!allowed) return std::unexpected(qmp::refusal_error(allowed.error()));
    return std::move(*allowed);
}

Result<std::string> map_program(HostMaps const& maps, std::string const& program) {
    return qmp::choose_program({.programs = maps.programs}, program);
}

}  // namespace sidecar
