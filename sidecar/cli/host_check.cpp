// `sidecar check`: what this host offers, one line each, before it is used.
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "core/process.hpp"
#include "netmove/local_address.hpp"
#include "netmove/netlink.hpp"
#include "netmove/network.hpp"
#include "sidecar/cli/commands.hpp"

namespace sidecar {

using core::Deadline;
using core::Json;
using core::Result;
using core::Task;

namespace {

struct Finding {
    bool good;
    bool needed;  ///< Nothing works without it; otherwise only a part fails.
    std::string text;
};

Task<Finding> program(core::Loop& loop, std::string name, std::string purpose, bool needed) {
    auto const output = co_await core::output_of(loop, {name, "--version"}, 4096,
                                                 Deadline::after(limits::qmp_timeout));
    if (!output)
        co_return Finding{false, needed,
                          fmt::format("{} ({}): {}", name, purpose, output.error().sentence())};
    co_return Finding{true, needed,
                      fmt::format("{}: {}", name, output->substr(0, output->find('\n')))};
}

Finding directory(std::string const& path, std::string const& purpose) {
    auto const made = make_directory(path);
    if (!made)
        return {false, true, fmt::format("{} ({}): {}", path, purpose, made.error().sentence())};
    if (access(path.c_str(), W_OK) != 0) {
        return {false, true, fmt::format("{} ({}): {}", path, purpose, std::strerror(errno))};
    }
    return {true, true, fmt::format("{} ({}) can be written", path, purpose)};
}

Finding device(char const* path, std::string const& purpose, bool needed) {
    if (access(path, R_OK | W_OK) == 0)
        return {true, needed, fmt::format("{} can be opened ({})", path, purpose)};
    return {false, needed, fmt::format("{} ({}): {}", path, purpose, std::strerror(errno))};
}

}  // namespace

Task<int> check_command(core::Loop& loop, Options options) {
    std::vector<Finding> findings;
    // Otherwise the program would not get here.
    findings.push_back({true, true, "io_uring can be used"});
    findings.push_back(directory(options.paths.run_directory, "sockets and keys"));
    findings.push_back(directory(options.paths.state_directory, "journals"));
    findings.push_back(device("/dev/net/tun", "taps", true));
    findings.push_back(device("/dev/kvm", "guests run slowly without", false));
    auto const netlink = netmove::Netlink::open();
    bool const privileged = geteuid() == 0;
    findings.push_back({netlink.has_value() && privileged, true,
                        !netlink     ? netlink.error().sentence()
                        : privileged ? "rtnetlink can be used"
                                     : "taps and bridges need CAP_NET_ADMIN: run as root"});
    auto const networks = netmove::check_kernel();
    findings.push_back({networks.has_value(), false,
                        networks ? "nftables keeps protocols apart (`sidecar network`)"
                                 : networks.error().sentence()});
    auto const local = netmove::check_local_kernel();
    findings.push_back({local.has_value(), false,
                        local ? "nftables translates local addresses (`migrate --local-address`)"
                              : local.error().sentence()});
    findings.push_back(co_await program(loop, "qemu-system-x86_64",
                                        "guests; or another with `serve --qemu`", false));
    findings.push_back(co_await program(loop, "qemu-img", "makes disks at the destination", true));
    findings.push_back(co_await program(
        loop, "swtpm", "runs guests' TPMs; or another with `serve --swtpm`", false));
    bool good = true;
    Json all = Json::array();
    for (auto const& finding : findings) {
        good = good && (finding.good || !finding.needed);
        all.add(Json::object(
            {{"ok", finding.good}, {"needed", finding.needed}, {"text", finding.text}}));
        if (!options.json) {
            fmt::print("[{}] {}\n",
                       finding.good     ? " OK "
                       : finding.needed ? "FAIL"
                                        : "warn",
                       finding.text);
        }
    }
    if (options.json) fmt::print("{}\n", Json::object({{"ok", good}, {"findings", all}}).dump());
    co_return good ? 0 : int{machine::exit_refused};
}

}  // namespace sidecar
