// How a peer that ends looks to the other end of its connection. Used by PeerChannel and `serve`.
#pragma once

#include <cerrno>

#include "core/result.hpp"

namespace sidecar {

/// Whether `error`, of a stream, says that the other end hung up. A reset instead of an end of the
/// stream: it had not read all that was sent to it.
inline bool hung_up(core::Error const& error) {
    return error.code == core::Errc::closed || error.os == ECONNRESET || error.os == EPIPE;
}

}  // namespace sidecar
