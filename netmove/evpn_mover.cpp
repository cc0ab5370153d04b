#include "netmove/evpn_mover.hpp"

#include <linux/neighbour.h>

#include <cerrno>
#include <optional>
#include <set>

#include "core/log.hpp"
#include "netmove/redirect.hpp"
#include "netmove/vxlan_mover.hpp"

namespace netmove {

using core::Errc;
using core::fail;
using core::Result;

namespace {

/// A bridge without IPv6 has no IPv6 neighbours; the guest's MAC address is announced all the same.
bool without_ipv6(Address const& address, core::Error const& error) {
    return address.is_ipv6() && (error.os == EINVAL || error.os == EAFNOSUPPORT);
}

class EvpnHalf : public Mover {
public:
    EvpnHalf(Netlink& netlink, GuestInterface interface)
        : netlink_(netlink), interface_(std::move(interface)) {}

    [[nodiscard]] std::string_view name() const override { return "evpn"; }
    [[nodiscard]] std::vector<std::string> moves() const override {
        std::vector<std::string> out{interface_.mac.text()};
        for (auto const& entry : interface_.addresses) out.push_back(entry.address.text());
        return out;
    }
    void update(GuestInterface const& now) override { interface_.addresses = now.addresses; }

    core::Task<Result<>> prepare(core::Deadline) override { co_return look(); }

protected:
    /// The other VTEP.
    [[nodiscard]] virtual std::optional<VxlanEnd> const& remote() const = 0;

    Result<> look() {
        TRY_VOID(check_vxlan_ends(interface_));
        TRY_VOID(find_device());
        TRY_VOID(check_vxlan_mtu(netlink_, *device_,
                                 remote() ? remote()->local : std::optional<Address>{},
                                 interface_.mtu));
        TRY(auto const all, netlink_.neighbours(device_->master));
        for (auto const& entry : all) {
            bool const own = entry.mac == interface_.mac;
            if (entry.permanent() || (entry.mac && !own)) {
                not_ours_.insert(entry.address);
            } else if (own && !entry.external) {
                before_.insert(entry.address);
            }
        }
        prepare_redirect();
        prepared_ = true;
        return {};
    }

    Result<> find_device() {
        if (device_) return {};
        TRY(device_, evpn_port(netlink_, interface_.bridge));
        return {};
    }

    // Frames that enter a network of one protocol must pass its rules, which a redirect would not.
    void prepare_redirect() {
        if (!interface_.network.empty()) return;
        auto made = Redirect::prepare(device_->name, interface_.tap);
        if (made) {
            redirect_ = std::move(*made);
            return;
        }
        core::log::warning(
            "interface={} frames that other VTEPs send to the guest in the moment in which EVPN "
            "moves it may be lost: {}",
            interface_.netdev, made.error().sentence());
    }

    Result<> begin_redirect() {
        if (!redirect_) return {};
        return redirect_->begin(interface_.mac);
    }

    /// The entries from which FRR announces the addresses.
    Result<> write_neighbours() {
        for (auto const& [address, vlan] : interface_.addresses) {
            if (vlan != 0 || not_ours_.contains(address)) continue;
            auto written =
                netlink_.replace_neighbour(device_->master, address, interface_.mac, NUD_REACHABLE);
            if (!written && !without_ipv6(address, written.error())) return written;
        }
        return {};
    }

    /// The entries of the guest that are not FRR's and not an operator's, without those in `kept`.
    Result<> delete_neighbours(std::set<Address> const& kept) {
        TRY(auto const all, netlink_.neighbours(device_->master));
        Result<> first;
        for (auto const& entry : all) {
            if (entry.mac != interface_.mac || entry.external || entry.permanent()) continue;
            if (kept.contains(entry.address)) continue;
            auto const deleted = netlink_.delete_neighbour(device_->master, entry.address);
            if (!deleted && first) first = std::unexpected(deleted.error());
        }
        return first;
    }

