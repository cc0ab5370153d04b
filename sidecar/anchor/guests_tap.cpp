#include "sidecar/anchor/guests_tap.hpp"

#include "sidecar/guest/guest.hpp"

namespace sidecar {

using core::Errc;
using core::fail;
using core::Result;
using netmove::Tap;

Result<Tap> tap_of_guest(Paths const& paths, std::string const& guest,
                         protocol::AnchorEnd const& end) {
    TRY(auto const manifest, read_manifest(paths, guest));
    if (manifest.is_null()) {
        return fail(Errc::refused, "no guest {} is known on this host", guest);
    }
    bool named = false;
    for (auto const& one : manifest["interfaces"].elements()) {
        named = named ||
                (one["tap"].text_or("") == end.tap && one["mac"].text_or("") == end.mac.text());
    }
    if (!named) {
        return fail(Errc::refused, "the guest {} has no interface {} with the tap {} on this host",
                    guest, end.mac.text(), end.tap);
    }
    TRY(auto const qemu, core::Process::open(core::ProcessIdentity::from_json(manifest)));
    TRY(auto taps, Tap::duplicate_from(qemu.pid()));
    for (auto& tap : taps) {
        if (tap.name() == end.tap) return std::move(tap);
    }
    return fail(Errc::refused, "QEMU of {} (process {}) does not hold the tap {}", guest,
                qemu.pid(), end.tap);
}

Result<AnchorTap> description_of(netmove::Netlink& netlink, Tap const& tap,
                                 netmove::Link const& link) {
    if (link.master == 0) {
        return fail(Errc::refused,
                    "the tap {} is in no bridge: there is no network that an anchor could keep",
                    tap.name());
    }
    TRY(auto const bridge, netlink.link(link.master));
    AnchorTap made{tap.name(), tap.queues(),      tap.vnet_hdr(), link.mac,
                   link.mtu,   link.queue_length, bridge.name};
    TRY(made.port, netmove::port_settings(netlink, tap.name()));
    return made;
}

}  // namespace sidecar
