// --disk of `migrate`: as CLI11 fills it in, and its conversion into MigrateOptions. Used by
// options.cpp. Nothing here has touched the system yet.
#pragma once

#include <string>
#include <vector>

#include "sidecar/host/settings.hpp"

namespace CLI {
class App;
}

namespace sidecar {

/// Must live as long as the App that it was added to.
class DiskFlags {
public:
    void add_to(CLI::App& app);
    /// Fails with invalid: not ID=TARGET, a relative path, the same disk or path twice.
    [[nodiscard]] core::Result<std::vector<DiskTarget>> finish() const;

private:
    std::vector<std::string> disks_;
};

}  // namespace sidecar
