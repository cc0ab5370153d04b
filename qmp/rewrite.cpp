// How a command line reads for a launch by us, and at the destination: CommandLine::for_launch and
// for_destination. Works on a copy; the options it does not concern stay byte for byte.
#include <algorithm>
#include <array>
#include <functional>
#include <set>

#include "qmp/bound_address.hpp"
#include "qmp/command_line.hpp"
#include "qmp/line_nodes.hpp"

namespace qmp {

namespace {

constexpr std::string_view monitor_id = "sidecar-qmp";

// Keys whose values are file names and may be relative to QEMU's working directory. Relative names
// of firmware and ROMs are not here: QEMU looks for those in its own data directories.
constexpr auto path_keys = std::to_array<std::string_view>(
    {"filename", "path", "logfile", "mem-path", "dir", "sock", "socket", "x509-dir"});
// Options in which "file" is a host's file.
constexpr auto file_kinds =
    std::to_array<std::string_view>({"drive", "fw_cfg", "smbios", "acpitable", "object", "trace"});
// Keys whose values the guest sees: never paths of the host.
constexpr auto guest_keys =
    std::to_array<std::string_view>({"string", "value", "serial", "mount_tag", "guest"});
// What may stand before a path in a value.
constexpr auto path_prefixes = std::to_array<std::string_view>(
    {"file:", "unix:", "pipe:", "mon:unix:", "mon:file:", "mon:pipe:"});

std::string_view last_part(std::string_view key) {
    auto const dot = key.rfind('.');
    return dot == std::string_view::npos ? key : key.substr(dot + 1);
}

bool below(std::string_view path, std::string_view directory) {
    while (directory.size() > 1 && directory.ends_with('/')) directory.remove_suffix(1);
    if (!path.starts_with(directory)) return false;
    return directory == "/" || path.size() == directory.size() || path[directory.size()] == '/';
}

}  // namespace

std::string map_path(std::vector<std::pair<std::string, std::string>> const& prefixes,
                     std::string const& path) {
    std::pair<std::string, std::string> const* best = nullptr;
    for (auto const& entry : prefixes) {
        bool const longer = best == nullptr || entry.first.size() > best->first.size();
        if (longer && below(path, entry.first)) best = &entry;
    }
    if (best == nullptr) return path;
    auto const& [from, to] = *best;
    auto rest = path.substr(std::min(from.size(), path.size()));
    if (rest.empty()) return to;
    if (to.ends_with('/') && rest.starts_with('/')) rest.erase(0, 1);
    if (from.ends_with('/') && !to.ends_with('/')) rest.insert(0, "/");
    return to + rest;
}

// Paths of the source's host to those of the destination's.
class PathMap {
public:
    explicit PathMap(Mapping const& mapping) : mapping_(mapping) {}

    // `relative_is_path`: a word without a leading slash names a file, too.
    [[nodiscard]] std::string map(std::string const& text, bool relative_is_path) const {
        if (text.starts_with("json:{")) return "json:" + map_json(text.substr(5));
        for (auto const prefix : path_prefixes) {
            if (!text.starts_with(prefix)) continue;
            return std::string(prefix) + map_path(text.substr(prefix.size()), true);
        }
        return map_path(text, relative_is_path && !text.empty() && !has_protocol(text));
    }

private:
    static bool has_protocol(std::string_view text) {
        auto const end = text.find_first_of(":/");
        return end != std::string_view::npos && text[end] == ':';
    }

    [[nodiscard]] std::string map_json(std::string const& text) const {
        auto settings = Settings::parse(text, "");
        if (!settings) return text;
        for (auto const& [key, value] : settings->all()) {
            bool const names_file = is_one_of(path_keys, last_part(key));
            auto const mapped = map(value, names_file);
            if (mapped != value) settings->set(key, mapped);
        }
        return settings->print();
    }

    [[nodiscard]] std::string map_path(std::string path, bool relative_is_path) const {
        if (!path.starts_with('/')) {
            if (!relative_is_path || mapping_.working_directory.empty()) return path;
            path = mapping_.working_directory + "/" + path;
        }
        for (auto const& image : mapping_.images) {
            if (plain_path(path) == plain_path(image.from)) return image.to;
        }
        return qmp::map_path(mapping_.prefixes, path);
    }

