// CommandLine::without_libvirt: what libvirt puts on QEMU's command line and gives to it by
// descriptor, as a host without libvirt can have it. Taps, monitors and sockets by descriptor stay:
// for_destination() deals with those of every guest.
#include <algorithm>
#include <set>

#include "qmp/command_line.hpp"

namespace qmp {

namespace {

constexpr std::string_view fdset_prefix = "/dev/fdset/";

bool names_fdset(std::string_view value) { return value.starts_with(fdset_prefix); }

}  // namespace

class LibvirtLine {
public:
    explicit LibvirtLine(CommandLine line) { plain_.line = std::move(line); }

    Result<PlainLine> without_libvirt(std::string const& user) &&;

private:
    Result<> remove_master_key();
    void end_logs();
    void end_output_files();
    void remove_unused_fdsets();
    void add_user(std::string const& user);

    [[nodiscard]] std::vector<Option>& options() { return plain_.line.options_; }

    PlainLine plain_;
};

Result<PlainLine> LibvirtLine::without_libvirt(std::string const& user) && {
    TRY_VOID(remove_master_key());
    end_logs();
    end_output_files();
    remove_unused_fdsets();
    // libvirt sees a guest that has shut down, and ends its QEMU. Elsewhere QEMU ends by itself.
    std::erase_if(options(), [](Option const& one) { return one.kind() == "no-shutdown"; });
    if (!user.empty() && plain_.line.user().empty()) add_user(user);
    return std::move(plain_);
}

/// The key of secrets that libvirt passes to QEMU: every guest has one, few use it.
Result<> LibvirtLine::remove_master_key() {
    constexpr std::string_view id = "masterKey0";
    for (auto const& option : options()) {
        if (option.form() != Form::settings) continue;
        for (auto const& [key, value] : option.settings_or_empty().all()) {
            if (key != "keyid" || value != id) continue;
            return core::fail(Errc::refused,
                              "`{}` is a secret that only libvirt on the source can read: "
                              "a disk, a display or a device of the guest needs it, and would "
                              "not have it on the destination",
                              option.settings_or_empty().get_or("id", ""));
        }
    }
    std::erase_if(options(), [&](Option const& option) {
        return option.kind() == "object" &&
               option.settings_or_empty().get_or("qom-type", "") == "secret" &&
               option.settings_or_empty().get_or("id", "") == id;
    });
    return {};
}

/// `<log file=>`: virtlogd holds the file.
void LibvirtLine::end_logs() {
    for (auto& option : options()) {
        if (option.kind() != "chardev") continue;
        auto device = option.settings_or_empty();
        if (!names_fdset(device.get_or("logfile", ""))) continue;
        device.erase("logfile");
        device.erase("logappend");
        option.replace(device);
        plain_.lost.push_back(
            fmt::format("libvirt's log of the character device {} stays on the source and ends",
                        device.get_or("id", "")));
    }
}

/// `<serial type='file'>`: virtlogd holds the file.
void LibvirtLine::end_output_files() {
    for (auto& option : options()) {
        if (option.kind() != "chardev") continue;
        auto device = option.settings_or_empty();
        bool const is_file = device.get_or("backend", "") == "file";
        if (!is_file || !names_fdset(device.get_or("path", ""))) continue;
        device.erase("path");
        device.erase("append");
        device.set("backend", "null");
        option.replace(device);
        plain_.lost.push_back(fmt::format(
            "the file of the character device {} stays on the source and ends: what the guest "
            "writes to it afterwards is lost",
            device.get_or("id", "")));
    }
}

/// Others stay, and are refused at the destination by their names.
void LibvirtLine::remove_unused_fdsets() {
    std::set<std::string> used;
    for (auto const& option : options()) {
        if (option.form() != Form::settings) continue;
        for (auto const& [key, value] : option.settings_or_empty().all()) {
            if (names_fdset(value)) used.insert(value);
        }
    }
    std::erase_if(options(), [&](Option const& one) {
        auto const name = std::string(fdset_prefix) + one.settings_or_empty().get_or("set", "");
        return one.kind() == "add-fd" && !used.contains(name);
    });
}

/// libvirt changes the user before it starts QEMU. A QEMU that does it itself must be allowed to by
/// its sandbox; afterwards it has no more rights to lose.
void LibvirtLine::add_user(std::string const& user) {
    for (auto& option : options()) {
        auto sandbox = option.settings_or_empty();
        if (option.kind() != "sandbox" || !sandbox.has("elevateprivileges")) continue;
        sandbox.erase("elevateprivileges");
        option.replace(sandbox);
    }
    options().push_back({"-", "runas", user});
}

Result<PlainLine> CommandLine::without_libvirt(std::string const& user) const {
    return LibvirtLine(*this).without_libvirt(user);
}

}  // namespace qmp
