#include "sidecar/cli/serve_options.hpp"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <filesystem>

#include "qmp/bound_address.hpp"

namespace sidecar {

using core::Errc;
using core::fail;
using core::Result;

namespace {

Result<std::vector<std::pair<std::string, std::string>>> pairs(
    std::vector<std::string> const& texts) {
    std::vector<std::pair<std::string, std::string>> all;
    for (auto const& text : texts) {
        auto const equals = text.find('=');
        if (equals == std::string::npos || equals == 0 || equals + 1 == text.size()) {
            return fail(Errc::invalid, "`{}` is not FROM=TO", text);
        }
        all.emplace_back(text.substr(0, equals), text.substr(equals + 1));
    }
    return all;
}

Result<> check_absolute(char const* option, std::vector<std::string> const& paths) {
    for (auto const& path : paths) {
        if (!path.starts_with('/'))
            return fail(Errc::invalid, "{} {}: this is not an absolute path", option, path);
    }
    return {};
}

/// The files of guests are compared with these directories by their names, without "..".
Result<> check_directories(std::vector<std::string> const& paths) {
    TRY_VOID(check_absolute("--allow-path", paths));
    for (auto const& path : paths) {
        if (std::ranges::count(std::filesystem::path(path), "..") > 0)
            return fail(Errc::invalid, "--allow-path {}: write the path without '..'", path);
    }
    return {};
}

}  // namespace

void ServeFlags::add_to(CLI::App& app) {
    auto const add = [&](char const* name, std::vector<std::string>& into, char const* help) {
        app.add_option(name, into, help)->allow_extra_args(false);
    };
    add("--map-path", map_paths_, "FROM=TO: a path prefix of the source has another name here");
    add("--map-bridge", map_bridges_, "FROM=TO: a bridge of the source has another name here");
    add("--map-address", map_addresses_,
        "OLD=NEW: QEMU listens here on NEW where it listens on OLD at the source (-vnc, -spice, "
        "hostfwd=); once for each");
    add("--qemu", programs_,
        "A QEMU that guests may run here (default: /usr/bin/qemu-system-*); once for each");
    add("--allow-path", paths_,
        "A directory of which guests may use files and sockets, besides /srv/vm, "
        "/var/lib/libvirt/images and those of --map-path; once for each");
    add("--allow-bridge", bridges_,
        "A bridge on which guests may be (default: each); once for each");
    add("--allow-device", devices_,
        "A kind of device that guests may have, besides those that use nothing of the host; once "
        "for each");
    app.add_option("--swtpm", swtpm_,
                   "The swtpm that runs the TPMs of guests (default: swtpm in PATH)");
    app.add_option("--disk-command", disk_command_,
                   "PROGRAM: makes a place for each disk that comes, and prints its path: run as "
                   "PROGRAM check|create|remove GUEST DISK BYTES");
    app.add_option("--libvirt-uri", libvirt_uri_,
                   "Define guests that were libvirt's at the source in the libvirt here");
    app.add_option("--data-ports", data_ports_,
                   "FIRST-LAST: TCP ports on which disks and RAM arrive, two for each guest that "
                   "moves; 0: the kernel chooses")
        ->capture_default_str();
}

Result<> ServeFlags::finish(ServeOptions& into) const {
    TRY(into.maps, maps());
    into.libvirt_uri = libvirt_uri_;
    TRY(into.data_ports, core::PortRange::parse(data_ports_));
    if (!disk_command_.empty()) TRY_VOID(check_absolute("--disk-command", {disk_command_}));
    into.disk_command = disk_command_;
    return {};
}

Result<HostMaps> ServeFlags::maps() const {
    HostMaps made;
    TRY(made.paths, pairs(map_paths_));
    TRY(made.bridges, pairs(map_bridges_));
    TRY(made.addresses, pairs(map_addresses_));
    for (auto const& [from, to] : made.addresses) {
        for (auto const& address : {from, to}) {
            if (!qmp::is_numeric_address(address))
                return fail(Errc::invalid, "--map-address {}={}: {} is not an address", from, to,
                            address);
        }
    }
    TRY_VOID(check_absolute("--qemu", programs_));
    TRY_VOID(check_directories(paths_));
    if (!swtpm_.empty()) {
        TRY_VOID(check_absolute("--swtpm", {swtpm_}));
        made.swtpm = swtpm_;
    }
    made.programs = programs_;
    made.allowed_paths = paths_;
    made.allowed_bridges = bridges_;
    made.allowed_devices = devices_;
    return made;
}

}  // namespace sidecar