    Mapping const& mapping_;
};

class Rewrite {
public:
    explicit Rewrite(CommandLine& line) : line_(line) {}

    void remove(std::string_view kind) {
        std::erase_if(line_.options_, [&](Option const& option) { return option.kind() == kind; });
    }
    void add(std::string name, std::optional<std::string> value = std::nullopt) {
        line_.options_.push_back({"-", std::move(name), std::move(value)});
    }
    void use_program(std::string const& program) {
        if (!program.empty()) line_.program_ = program;
    }

    void add_monitor(int qmp_fd) {
        drop_monitor(
            monitor_id);  // of an earlier sidecar, when the line was read from a running QEMU
        add("chardev", fmt::format("socket,id={},fd={},server=on,wait=off", monitor_id, qmp_fd));
        add("mon", fmt::format("chardev={},mode=control", monitor_id));
    }

    void write_out_json_names();
    Result<> use_descriptors(std::vector<TapDescriptors> const& taps, Errc code, bool all);
    Result<> use_tpm_descriptor(int fd);
    Result<> use_machine_type(std::string const& type);
    Result<> map_paths(PathMap const& paths);
    void map_addresses(AddressMap const& map);
    Result<> fit_images(std::vector<ImagePlace> const& images);
    Result<> use_sockets(std::vector<SocketDescriptor> const& sockets);
    Result<> refuse_unmovable() const;

private:
    void drop_monitor(std::string_view id) {
        std::erase_if(line_.options_, [&](Option const& option) {
            if (option.kind() == "chardev")
                return option.settings_or_empty().get_or("id", "") == id;
            return option.kind() == "mon" && option.settings_or_empty().get_or("chardev", "") == id;
        });
    }
    Result<> fit_image(Option& option, ImagePlace const& image);
    Result<> fit_drive(Option& option, ImagePlace const& image);
    Result<> fit_blockdev(Option& option, ImagePlace const& image);
    Result<> fit_format(Option& option, std::string const& children, ImagePlace const& image);
    [[nodiscard]] Option* blockdev(std::string_view node) {
        auto const found = std::ranges::find_if(line_.options_, [&](Option const& option) {
            return option.kind() == "blockdev" && !node.empty() &&
                   option.settings_or_empty().get_or("node-name", "") == node;
        });
        return found == line_.options_.end() ? nullptr : &*found;
    }

