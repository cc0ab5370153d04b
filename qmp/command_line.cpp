#include "qmp/command_line.hpp"

#include <algorithm>
#include <array>
#include <charconv>

#include "qmp/line_nodes.hpp"

namespace qmp {

using detail::is_tap;
using detail::may_be_tap;
using detail::unnamed_tap;

namespace {

// ---- disks ----

constexpr auto image_options = std::to_array<std::string_view>(
    {"hda", "hdb", "hdc", "hdd", "cdrom", "fda", "fdb", "pflash", "mtdblock", "sd"});
constexpr auto file_drivers =
    std::to_array<std::string_view>({"file", "host_device", "host_cdrom"});

// QEMU takes what stands before the first colon for a protocol, unless a slash comes earlier.
bool has_protocol(std::string_view file_name) {
    auto const end = file_name.find_first_of(":/");
    return end != std::string_view::npos && file_name[end] == ':';
}

void set_file(DiskOption& disk, std::string file_name) {
    if (file_name.starts_with("json:")) {
        auto const nested = Settings::parse(std::string_view(file_name).substr(5), "");
        if (nested) {
            auto inner = nested->get("file.filename").value_or(nested->get_or("filename", ""));
            if (!inner.empty()) {
                if (disk.format.empty() && nested->has("file.filename")) {
                    disk.format = nested->get_or("driver", "");
                }
                file_name = std::move(inner);
            }
        }
    }
    if (file_name.starts_with("file:")) file_name.erase(0, 5);
    disk.local = !has_protocol(file_name);
    disk.file_name = std::move(file_name);
}

DiskOption disk_of_image_option(Option const& option) {
    DiskOption disk;
    disk.id = option.kind();
    disk.cdrom = option.kind() == "cdrom";
    disk.firmware = option.kind() == "pflash";
    set_file(disk, option.value.value_or(""));
    return disk;
}

// The image of a node over a file; none: the node is none. Goes up through the format and filter
// nodes. Bounded: every step is another node of the line.
std::optional<DiskOption> disk_of_node(LineNodes const& line_nodes, std::size_t place) {
    auto const& nodes = line_nodes.nodes();
    auto const& node = nodes[place];
    if (node.file_name.empty()) return std::nullopt;  // an empty drive, or another node's parent
    if (!node.of_drive && !is_one_of(file_drivers, node.driver)) return std::nullopt;
    DiskOption disk;
    // The file of a -drive needs no node of its own.
    if (node.of_drive && node.prefix.empty()) disk.format = node.driver;
    std::optional<std::size_t> at = place;
    for (std::size_t step = 0; step <= nodes.size() && at; ++step) {
        auto const& above = nodes[*at];
        disk.id = above.name;
        if (disk.format.empty() && *at != place) disk.format = above.driver;
        disk.read_only = disk.read_only || above.read_only;
        disk.backing = disk.backing || line_nodes.is_backing(*at);
        at = line_nodes.over(*at);
    }
    set_file(disk, node.file_name);
    return disk;
}

// ---- taps ----

std::optional<int> number_of(std::string_view text) {
    int number = 0;
    auto const [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
    if (error != std::errc() || end != text.data() + text.size() || number < 0) return std::nullopt;
    return number;
}

std::vector<int> numbers_of(std::string_view list) {
    std::vector<int> numbers;
    while (!list.empty()) {
        auto const colon = list.find(':');
        if (auto const number = number_of(list.substr(0, colon))) numbers.push_back(*number);
        list.remove_prefix(colon == std::string_view::npos ? list.size() : colon + 1);
    }
    return numbers;
}

TapOption tap_of(Settings const& net, std::string id) {
    TapOption tap;
    tap.id = std::move(id);
    tap.ifname = net.get_or("ifname", "");
    bool const by_helper = net.get_or("type", "") == "bridge" || net.has("helper");
    tap.bridge = net.get_or("br", by_helper ? "br0" : "");
    tap.fds = numbers_of(net.get("fds").value_or(net.get_or("fd", "")));
    tap.queues = static_cast<unsigned>(std::max<std::size_t>(1, tap.fds.size()));
    if (auto const queues = number_of(net.get_or("queues", ""))) {
        tap.queues = static_cast<unsigned>(std::max(1, *queues));
    }
    tap.vhost = net.flag("vhost", false);
    tap.vnet_hdr = net.flag("vnet_hdr", true);
    tap.script = net.get_or("script", "");
    if (auto const mac = net.get("mac")) tap.macs.push_back(*mac);  // -nic
    return tap;
}

// "unix:PATH" of a character device's first element, also after "mon:".
std::optional<std::string> unix_path(Settings const& device) {
    std::string address = device.get_or("address", "");
    if (address.starts_with("mon:")) address.erase(0, 4);
    if (!address.starts_with("unix:")) return std::nullopt;
    return address.substr(5);
}

struct FileKey {
    std::string_view kind;
    std::string_view key;
    bool for_guest = false;
};
// Files QEMU opens for reading while it starts.
constexpr auto file_keys = std::to_array<FileKey>({{"object", "file"},
                                                   {"object", "dir"},
                                                   {"acpitable", "file"},
                                                   {"acpitable", "data"},
                                                   {"smbios", "file", true},
                                                   {"smbios", "path", true},
                                                   {"fw_cfg", "file", true},
                                                   {"option-rom", "romfile"},
                                                   {"device", "romfile"}});
constexpr auto file_options =
    std::to_array<std::string_view>({"kernel", "initrd", "bios", "dtb", "shim"});

}  // namespace

namespace detail {

bool may_be_tap(std::string_view kind) {
    return kind == "netdev" || kind == "nic" || kind == "net";
}

bool is_tap(Settings const& net) {
    auto const type = net.get_or("type", "");
    return type == "tap" || type == "bridge";
}

std::string unnamed_tap(std::string_view kind, std::size_t number) {
    return fmt::format("#{}{}", kind, number);
}

}  // namespace detail

namespace {

/// Words of wrappers: several with a few options each.
constexpr std::size_t wrapper_words_max = 32;

bool is_qemu(std::string const& word) {
    constexpr auto others = std::to_array<std::string_view>(
        {"/usr/bin/kvm", "/usr/bin/qemu-kvm", "/usr/libexec/qemu-kvm"});
    return std::string_view(word).substr(word.rfind('/') + 1).starts_with("qemu-system-") ||
           std::ranges::find(others, word) != others.end();
}

/// The first word, unless a later one is QEMU by its name: then those before it wrap it.
std::size_t place_of_program(std::vector<std::string> const& argv) {
    if (is_qemu(argv.front())) return 0;
    for (std::size_t i = 1; i < std::min(argv.size(), wrapper_words_max); ++i) {
        if (is_qemu(argv[i])) return i;
    }
    return 0;
}

}  // namespace

Result<CommandLine> CommandLine::parse(std::vector<std::string> argv) {
    if (argv.empty() || argv.front().empty()) {
        return core::fail(Errc::invalid,
                          "no command line: write `-- qemu-system-x86_64 OPTIONS...` at the end");
    }
    CommandLine line;
    auto const program = place_of_program(argv);
    line.wrapper_.assign(argv.begin(), argv.begin() + static_cast<std::ptrdiff_t>(program));
    line.program_ = argv[program];
    for (std::size_t i = program + 1; i < argv.size(); ++i) {
        std::string_view word = argv[i];
        if (!word.starts_with('-')) {
            line.options_.push_back({"", "", argv[i]});
            continue;
        }
        std::size_t const dashes = word.starts_with("--") ? 2 : 1;
        Option option{std::string(word.substr(0, dashes)), std::string(word.substr(dashes)), {}};
        bool const more = i + 1 < argv.size();
        switch (arity_of(option.name)) {
            case Arity::flag:
                break;
            case Arity::value:
                if (!more) {
                    return core::fail(Errc::invalid, "QEMU's option {} needs a value", argv[i]);
                }
                option.value = argv[++i];
                break;
            case Arity::unknown:
                if (more && !argv[i + 1].starts_with('-')) option.value = argv[++i];
                break;
        }
        if (option.form() == Form::settings || option.form() == Form::character) {
            TRY_VOID(option.settings());
        }
        line.options_.push_back(std::move(option));
    }
    return line;
}

CommandLine CommandLine::without_wrapper() const {
    auto line = *this;
    line.wrapper_.clear();
    return line;
}

std::vector<std::string> CommandLine::argv() const {
    auto words = wrapper_;
    words.push_back(program_);
    for (auto const& option : options_) {
        if (!option.dashes.empty()) words.push_back(option.dashes + option.name);
        if (option.value) words.push_back(*option.value);
    }
    return words;
}

std::vector<Option const*> CommandLine::all_of(std::string_view kind) const {
    std::vector<Option const*> found;
    for (auto const& option : options_) {
        if (option.kind() == kind) found.push_back(&option);
    }
    return found;
}

Option const* CommandLine::last_of(std::string_view kind) const {
    auto const found = all_of(kind);
    return found.empty() ? nullptr : found.back();
}

std::string CommandLine::setting_of(std::string_view kind, std::string_view key) const {
    std::string value;
    for (auto const* option : all_of(kind)) {
        if (auto found = option->settings_or_empty().get(key)) value = std::move(*found);
    }
    return value;
}

std::vector<DiskOption> CommandLine::disks() const {
    std::vector<DiskOption> disks;
    LineNodes const line_nodes(options_);
    auto const add_nodes_of = [&](std::size_t option, auto const& complete) {
        for (std::size_t place = 0; place < line_nodes.nodes().size(); ++place) {
            if (line_nodes.nodes()[place].option != option) continue;
            auto disk = disk_of_node(line_nodes, place);
            if (!disk) continue;
            complete(*disk);
            disks.push_back(std::move(*disk));
        }
    };
    std::size_t drives = 0;
    for (std::size_t index = 0; index < options_.size(); ++index) {
        auto const& option = options_[index];
        if (is_one_of(image_options, option.kind())) disks.push_back(disk_of_image_option(option));
        if (option.kind() != "drive") continue;
        auto const drive = drive_settings(option);
        auto const number = drives++;
        add_nodes_of(index, [&](DiskOption& disk) {
            disk.id = drive.get_or("id", fmt::format("drive{}", number));
            disk.cdrom = drive.get_or("media", "") == "cdrom";
            disk.firmware = drive.get_or("if", "") == "pflash";
        });
    }
    for (std::size_t index = 0; index < options_.size(); ++index) {
        if (options_[index].kind() == "blockdev") add_nodes_of(index, [](DiskOption const&) {});
    }
    for (auto& disk : disks) {
        for (auto const* key : {"pflash0", "pflash1"}) {
            if (!disk.id.empty() && setting_of("machine", key) == disk.id) disk.firmware = true;
        }
        for (auto const* option : all_of("device")) {
            auto const device = option->settings_or_empty();
            auto const driver = device.get_or("driver", "");
            bool const reads = driver == "ide-cd" || driver == "scsi-cd";
            if (reads && device.get_or("drive", "") == disk.id) disk.cdrom = true;
        }
    }
    return disks;
}

std::vector<TapOption> CommandLine::taps() const {
    std::vector<TapOption> taps;
    std::size_t number = 0;
    for (auto const& option : options_) {
        auto const kind = option.kind();
        if (!may_be_tap(kind)) continue;
        auto const net = option.settings_or_empty();
        auto id = net.get_or("id", unnamed_tap(kind, number++));
        if (is_tap(net)) taps.push_back(tap_of(net, std::move(id)));
    }
    for (auto const& option : options_) {
        bool const card = option.kind() == "net";
        if (!card && option.kind() != "device") continue;
        auto const device = option.settings_or_empty();
        auto const mac = device.get(card ? "macaddr" : "mac");
        if (!mac) continue;
        for (auto& tap : taps) {
            // All of -net is one hub: its cards are on each of its taps.
            bool const on_hub = card && tap.id.starts_with("#net");
            if (on_hub || device.get_or("netdev", "") == tap.id) tap.macs.push_back(*mac);
        }
    }
    return taps;
}

std::optional<TpmOption> CommandLine::tpm() const {
    auto const* option = last_of("tpmdev");
    if (option == nullptr) return std::nullopt;
    auto const settings = option->settings_or_empty();
    return TpmOption{settings.get_or("type", ""), settings.get_or("chardev", ""),
                     chardev_of(settings).get_or("path", "")};
}

std::vector<PathOption> CommandLine::sockets() const {
    std::vector<PathOption> found;
    auto const tpm = this->tpm().value_or(TpmOption());
    for (auto const& option : options_) {
        if (option.form() == Form::character) {
            if (auto path = unix_path(option.settings_or_empty())) {
                found.push_back({option.print(), std::move(*path)});
            }
        }
        if (option.kind() == "chardev") {
            auto const device = option.settings_or_empty();
            auto path = device.get("path");
            bool const of_tpm = !tpm.chardev.empty() && device.get_or("id", "") == tpm.chardev;
            if (device.get_or("backend", "") == "socket" && path && !of_tpm) {
                found.push_back({option.print(), std::move(*path)});
            }
        }
        if (option.kind() == "netdev") {
            auto const net = option.settings_or_empty();
            for (auto const* key : {"addr.path", "local.path", "remote.path"}) {
                if (auto path = net.get(key)) found.push_back({option.print(), std::move(*path)});
            }
        }
    }
    return found;
}

std::vector<PathOption> CommandLine::files() const {
    std::vector<PathOption> found;
    for (auto const& option : options_) {
        if (is_one_of(file_options, option.kind())) {
            found.push_back({option.print(), option.value.value_or(""), option.kind() != "bios"});
        }
        for (auto const& [kind, key, for_guest] : file_keys) {
            if (option.kind() != kind) continue;
            auto path = option.settings_or_empty().get(key);
            if (path && !path->empty())
                found.push_back({option.print(), std::move(*path), for_guest});
        }
    }
    return found;
}

Settings CommandLine::chardev_of(Settings const& user) const {
    auto const id = user.get("chardev");
    for (auto const* option : all_of("chardev")) {
        auto device = option->settings_or_empty();
        if (id && device.get("id") == id && device.get_or("backend", "") == "socket") return device;
    }
    return {};
}

std::string CommandLine::qmp_socket() const {
    for (auto const& option : options_) {
        if (option.kind() == "qmp" || option.kind() == "qmp-pretty") {
            if (auto path = unix_path(option.settings_or_empty())) return *path;
        }
        if (option.kind() != "mon") continue;
        auto const monitor = option.settings_or_empty();
        if (monitor.get_or("mode", "") != "control") continue;
        auto const path = chardev_of(monitor).get_or("path", "");
        if (!path.empty()) return path;
    }
    return {};
}

std::set<std::string> detail::monitor_chardevs(std::vector<Option> const& options) {
    std::set<std::string> ids;
    for (auto const& option : options) {
        if (option.kind() == "mon") ids.insert(option.settings_or_empty().get_or("chardev", ""));
    }
    return ids;
}

std::vector<std::string> CommandLine::inherited_sockets() const {
    auto const monitors = detail::monitor_chardevs(options_);
    std::vector<std::string> ids;
    for (auto const* option : all_of("chardev")) {
        auto const device = option->settings_or_empty();
        auto const id = device.get_or("id", "");
        bool const listens =
            device.get_or("backend", "") == "socket" && device.flag("server", false);
        if (listens && device.has("fd") && !monitors.contains(id)) ids.push_back(id);
    }
    return ids;
}

std::string CommandLine::guest_agent_socket() const {
    for (auto const* option : all_of("device")) {
        auto const port = option->settings_or_empty();
        if (port.get_or("driver", "") != "virtserialport" ||
            port.get_or("name", "") != "org.qemu.guest_agent.0") {
            continue;
        }
        auto const device = chardev_of(port);
        if (device.flag("server", false) && !device.flag("abstract", false)) {
            return device.get_or("path", "");
        }
    }
    return {};
}

std::optional<std::string> CommandLine::incoming() const {
    auto const* option = last_of("incoming");
    return option == nullptr ? std::nullopt : option->value;
}

bool CommandLine::stopped_at_start() const { return last_of("S") != nullptr; }

bool CommandLine::daemonize() const { return last_of("daemonize") != nullptr; }

std::string CommandLine::pidfile() const {
    auto const* option = last_of("pidfile");
    return option == nullptr ? "" : option->value.value_or("");
}

std::string CommandLine::guest_name() const { return setting_of("name", "guest"); }

std::string CommandLine::user() const {
    auto const* option = last_of("runas");
    return option == nullptr ? setting_of("run-with", "user") : option->value.value_or("");
}

void CommandLine::name_user_by(std::string_view kind) {
    auto const name = user();
    std::erase_if(options_, [](Option const& option) { return option.kind() == "runas"; });
    for (auto& option : options_) {
        auto settings = option.settings_or_empty();
        if (option.kind() != "run-with" || !settings.has("user")) continue;
        settings.erase("user");
        option.replace(settings);
    }
    std::erase_if(options_, [](Option const& option) {
        return option.kind() == "run-with" && option.value.value_or("").empty();
    });
    options_.push_back({"-", std::string(kind), kind == "runas" ? name : "user=" + name});
}

std::string CommandLine::uuid() const {
    auto const* option = last_of("uuid");
    return option == nullptr ? "" : option->value.value_or("");
}

std::string CommandLine::machine_type() const { return setting_of("machine", "type"); }

std::string CommandLine::accelerator() const {
    auto const named = all_of("accel");
    if (!named.empty()) return named.front()->settings_or_empty().get_or("accel", "");
    if (last_of("enable-kvm") != nullptr) return "kvm";
    auto const list = setting_of("machine", "accel");
    return list.substr(0, list.find(':'));
}

}  // namespace qmp
