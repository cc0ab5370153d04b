// --network, --anchor and --local-address, with the options that belong to them, of `migrate`: as
// CLI11 fills them in, and their conversion into MigrateOptions. Used by options.cpp. Nothing here
// has touched the system yet.
#pragma once

#include <string>
#include <vector>

#include "netmove/anchor_vxlan.hpp"
#include "sidecar/host/settings.hpp"

namespace CLI {
class App;
}

namespace sidecar {

/// Must live as long as the App that it was added to.
class MoveFlags {
public:
    void add_to(CLI::App& app);
    /// Sets `network`, `anchor_host` and `local`, checked. Fails with invalid.
    core::Result<> finish(MigrateOptions& into) const;

private:
    core::Result<> finish_vxlan(MigrateOptions& into) const;
    std::string network_ = "auto";
    std::string anchor_host_;
    std::string anchor_plane_ = "udp";
    int vxlan_port_ = netmove::vxlan_port_default;
    std::vector<std::string> addresses_;
    std::vector<std::string> home_subnets_;
    std::string new_sessions_ = "home";
    bool release_when_idle_ = false;
};

}  // namespace sidecar
