// RegistryUrl: the URL of a registry, taken apart. Used by open_registry() and by the command line,
// which checks it before anything begins.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "core/result.hpp"

namespace sidecar::registry {

struct RegistryUrl {
    enum class Kind { file, etcd };
    Kind kind = Kind::file;
    std::string directory = {};  ///< file: absolute.
    std::vector<std::pair<std::string, std::string>> endpoints = {};  ///< etcd: {host, port}
    std::string prefix = {};  ///< etcd: of all keys, "/sidecar" by default.
    /// etcd over TLS: ca-cert.pem, client-cert.pem and client-key.pem; empty: without TLS.
    std::string tls_directory = {};

    /// Fails with invalid, in a sentence that says what to write.
    static core::Result<RegistryUrl> parse(std::string const& text);
};

}  // namespace sidecar::registry
