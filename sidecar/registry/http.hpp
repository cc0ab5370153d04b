// HTTP POST on the loop, by libcurl: one request, whole or as a stream. Used by EtcdRegistry.
// Invariant: when a request has returned, nothing of it is left: no socket, no timer, no callback.
#pragma once

#include <functional>
#include <string>
#include <string_view>

#include "core/loop.hpp"

namespace sidecar::registry {

struct HttpRequest {
    std::string host;  ///< A name, or an address without brackets.
    std::string port;
    std::string path;  ///< "/v3/kv/range"
    std::string body;  ///< JSON
    /// TLS, with ca-cert.pem, client-cert.pem and client-key.pem of this directory; empty: without.
    std::string tls_directory = {};
};

enum class Continue : bool { no, yes };
/// Gets the body of the answer in pieces. With Continue::no the request ends, without an error.
using BodySink = std::function<Continue(std::string_view piece)>;

/// Sends the request, and returns the status of the answer when its body has ended. Environment
/// variables for proxies are ignored; redirects are not followed. Fails with io or closed (not
/// reached, or the connection was lost), refused (TLS: one side does not accept the other),
/// timed_out, cancelled.
core::Task<core::Result<int>> http_post(core::Loop& loop, HttpRequest request, BodySink sink,
                                        core::Deadline deadline);

}  // namespace sidecar::registry
