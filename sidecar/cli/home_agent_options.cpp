#include "sidecar/cli/home_agent_options.hpp"

#include <CLI/CLI.hpp>

#include <algorithm>
#include <sstream>
#include <unordered_map>

namespace sidecar {

using core::Errc;
using core::fail;
using core::Result;
using netmove::Address;
using netmove::HostAddress;
using netmove::mobile_ipv6::AddressHash;
using netmove::mobile_ipv6::Permission;

namespace {

std::vector<std::string> words_of(std::string const& line) {
    std::istringstream in(line.substr(0, line.find('#')));
    std::vector<std::string> words;
    for (std::string word; in >> word;) words.push_back(word);
    return words;
}

Result<Address> parse_home(std::string const& text) {
    TRY(auto const home, Address::parse(text));
    if (!home.is_ipv6() || !home.is_host() || home.is_link_local()) {
        return fail(Errc::invalid, "a home address is an IPv6 address of one host, and not {}",
                    text);
    }
    return home;
}

Result<Address> parse_ipv4_home(std::string const& text) {
    TRY(auto const home, Address::parse(text));
    if (!home.is_ipv4() || !home.is_host() || home.is_link_local()) {
        return fail(Errc::invalid, "an IPv4 home address is one of a host, and not {}", text);
    }
    return home;
}

Result<Permission> parse_permission(std::vector<std::string> const& words) {
    Permission made;
    TRY(made.home, parse_home(words[0]));
    for (std::size_t at = 1; at < words.size(); at += 2) {
        auto const& what = words[at];
        if (what != "ipv4" && what != "from") {
            return fail(
                Errc::invalid,
                "`{}` is not known here: write HOME-ADDRESS [ipv4 ADDRESS] [from PREFIX]...", what);
        }
        if (at + 1 == words.size())
            return fail(Errc::invalid, "after `{}` something is missing", what);
        auto const& value = words[at + 1];
        if (what == "from") {
            TRY(auto const prefix, HostAddress::parse(value));
            made.care_of_prefixes.emplace_back(prefix.address, prefix.prefix_length);
            continue;
        }
        if (made.ipv4_home) return fail(Errc::invalid, "a second IPv4 home address, {}", value);
        TRY(made.ipv4_home, parse_ipv4_home(value));
    }
    return made;
}

/// Each home address belongs to one mobile node.
class FirstUses {
public:
    Result<> note(Address const& address, std::size_t line) {
        auto const [at, is_new] = lines_.emplace(address, line);
        if (is_new) return {};
        return fail(Errc::invalid, "{} is in line {} already", address.text(), at->second);
    }

private:
    std::unordered_map<Address, std::size_t, AddressHash> lines_;
};

}  // namespace

Result<std::vector<Permission>> parse_permissions(std::string const& text,
                                                  std::string const& file) {
    std::vector<Permission> made;
    FirstUses uses;
    std::istringstream in(text);
    std::size_t number = 0;
    auto const in_line = [&](auto result) {
        if (!result) {
            (void)result.error().while_doing(fmt::format("reading line {} of {}", number, file));
        }
        return result;
    };
    for (std::string line; std::getline(in, line);) {
        ++number;
        auto const words = words_of(line);
        if (words.empty()) continue;
        TRY(auto permission, in_line(parse_permission(words)));
        TRY_VOID(in_line(uses.note(permission.home, number)));
        if (permission.ipv4_home) TRY_VOID(in_line(uses.note(*permission.ipv4_home, number)));
        made.push_back(std::move(permission));
    }
    return made;
}

void HomeAgentFlags::add_to(CLI::App& home_agent) {
    home_agent.require_subcommand(0, 1);
    home_agent.add_option("--link", options_.link, "The home link: an interface of this router");
    home_agent.add_option("--address", address_,
                          "ADDRESS/LENGTH of this router on the home link: the home agent's");
    home_agent.add_option("--ipv4-address", ipv4_address_,
                          "Address of this router for mobile nodes in IPv4 networks");
    home_agent.add_option("--config", options_.config,
                          "File with the home addresses that may be registered, and from where");
    home_agent.add_flag("--plaintext", options_.plaintext,
                        "Accept updates without authentication: for networks you trust");
    home_agent.add_flag("--check", options_.check_only,
                        "Check options, configuration and host, change nothing, and end");
    status_ = home_agent.add_subcommand("status", "The bindings of the home agents of this host");
    status_->add_flag("--json", options_.json, "As JSON");
}

Result<HomeAgentCommand> HomeAgentFlags::finish() const {
    auto made = options_;
    if (status_->parsed()) {
        made.action = HomeAgentCommand::Action::status;
        return made;
    }
    if (made.link.empty() || address_.empty() || made.config.empty()) {
        return fail(Errc::invalid,
                    "`home-agent` needs --link, --address and --config; or it is `home-agent "
                    "status`");
    }
    TRY(made.address, HostAddress::parse(address_));
    if (!made.address.address.is_ipv6()) {
        return fail(Errc::invalid, "--address is an IPv6 address with a prefix length, and not {}",
                    address_);
    }
    if (!ipv4_address_.empty()) {
        TRY(made.ipv4_address, Address::parse(ipv4_address_));
        if (!made.ipv4_address->is_ipv4() || !made.ipv4_address->is_host()) {
            return fail(Errc::invalid,
                        "--ipv4-address is an IPv4 address of this router, and not {}",
                        ipv4_address_);
        }
    }
    if (!made.plaintext) {
        return fail(Errc::invalid,
                    "choose how mobile nodes authenticate: only --plaintext is there, which "
                    "accepts updates from every sender that a line of the configuration allows");
    }
    return made;
}

}  // namespace sidecar
