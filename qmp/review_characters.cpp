// Reviews of character devices, monitors and displays of other hosts: -chardev, -serial, -monitor,
// -mon, -vnc, -spice and the like. A monitor controls QEMU, and so the host's files: it may only be
// where nobody but the operator reaches it.
#include <algorithm>
#include <array>

#include "qmp/allow_list.hpp"
#include "qmp/reviewer.hpp"

namespace qmp::review {

namespace {

constexpr auto private_backends = std::to_array<std::string_view>({"null", "pty", "stdio"});

/// Takes `prefix` off the beginning of `text`.
bool take(std::string_view& text, std::string_view prefix) {
    if (!text.starts_with(prefix)) return false;
    text.remove_prefix(prefix.size());
    return true;
}

/// Where QEMU listens: "HOST:N", ":N"; a path is none.
bool is_listening_address(std::string_view address) {
    constexpr std::string_view brackets = "[]";
    return std::ranges::all_of(address, [&](char const one) {
        return is_word({&one, 1}) || brackets.find(one) != std::string_view::npos;
    });
}

void check_socket(Reviewer& reviewer, Option const& option, Settings const& socket) {
    if (auto const fd = socket.get("fd")) {
        if (!are_our_descriptors(reviewer.policy(), *fd))
            reviewer.refuse(option, "`fd` names a descriptor of another process");
        return;
    }
    if (!socket.has("path")) {
        return reviewer.refuse(option, "it opens a socket of the destination's network");
    }
    if (!socket.flag("server", false)) {
        return reviewer.refuse(option, "it connects to a program of the destination");
    }
    if (socket.flag("abstract", false)) {
        return reviewer.refuse(option, "its socket is in no directory");
    }
    reviewer.use(option, socket.get_or("path", ""), FileAccess::listen);
}

/// What stands behind -serial and the like.
struct Character {
    std::string_view kind;  ///< "null", "unix:", ...; empty: none that is known to be safe.
    std::string_view rest;  ///< The path, or the id of a -chardev.
    bool monitor = false;  ///< It shares the device with a monitor.
};

Character character_of(std::string_view address) {
    Character found;
    found.monitor = take(address, "mon:");
    for (std::string_view const prefix : {"unix:", "file:", "chardev:", "vc:"}) {
        if (!take(address, prefix)) continue;
        found.kind = prefix;
        found.rest = address;
        return found;
    }
    constexpr auto whole =
        std::to_array<std::string_view>({"none", "null", "stdio", "pty", "vc", "msmouse"});
    if (is_one_of(whole, address)) found.kind = address;
    return found;
}

bool may_have_monitor(Reviewer const& reviewer, Character const& device) {
    if (device.kind == "chardev:") return reviewer.is_private_chardev(std::string(device.rest));
    return device.kind == "none" || device.kind == "unix:" ||
           is_one_of(private_backends, device.kind);
}

/// Both of a serial line and of a monitor.
void check_character(Reviewer& reviewer, Option const& option, bool is_monitor) {
    auto const text = option.value.value_or("");
    auto const written = option.settings_or_empty();
    auto const address = written.get_or("address", "");
    auto const device = character_of(address);
    if (device.kind.empty()) {
        return reviewer.refuse(option,
                               "it opens a device, a file or a socket of the destination that is "
                               "not known to be safe");
    }
    // Only after "unix:" QEMU reads keys; elsewhere a comma is part of the name.
    if (device.kind != "unix:" && text.find(',') != std::string::npos) {
        return reviewer.refuse(option, "its name has a comma");
    }
    if ((is_monitor || device.monitor) && !may_have_monitor(reviewer, device)) {
        reviewer.refuse(option, "others than the operator would reach this monitor");
    }
    if (device.kind == "file:") {
        reviewer.use(option, std::string(device.rest), FileAccess::create);
    }
    if (device.kind != "unix:") return;
    auto const settings =
        reviewer.check_keys(option, "address delay reconnect reconnect-ms server tight wait");
    if (!settings.flag("server", false)) {
        return reviewer.refuse(option, "it connects to a program of the destination");
    }
    reviewer.use(option, std::string(device.rest), FileAccess::listen);
}

}  // namespace

void chardev(Reviewer& reviewer, Option const& option) {
    auto const backend = option.settings_or_empty().get_or("backend", "");
    auto const keys = allow_list::keys_of_chardev(backend);
    if (!keys) {
        return reviewer.refuse(option, fmt::format("the backend {} opens a device, a file or a "
                                                   "socket of the destination, or is unknown",
                                                   backend));
    }
    bool const has_path = backend == "socket" || backend == "file";
    auto const special = [&](std::string const& key, std::string const& value) {
        if (key == "logfile") reviewer.use(option, value, FileAccess::create);
        return key == "logfile" || key == "logappend" || key == "id" || key == "backend" ||
               key == "mux" || (key == "path" && has_path);
    };
    auto const settings = reviewer.check_keys(option, *keys, special);
    if (backend == "socket") check_socket(reviewer, option, settings);
    if (backend == "file") {
        reviewer.use(option, settings.get_or("path", ""), FileAccess::create);
    }
}

std::set<std::string> private_chardevs(CommandLine const& line) {
    std::set<std::string> ids;
    // swtpm answers there what the guest has put into its TPM.
    auto const tpm = line.tpm().value_or(TpmOption());
    for (auto const& option : line.options()) {
        if (option.kind() != "chardev") continue;
        auto const device = option.settings_or_empty();
        if (!tpm.chardev.empty() && device.get_or("id", "") == tpm.chardev) continue;
        auto const backend = device.get_or("backend", "");
        bool const socket = backend == "socket" && (device.has("path") || device.has("fd"));
        if (socket || is_one_of(private_backends, backend)) ids.insert(device.get_or("id", ""));
    }
    return ids;
}

void character(Reviewer& reviewer, Option const& option) {
    check_character(reviewer, option, false);
}

void monitor(Reviewer& reviewer, Option const& option) { check_character(reviewer, option, true); }

void mon(Reviewer& reviewer, Option const& option) {
    auto const keys = allow_list::keys_of_option("mon").value_or("");
    auto const settings = reviewer.check_keys(option, keys);
    if (reviewer.is_private_chardev(settings.get_or("chardev", ""))) return;
    reviewer.refuse(option, "others than the operator would reach this monitor");
}

void vnc(Reviewer& reviewer, Option const& option) {
    auto const keys = allow_list::keys_of_option("vnc").value_or("");
    auto const settings = reviewer.check_keys(option, keys);
    std::string const written = settings.get_or("address", "");
    std::string_view address = written;
    if (take(address, "unix:"))
        return reviewer.use(option, std::string(address), FileAccess::listen);
    if (!is_listening_address(address))
        reviewer.refuse(option, "it is not the address of a display");
}

void spice(Reviewer& reviewer, Option const& option) {
    auto const keys = allow_list::keys_of_option("spice").value_or("");
    auto const special = [&](std::string const& key, std::string const& value) {
        if (key == "gl") {
            if (value != "off") reviewer.refuse(option, "it opens the destination's graphics card");
            return true;
        }
        // x509-dir, x509-key-file, ...; the password of the key is none.
        bool const is_file = key.starts_with("x509-") && !key.ends_with("password");
        if (is_file) reviewer.use(option, value, FileAccess::read);
        return is_file || key == "x509-key-password";
    };
    auto const settings = reviewer.check_keys(option, keys, special);
    auto const address = settings.get_or("addr", "");
    if (settings.flag("unix", false)) return reviewer.use(option, address, FileAccess::listen);
    if (!is_listening_address(address))
        reviewer.refuse(option, "it is not the address of a display");
}

}  // namespace qmp::review