    Netlink& netlink_;
    GuestInterface interface_;
    std::optional<Link> device_;
    /// Addresses with an operator's entry; and those of other stations, which a guest must not get
    /// by claiming them.
    std::set<Address> not_ours_;
    std::set<Address> before_;  ///< The host's own, as prepare() found them.
    std::optional<Redirect> redirect_;
    bool prepared_ = false;
    bool fired_ = false;
};

class EvpnSource final : public EvpnHalf {
public:
    using EvpnHalf::EvpnHalf;

    Result<> fire() override {
        TRY_VOID(find_device());
        fired_ = true;
        return begin_redirect();
    }

    bool may_release() override {
        if (!find_device()) return true;
        auto const entry = netlink_.fdb_entry(device_->master, interface_.mac);
        return entry && (!*entry || (*entry)->port == device_->index);
    }

    Result<> release() override {
        TRY_VOID(find_device());
        return delete_neighbours({});
    }

    core::Task<Result<>> settle(core::Deadline) override {
        redirect_.reset();
        co_return release();
    }

    // The bridge mover has written the bridge's entry. The redirect stays: it leads to the guest.
    Result<> rollback() override {
        if (prepared_ && !fired_) return {};
        TRY_VOID(find_device());
        return write_neighbours();
    }

    // FRR may learn of the destination's announcement only now. It takes the guest back when the
    // bridge mover announces it again, with a number that is higher than that one's.
    bool is_back() override {
        if (!find_device()) return true;
        auto const entry = netlink_.fdb_entry(device_->master, interface_.mac);
        return !entry || !*entry || (*entry)->port != device_->index;
    }

private:
    [[nodiscard]] std::optional<VxlanEnd> const& remote() const override {
        return interface_.vxlan_destination;
    }
};

class EvpnDestination final : public EvpnHalf {
public:
    using EvpnHalf::EvpnHalf;

    Result<> fire() override {
        TRY_VOID(find_device());
        fired_ = true;
        TRY_VOID(write_neighbours());
        return begin_redirect();
    }

    core::Task<Result<>> settle(core::Deadline) override {
        redirect_.reset();
        co_return Result<>{};
    }

    Result<> rollback() override {
        if (prepared_ && !fired_) return {};
        TRY_VOID(find_device());
        return delete_neighbours(before_);
    }

private:
    [[nodiscard]] std::optional<VxlanEnd> const& remote() const override {
        return interface_.vxlan_source;
    }
};

}  // namespace

Result<Link> evpn_port(Netlink& netlink, std::string const& bridge) {
    TRY(auto device, vxlan_port(netlink, bridge));
    if (!device) {
        return fail(Errc::refused, "the bridge {} has no VXLAN device of its own (one VNI)",
                    bridge);
    }
    if (device->vxlan->learning) {
        return fail(Errc::refused,
                    "the VXLAN device {} learns from packets, and EVPN cannot control it: make it "
                    "with `nolearning`",
                    device->name);
    }
    if (device->port && device->port->learning) {
        return fail(Errc::refused,
                    "the bridge {0} learns from what {1} brings, before EVPN says so: `bridge link "
                    "set dev {1} learning off`",
                    bridge, device->name);
    }
    TRY(auto const own, netlink.link(device->master));
    if (own.vlan_filtering) {
        return fail(Errc::refused,
                    "the bridge {} filters VLANs: guests of an EVPN fabric need a bridge of their "
                    "own for each VNI",
                    bridge);
    }
    return *std::move(device);
}

Result<bool> evpn_knows(Netlink& netlink, std::string const& bridge, MacAddress const& guest) {
    auto const device = evpn_port(netlink, bridge);
    if (!device && device.error().code == Errc::refused) return false;
    if (!device) return std::unexpected(device.error());
    TRY(auto const entry, netlink.fdb_entry(device->master, guest));
    return entry && (entry->external || entry->port != device->index);
}

std::unique_ptr<Mover> evpn_mover_source(Netlink& netlink, GuestInterface const& interface) {
    return std::make_unique<EvpnSource>(netlink, interface);
}

std::unique_ptr<Mover> evpn_mover_destination(Netlink& netlink, GuestInterface const& interface) {
    return std::make_unique<EvpnDestination>(netlink, interface);
}

}  // namespace netmove
