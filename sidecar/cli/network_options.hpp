// The options of `sidecar network` and its commands: what the command line says, checked for shape.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "netmove/network.hpp"

namespace CLI {
class App;
}

namespace sidecar {

struct NetworkOptions {
    enum class Action { create, list, show, check, remove };
    Action action = Action::list;
    std::string name;  ///< Empty: all networks, if the action supports that.
    /// `create`: none if only the name was given; the network is then made as it
    /// was defined before.
    std::optional<netmove::NetworkDefinition> definition;
    bool force = false;
    bool json = false;
};

/// The values that CLI11 fills in; finish() makes NetworkOptions of them.
class NetworkFlags {
public:
    void add_to(CLI::App& network);
    core::Result<NetworkOptions> finish() const;

private:
    void add_create(CLI::App& network);

    CLI::App* create_ = nullptr;
    CLI::App* list_ = nullptr;
    CLI::App* show_ = nullptr;
    CLI::App* check_ = nullptr;
    CLI::App* delete_ = nullptr;
    NetworkOptions options_;
    bool ipv4_ = false;
    bool ipv6_ = false;
    bool native_ = false;
    bool parallel_ = false;
    std::string uplink_;
    std::string shared_uplink_;
    std::vector<std::string> addresses_;
    std::vector<std::string> allowed_;
};

}  // namespace sidecar
