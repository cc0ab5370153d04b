#include "sidecar/guest/destination_launch.hpp"

#include "core/stream.hpp"
#include "netmove/bridge_mover.hpp"
#include "netmove/evpn_mover.hpp"
#include "netmove/routed_tap.hpp"
#include "netmove/routes_mover.hpp"
#include "netmove/vxlan_mover.hpp"
#include "qmp/launch.hpp"
#include "sidecar/guest/destination_line.hpp"
#include "sidecar/guest/qemu_user.hpp"
#include "sidecar/guest/software_tpm.hpp"
#include "sidecar/host/limits.hpp"
#include "sidecar/host/test_hooks.hpp"

namespace sidecar {

using core::Deadline;
using core::Errc;
using core::fail;
using core::Result;
using core::Task;

namespace {

Result<OpenedTaps> open_taps(netmove::Netlink& netlink,
                             std::vector<netmove::GuestInterface> const& interfaces) {
    OpenedTaps made;
    for (auto const& interface : interfaces) {
        TRY(auto tap, netmove::Tap::open(netlink, interface.tap,
                                         {interface.queues, interface.vnet_hdr, true}));
        constexpr int ring = netmove::migration_queue_length;
        TRY_VOID(interface.routed
                     ? netmove::place_routed_tap(netlink, interface.tap,
                                                 {interface.addresses, interface.mtu, ring})
                     : netmove::place_tap(netlink, interface.tap,
                                          {interface.bridge, interface.mtu, ring}));
        // They are of a port at home. A bridge that was made for the guest alone has one as new.
        bool const at_home = !interface.anchor || interface.anchor->to == 0;
        if (interface.port && !interface.bridge.empty() && at_home) {
            TRY_VOID(netmove::set_port_settings(netlink, interface.tap, *interface.port));
        }
        made.add(std::move(tap), interface.netdev);
    }
    return made;
}

/// Listens for the character devices whose sockets another process opened at the source.
Result<std::vector<core::Fd>> open_sockets(Guest& guest, Description const& description,
                                           OpenedTaps& opened) {
    TRY(auto const line, flattened(description));
    std::vector<core::Fd> sockets;
    for (auto const& one : socket_numbers(line, opened.numbers)) {
        TRY(auto const path, chardev_socket(guest.paths, guest.name, one.id));
        TRY(auto socket, core::listen_unix(path, 0600));
        opened.descriptors.emplace_back(socket.get(), one.fd);
        sockets.push_back(std::move(socket));
    }
    return sockets;
}

}  // namespace

Result<> add_nic(Guest& guest, netmove::GuestInterface interface, netmove::Tap tap,
                 netmove::MoverSet& movers) {
    auto const number = guest.nics.size();
    if (!interface.bridge.empty() && !interface.anchor) {
        TRY(interface.vxlan_destination, netmove::vxlan_end(*guest.netlink, interface.bridge));
    }
    TRY(auto watcher, netmove::AddressWatcher::open(guest.loop, interface.tap, interface.mac));
    auto nic = std::make_unique<Nic>(std::move(interface), std::move(tap), std::move(watcher));
    if (!nic->interface.bridge.empty()) {
        movers.add(
            netmove::bridge_mover_destination(guest.loop, *guest.netlink, nic->tap, nic->interface),
            number);
    }
    if (nic->interface.routed) {
        movers.add(netmove::routes_mover_destination(*guest.netlink, nic->tap, nic->interface),
                   number);
    }
    if (nic->interface.vxlan_source && nic->interface.vxlan_destination) {
        movers.add(nic->interface.evpn
                       ? netmove::evpn_mover_destination(*guest.netlink, nic->interface)
                       : netmove::vxlan_mover_destination(*guest.netlink, nic->interface),
                   number);
    }
    guest.nics.push_back(std::move(nic));
    return {};
}

Task<Result<>> start_here(Guest& guest, HostMaps const& maps, Description const& description,
                          bool incoming, netmove::MoverSet& movers) {
    OpenedTaps opened;
    if (!description.interfaces.empty()) {
        CO_TRY(opened, open_taps(*guest.netlink, description.interfaces));
    }
    CO_TRY(auto allowed, map_command_line(maps, description, opened.numbers, incoming));
    CO_TRY(allowed.line, co_await fit_user_option(guest.loop, std::move(allowed.line),
                                                  Deadline::after(limits::check_timeout)));
    CO_TRY(auto const sockets, open_sockets(guest, description, opened));  // ours until it has them
    core::Fd tpm_end;
    if (description.tpm) {
        if (!incoming)
            co_return fail(Errc::refused, "the state of the guest's TPM is not on this host");
        CO_TRY(auto tpm, start_software_tpm(guest.paths, maps.swtpm, description));
        guest.swtpm = std::move(tpm.process);
        tpm_end = std::move(tpm.qemu_end);
        opened.descriptors.emplace_back(tpm_end.get(),
                                        tpm_descriptor(opened.numbers, sockets.size()));
        stop_for_test("launch_qemu");
    }
    qmp::LaunchRequest request{allowed.line,
                               opened.descriptors,
                               guest.paths.qmp_socket(guest.name),
                               guest.paths.run(guest.name) + "/qemu.log",
                               "/",
                               false};
    auto launched = co_await qmp::launch(guest.loop, std::move(request),
                                         Deadline::after(limits::prepare_timeout));
    if (!launched) {
        auto& why = launched.error();
        why.what += last_words_of_tpm(guest.paths, guest.name);
        co_return std::unexpected(std::move(why));
    }
    guest.process = std::move(launched->process);
    guest.client = std::move(launched->client);
    guest.command_line = std::move(allowed.line);
    guest.working_directory = "/";
    for (std::size_t index = 0; index < opened.taps.size(); ++index) {
        CO_TRY_VOID(
            add_nic(guest, description.interfaces[index], std::move(opened.taps[index]), movers));
    }
    co_return Result<>{};
}

}  // namespace sidecar
