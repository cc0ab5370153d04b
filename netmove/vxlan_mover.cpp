#include "netmove/vxlan_mover.hpp"

#include <linux/neighbour.h>

#include <utility>

namespace netmove {

using core::Errc;
using core::fail;
using core::Json;
using core::Result;

namespace {

// Neither ages nor is moved by what a device learns; not QEMU's nor the bridge's: `bridge fdb`
// shows it as static.
constexpr int static_state = NUD_NOARP | NUD_REACHABLE;
constexpr std::uint32_t vni_max = (1U << 24) - 1;
constexpr int mtu_min = 68;
constexpr int mtu_max = 65'521;

bool is_static(VxlanEntry const& entry) { return (entry.state & (NUD_NOARP | NUD_PERMANENT)) != 0; }

/// What the device and its bridge answer for the guest (proxy, suppression of ARP and ND), without
/// what another program manages.
Result<std::vector<Neighbour>> neighbours_of(Netlink& netlink, Link const& device,
                                             MacAddress const& mac) {
    std::vector<Neighbour> out;
    for (int const link : {device.index, device.master}) {
        if (link == 0) continue;
        TRY(auto const all, netlink.neighbours(link));
        for (auto const& entry : all) {
            if (entry.mac == mac && !entry.permanent() && !entry.external) out.push_back(entry);
        }
    }
    return out;
}

Result<> confirm(Netlink& netlink, std::vector<Neighbour> const& neighbours) {
    for (auto const& entry : neighbours) {
        TRY_VOID(netlink.refresh_neighbour(entry.link, entry.address, *entry.mac, NUD_REACHABLE));
    }
    return {};
}

/// What the hosts the guest leaves and comes to have in common.
class VxlanHalf : public Mover {
public:
    VxlanHalf(Netlink& netlink, GuestInterface interface)
        : netlink_(netlink), interface_(std::move(interface)) {}

    [[nodiscard]] std::string_view name() const override { return "vxlan"; }
    [[nodiscard]] std::vector<std::string> moves() const override {
        return {interface_.mac.text()};
    }
    void update(GuestInterface const&) override {}

    core::Task<Result<>> prepare(core::Deadline) override { co_return look(); }
    core::Task<Result<>> settle(core::Deadline) override { co_return Result<>{}; }

protected:
    /// The other VTEP; none: it did not say where it is, and nothing here names it.
    [[nodiscard]] virtual std::optional<Address> remote() const = 0;

    /// Notes what is there; changes nothing.
    Result<> look() {
        TRY_VOID(check_vxlan_ends(interface_));
        TRY_VOID(find_device());
        TRY_VOID(check_vxlan_mtu(netlink_, *device_, remote(), interface_.mtu));
        TRY(before_, netlink_.vxlan_entry(device_->index, interface_.mac));
        TRY(neighbours_, neighbours_of(netlink_, *device_, interface_.mac));
        noted_ = true;
        return {};
    }

    Result<> find_device() {
        if (device_) return {};
        TRY(device_, vxlan_port(netlink_, interface_.bridge));
        if (device_) return {};
        return fail(Errc::refused, "the bridge {} has no VXLAN device of its own any more",
                    interface_.bridge);
    }

    /// Prepared, and not fired: the guest may have moved elsewhere since.
    [[nodiscard]] bool untouched() const { return noted_ && !fired_; }
    [[nodiscard]] bool port_learns() const { return device_->port && device_->port->learning; }

    Netlink& netlink_;
    GuestInterface interface_;
    std::optional<Link> device_;
    std::optional<VxlanEntry> before_;  ///< As prepare() found it.
    std::vector<Neighbour> neighbours_;
    bool noted_ = false;
    bool fired_ = false;
};

class VxlanSourceHalf final : public VxlanHalf {
public:
    using VxlanHalf::VxlanHalf;

    Result<> fire() override {
        TRY_VOID(find_device());
        fired_ = true;
        if (!writes()) return {};
        return netlink_.write_vxlan_entry(device_->index,
                                          {interface_.mac, *remote(), 0, 0, static_state, 0});
    }

    // What this host's own stations send finds the guest through the tunnel. Written over the entry
    // at the tap, which the bridge mover would else delete.
    Result<> release() override {
        TRY_VOID(find_device());
        if (!port_learns()) TRY_VOID(netlink_.replace_fdb(device_->index, interface_.mac, true));
        return confirm(netlink_, neighbours_);
    }