    CommandLine& line_;
};

// `all`: every tap needs descriptors of ours; else those that have none stay as they are.
Result<> Rewrite::use_descriptors(std::vector<TapDescriptors> const& taps, Errc code, bool all) {
    auto const known = line_.taps();
    std::size_t number = 0;
    for (auto& option : line_.options_) {
        if (!detail::may_be_tap(option.kind())) continue;
        auto net = option.settings_or_empty();
        auto const id = net.get_or("id", detail::unnamed_tap(option.kind(), number++));
        if (!detail::is_tap(net)) continue;
        auto const tap = std::ranges::find(known, id, &TapOption::id);
        auto const ours = std::ranges::find(taps, id, &TapDescriptors::id);
        if (ours == taps.end()) {
            if (!tap->fds.empty()) {
                return core::fail(
                    code,
                    "the tap `{}` is given by the descriptor of another process: name it "
                    "(ifname=) so that sidecar can open it",
                    option.print());
            }
            if (all) {
                return core::fail(code, "no tap is there for `{}`", option.print());
            }
            continue;
        }
        if (ours->fds.size() != tap->queues) {
            return core::fail(code, "the tap `{}` has {} queues, but was opened with {}",
                              option.print(), tap->queues, ours->fds.size());
        }
        bool const vhost = tap->vhost || net.has("vhostfd") || net.has("vhostfds");
        for (auto const* key : {"ifname", "script", "downscript", "br", "helper", "queues",
                                "vnet_hdr", "fd", "fds", "vhostfd", "vhostfds"}) {
            net.erase(key);
        }
        net.set("type", "tap");
        if (vhost) net.set_flag("vhost", true);
        net.set(ours->fds.size() == 1 ? "fd" : "fds", fmt::format("{}", fmt::join(ours->fds, ":")));
        option.replace(net);
    }
    for (auto const& ours : taps) {
        if (std::ranges::find(known, ours.id, &TapOption::id) == known.end()) {
            return core::fail(code, "the command line has no tap `{}`", ours.id);
        }
    }
    return {};
}

// The destination's swtpm is at the other end of a descriptor. The name that its socket has at the
// source says nothing here.
Result<> Rewrite::use_tpm_descriptor(int fd) {
    auto const tpm = line_.tpm();
    if (!tpm || tpm->type != "emulator") return {};
    for (auto& option : line_.options_) {
        if (option.kind() != "chardev") continue;
        auto device = option.settings_or_empty();
        if (device.get_or("id", "") != tpm->chardev) continue;
        if (device.get_or("backend", "") != "socket") break;
        for (auto const* key : {"path", "abstract", "tight", "fd", "host", "port", "server", "wait",
                                "delay", "reconnect", "reconnect-ms"}) {
            device.erase(key);
        }
        device.set("fd", std::to_string(fd));
        option.replace(device);
        return {};
    }
    return core::fail(Errc::refused,
                      "the guest's TPM is on the character device `{}`, which is not a Unix socket "
                      "of swtpm (`-chardev socket,id={},path=...`)",
                      tpm->chardev, tpm->chardev);
}

// The last -machine that names a type decides, as in QEMU.
Result<> Rewrite::use_machine_type(std::string const& type) {
    if (type.empty()) return core::fail(Errc::invalid, "the machine type of the source is unknown");
    for (auto option = line_.options_.rbegin(); option != line_.options_.rend(); ++option) {
        if (option->kind() != "machine") continue;
        auto settings = option->settings_or_empty();
        if (!settings.has("type")) continue;
        if (settings.get_or("type", "") == type) return {};
        settings.set("type", type);
        option->replace(settings);
        return {};
    }
    add("machine", "type=" + type);
    return {};
}

// A -drive reads the same with the keys themselves, and they can be mapped and reviewed.
void Rewrite::write_out_json_names() {
    for (auto& option : line_.options_) {
        if (option.kind() != "drive" ||
            !option.settings_or_empty().get_or("file", "").starts_with("json:"))
            continue;
        option.replace(drive_settings(option));
    }
}

Result<> Rewrite::map_paths(PathMap const& paths) {
    for (auto& option : line_.options_) {
        if (!option.value) continue;
        auto const kind = option.kind();
        if (option.form() == Form::path) {
            bool const in_data_directory = kind == "bios" || kind == "L" || kind == "chroot";
            option.value = paths.map(*option.value, !in_data_directory);
            continue;
        }
        if (option.form() != Form::settings && option.form() != Form::character) continue;
        if (kind == "name") continue;
        auto settings = option.settings_or_empty();
        bool changed = false;
        for (auto const& [key, value] : settings.all()) {
            auto const part = last_part(key);
            if (is_one_of(guest_keys, part)) continue;
            bool const names_file =
                is_one_of(path_keys, part) || (part == "file" && is_one_of(file_kinds, kind));
            // A node's name is no path, and "file" of a -blockdev is a node's name.
            auto const mapped = paths.map(value, names_file);
            if (mapped == value) continue;
            settings.set(key, mapped);
            changed = true;
        }
        if (changed) option.replace(settings);
    }
    return {};
}

void Rewrite::map_addresses(AddressMap const& map) {
    for (auto& option : line_.options_) {
        auto const kind = option.kind();
        bool const listens = kind == "vnc" || kind == "spice" || detail::may_be_tap(kind);
        if (!option.value || !listens || map.empty()) continue;
        auto settings = option.settings_or_empty();
        settings.replace_values([&](std::string_view key, std::string_view value) {
            return map_bound_address(map, kind, key, value);
        });
        auto const printed = settings.print();
        if (printed != *option.value) option.value = printed;
    }
}

namespace {

// "file.file.filename" is {"file.file.", "filename"}.
std::pair<std::string, std::string> split_leaf(std::string const& key) {
    auto const dot = key.rfind('.');
    if (dot == std::string::npos) return {"", key};
    return {key.substr(0, dot + 1), key.substr(dot + 1)};
}

// Of the node above: "file.file." is "file."; "file." is "".
std::string above(std::string const& children) {
    auto const dot = children.rfind('.', children.size() - 2);
    return dot == std::string::npos ? "" : children.substr(0, dot + 1);
}

std::unexpected<core::Error> cannot_be_device(Option const& option, ImagePlace const& image) {
    return core::fail(Errc::refused,
                      "`{}` cannot name the block device {}: write the disk as `-drive "
                      "format=raw,file=...`, or as -blockdev with a raw node over the file",
                      option.print(), image.to);
}

// QEMU has different drivers for files and devices.
void fit_driver(Settings& settings, std::string const& key, ImagePlace::Kind kind) {
    auto const driver = settings.get_or(key, "");
    if (driver != "file" && driver != "host_device") return;
    settings.set(key, kind == ImagePlace::Kind::device ? "host_device" : "file");
}

}  // namespace

// After map_paths(): the options name the images' places already.
Result<> Rewrite::fit_images(std::vector<ImagePlace> const& images) {
    for (auto& option : line_.options_) {
        for (auto const& image : images) TRY_VOID(fit_image(option, image));
    }
    return {};
}

Result<> Rewrite::fit_image(Option& option, ImagePlace const& image) {
    auto const kind = option.kind();
    if (kind == "drive") return fit_drive(option, image);
    if (kind == "blockdev") return fit_blockdev(option, image);
    bool const named = option.value && option.form() == Form::path &&
                       without_file_protocol(*option.value) == image.to;
    if (!named || image.kind == ImagePlace::Kind::file) return {};
    constexpr auto disks = std::to_array<std::string_view>({"hda", "hdb", "hdc", "hdd"});
    auto const disk = std::ranges::find(disks, kind);
    if (disk == disks.end()) return cannot_be_device(option, image);
    // The same as QEMU makes of it, with the format named: what is on the device must not decide.
    option = {"-", "drive", fmt::format("index={},media=disk", disk - disks.begin())};
    auto settings = option.settings_or_empty();
    settings.set("file", image.to);
    option.replace(settings);
    return fit_drive(option, image);
}

Result<> Rewrite::fit_drive(Option& option, ImagePlace const& image) {
    auto settings = option.settings_or_empty();
    bool const device = image.kind == ImagePlace::Kind::device;
    for (auto const& [key, value] : settings.all()) {
        auto const [children, leaf] = split_leaf(key);
        bool const top = key == "file";
        if (without_file_protocol(value) != image.to || (!top && leaf != "filename")) continue;
        if (!top && children.empty()) continue;
        fit_driver(settings, top ? "file.driver" : children + "driver", image.kind);
        if (device) {
            settings.set(key, image.to);
            if (!settings.has("format") && !settings.has("driver")) settings.set("format", "raw");
        }
        option.replace(settings);
        return fit_format(option, top ? "" : above(children), image);
    }
    return {};
}

Result<> Rewrite::fit_blockdev(Option& option, ImagePlace const& image) {
    auto settings = option.settings_or_empty();
    for (auto const& [key, value] : settings.all()) {
        auto const [children, leaf] = split_leaf(key);
        if (leaf != "filename" || value != image.to) continue;
        fit_driver(settings, children + "driver", image.kind);
        option.replace(settings);
        if (!children.empty()) return fit_format(option, above(children), image);
        // The node over it is in another option.
        auto const node = settings.get_or("node-name", "");
        for (auto& other : line_.options_) {
            if (other.kind() != "blockdev" || node.empty()) continue;
            for (auto const& [parent_key, name] : other.settings_or_empty().all()) {
                auto const [parent, parent_leaf] = split_leaf(parent_key);
                if (parent_leaf == "file" && name == node) return fit_format(other, parent, image);
            }
        }
        if (image.size_bytes > 0) return cannot_be_device(option, image);
    }
    return {};
}

// The guest sees as many bytes as before of a device that is larger. The image of a disk that is a
// part of a file has that part alone.
Result<> Rewrite::fit_format(Option& option, std::string const& children, ImagePlace const& image) {
    auto settings = option.settings_or_empty();
    auto const format = settings.get(children + "driver")
                            .value_or(children.empty() ? settings.get_or("format", "") : "");
    if (format == "raw" && settings.has(children + "offset")) {
        settings.erase(children + "offset");
        option.replace(settings);
    }
    if (image.size_bytes == 0) return {};
    if (format != "raw") return cannot_be_device(option, image);
    settings.set_number(children + "size", image.size_bytes);
    option.replace(settings);
    return {};
}

// libvirt gives its monitor's socket by descriptor. We have our own: such monitors are left out. So
// is the TPM's connection made again. Any other character device by descriptor gets a socket of
// ours, or cannot be made again.
Result<> Rewrite::use_sockets(std::vector<SocketDescriptor> const& sockets) {
    auto const monitors = detail::monitor_chardevs(line_.options_);
    auto const tpm = line_.tpm().value_or(TpmOption());
    std::set<std::string> dropped;
    for (auto& option : line_.options_) {
        auto device = option.settings_or_empty();
        if (option.kind() != "chardev" || !device.has("fd")) continue;
        auto const id = device.get_or("id", "");
        if (!tpm.chardev.empty() && id == tpm.chardev) continue;
        auto const ours = std::ranges::find(sockets, id, &SocketDescriptor::id);
        if (monitors.contains(id)) {
            dropped.insert(id);
        } else if (ours != sockets.end()) {
            device.set("fd", std::to_string(ours->fd));
            option.replace(device);
        } else {
            return core::fail(
                Errc::refused,
                "the character device `{}` is given by the descriptor of another process, "
                "and cannot be made again on the destination: give it a path",
                id);
        }
    }
    for (auto const& id : dropped) drop_monitor(id);
    return {};
}

Result<> Rewrite::refuse_unmovable() const {
    for (auto const& option : line_.options_) {
        auto const kind = option.kind();
        if (kind == "snapshot" ||
            (kind == "drive" && option.settings_or_empty().flag("snapshot", false))) {
            return core::fail(
                Errc::refused,
                "`{}` keeps the guest's writes in a temporary file, which cannot be moved: "
                "start the guest without it",
                option.print());
        }
        if (kind == "readconfig") {
            return core::fail(Errc::refused,
                              "`{}` hides options from sidecar: write them on the command line",
                              option.print());
        }
        if (kind == "add-fd") {
            return core::fail(
                Errc::refused,
                "`{}` is a descriptor of another process, which the destination has not",
                option.print());
        }
        if (option.form() != Form::settings || detail::may_be_tap(kind) || kind == "chardev")
            continue;
        for (auto const& [key, value] : option.settings_or_empty().all()) {
            bool const descriptor = key == "fd" || key == "vhostfd" || key == "sock_fd";
            if (!descriptor && !value.starts_with("/dev/fdset/")) continue;
            return core::fail(
                Errc::refused,
                "`{}` uses a descriptor of another process, which the destination has not",
                option.print());
        }
    }
    return {};
}

Result<CommandLine> CommandLine::for_launch(LaunchOptions const& launch) const {
    if (daemonize()) {
        return core::fail(
            Errc::invalid,
            "leave out -daemonize: sidecar itself starts QEMU in the background of its own "
            "session and follows it");
    }
    if (incoming()) {
        return core::fail(
            Errc::invalid,
            "leave out -incoming: a guest that is to arrive is started by `sidecar serve`");
    }
    CommandLine line = *this;
    Rewrite rewrite(line);
    TRY_VOID(rewrite.use_descriptors(launch.taps, Errc::invalid, false));
    rewrite.add_monitor(launch.qmp_fd);
    return line;
}

Result<CommandLine> CommandLine::for_destination(Mapping const& mapping) const {
    CommandLine line = *this;
    Rewrite rewrite(line);
    TRY_VOID(rewrite.refuse_unmovable());
    TRY_VOID(rewrite.use_sockets(mapping.sockets));
    for (auto const* kind : {"S", "incoming", "daemonize", "loadvm", "preconfig"})
        rewrite.remove(kind);
    rewrite.use_program(mapping.qemu);
    TRY_VOID(rewrite.use_machine_type(mapping.machine_type));
    rewrite.write_out_json_names();
    TRY_VOID(rewrite.map_paths(PathMap(mapping)));
    rewrite.map_addresses(mapping.addresses);
    TRY_VOID(rewrite.fit_images(mapping.images));
    TRY_VOID(rewrite.use_descriptors(mapping.taps, Errc::refused, true));
    TRY_VOID(rewrite.use_tpm_descriptor(mapping.tpm_fd));
    rewrite.add_monitor(mapping.qmp_fd);
    rewrite.add("S");
    if (mapping.incoming) rewrite.add("incoming", "defer");
    return line;
}

}  // namespace qmp
