#include "qmp/option.hpp"

#include <algorithm>
#include <array>
#include <charconv>

namespace qmp {

namespace {

struct Known {
    std::string_view name;
    Form form;
    std::string_view implied_key = {};
};

constexpr auto none = Form::none;
constexpr auto text = Form::text;
constexpr auto path = Form::path;
constexpr auto character = Form::character;
constexpr auto settings = Form::settings;

// Every option of QEMU 7.2 and 10.0 for x86; a test asks both QEMUs whether it is right.
constexpr auto known_options = std::to_array<Known>({
    {"D", path},
    {"L", path},
    {"M", settings, "type"},
    {"S", none},
    {"accel", settings, "accel"},
    {"acpitable", settings},
    {"action", settings},
    {"add-fd", settings},
    {"append", text},
    {"async-teardown", none},
    {"audio", settings, "driver"},
    {"audio-help", none},
    {"audiodev", settings, "driver"},
    {"bios", path},
    {"blockdev", settings, "driver"},
    {"boot", settings, "order"},
    {"cdrom", path},
    {"chardev", settings, "backend"},
    {"chroot", path},
    {"compat", settings},
    {"cpu", text},
    {"d", text},
    {"daemonize", none},
    {"debugcon", character},
    {"device", settings, "driver"},
    {"dfilter", text},
    {"display", settings, "type"},
    {"drive", settings},
    {"dtb", path},
    {"dump-vmstate", path},
    {"echr", text},
    {"enable-kvm", none},
    {"enable-sync-profile", none},
    {"fda", path},
    {"fdb", path},
    {"fsdev", settings, "fsdriver"},
    {"full-screen", none},
    {"fw_cfg", settings, "name"},
    {"g", text},
    {"gdb", character},
    {"global", text},
    {"h", none},
    {"hda", path},
    {"hdb", path},
    {"hdc", path},
    {"hdd", path},
    {"help", none},
    {"icount", settings, "shift"},
    {"incoming", text},
    {"initrd", path},
    {"iscsi", settings},
    {"jitdump", none},
    {"k", text},
    {"kernel", path},
    {"loadvm", text},
    {"m", settings, "size"},
    {"machine", settings, "type"},
    {"mem-path", path},
    {"mem-prealloc", none},
    {"mon", settings, "chardev"},
    {"monitor", character},
    {"msg", settings},
    {"mtdblock", path},
    {"name", settings, "guest"},
    {"net", settings, "type"},
    {"netdev", settings, "type"},
    {"nic", settings, "type"},
    {"no-acpi", none},
    {"no-fd-bootchk", none},
    {"no-hpet", none},
    {"no-reboot", none},
    {"no-shutdown", none},
    {"no-user-config", none},
    {"nodefaults", none},
    {"nographic", none},
    {"numa", settings, "type"},
    {"object", settings, "qom-type"},
    {"old-param", none},
    {"only-migratable", none},
    {"option-rom", settings, "romfile"},
    {"overcommit", settings},
    {"parallel", character},
    {"perfmap", none},
    {"pflash", path},
    {"pidfile", path},
    {"plugin", settings, "file"},
    {"portrait", none},
    {"preconfig", none},
    {"prom-env", text},
    {"qmp", character},
    {"qmp-pretty", character},
    {"qtest", character},
    {"qtest-log", path},
    {"readconfig", path},
    {"rotate", text},
    {"rtc", settings},
    {"run-with", settings},
    {"runas", text},
    {"s", none},
    {"sandbox", settings, "enable"},
    {"sd", path},
    {"seed", text},
    {"semihosting", none},
    {"semihosting-config", settings, "enable"},
    {"serial", character},
    {"set", text},
    {"shim", path},
    {"singlestep", none},
    {"smbios", settings},
    {"smp", settings, "cpus"},
    {"snapshot", none},
    {"spice", settings},
    {"tpmdev", settings, "type"},
    {"trace", settings, "enable"},
    {"usb", none},
    {"usbdevice", text},
    {"uuid", text},
    {"version", none},
    {"vga", text},
    {"virtfs", settings, "fsdriver"},
    {"vnc", character},
    {"watchdog-action", text},
    {"win2k-hack", none},
    {"xen-attach", none},
    {"xen-domid", text},
    {"xen-domid-restrict", none},
});
static_assert(std::ranges::is_sorted(known_options, {}, &Known::name));

Known const* find_known(std::string_view name) {
    auto const found = std::ranges::lower_bound(known_options, name, {}, &Known::name);
    return found != known_options.end() && found->name == name ? &*found : nullptr;
}

// Reads a value up to the next single comma; two commas are one of the value's.
std::string take_value(std::string_view& rest) {
    std::string value;
    while (!rest.empty()) {
        if (rest.front() == ',') {
            if (!rest.starts_with(",,")) break;
            rest.remove_prefix(1);
        }
        value += rest.front();
        rest.remove_prefix(1);
    }
    return value;
}

std::string with_double_commas(std::string_view value) {
    std::string out;
    for (char const c : value) {
        out += c;
        if (c == ',') out += c;
    }
    return out;
}

std::string leaf_text(Json const& value) {
    return value.is_string() ? value.text_or("") : value.dump();
}

bool is_branch(Json const& value) { return value.is_object() || value.is_array(); }

std::pair<std::string_view, std::string_view> split_key(std::string_view key) {
    auto const dot = key.find('.');
    if (dot == std::string_view::npos) return {key, {}};
    return {key.substr(0, dot), key.substr(dot + 1)};
}

// The children of an object by key, of an array by number.
std::vector<std::pair<std::string, Json>> children_of(Json const& branch) {
    if (branch.is_object()) return branch.members();
    std::vector<std::pair<std::string, Json>> children;
    for (auto const& element : branch.elements()) {
        children.emplace_back(std::to_string(children.size()), element);
    }
    return children;
}

std::optional<Json> find_leaf(Json const& branch, std::string_view key) {
    auto const [first, rest] = split_key(key);
    for (auto const& [name, child] : children_of(branch)) {
        if (name == key) return child;  // a key that itself has a dot
        if (name == first && !rest.empty() && is_branch(child)) return find_leaf(child, rest);
    }
    return std::nullopt;
}

// A copy of `branch` in which `key` has `value`, or is gone when there is none.
Json changed(Json const& branch, std::string_view key, std::optional<Json> const& value) {
    auto const [first, rest] = split_key(key);
    Json copy = branch.is_array() ? Json::array() : Json::object();
    bool found = false;
    for (auto const& [name, child] : children_of(branch)) {
        bool const here = name == key;
        found = found || here;
        if (here && !value) continue;
        Json kept = here ? *value : child;
        if (!here && name == first && !rest.empty() && is_branch(child)) {
            kept = changed(child, rest, value);
            found = true;
        }
        branch.is_array() ? copy.add(kept) : copy.set(name, kept);
    }
    if (!found && value && copy.is_object()) copy.set(key, *value);
    return copy;
}

void collect_leaves(Json const& branch, std::string const& prefix,
                    std::vector<std::pair<std::string, std::string>>& leaves) {
    for (auto const& [name, child] : children_of(branch)) {
        if (is_branch(child)) {
            collect_leaves(child, prefix + name + ".", leaves);
        } else {
            leaves.emplace_back(prefix + name, leaf_text(child));
        }
    }
}

}  // namespace

bool is_on(std::string_view value) {
    return value == "on" || value == "yes" || value == "true" || value == "y";
}

Arity arity_of(std::string_view name) {
    auto const* known = find_known(name);
    if (known == nullptr) return Arity::unknown;
    return known->form == Form::none ? Arity::flag : Arity::value;
}

Result<Settings> Settings::parse(std::string_view source, std::string_view implied_key) {
    Settings parsed;
    if (source.starts_with('{')) {
        TRY(parsed.json_, Json::parse(source));
        return parsed;
    }
    for (auto rest = source; !rest.empty();) {
        auto const end = rest.find_first_of("=,");
        bool const has_value = end != std::string_view::npos && rest[end] == '=';
        if (has_value) {
            std::string key(rest.substr(0, end));
            rest.remove_prefix(end + 1);
            parsed.entries_.push_back({std::move(key), take_value(rest)});
        } else if (parsed.entries_.empty() && !implied_key.empty()) {
            parsed.entries_.push_back({std::string(implied_key), take_value(rest), true});
        } else {
            parsed.entries_.push_back({std::string(rest.substr(0, end)), std::nullopt});
            rest.remove_prefix(std::min(end, rest.size()));
        }
        if (!rest.empty()) rest.remove_prefix(1);  // the comma
    }
    return parsed;
}

std::optional<std::string> Settings::get(std::string_view key) const {
    if (json_) {
        auto const leaf = find_leaf(*json_, key);
        if (!leaf || is_branch(*leaf)) return std::nullopt;
        return leaf_text(*leaf);
    }
    for (auto entry = entries_.rbegin(); entry != entries_.rend(); ++entry) {
        if (entry->key == key) return entry->value.value_or("on");
        if (!entry->value && entry->key.starts_with("no") && entry->key.substr(2) == key)
            return "off";
    }
    return std::nullopt;
}

std::string Settings::get_or(std::string_view key, std::string_view fallback) const {
    return get(key).value_or(std::string(fallback));
}

bool Settings::flag(std::string_view key, bool fallback) const {
    auto const value = get(key);
    return value ? is_on(*value) : fallback;
}

void Settings::set(std::string_view key, std::string_view value) {
    if (json_) {
        json_ = changed(*json_, key, Json(value));
        return;
    }
    auto const last = std::ranges::find(entries_.rbegin(), entries_.rend(), key, &Entry::key);
    if (last != entries_.rend()) {
        last->value = value;
    } else {
        entries_.push_back({std::string(key), std::string(value)});
    }
}

void Settings::set_flag(std::string_view key, bool on) {
    if (json_) {
        json_ = changed(*json_, key, Json(on));
    } else {
        set(key, on ? "on" : "off");
    }
}

void Settings::set_number(std::string_view key, std::uint64_t number) {
    if (json_) {
        json_ = changed(*json_, key, Json(static_cast<std::int64_t>(number)));
    } else {
        set(key, std::to_string(number));
    }
}

void Settings::erase(std::string_view key) {
    if (json_) {
        json_ = changed(*json_, key, std::nullopt);
        return;
    }
    std::erase_if(entries_, [&](Entry const& entry) {
        bool const negated =
            !entry.value && entry.key.starts_with("no") && entry.key.substr(2) == key;
        return entry.key == key || negated;
    });
}

std::vector<std::pair<std::string, std::string>> Settings::all() const {
    std::vector<std::pair<std::string, std::string>> leaves;
    if (json_) {
        collect_leaves(*json_, "", leaves);
        return leaves;
    }
    for (auto const& [key, value, implied] : entries_) {
        bool const negated = !value && key.starts_with("no");
        if (negated) {
            leaves.emplace_back(key.substr(2), "off");
        } else {
            leaves.emplace_back(key, value.value_or("on"));
        }
    }
    return leaves;
}

void Settings::replace_values(
    std::function<std::string(std::string_view key, std::string_view value)> const& to) {
    if (json_) {
        for (auto const& [key, value] : all()) {
            auto const replaced = to(key, value);
            if (replaced != value) set(key, replaced);
        }
    }
    for (auto& entry : entries_) {
        if (entry.value) entry.value = to(entry.key, *entry.value);
    }
}

std::string Settings::print() const {
    if (json_) return json_->dump();
    std::string out;
    for (auto const& entry : entries_) {
        if (&entry != &entries_.front()) out += ',';
        // An implied value with "=" in it would be read as another key.
        bool const implied = entry.implied && entry.value->find('=') == std::string::npos;
        if (!implied) out += entry.key;
        if (!implied && entry.value) out += '=';
        if (entry.value) out += with_double_commas(*entry.value);
    }
    return out;
}

std::string_view Option::kind() const {
    if (dashes.empty()) return "hda";
    if (name == "M") return "machine";
    return name;
}

Form Option::form() const {
    auto const* known = find_known(kind());
    if (known != nullptr) return known->form;
    return value ? Form::text : Form::none;  // of a QEMU newer than this table: passed on as it is
}

Result<Settings> Option::settings() const {
    auto const* known = find_known(kind());
    std::string_view implied = known != nullptr ? known->implied_key : "";
    if (form() == Form::character) implied = "address";
    auto parsed = Settings::parse(value.value_or(""), implied);
    if (!parsed) {
        return core::fail(Errc::invalid, "cannot read `{}`: {}", print(), parsed.error().what);
    }
    return parsed;
}

std::string Option::print() const {
    if (dashes.empty()) return value.value_or("");
    return dashes + name + (value ? " " + *value : "");
}

}  // namespace qmp