    // The bridge's entry has gone back to the tap with the bridge mover.
    Result<> rollback() override {
        if (untouched()) return {};
        TRY_VOID(find_device());
        if (remote()) {
            TRY_VOID(netlink_.delete_vxlan_entry(device_->index, interface_.mac, *remote()));
        }
        if (before_) TRY_VOID(netlink_.write_vxlan_entry(device_->index, *before_));
        return {};
    }

private:
    [[nodiscard]] std::optional<Address> remote() const override {
        return interface_.vxlan_destination ? interface_.vxlan_destination->local : std::nullopt;
    }
    [[nodiscard]] bool writes() const {
        bool const somebody_wrote = before_ && is_static(*before_);
        return remote() && (!device_->vxlan->learning || somebody_wrote);
    }
};

class VxlanDestinationHalf final : public VxlanHalf {
public:
    using VxlanHalf::VxlanHalf;

    Result<> fire() override {
        TRY_VOID(find_device());
        fired_ = true;
        if (remote()) {
            TRY_VOID(netlink_.delete_vxlan_entry(device_->index, interface_.mac, *remote()));
        }
        return confirm(netlink_, neighbours_);
    }

    Result<> rollback() override {
        if (untouched()) return {};
        TRY_VOID(find_device());
        if (before_) return netlink_.write_vxlan_entry(device_->index, *before_);
        // Made after a restart: what was here is not known, and where the guest is, is.
        if (noted_ || device_->vxlan->learning || !remote()) return {};
        TRY(auto const now, netlink_.vxlan_entry(device_->index, interface_.mac));
        if (now) return {};
        if (!port_learns()) TRY_VOID(netlink_.replace_fdb(device_->index, interface_.mac, true));
        return netlink_.write_vxlan_entry(device_->index,
                                          {interface_.mac, *remote(), 0, 0, static_state, 0});
    }

private:
    [[nodiscard]] std::optional<Address> remote() const override {
        return interface_.vxlan_source ? interface_.vxlan_source->local : std::nullopt;
    }
};

Result<Address> vtep_from(Json const& json, std::string_view key) {
    TRY(auto const text, json.text(key));
    TRY(auto const address, Address::parse(text));
    if (!address.is_host()) return fail(Errc::protocol, "{} is not the address of a VTEP", text);
    return address;
}

}  // namespace

Result<std::optional<Link>> vxlan_port(Netlink& netlink, std::string const& bridge) {
    TRY(auto const found, netlink.find_link(bridge));
    if (!found) return std::optional<Link>{};
    TRY(auto const all, netlink.links());
    std::optional<Link> out;
    for (auto const& link : all) {
        if (link.master != found->index || !link.vxlan) continue;
        if (is_anchor_vni(link.vxlan->vni)) continue;  // of one guest that is away
        if (out || link.vxlan->external) return std::optional<Link>{};
        out = link;
    }
    return out;
}

Result<std::optional<VxlanEnd>> vxlan_end(Netlink& netlink, std::string const& bridge) {
    TRY(auto const port, vxlan_port(netlink, bridge));
    if (!port) return std::optional<VxlanEnd>{};
    return std::optional(VxlanEnd{port->vxlan->vni, port->vxlan->local, port->vxlan->learning});
}

Result<> check_vxlan_ends(GuestInterface const& interface) {
    auto const& source = interface.vxlan_source;
    auto const& destination = interface.vxlan_destination;
    if (!source && !destination) return {};
    if (!source || !destination) {
        // Announcements reach every device that learns, also through a bridge without VXLAN.
        if ((source ? source : destination)->learning) return {};
        return fail(Errc::refused,
                    "the bridge of {} is in VXLAN {} on the {}, whose device does not learn, and "
                    "in none on the other host: add a VXLAN device of that VNI to its bridge",
                    interface.netdev, (source ? source : destination)->vni,
                    source ? "source" : "destination");
    }
    if (source->vni != destination->vni) {
        return fail(Errc::refused,
                    "the bridge of {} is in VXLAN {} on the source and in VXLAN {} on the "
                    "destination: map it to a bridge of the same (`serve --map-bridge`)",
                    interface.netdev, source->vni, destination->vni);
    }
    if (source->learning && destination->learning) return {};
    for (auto const* end : {&*source, &*destination}) {
        if (end->local) continue;
        return fail(Errc::refused,
                    "the device of VXLAN {} on the {} does not say which address it uses: make it "
                    "with `local ADDRESS`, or let it learn",
                    end->vni, end == &*source ? "source" : "destination");
    }
    if (source->local->family() != destination->local->family() ||
        *source->local == *destination->local) {
        return fail(Errc::refused,
                    "the devices of VXLAN {} use {} on the source and {} on the destination: "
                    "neither can send to the other",
                    source->vni, source->local->text(), destination->local->text());
    }
    return {};
}

Result<> check_vxlan_mtu(Netlink& netlink, Link const& device, std::optional<Address> const& remote,
                         int mtu) {
    if (device.mtu < mtu) {
        return fail(Errc::refused,
                    "the VXLAN device {} has an MTU of {}, but the guest's interface uses {}: "
                    "raise it, or larger packets would be lost",
                    device.name, device.mtu, mtu);
    }
    if (!remote) return {};
    int const overhead = remote->is_ipv4() ? vxlan_overhead_ipv4 : vxlan_overhead_ipv6;
    TRY(auto const route, netlink.route(*remote));
    if (route.mtu >= mtu + overhead) return {};
    return fail(Errc::refused,
                "the way to the VTEP {} has an MTU of {} (on {}), but the guest's packets of {} "
                "bytes are {} with what VXLAN adds: raise it, or larger packets would be lost",
                remote->text(), route.mtu, route.link, mtu, mtu + overhead);
}

std::unique_ptr<Mover> vxlan_mover_source(Netlink& netlink, GuestInterface const& interface) {
    return std::make_unique<VxlanSourceHalf>(netlink, interface);
}

std::unique_ptr<Mover> vxlan_mover_destination(Netlink& netlink, GuestInterface const& interface) {
    return std::make_unique<VxlanDestinationHalf>(netlink, interface);
}

Json VxlanMove::to_json() const {
    return Json::object({{"mac", mac.text()},
                         {"vni", static_cast<std::int64_t>(vni)},
                         {"from", from.text()},
                         {"to", to.text()},
                         {"mtu", mtu}});
}

Result<VxlanMove> VxlanMove::from_json(Json const& json) {
    VxlanMove out;
    TRY(auto const mac, json.text("mac"));
    TRY(out.mac, MacAddress::parse(mac));
    TRY(auto const vni, json.integer("vni"));
    TRY(out.from, vtep_from(json, "from"));
    TRY(out.to, vtep_from(json, "to"));
    TRY(auto const mtu, json.integer("mtu"));
    bool const sane = out.mac.is_unicast() && vni >= 0 && vni <= vni_max && mtu >= mtu_min &&
                      mtu <= mtu_max && out.from.family() == out.to.family() && out.from != out.to;
    if (!sane) return fail(Errc::protocol, "that is not a move of a station in a VXLAN");
    out.vni = static_cast<std::uint32_t>(vni);
    out.mtu = static_cast<int>(mtu);
    return out;
}

Result<> VxlanVtep::find_device() {
    if (looked_) return {};
    TRY(auto const all, netlink_.links());
    for (auto const& link : all) {
        if (!link.vxlan || link.vxlan->external || link.vxlan->vni != move_.vni) continue;
        if (device_) {
            return fail(Errc::refused, "{} and {} are both devices of VXLAN {}: one must go",
                        device_->name, link.name, move_.vni);
        }
        device_ = link;
    }
    if (!device_) {
        return fail(Errc::refused, "there is no device of VXLAN {} on this host", move_.vni);
    }
    auto const& local = device_->vxlan->local;
    if (local && (*local == move_.from || *local == move_.to)) device_.reset();
    looked_ = true;
    return {};
}

core::Task<Result<>> VxlanVtep::prepare(core::Deadline) {
    CO_TRY_VOID(find_device());
    if (!device_) co_return Result<>{};
    CO_TRY_VOID(check_vxlan_mtu(netlink_, *device_, move_.to, move_.mtu));
    CO_TRY(neighbours_, neighbours_of(netlink_, *device_, move_.mac));
    co_return Result<>{};
}

Result<> VxlanVtep::turn(Address const& from, Address const& to) {
    TRY_VOID(find_device());
    if (!device_) return {};
    TRY(auto entry, netlink_.vxlan_entry(device_->index, move_.mac));
    if (!entry || entry->remote != from) return {};
    entry->remote = to;
    TRY(changed_, netlink_.change_vxlan_entry(device_->index, *entry));
    return {};
}

Result<> VxlanVtep::fire() {
    bool const before = changed_;
    TRY_VOID(turn(move_.from, move_.to));
    changed_ = changed_ || before;  // a repeated one finds nothing left to change
    fired_ = true;
    return confirm(netlink_, neighbours_);
}

core::Task<Result<>> VxlanVtep::settle(core::Deadline) { co_return Result<>{}; }

Result<> VxlanVtep::rollback() {
    if (fired_ && !changed_) return {};  // what says `to` did so before
    TRY_VOID(turn(move_.to, move_.from));
    return confirm(netlink_, neighbours_);
}

}  // namespace netmove
