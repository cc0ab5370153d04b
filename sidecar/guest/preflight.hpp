// Receiving: how a source's interfaces map to this host, and the checks that change nothing. Used
// by the destination before it creates anything. Everything in a Description is remote input.
#pragma once

#include <string>
#include <vector>

#include "netmove/netlink.hpp"
#include "sidecar/guest/description.hpp"
#include "sidecar/host/settings.hpp"
#include "storage/destination_image.hpp"

namespace sidecar {

/// The subnets of a bridge of this host ("192.0.2.0/24"), by its global addresses; none: there is
/// no such bridge.
core::Result<std::optional<std::vector<std::string>>> subnets_of(netmove::Netlink& netlink,
                                                                 std::string const& bridge);

/// The VXLAN ends of this host, one for each interface, or null: what `check` answers.
core::Result<std::vector<std::optional<netmove::VxlanEnd>>> vxlan_ends_here(
    HostMaps const& maps, Description const& description);

/// The source's interfaces with this host's bridge and tap names, and routes newer than the
/// source's. A tap name that is in use here is replaced by a free one.
core::Result<std::vector<netmove::GuestInterface>> map_interfaces(
    netmove::Netlink& netlink, HostMaps const& maps,
    std::vector<netmove::GuestInterface> interfaces);

/// Fails with refused if this host does not run the guest's command line, or does not let it use
/// its files; the sentence names every option or file. Logs it. Looks at nothing else.
core::Result<> check_allowed(Paths const& paths, HostMaps const& maps,
                             Description const& description);

/// What is different here and does not keep the guest away: what its images lose, and firmware of
/// another content. One sentence for each.
core::Task<std::vector<std::string>> arrival_warnings(core::Loop& loop, HostMaps const& maps,
                                                      Description const& description,
                                                      core::Deadline deadline);

/// What an earlier migration of the guest left here, and what is removed before anything of this
/// one is created.
struct Leftovers {
    std::vector<storage::DestinationImage> images = {};
    bool tpm = false;  ///< A state of its TPM.
};

/// Fails with refused, saying what to do, if this host cannot receive the guest: as
/// check_allowed(), no QEMU or machine type, a file missing, an image in the way, a device that may
/// not be overwritten, no swtpm for its TPM, too little disk or memory, no bridge, no privilege.
/// Changes nothing.
core::Task<core::Result<>> preflight(core::Loop& loop, Paths const& paths, HostMaps const& maps,
                                     Description const& description, Leftovers leftovers,
                                     core::Deadline deadline);

}  // namespace sidecar
