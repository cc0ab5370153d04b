// The part of `sidecar serve` for guests on other hosts. This host is a VTEP of their VXLAN; their
// source reports to it where they are. The other end of vteps.hpp.
#pragma once

#include <memory>
#include <stop_token>

#include "sidecar/channel/connection.hpp"

namespace sidecar {

/// Answers an authenticated source until it hangs up. Keeps no state afterwards.
core::Task<core::Result<>> serve_vtep(core::Loop& loop, std::unique_ptr<Messages> source,
                                      std::stop_token token);

}  // namespace sidecar
