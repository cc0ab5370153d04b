// A lab whose guests' network is stretched by VXLAN: the wires of both hosts are its underlay, and
// the client sits behind a third VTEP, host c, where no guest ever is. The devices do not learn;
// their tables are written here as whoever runs such a network does.
#pragma once

#include "tests/support/lab.hpp"

namespace lab {

/// Makes it so, the guest being on host a; before any sidecar is there (SceneOptions::furnish).
void stretch(Lab const& lab);
/// The third VTEP of such a lab.
Host third_vtep(Lab const& lab);
/// Where a host's VXLAN device sends the guest's frames; empty when it has no entry for it.
std::string guest_vtep(Host const& host);

}  // namespace lab
