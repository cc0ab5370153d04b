// Reviews of network backends: -netdev, -nic, -net. A tap of a guest that arrives is opened by
// sidecar and given by descriptor; QEMU then runs no script.
#include <algorithm>

#include "qmp/allow_list.hpp"
#include "qmp/reviewer.hpp"

namespace qmp::review {

namespace {

void check_bridge(Reviewer& reviewer, Option const& option, std::string const& bridge) {
    auto const& named = reviewer.policy().bridges;
    if (named.empty() || is_one_of(named, bridge)) return;
    reviewer.refuse(option, fmt::format("guests may not use the bridge {} here (`serve "
                                        "--allow-bridge {}`)",
                                        bridge, bridge));
}

std::string reason_against(std::string_view type) {
    if (type == "bridge" || type == "passt") return "it runs a program";
    if (type == "vhost-user" || type == "vhost-vdpa" || type == "vde" || type == "af-xdp" ||
        type == "netmap") {
        return "it opens a device or a socket of the destination";
    }
    if (type == "socket" || type == "stream" || type == "dgram" || type == "l2tpv3")
        return "it opens a socket of the destination";
    return fmt::format("the network backend {} is not known to be safe", type);
}

/// Keys that have to be read by their values; false: it is none of them.
bool check_special(Reviewer& reviewer, Option const& option, std::string const& key,
                   std::string const& value) {
    if (key == "script" || key == "downscript") {
        if (value != "no") reviewer.refuse(option, "`" + key + "` runs a program");
        return true;
    }
    if (key == "br") {
        check_bridge(reviewer, option, value);
        return true;
    }
    if (key == "fd" || key == "fds") {
        if (!are_our_descriptors(reviewer.policy(), value))
            reviewer.refuse(option, "`" + key + "` names a descriptor of another process");
        return true;
    }
    if (key == "hostfwd" || key == "hostfwd.str") {
        bool const ports =
            value.starts_with("tcp:") || value.starts_with("udp:") || value.starts_with(":");
        if (!ports) reviewer.refuse(option, "`hostfwd` names neither tcp: nor udp:");
        return true;
    }
    if (key == "tftp") {
        reviewer.use(option, value, FileAccess::read);
        return true;
    }
    std::string_view const why = key == "helper" || key == "smb" ? "runs a program"
                                 : key.starts_with("guestfwd")
                                     ? "runs a program or connects to another host"
                                     : "";
    if (!why.empty()) reviewer.refuse(option, fmt::format("`{}` {}", key, why));
    return !why.empty();
}

/// `more`: keys of the guest's card in the same option.
Settings check_backend(Reviewer& reviewer, Option const& option, std::string_view more, bool json) {
    auto const type = option.settings_or_empty().get_or("type", "");
    auto const keys = allow_list::keys_of_netdev(type);
    if (!keys) {
        reviewer.refuse(option, reason_against(type));
        return {};
    }
    auto const known = [&](std::string_view key) {
        return key == "id" || key == "type" || allow_list::has_word(*keys, key) ||
               allow_list::has_word(more, key);
    };
    auto const special = [&](std::string const& key, std::string const& value) {
        return check_special(reviewer, option, key, value);
    };
    auto settings = reviewer.check_keys(option, known, special, json);
    bool const script =
        type == "tap" && !settings.has("fd") && !settings.has("fds") && !settings.has("script");
    if (script) reviewer.refuse(option, "without `script=no` it runs /etc/qemu-ifup");
    return settings;
}

void check_model(Reviewer& reviewer, Option const& option, Settings const& card) {
    auto const model = card.get("model");
    if (!model || allow_list::is_nic_model(*model) || allow_list::is_device(*model) ||
        is_one_of(reviewer.policy().devices, *model)) {
        return;
    }
    reviewer.refuse(option, "the device kind " + *model + " is not known to be safe");
}

}  // namespace

void netdev(Reviewer& reviewer, Option const& option) { check_backend(reviewer, option, "", true); }

void nic(Reviewer& reviewer, Option const& option) {
    auto const card = check_backend(reviewer, option, "addr mac macaddr model vectors", false);
    check_model(reviewer, option, card);
}

void net(Reviewer& reviewer, Option const& option) {
    auto const type = option.settings_or_empty().get_or("type", "");
    if (type != "nic") {
        check_backend(reviewer, option, "name", false);
        return;
    }
    check_model(reviewer, option,
                reviewer.check_keys(option, "addr id macaddr model name netdev type vectors"));
}

}  // namespace qmp::review
