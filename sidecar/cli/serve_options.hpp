// --map-path, --allow-path and the other options of `serve` that say what a guest of another host
// may use here: as CLI11 fills them in, and their conversion into HostMaps. Used by options.cpp.
// Nothing here has touched the system yet.
#pragma once

#include <string>
#include <vector>

#include "sidecar/host/settings.hpp"

namespace CLI {
class App;
}

namespace sidecar {

/// Must live as long as the App that it was added to.
class ServeFlags {
public:
    void add_to(CLI::App& app);
    /// Checked. Fails with invalid.
    [[nodiscard]] core::Result<HostMaps> finish() const;

private:
    std::vector<std::string> map_paths_;
    std::vector<std::string> map_bridges_;
    std::vector<std::string> programs_;
    std::vector<std::string> paths_;
    std::vector<std::string> bridges_;
    std::vector<std::string> devices_;
};

}  // namespace sidecar
