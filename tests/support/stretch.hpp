// A lab whose guests' network is stretched by VXLAN: the wires of both hosts are its underlay, and
// the client is connected to a third VTEP, host c, where no guest ever runs. The devices do not
// learn; this code writes their tables, as the operator of such a network does, or FRR by EVPN.
#pragma once

#include <memory>
#include <vector>

#include "tests/support/frr.hpp"

namespace lab {

/// Builds this network, with the guest on host a; before any sidecar runs (SceneOptions::furnish).
void stretch(Lab const& lab);
/// The same network, whose tables FRR writes on each of the three hosts.
class EvpnFabric {
public:
    /// Returns when each host floods to both others. Before any sidecar runs.
    void furnish(Lab const& lab);

private:
    std::vector<std::unique_ptr<Frr>> daemons_;
};
/// The third VTEP of such a lab.
Host third_vtep(Lab const& lab);
/// The VTEP to which a host's VXLAN device sends the guest's frames; empty without an entry for it.
std::string guest_vtep(Host const& host);

}  // namespace lab
