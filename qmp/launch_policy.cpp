#include "qmp/launch_policy.hpp"

#include <algorithm>
#include <array>
#include <charconv>
#include <set>
#include <span>

#include "qmp/allow_list.hpp"
#include "qmp/reviewer.hpp"

namespace qmp {

namespace {

constexpr std::string_view distribution_directory = "/usr/bin/";
constexpr std::string_view distribution_prefix = "qemu-system-";
/// What Debian, Proxmox and Red Hat call the same.
constexpr auto distribution_programs =
    std::to_array<std::string_view>({"/usr/bin/kvm", "/usr/bin/qemu-kvm", "/usr/libexec/qemu-kvm"});

std::string_view file_name(std::string_view path) { return path.substr(path.rfind('/') + 1); }

bool is_control(char byte) { return static_cast<unsigned char>(byte) < 0x20 || byte == 0x7f; }

/// For messages: one line, not too long.
std::string printable(std::string text) {
    std::ranges::replace_if(text, is_control, '?');
    if (text.size() > refused_option_bytes_max) {
        text.resize(refused_option_bytes_max);
        text += "...";
    }
    return text;
}

std::vector<std::string_view> components_of(std::string_view path) {
    std::vector<std::string_view> parts;
    while (!path.empty()) {
        auto const end = std::min(path.find('/'), path.size());
        auto const part = path.substr(0, end);
        if (!part.empty() && part != ".") parts.push_back(part);
        path.remove_prefix(std::min(end + 1, path.size()));
    }
    return parts;
}

// ---- options with files of their own, beside their keys ----

void check_data_file(Reviewer& reviewer, Option const& option) {
    reviewer.use_data_file(option, option.value.value_or(""));
}
void check_read_file(Reviewer& reviewer, Option const& option) {
    reviewer.use(option, option.value.value_or(""), FileAccess::read);
}
void check_created_file(Reviewer& reviewer, Option const& option) {
    reviewer.use(option, option.value.value_or(""), FileAccess::create);
}

void check_file_keys(Reviewer& reviewer, Option const& option) {
    auto const keys = allow_list::keys_of_option(option.kind()).value_or("");
    reviewer.check_keys(option, keys, [&](std::string const& key, std::string const& value) {
        if (key != "file" && key != "path" && key != "data") return false;
        // -acpitable takes several files.
        auto rest = std::string_view(value);
        do {
            auto const end = std::min(rest.find(':'), rest.size());
            reviewer.use(option, std::string(rest.substr(0, end)), FileAccess::read);
            rest.remove_prefix(std::min(end + 1, rest.size()));
        } while (!rest.empty());
        return true;
    });
}

void check_boot(Reviewer& reviewer, Option const& option) {
    auto const keys = allow_list::keys_of_option("boot").value_or("");
    reviewer.check_keys(option, keys, [&](std::string const& key, std::string const& value) {
        if (key == "splash") reviewer.use_data_file(option, value);
        return key == "splash";
    });
}

void check_option_rom(Reviewer& reviewer, Option const& option) {
    auto const keys = allow_list::keys_of_option("option-rom").value_or("");
    reviewer.check_keys(option, keys, [&](std::string const& key, std::string const& value) {
        if (key == "romfile") reviewer.use_data_file(option, value);
        return key == "romfile";
    });
}

void check_display(Reviewer& reviewer, Option const& option) {
    auto const display = reviewer.check_keys(option, "type");
    if (display.get_or("type", "none") != "none") {
        reviewer.refuse(option, "it opens a window or a device of the destination");
    }
}

void check_audio(Reviewer& reviewer, Option const& option) {
    auto const keys = allow_list::keys_of_option(option.kind()).value_or("");
    auto const audio = reviewer.check_keys(option, keys, {}, option.kind() == "audiodev");
    auto const driver = audio.get_or("driver", "");
    if (driver != "none" && driver != "spice") {
        reviewer.refuse(option, "it opens a sound device or a file of the destination");
    }
    auto const model = audio.get("model");
    bool const known = !model || allow_list::is_device(*model) || *model == "hda" ||
                       *model == "ac97" || *model == "es1370" || *model == "virtio";
    if (!known) reviewer.refuse(option, "the device kind " + *model + " is not known to be safe");
}

void check_incoming(Reviewer& reviewer, Option const& option) {
    if (option.value == "defer") return;
    reviewer.refuse(option, "it runs a program, or reads the guest's state from elsewhere");
}

void check_usb_device(Reviewer& reviewer, Option const& option) {
    constexpr auto kinds =
        std::to_array<std::string_view>({"keyboard", "mouse", "tablet", "wacom-tablet", "ccid"});
    if (is_one_of(kinds, option.value.value_or(""))) return;
    reviewer.refuse(option, "it opens a device or a file of the destination");
}

/// QEMU gives up the rights of root for those of that user. Whether there is one is the caller's
/// question.
void check_user(Reviewer& reviewer, Option const& option) {
    if (!is_word(option.value.value_or("")))
        reviewer.refuse(option, "its value is not the name of a user");
}

void check_run_with(Reviewer& reviewer, Option const& option) {
    auto const keys = allow_list::keys_of_option("run-with").value_or("");
    reviewer.check_keys(option, keys, [&](std::string const& key, std::string const& value) {
        return key == "user" && is_word(value);
    });
}

/// What QEMU writes to its log, which grows without bound.
void check_log_items(Reviewer& reviewer, Option const& option) {
    constexpr auto items =
        std::to_array<std::string_view>({"guest_errors", "unimp", "cpu_reset", "invalid_mem"});
    auto const value = option.value.value_or("");
    std::string_view rest = value;
    while (!rest.empty()) {
        auto const end = std::min(rest.find(','), rest.size());
        if (!is_one_of(items, rest.substr(0, end))) {
            reviewer.refuse(option, "it may fill the disk of the destination");
            return;
        }
        rest.remove_prefix(std::min(end + 1, rest.size()));
    }
}

using Check = void (*)(Reviewer&, Option const&);
struct Rule {
    std::string_view kind;
    Check check;
};
constexpr auto rules = std::to_array<Rule>({
    {"D", check_created_file},
    {"L", check_read_file},
    {"accel", review::accel},
    {"acpitable", check_file_keys},
    {"audio", check_audio},
    {"audiodev", check_audio},
    {"bios", check_data_file},
    {"blockdev", review::blockdev},
    {"boot", check_boot},
    {"cdrom", review::image_option},
    {"chardev", review::chardev},
    {"d", check_log_items},
    {"debugcon", review::character},
    {"device", review::device},
    {"display", check_display},
    {"drive", review::drive},
    {"dtb", check_read_file},
    {"fda", review::image_option},
    {"fdb", review::image_option},
    {"fw_cfg", check_file_keys},
    {"global", review::global},
    {"hda", review::image_option},
    {"hdb", review::image_option},
    {"hdc", review::image_option},
    {"hdd", review::image_option},
    {"incoming", check_incoming},
    {"initrd", check_read_file},
    {"kernel", check_read_file},
    {"machine", review::machine},
    {"mem-path", check_created_file},
    {"mon", review::mon},
    {"monitor", review::monitor},
    {"mtdblock", review::image_option},
    {"net", review::net},
    {"netdev", review::netdev},
    {"nic", review::nic},
    {"object", review::object},
    {"option-rom", check_option_rom},
    {"parallel", review::character},
    {"pflash", review::image_option},
    {"pidfile", check_created_file},
    {"qmp", review::monitor},
    {"qmp-pretty", review::monitor},
    {"run-with", check_run_with},
    {"runas", check_user},
    {"sd", review::image_option},
    {"serial", review::character},
    {"shim", check_read_file},
    {"smbios", check_file_keys},
    {"spice", review::spice},
    {"tpmdev", review::tpmdev},
    {"usbdevice", check_usb_device},
    {"vnc", review::vnc},
});

void check_option(Reviewer& reviewer, Option const& option) {
    auto const kind = option.kind();
    if (option.value && std::ranges::any_of(*option.value, is_control)) {
        return reviewer.refuse(option, "it has control characters");
    }
    auto const rule = std::ranges::find(rules, kind, &Rule::kind);
    if (rule != rules.end()) return rule->check(reviewer, option);
    if (allow_list::is_harmless_option(kind)) return;
    if (allow_list::is_word_option(kind)) {
        if (!is_word(option.value.value_or("")))
            reviewer.refuse(option, "its value is not a single word");
        return;
    }
    if (auto const keys = allow_list::keys_of_option(kind)) {
        reviewer.check_keys(option, *keys);
        return;
    }
    auto const reason = allow_list::reason_against_option(kind);
    reviewer.refuse(option,
                    reason.empty() ? "this option is not known to be safe" : std::string(reason));
}

}  // namespace

std::string RefusedOption::sentence() const { return fmt::format("`{}`: {}", option, why); }

Reviewer::Reviewer(CommandLine const& line, LaunchPolicy const& policy)
    : policy_(policy),
      block_files_(review::block_files(line)),
      private_chardevs_(review::private_chardevs(line)) {}

void Reviewer::refuse(Option const& option, std::string why) {
    refusals.push_back({printable(option.print()), printable(std::move(why))});
}

void Reviewer::use(Option const& option, std::string const& path, FileAccess access,
                   ImageFormat format) {
    if (!path.starts_with('/')) {
        return refuse(option, path.empty() ? "it names no file"
                                           : "`" + path + "` is not the absolute path of a file");
    }
    auto const is_in = [&](std::vector<std::string> const& directories) {
        return std::ranges::any_of(
            directories, [&](auto const& one) { return path_below(one, path).has_value(); });
    };
    bool const allowed = is_in(policy_.directories) ||
                         (access == FileAccess::read && is_in(policy_.public_directories));
    if (!allowed) {
        return refuse(option, fmt::format("{} is not in a directory that guests may use here "
                                          "(`serve --allow-path DIR`)",
                                          path));
    }
    bool const ours = std::ranges::any_of(policy_.images, [&](std::string const& image) {
        return components_of(image) == components_of(path);
    });
    if (access == FileAccess::image && !ours) {
        return refuse(
            option,
            fmt::format("{} is neither read-only nor one of the disks that are moved", path));
    }
    files.push_back({printable(option.print()), path, access, format});
}

void Reviewer::use_data_file(Option const& option, std::string const& name) {
    if (name.empty()) return;  // "romfile=": none
    bool const in_data_directory = is_word(name) && name.find("..") == std::string::npos;
    if (!in_data_directory) use(option, name, FileAccess::read);
}

Settings Reviewer::check_keys(Option const& option, std::string_view keys, Special const& special,
                              bool json) {
    return check_keys(
        option, [keys](std::string_view key) { return allow_list::has_word(keys, key); }, special,
        json);
}

Settings Reviewer::check_keys(Option const& option,
                              std::function<bool(std::string_view)> const& known,
                              Special const& special, bool json) {
    // Of lists, in QEMU's older form.
    constexpr auto repeated = std::to_array<std::string_view>(
        {"cpus", "dnssearch", "guestfwd", "host-nodes", "hostfwd", "path", "value"});
    auto settings = option.settings();
    if (!settings) {
        refuse(option, settings.error().what);
        return {};
    }
    if (!json && option.value.value_or("").starts_with('{')) {
        refuse(option, "QEMU does not take JSON here");
        return {};
    }
    std::set<std::string> seen;
    for (auto const& [key, value] : settings->all()) {
        if (!seen.insert(key).second && !is_one_of(repeated, key)) {
            refuse(option, "the key `" + key + "` is given twice");
        }
        // JSON may have them as escapes.
        if (std::ranges::any_of(key + value, is_control)) {
            refuse(option, "it has control characters");
        }
        auto const name = without_numbers(key);
        if (special && special(name, value)) continue;
        if (!known(name)) refuse(option, "the key `" + name + "` is not known to be safe");
    }
    return std::move(*settings);
}

std::string without_numbers(std::string_view key) {
    std::string name;
    while (!key.empty()) {
        auto const end = std::min(key.find('.'), key.size());
        auto const part = key.substr(0, end);
        bool const number = !part.empty() && std::ranges::all_of(part, [](char one) {
            return one >= '0' && one <= '9';
        });
        if (!number) name += (name.empty() ? "" : ".") + std::string(part);
        key.remove_prefix(std::min(end + 1, key.size()));
    }
    return name;
}

bool is_word(std::string_view text) {
    return std::ranges::all_of(text, [](char one) {
        bool const letter = (one >= 'a' && one <= 'z') || (one >= 'A' && one <= 'Z');
        bool const digit = one >= '0' && one <= '9';
        return letter || digit || std::string_view("-_.:@").find(one) != std::string_view::npos;
    });
}

bool are_our_descriptors(LaunchPolicy const& policy, std::string_view list) {
    do {
        auto const end = std::min(list.find(':'), list.size());
        int number = -1;
        auto const [stop, error] = std::from_chars(list.data(), list.data() + end, number);
        bool const whole = error == std::errc() && stop == list.data() + end;
        if (!whole || std::ranges::find(policy.descriptors, number) == policy.descriptors.end())
            return false;
        list.remove_prefix(std::min(end + 1, list.size()));
    } while (!list.empty());
    return true;
}

std::expected<AllowedLine, std::vector<RefusedOption>> allow(CommandLine const& line,
                                                             LaunchPolicy const& policy) {
    Reviewer reviewer(line, policy);
    auto const program = choose_program(policy, line.program());
    if (!program || *program != line.program()) {
        reviewer.refusals.push_back(
            {printable(line.program()),
             program ? "this host runs " + *program + " instead" : program.error().what});
    }
    if (auto const& wrapper = line.wrapper(); !wrapper.empty()) {
        reviewer.refusals.push_back({printable(fmt::format("{}", fmt::join(wrapper, " "))),
                                     "it runs a program that starts QEMU"});
    }
    for (auto const& option : line.options()) check_option(reviewer, option);
    if (!reviewer.refusals.empty()) return std::unexpected(std::move(reviewer.refusals));
    return AllowedLine{line, std::move(reviewer.files)};
}

core::Error refusal_error(std::vector<RefusedOption> const& refusals) {
    std::string text = "the destination does not run this guest's command line: ";
    for (std::size_t i = 0; i < std::min(refusals.size(), refusals_told); ++i) {
        if (i > 0) text += "; ";
        text += refusals[i].sentence();
    }
    if (refusals.size() > refusals_told) {
        text += fmt::format("; and {} more", refusals.size() - refusals_told);
    }
    return {core::Errc::refused, 0, std::move(text), {}};
}

Result<std::string> choose_program(LaunchPolicy const& policy, std::string const& program) {
    auto const& named = policy.programs;
    if (!named.empty()) {
        if (std::ranges::find(named, program) != named.end()) return program;
        auto const same = std::ranges::find_if(
            named, [&](std::string const& one) { return file_name(one) == file_name(program); });
        return same != named.end() ? *same : named.front();
    }
    auto const name = file_name(program);
    auto const directory = std::string_view(program).substr(0, program.size() - name.size());
    bool const here = directory.empty() || directory == distribution_directory;
    if (here && name.starts_with(distribution_prefix) && is_word(name)) {
        return std::string(distribution_directory) + std::string(name);
    }
    if (is_one_of(distribution_programs, program)) return program;
    return core::fail(Errc::refused,
                      "the destination does not run the program {}: only {}{}*, and what `serve "
                      "--qemu PROGRAM` names",
                      printable(program), distribution_directory, distribution_prefix);
}

std::optional<std::string> path_below(std::string_view directory, std::string_view path) {
    if (!directory.starts_with('/') || !path.starts_with('/')) return std::nullopt;
    auto const above = components_of(directory);
    auto const parts = components_of(path);
    if (parts.size() < above.size() ||
        !std::ranges::equal(above, std::span(parts).first(above.size())))
        return std::nullopt;
    std::string below;
    int depth = 0;
    for (auto const part : std::span(parts).subspan(above.size())) {
        depth += part == ".." ? -1 : 1;
        if (depth < 0) return std::nullopt;
        below += (below.empty() ? "" : "/") + std::string(part);
    }
    return below.empty() ? "." : below;
}

}  // namespace qmp
