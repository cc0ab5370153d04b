// ask_serve(): one request to the `serve` of this host, over its socket. Used by the sidecars of
// guests and by commands.
#pragma once

#include "core/stream.hpp"
#include "sidecar/channel/connection.hpp"
#include "sidecar/channel/protocol_anchor.hpp"
#include "sidecar/host/paths.hpp"

namespace sidecar {

/// Opens a connection for this request. Fails with refused if no `serve` runs on this host, and
/// with the error that it answers.
template <class Request>
core::Task<core::Result<typename Request::Answer>> ask_serve(core::Loop& loop, Paths paths,
                                                             Request request,
                                                             core::Deadline deadline) {
    auto socket = co_await core::connect_unix(loop, paths.serve_socket(), deadline);
    if (!socket) {
        co_return core::fail(core::Errc::refused,
                             "an anchor needs `sidecar serve` on this host, and none answers ({})",
                             socket.error().what);
    }
    Messages messages(core::plain_stream(loop, std::move(*socket), "`sidecar serve`"));
    co_return co_await messages.ask(std::move(request), std::move(deadline));
}

}  // namespace sidecar
