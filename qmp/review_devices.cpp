// Reviews of devices and their properties, of objects, of the machine and of its TPM: -device,
// -global, -object, -machine, -accel, -tpmdev.
#include <algorithm>
#include <array>

#include "qmp/allow_list.hpp"
#include "qmp/reviewer.hpp"

namespace qmp::review {

namespace {

bool is_device(Reviewer const& reviewer, std::string const& driver) {
    return allow_list::is_device(driver) || is_one_of(reviewer.policy().devices, driver);
}

/// A key of a kind that only `serve --allow-device` allows: its properties are not in the
/// allow-list. The known ones that name files are checked.
void check_unlisted_key(Reviewer& reviewer, Option const& option, std::string const& key,
                        std::string const& value) {
    constexpr auto read =
        std::to_array<std::string_view>({"db", "dir", "evdev", "file", "path", "rootdir"});
    constexpr auto written = std::to_array<std::string_view>({"log", "logfile", "pcap"});
    if (is_one_of(read, key)) reviewer.use(option, value, FileAccess::read);
    if (is_one_of(written, key)) reviewer.use(option, value, FileAccess::create);
    if (key.ends_with("fd") || key.ends_with("fds"))
        reviewer.refuse(option, "`" + key + "` names a descriptor of another process");
}

void check_accelerators(Reviewer& reviewer, Option const& option, std::string_view list) {
    while (!list.empty()) {
        auto const end = std::min(list.find(':'), list.size());
        if (!allow_list::is_accelerator(list.substr(0, end))) {
            reviewer.refuse(option, fmt::format("the accelerator {} is not known to be safe",
                                                list.substr(0, end)));
        }
        list.remove_prefix(std::min(end + 1, list.size()));
    }
}

void check_global(Reviewer& reviewer, Option const& option, std::string const& driver,
                  std::string const& property, std::string const& value) {
    bool const known = is_device(reviewer, driver) || allow_list::is_chipset(driver);
    if (!known) {
        return reviewer.refuse(option, "the device kind " + driver + " is not known to be safe");
    }
    if (property == "romfile") return reviewer.use_data_file(option, value);
    if (allow_list::is_device_key(property)) return;
    reviewer.refuse(option, "the key `" + property + "` is not known to be safe");
}

void check_memory_file(Reviewer& reviewer, Option const& option, Settings const& object) {
    bool const read_only = object.flag("readonly", false);
    reviewer.use(option, object.get_or("mem-path", ""),
                 read_only ? FileAccess::read : FileAccess::create);
}

void check_random_source(Reviewer& reviewer, Option const& option, std::string const& file) {
    constexpr auto sources =
        std::to_array<std::string_view>({"/dev/urandom", "/dev/random", "/dev/hwrng"});
    if (is_one_of(sources, file)) return;
    reviewer.refuse(option, "`" + file + "` is not a source of random numbers");
}

/// The keys of an object that name files.
bool is_file_key(std::string_view type, std::string_view key) {
    if (type == "secret") return key == "file";
    if (type == "rng-random") return key == "filename";
    if (type == "memory-backend-file") return key == "mem-path";
    return type.starts_with("tls-creds-") && key == "dir";
}

}  // namespace

void device(Reviewer& reviewer, Option const& option) {
    auto const kind = option.settings_or_empty().get_or("driver", "");
    bool const listed = allow_list::is_device(kind);
    if (!is_device(reviewer, kind)) {
        return reviewer.refuse(option, fmt::format("the device kind {} is not known to be safe "
                                                   "(`serve --allow-device {}`)",
                                                   kind, kind));
    }
    auto const special = [&](std::string const& key, std::string const& value) {
        if (key == "romfile") reviewer.use_data_file(option, value);
        if (!listed) check_unlisted_key(reviewer, option, key, value);
        return key == "romfile" || !listed;
    };
    reviewer.check_keys(option, allow_list::is_device_key, special, true);
}

/// "DRIVER.KEY=VALUE", or driver=,property=,value=.
void global(Reviewer& reviewer, Option const& option) {
    auto const written = option.value.value_or("");
    std::string_view const text = written;
    auto const dot = text.find_first_of(".=");
    auto const equals = text.find('=');
    if (dot != std::string_view::npos && text[dot] == '.' && equals != std::string_view::npos) {
        return check_global(reviewer, option, std::string(text.substr(0, dot)),
                            std::string(text.substr(dot + 1, equals - dot - 1)),
                            std::string(text.substr(equals + 1)));
    }
    auto const settings = Settings::parse(text, "");
    bool const three = settings && !text.starts_with('{') && settings->all().size() == 3;
    if (!three || !settings->has("driver") || !settings->has("property") ||
        !settings->has("value")) {
        return reviewer.refuse(option, "it is not DRIVER.KEY=VALUE");
    }
    check_global(reviewer, option, settings->get_or("driver", ""), settings->get_or("property", ""),
                 settings->get_or("value", ""));
}

void object(Reviewer& reviewer, Option const& option) {
    auto const type = option.settings_or_empty().get_or("qom-type", "");
    auto const keys = allow_list::keys_of_object(type);
    if (!keys) {
        return reviewer.refuse(option, "objects of the kind " + type + " are not known to be safe");
    }
    auto const known = [&](std::string_view key) {
        return key == "id" || key == "qom-type" || allow_list::has_word(*keys, key) ||
               (type == "throttle-group" && allow_list::is_throttle_key(key));
    };
    auto const special = [&](std::string const& key, std::string const& value) {
        if (!is_file_key(type, key)) return false;
        if (type == "rng-random") {
            check_random_source(reviewer, option, value);
        } else if (type != "memory-backend-file") {
            reviewer.use(option, value, FileAccess::read);
        }
        return true;
    };
    auto const settings = reviewer.check_keys(option, known, special, true);
    if (type == "memory-backend-file") check_memory_file(reviewer, option, settings);
}

void machine(Reviewer& reviewer, Option const& option) {
    auto const special = [&](std::string const& key, std::string const& value) {
        if (key == "accel") check_accelerators(reviewer, option, value);
        bool const is_file = key == "kernel" || key == "initrd" || key == "dtb" || key == "shim";
        if (is_file) reviewer.use(option, value, FileAccess::read);
        if (key == "firmware") reviewer.use_data_file(option, value);
        return is_file || key == "firmware";
    };
    auto const known = [](std::string_view key) {
        std::string name(key);  // QEMU takes `kernel_irqchip` too
        std::ranges::replace(name, '_', '-');
        return allow_list::is_machine_key(name);
    };
    reviewer.check_keys(option, known, special, false);
}

void accel(Reviewer& reviewer, Option const& option) {
    auto const keys = allow_list::keys_of_option("accel").value_or("");
    auto const settings = reviewer.check_keys(option, keys);
    check_accelerators(reviewer, option, settings.get_or("accel", ""));
}

/// swtpm is at the other end of its -chardev, which is reviewed as every other one: no program of
/// the destination is reached by it.
void tpmdev(Reviewer& reviewer, Option const& option) {
    auto const type = option.settings_or_empty().get_or("type", "");
    if (type == "passthrough") {
        return reviewer.refuse(option,
                               "it uses the TPM chip of the host, and what the guest keeps in that "
                               "stays there");
    }
    if (type != "emulator") {
        return reviewer.refuse(option, "TPMs of the kind " + type + " are not known to be safe");
    }
    reviewer.check_keys(option, "chardev id type");
}

}  // namespace qmp::review
