#include "sidecar/guest/media.hpp"

#include <algorithm>

#include "sidecar/guest/guest.hpp"

namespace sidecar {

using core::Result;

namespace {

bool is_unnamed_cd(qmp::Option const& option) {
    if (option.kind() == "cdrom") return true;
    auto const settings = option.settings_or_empty();
    return option.kind() == "drive" && settings.get_or("media", "") == "cdrom" &&
           !settings.has("id");
}

/// The option that made the drive; null: it is not known which.
qmp::Option* maker_of(std::vector<qmp::Option>& options, std::string const& drive) {
    auto const named = std::ranges::find_if(options, [&](qmp::Option const& option) {
        return option.kind() == "drive" && option.settings_or_empty().get_or("id", "") == drive;
    });
    if (named != options.end()) return &*named;
    // QEMU names the others by their place: "ide1-cd0".
    bool const one = std::ranges::count_if(options, is_unnamed_cd) == 1;
    return one && drive.find("-cd") != std::string::npos
               ? &*std::ranges::find_if(options, is_unnamed_cd)
               : nullptr;
}

/// The path that the option names; empty: none.
std::string image_of(qmp::Option const& option) {
    auto name = option.kind() == "cdrom" ? option.value.value_or("")
                                         : option.settings_or_empty().get_or("file", "");
    if (name.starts_with("file:")) name.erase(0, 5);
    return name;
}

}  // namespace

void put_media_of_drives(std::vector<qmp::Option>& options, Backends const& backends) {
    auto const here = [&](std::string const& path) {
        return path.empty() ? path : absolute(path, backends.working_directory);
    };
    for (auto const& drive : backends.drives) {
        if (!drive.removable || drive.device.empty()) continue;
        if (drive.inserted && !drive.read_only) continue;  // a floppy disk: it is copied
        auto* const option = maker_of(options, drive.device);
        if (option == nullptr || here(image_of(*option)) == here(drive.file_name)) continue;
        auto settings = option->settings_or_empty();
        if (option->kind() == "cdrom") {
            *option = {"-", "drive", "index=2,media=cdrom"};
            settings = option->settings_or_empty();
        }
        settings.erase("file");
        settings.erase("format");
        if (drive.inserted) {
            settings.set("file", here(drive.file_name));
            settings.set("format", drive.format);
            if (settings.get_or("media", "") != "cdrom") settings.set_flag("readonly", true);
        }
        option->replace(settings);
    }
}

Result<std::set<std::string>> put_media_of_nodes(std::vector<qmp::Option>& options,
                                                 std::vector<StartedDevice> const& devices,
                                                 Backends const& backends,
                                                 PluggedDevices& plugged) {
    std::set<std::string> taken_out;
    for (auto const& device : devices) {
        auto& option = options[device.option];
        auto settings = option.settings_or_empty();
        auto const kind = settings.get_or("driver", "");
        if (option.kind() != "device" || (kind != "ide-cd" && kind != "scsi-cd")) continue;
        QomDevice const drive{device.path(), device.id, device.number, kind};
        auto const found = plugged.add_medium(drive);
        if (!found) {
            return core::fail(core::Errc::refused,
                              "the medium in {} was changed and is no raw or qcow2 image in a file "
                              "or device, without a filter: eject it first",
                              drive.name());
        }
        auto const& now = *found;
        auto const before = settings.get_or("drive", "");
        // Of -drive: see above.
        bool const node =
            before.empty() || std::ranges::none_of(backends.drives, [&](auto const& one) {
                return one.device == before;
            });
        if (now == before || !node) continue;
        taken_out.insert(before);
        if (now.empty()) settings.erase("drive");
        if (!now.empty()) settings.set("drive", now);
        option.replace(settings);
    }
    return taken_out;
}

}  // namespace sidecar
