// A lab whose host b is in another subnet: a router is between it and the network of host a and the
// client, so no frame of that network reaches it.
#pragma once

#include "tests/support/lab.hpp"

namespace lab {

/// Builds this network; before any sidecar runs (SceneOptions::furnish). Host b keeps its
/// addresses, as a host route, so that a scene names it as in each lab; its bridge has no wire.
void separate(Lab const& lab);

}  // namespace lab
