// --dns-name and the options that belong to it, of `migrate` and `failover`: as CLI11 fills them
// in, and their conversion into DnsOptions. Used by options.cpp. Nothing here has touched the
// system yet.
#pragma once

#include "sidecar/host/settings.hpp"

namespace CLI {
class App;
}

namespace sidecar {

/// Must live as long as the App that it was added to.
class DnsFlags {
public:
    void add_to(CLI::App& app);
    /// The options, checked, with the key's file as an absolute path; no name if none was given.
    /// Fails with invalid.
    [[nodiscard]] core::Result<DnsOptions> finish() const;

private:
    DnsOptions options_;
    int ttl_ = 0;  ///< 0: not given.
};

}  // namespace sidecar
