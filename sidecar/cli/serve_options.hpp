// What a host does with guests that arrive: the options of `serve` that the process of each guest
// gets too, as CLI11 fills them in, and their conversion into ServeOptions. Used by options.cpp.
// Nothing here has touched the system yet.
#pragma once

#include <string>
#include <vector>

#include "sidecar/host/settings.hpp"

namespace CLI {
class App;
}

namespace sidecar {

/// Must live as long as the Apps that it was added to.
class ServeFlags {
public:
    void add_to(CLI::App& app);
    /// Sets all of them, checked. Fails with invalid.
    core::Result<> finish(ServeOptions& into) const;

private:
    [[nodiscard]] core::Result<HostMaps> maps() const;

    std::vector<std::string> map_paths_;
    std::vector<std::string> map_bridges_;
    std::vector<std::string> map_addresses_;
    std::vector<std::string> programs_;
    std::vector<std::string> paths_;
    std::vector<std::string> bridges_;
    std::vector<std::string> devices_;
    std::string swtpm_;
    std::string disk_command_;
    std::string libvirt_uri_;
    std::string data_ports_ = ServeOptions().data_ports.text();
};

}  // namespace sidecar
