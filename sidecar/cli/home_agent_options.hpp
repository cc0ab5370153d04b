// The options of `sidecar home-agent` and its configuration: who may register which home address.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "netmove/mobile_ipv6/binding_cache.hpp"
#include "netmove/network.hpp"

namespace CLI {
class App;
}

namespace sidecar {

struct HomeAgentCommand {
    enum class Action { run, status };
    Action action = Action::run;
    std::string link;  ///< `status`: empty: all of this host.
    netmove::HostAddress address;
    std::optional<netmove::Address> ipv4_address;
    std::string config;  ///< A file.
    bool check_only = false;
    bool plaintext = false;
    bool json = false;
};

/// The values that CLI11 fills in; finish() makes HomeAgentCommand of them.
class HomeAgentFlags {
public:
    void add_to(CLI::App& home_agent);
    core::Result<HomeAgentCommand> finish() const;

private:
    CLI::App* status_ = nullptr;
    HomeAgentCommand options_;
    std::string address_;
    std::string ipv4_address_;
};

/// A configuration is no longer: 65,536 lines of 128 bytes.
constexpr std::size_t home_agent_config_bytes_max = 8U << 20U;

/// One permission a line: HOME-ADDRESS [ipv4 ADDRESS] [from PREFIX]...; from # on a line is a
/// comment. Fails with invalid, naming the line.
core::Result<std::vector<netmove::mobile_ipv6::Permission>> parse_permissions(
    std::string const& text, std::string const& file);

}  // namespace sidecar
