#include "sidecar/guest/guest_nics.hpp"

#include <algorithm>

#include "core/log.hpp"
#include "netmove/network.hpp"
#include "sidecar/guest/running_line.hpp"
#include "sidecar/host/limits.hpp"

namespace sidecar {

using core::Deadline;
using core::Errc;
using core::fail;
using core::Json;
using core::Result;
using core::Task;
using netmove::GuestAddress;

Result<std::vector<GuestAddress>> parse_addresses(std::vector<std::string> const& texts) {
    std::vector<GuestAddress> all;
    for (auto const& text : texts) {
        TRY(auto const address, netmove::Address::parse(text));
        all.push_back({address, 0});
    }
    return all;
}

Task<Result<netmove::MacAddress>> mac_of(qmp::Client& client, qmp::TapOption tap,
                                         std::size_t index) {
    if (!tap.macs.empty()) co_return netmove::MacAddress::parse(tap.macs.front());
    auto filters =
        co_await client.execute("query-rx-filter", {}, Deadline::after(limits::qmp_timeout));
    if (filters && index < filters->elements().size()) {
        co_return netmove::MacAddress::parse(filters->elements()[index]["main-mac"].text_or(""));
    }
    co_return fail(Errc::refused,
                   "the MAC of the interface on netdev {} is not known: give it to QEMU with "
                   "`-device ...,mac=`",
                   tap.id);
}

Result<std::unique_ptr<Nic>> make_nic(core::Loop& loop, netmove::Netlink& netlink,
                                      std::string const& netdev, netmove::MacAddress const& mac,
                                      netmove::Tap tap) {
    netmove::GuestInterface interface;
    TRY(auto const link, netlink.link(tap.name()));
    interface.netdev = netdev;
    interface.tap = tap.name();
    interface.mac = mac;
    interface.mtu = link.mtu;
    interface.queues = tap.queues();
    interface.vnet_hdr = tap.vnet_hdr();
    if (link.master != 0) {
        TRY(auto const bridge, netlink.link(link.master));
        interface.bridge = bridge.name;
        // A tap that was put on the bridge by others is admitted. A guest that already runs
        // is not refused.
        if (auto const admitted = netmove::admit(bridge, link); !admitted) {
            core::log::warning("guest={} {}", tap.name(), admitted.error().sentence());
        }
        TRY(interface.network, netmove::network_of(bridge));
    }
    TRY(auto watcher, netmove::AddressWatcher::open(loop, tap.name(), mac));
    return std::make_unique<Nic>(std::move(interface), std::move(tap), std::move(watcher));
}

namespace {

/// The tap that a netdev uses: by name, or, for libvirt's descriptors, by position.
netmove::Tap* tap_for(std::vector<netmove::Tap>& taps, qmp::TapOption const& option,
                      std::size_t index) {
    for (auto& tap : taps) {
        if (!option.ifname.empty() && tap.name() == option.ifname) return &tap;
    }
    return option.ifname.empty() && index < taps.size() ? &taps[index] : nullptr;
}

/// What cannot be asked of the kernel, from the manifest.
void take_known(netmove::GuestInterface& interface, netmove::GuestInterface const& known) {
    interface.addresses = known.addresses;
    interface.routed = known.routed && interface.bridge.empty();
    interface.renewals = known.renewals;
}

/// The same interface of the guest, on the same tap.
bool is_nic_of(Nic const& nic, qmp::TapOption const& option, RunningLine const& running) {
    auto const tap = running.taps.find(option.id);
    return nic.interface.netdev == option.id &&
           (tap == running.taps.end() || tap->second == nic.tap.name());
}

Task<void> watch_addresses(netmove::AddressWatcher& watcher, std::stop_token stop) {
    auto ended = co_await watcher.run(stop);
    if (!ended)
        core::log::warning("watching the guest's addresses ended: {}", ended.error().sentence());
}

}  // namespace

Task<Result<>> Guest::find_nics(AttachOptions options, Json manifest) {
    auto const deadline = Deadline::after(limits::qmp_timeout);
    auto running =
        co_await running_line(*client, process.pid(), command_line, working_directory, deadline);
    if (!running) {
        if (running.error().code != Errc::refused) co_return std::unexpected(running.error());
        core::log::warning("guest={} {}", name, running.error().sentence());
        running = RunningLine{command_line};
    }
    CO_TRY(auto given, parse_addresses(options.addresses));
    CO_TRY_VOID(co_await renew_nics(*running));
    auto const recorded = manifest["interfaces"].elements();
    for (auto const& nic : nics) {
        for (auto const& entry : recorded) {
            auto const known = netmove::GuestInterface::from_json(entry);
            if (known && known->netdev == nic->interface.netdev) take_known(nic->interface, *known);
        }
        if (nic->interface.routed && !given.empty()) {
            co_return fail(Errc::refused,
                           "the addresses of the routed guest {} are those that `sidecar run` got: "
                           "leave --address out",
                           name);
        }
    }
    if (!nics.empty() && !given.empty()) nics.front()->interface.addresses = given;
    co_return Result<>{};
}

Task<Result<>> Guest::renew_nics(RunningLine running) {
    auto const options = running.line.taps();
    bool const same = std::ranges::equal(options, nics, [&](auto const& option, auto const& nic) {
        return is_nic_of(*nic, option, running);
    });
    if (same) co_return Result<>{};
    if (!netlink) {
        CO_TRY(auto socket, netmove::Netlink::open());
        netlink = std::make_unique<netmove::Netlink>(std::move(socket));
    }
    CO_TRY(auto taps, netmove::Tap::duplicate_from(process.pid()));
    std::vector<std::unique_ptr<Nic>> found(options.size());
    for (std::size_t index = 0; index < options.size(); ++index) {
        auto option = options[index];
        bool const known = std::ranges::any_of(
            nics, [&](auto const& nic) { return is_nic_of(*nic, option, running); });
        if (known) continue;
        if (running.taps.contains(option.id)) option.ifname = running.taps.at(option.id);
        auto* const tap = tap_for(taps, option, index);
        if (tap == nullptr) {
            co_return fail(Errc::refused, "QEMU (process {}) holds no tap for netdev {}",
                           process.pid(), option.id);
        }
        CO_TRY(auto const mac, co_await mac_of(*client, option, index));
        CO_TRY(found[index], make_nic(loop, *netlink, option.id, mac, std::move(*tap)));
    }
    take_nics(options, running, std::move(found));
    co_return Result<>{};
}

void Guest::take_nics(std::vector<qmp::TapOption> const& options, RunningLine const& running,
                      std::vector<std::unique_ptr<Nic>> found) {
    for (std::size_t index = 0; index < options.size(); ++index) {
        if (found[index]) {
            core::log::info("guest={} netdev={} tap={} is the guest's", name, options[index].id,
                            found[index]->tap.name());
            if (watching_ != nullptr)
                watching_->spawn(watch_addresses(*found[index]->watcher, watch_stop_));
            continue;
        }
        auto const known = std::ranges::find_if(
            nics, [&](auto const& nic) { return nic && is_nic_of(*nic, options[index], running); });
        found[index] = std::move(*known);
    }
    for (auto& nic : nics) {
        if (!nic) continue;
        // Our descriptors would keep a tap that QEMU has closed.
        auto const closed = std::move(nic->tap);
        core::log::info("guest={} netdev={} tap={} was unplugged", name, nic->interface.netdev,
                        nic->interface.tap);
        unplugged_.push_back(std::move(nic));
    }
    nics = std::move(found);
}

Task<void> Guest::watch(std::stop_token token) {
    core::TaskGroup scope(loop);
    watching_ = &scope;
    watch_stop_ = token;
    for (auto& nic : nics) scope.spawn(watch_addresses(*nic->watcher, token));
    co_await scope.join();
    watching_ = nullptr;
}

void Guest::take_in_addresses() {
    for (auto& nic : nics) {
        auto& known = nic->interface.addresses;
        if (nic->interface.routed) continue;
        for (auto const& seen : nic->watcher->addresses()) {
            bool const have = std::find(known.begin(), known.end(), seen) != known.end();
            if (!have && known.size() < netmove::interface_addresses_max) known.push_back(seen);
        }
        nic->interface.router = nic->watcher->router();
    }
}

}  // namespace sidecar
