#include "sidecar/guest/guest.hpp"

#include <unistd.h>

#include <algorithm>
#include <filesystem>

#include "core/log.hpp"
#include "netmove/network.hpp"
#include "netmove/routed_tap.hpp"
#include "netmove/routes_mover.hpp"
#include "qmp/vm.hpp"
#include "sidecar/guest/guest_nics.hpp"
#include "sidecar/guest/qemu_schema.hpp"
#include "sidecar/host/limits.hpp"
#include "sidecar/libvirt/monitor.hpp"

namespace sidecar {

using core::Deadline;
using core::Errc;
using core::fail;
using core::Json;
using core::Result;
using core::Task;
using netmove::GuestAddress;

namespace {

std::string manifest_path(Paths const& paths, std::string const& guest) {
    return paths.state(guest) + "/guest.json";
}

/// A name for a tap that has none: the first free of sct0, sct1, ...
Result<std::string> free_tap_name(netmove::Netlink& netlink) {
    constexpr int names_max = 4096;
    for (int number = 0; number < names_max; ++number) {
        auto const name = fmt::format("sct{}", number);
        TRY(auto const existing, netlink.find_link(name));
        if (!existing) return name;
    }
    return fail(Errc::refused, "all of {} tap names are taken", names_max);
}

/// The tap that `run --routed` routes: the only one without a bridge of its own.
Result<std::size_t> routed_tap(std::vector<qmp::TapOption> const& options) {
    std::optional<std::size_t> found;
    for (std::size_t index = 0; index < options.size(); ++index) {
        if (!options[index].bridge.empty()) continue;
        if (found) {
            return fail(Errc::refused,
                        "--routed is for one tap, and netdevs {} and {} have no bridge: give one "
                        "of them br=BRIDGE",
                        options[*found].id, options[index].id);
        }
        found = index;
    }
    if (found) return *found;
    return fail(Errc::refused, "--routed needs a tap without a bridge (br=), and QEMU has none");
}

Result<> place(netmove::Netlink& netlink, std::string const& tap, std::string const& bridge) {
    TRY(auto const link, netlink.link(tap));
    // Now, before any traffic: a ring whose length changes under traffic loses frames.
    return netmove::place_tap(netlink, tap,
                              {link.master == 0 ? bridge : "", 0, netmove::migration_queue_length});
}

/// `routed`: which of them is, if any; with these addresses.
Result<OpenedTaps> open_taps(netmove::Netlink& netlink, std::vector<qmp::TapOption> const& options,
                             std::string const& bridge, std::optional<std::size_t> routed,
                             std::vector<GuestAddress> const& addresses) {
    OpenedTaps opened;
    if (routed) TRY_VOID(netmove::check_routing(netlink, addresses));
    for (auto const& option : options) {
        if (!option.script.empty() && option.script != "no") {
            return fail(Errc::refused,
                        "netdev {} has script={}: sidecar opens the tap itself and runs no script; "
                        "use script=no and --bridge",
                        option.id, option.script);
        }
        std::string name = option.ifname;
        if (name.empty()) {
            TRY(name, free_tap_name(netlink));
        }
        TRY(auto tap, netmove::Tap::open(netlink, name,
                                         {static_cast<int>(option.queues), option.vnet_hdr, true}));
        if (routed == opened.taps.size()) {
            TRY_VOID(netmove::place_routed_tap(netlink, name,
                                               {addresses, 0, netmove::migration_queue_length}));
        } else {
            TRY_VOID(place(netlink, name, option.bridge.empty() ? bridge : option.bridge));
        }
        opened.add(std::move(tap), option.id);
    }
    return opened;
}

Json strings(std::vector<std::string> const& texts) {
    Json all = Json::array();
    for (auto const& text : texts) all.add(text);
    return all;
}

}  // namespace

void OpenedTaps::add(netmove::Tap tap, std::string netdev) {
    qmp::TapDescriptors one{std::move(netdev), {}};
    for (int queue = 0; queue < tap.queues(); ++queue) {
        int const number = qmp::first_tap_fd_in_qemu + static_cast<int>(descriptors.size());
        descriptors.emplace_back(tap.descriptor(queue), number);
        one.fds.push_back(number);
    }
    numbers.push_back(std::move(one));
    taps.push_back(std::move(tap));
}

std::string absolute(std::string const& path, std::string const& working_directory) {
    std::filesystem::path const given(path);
    return (given.is_absolute() ? given : std::filesystem::path(working_directory) / given)
        .lexically_normal()
        .string();
}

Result<Json> read_manifest(Paths const& paths, std::string const& guest) {
    auto const path = manifest_path(paths, guest);
    if (access(path.c_str(), F_OK) != 0) return Json();
    TRY(auto const text, read_file(path, limits::manifest_bytes_max));
    auto parsed = Json::parse(text);
    if (!parsed) return std::unexpected(std::move(parsed.error()).while_doing("reading " + path));
    return parsed;
}

Guest::Guest(core::Loop& loop_, Paths paths_, std::string name_, Prepared prepared)
    : loop(loop_),
      paths(std::move(paths_)),
      name(std::move(name_)),
      process(std::move(prepared.launched.process)),
      client(std::move(prepared.launched.client)),
      command_line(std::move(prepared.command_line)),
      working_directory(std::move(prepared.working_directory)),
      netlink(std::move(prepared.netlink)),
      nics(std::move(prepared.nics)) {}

Guest::~Guest() = default;

Task<Result<std::unique_ptr<Guest>>> Guest::launch(core::Loop& loop, Paths paths, std::string name,
                                                   RunOptions options) {
    CO_TRY(auto const given, qmp::CommandLine::parse(options.qemu));
    CO_TRY(auto addresses, parse_addresses(options.addresses));
    auto const tap_options = given.taps();
    std::unique_ptr<netmove::Netlink> netlink;
    OpenedTaps opened;
    std::optional<std::size_t> routed;
    if (options.routed) {
        CO_TRY(routed, routed_tap(tap_options));
    }
    if (!tap_options.empty()) {
        CO_TRY(auto socket, netmove::Netlink::open());
        netlink = std::make_unique<netmove::Netlink>(std::move(socket));
        CO_TRY(opened, open_taps(*netlink, tap_options, options.bridge, routed, addresses));
    }
    CO_TRY(auto line, given.for_launch({qmp::qmp_fd_in_qemu, opened.numbers}));
    CO_TRY_VOID(make_directory(paths.run(name)));
    CO_TRY_VOID(make_directory(paths.state(name)));
    qmp::LaunchRequest request{
        line, opened.descriptors, paths.qmp_socket(name), paths.run(name) + "/qemu.log", "", true};
    CO_TRY(auto launched, co_await qmp::launch(loop, std::move(request),
                                               Deadline::after(limits::prepare_timeout)));
    Prepared prepared{std::move(launched),
                      std::move(line),
                      std::filesystem::current_path().string(),
                      {},
                      nullptr};
    auto guest = std::make_unique<Guest>(loop, paths, name, std::move(prepared));
    guest->netlink = std::move(netlink);
    for (std::size_t index = 0; index < opened.taps.size(); ++index) {
        auto mac = co_await mac_of(*guest->client, tap_options[index], index);
        auto nic = mac ? make_nic(loop, *guest->netlink, tap_options[index].id, *mac,
                                  std::move(opened.taps[index]))
                       : std::unexpected(mac.error());
        Result<> claimed;
        if (nic && index == routed.value_or(0)) (*nic)->interface.addresses = addresses;
        if (nic && index == routed) {
            (*nic)->interface.routed = true;
            claimed = netmove::claim_routes(*guest->netlink, (*nic)->interface);
        }
        if (!nic || !claimed) {
            (void)guest->process.signal(
                SIGKILL);  // just started by us, and without its network: it is not kept
            co_await guest->client->close();
            co_return std::unexpected(nic ? claimed.error() : nic.error());
        }
        guest->nics.push_back(std::move(*nic));
    }
    CO_TRY_VOID(guest->write_manifest());
    co_await keep_schema(*guest, true, Deadline::after(limits::qmp_timeout));
    co_return guest;
}

namespace {

/// The QEMU of this monitor. If we launched it, the manifest identifies it: its sidecar bound the
/// socket, so the kernel may report that sidecar's credentials.
Result<core::Process> process_of(qmp::Client& client, Json const& manifest) {
    if (client.socket_path() != manifest["qmp_socket"].text_or("") || !manifest.has("pid")) {
        return core::Process::open(client.peer_pid());
    }
    auto recorded = core::Process::open(core::ProcessIdentity::from_json(manifest));
    if (recorded || recorded.error().code != Errc::closed) return recorded;
    return fail(Errc::refused, "the QEMU that answers there is not the recorded one: {}",
                recorded.error().what);
}

}  // namespace

Task<Result<std::unique_ptr<Guest>>> Guest::attach(core::Loop& loop, Paths paths, std::string name,
                                                   AttachOptions options) {
    CO_TRY(auto const manifest, read_manifest(paths, name));
    std::optional<LibvirtQemu> joined;
    if (!libvirt_uri_of(options, manifest).empty()) {
        CO_TRY(joined, co_await join_libvirt(loop, paths, name, options, manifest,
                                             Deadline::after(limits::check_timeout)));
    }
    std::string socket = joined ? joined->qmp_socket : options.qmp_socket;
    if (socket.empty()) socket = manifest["qmp_socket"].text_or("");
    if (socket.empty()) {
        co_return fail(Errc::refused,
                       "no guest `{}` is recorded on this host: give its socket with --qmp", name);
    }
    auto connected =
        co_await qmp::Client::connect(loop, socket, Deadline::after(limits::qmp_timeout));
    if (!connected && joined) libvirt::end_monitor(paths, name);
    CO_TRY(auto client, std::move(connected));
    auto found = [&]() -> Result<Prepared> {
        auto opened = joined ? std::move(joined->process) : process_of(*client, manifest);
        TRY(auto process, std::move(opened));
        auto const pid = process.pid();
        TRY(auto const argv, core::command_line(pid));
        TRY(auto line, qmp::CommandLine::parse(argv));
        if (joined) line = std::move(joined->command_line);
        std::error_code error;
        auto const directory =
            std::filesystem::read_symlink(fmt::format("/proc/{}/cwd", pid), error).string();
        TRY_VOID(make_directory(paths.run(name)));
        TRY_VOID(make_directory(paths.state(name)));
        return Prepared{{std::move(process), nullptr}, std::move(line), directory, {}, nullptr};
    }();
    if (!found) {
        co_await client->close();
        if (joined) libvirt::end_monitor(paths, name);
        co_return std::unexpected(
            std::move(found.error()).while_doing(fmt::format("attaching to {}", socket)));
    }
    auto guest = std::make_unique<Guest>(loop, paths, name, std::move(*found));
    guest->client = std::move(client);
    if (joined) guest->stay_reachable(std::move(joined->guest));
    if (!joined && options.qmp_socket.empty())
        guest->domain_xml = manifest["domain_xml"].text_or("");
    auto nics = co_await guest->find_nics(options, manifest);
    if (nics) nics = guest->write_manifest();
    if (!nics) {
        co_await guest->close();
        co_return std::unexpected(nics.error());
    }
    co_await keep_schema(*guest, true, Deadline::after(limits::qmp_timeout));
    co_return guest;
}

Task<Result<>> Guest::reconnect(Deadline deadline) {
    co_return co_await client->reconnect(std::move(deadline));
}

/// The process that is the monitor may die, as QEMU's own cannot.
void Guest::stay_reachable(LibvirtGuest found) {
    libvirt = std::move(found);
    if (client->socket_path() != libvirt::monitor_socket(paths, name)) return;
    client->before_reconnect(
        [here = paths, guest = name] { return libvirt::ensure_monitor(here, guest); });
}

Task<void> Guest::close() {
    if (client) co_await client->close();
    if (libvirt) libvirt::end_monitor(paths, name);  // the watchdog starts another, if it must
}

Result<> Guest::write_manifest() const {
    Json interfaces = Json::array();
    for (auto const& nic : nics) interfaces.add(nic->interface.to_json());
    auto manifest = Json::object({{"guest", name},
                                  {"qmp_socket", client->socket_path()},
                                  {"argv", strings(command_line.argv())},
                                  {"working_directory", working_directory},
                                  {"interfaces", interfaces}});
    if (auto const running = process.identity(); running) running->add_to(manifest);
    if (libvirt) manifest.set("libvirt", libvirt->to_json());
    if (!domain_xml.empty()) manifest.set("domain_xml", domain_xml);
    return write_durably(manifest_path(paths, name), manifest.dump_pretty() + "\n");
}

void Guest::forget() const {
    std::error_code
        ignored;  // the next user of the directory finds and reports what could not be removed
    std::filesystem::remove(manifest_path(paths, name), ignored);
    std::filesystem::remove_all(paths.run(name), ignored);
    for (auto const& nic : nics) {
        if (!nic->interface.routed) continue;
        auto const removed = netmove::remove_routes(*netlink, nic->tap.name());
        if (!removed) core::log::warning("guest={} {}", name, removed.error().sentence());
    }
}

}  // namespace sidecar
