// Shared by the process tests of `sidecar home-agent`: a home link, its router, a visited network
// behind another router, and a mobile node there that is not ours (mobile_node.py).
//
//   correspondent --- home link --- agent --- middle --- mobile node
//   2001:db8:1::2     2001:db8:1::1, 192.0.2.1            2001:db8:2::10, 2001:db8:2::11
//   192.0.2.2         198.51.100.1            NAT or not  10.0.0.10
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "core/json.hpp"
#include "tests/process/netmove_lab.hpp"
#include "tests/support/lab.hpp"

namespace home_agent_lab {

using namespace netmove_lab;
using core::Json;

inline constexpr char const* agent_address = "2001:db8:1::1";
inline constexpr char const* home_address = "2001:db8:1::100";
inline constexpr char const* ipv4_home = "192.0.2.100";
inline constexpr char const* care_of = "2001:db8:2::10";
inline constexpr char const* other_care_of = "2001:db8:2::11";

/// The answer to a Binding Update.
struct Answer {
    int status = -1;  ///< -1: there was none.
    int sequence = 0;
    int lifetime = 0;  ///< Units of 4 s.
    std::string routing_home;
    double after_ms = 0;
    int ipv4_status = -1;
    Json json{};
};

/// What the mobile node's network is.
enum class Visited : std::uint8_t { ipv6, ipv4, ipv4_behind_nat };

class HomeNetwork {
public:
    explicit HomeNetwork(Visited visited = Visited::ipv6);
    ~HomeNetwork();

    /// `sidecar home-agent` with these words more, on the router; to its end.
    lab::Output command(std::vector<std::string> words) const;
    /// The command line that runs it.
    [[nodiscard]] std::vector<std::string> run_words() const;
    /// Starts it, and waits until it is ready.
    void start();
    void kill() { daemon_->kill(); }
    void end();
    /// Of `status --json`, of the only home agent.
    Json status() const;
    /// The binding of the home address in it; null: none.
    Json binding() const;
    std::int64_t dropped(std::string const& why) const;

    /// A command of mobile_node.py.
    Json node(Json const& command) const;
    /// A Binding Update: from care_of, unless `more` says otherwise.
    Answer update(int sequence, int lifetime, Json more = Json::object()) const;
    /// One over IPv4.
    Answer update4(int sequence, int lifetime) const;
    /// Waits until the binding's care-of address is this one; "": none is bound.
    void is_bound_at(std::string const& where) const;

    /// A shell command on the router, on the correspondent, ...; output. Must succeed.
    std::string on_agent(std::string const& command) const { return in(agent_, command); }
    std::string on_correspondent(std::string const& command) const {
        return in(correspondent_, command);
    }
    std::string on_middle(std::string const& command) const { return in(middle_, command); }
    std::string on_node(std::string const& command) const { return in(node_, command); }
    /// The correspondent's kernel sends echo requests; how many were answered.
    int pings(std::string const& to, int count, std::string const& options = "") const;

    [[nodiscard]] lab::fs::path const& directory() const { return directory_; }
    [[nodiscard]] lab::Daemon const& daemon() const { return *daemon_; }
    void write_configuration(std::string const& text) const;

private:
    std::string in(Space const& where, std::string const& command) const;
    [[nodiscard]] std::vector<std::string> directories() const;
    [[nodiscard]] Answer read_answer(Json const& json) const;
    void make_links();
    void make_ipv4_links();
    void start_node();

    Home home_;
    Visited visited_;
    lab::fs::path directory_;
    Space correspondent_;
    Space middle_;
    Space node_;
    Space agent_;  ///< The thread stays in it.
    std::optional<lab::Daemon> daemon_;
    std::optional<lab::Daemon> mobile_node_;
};

}  // namespace home_agent_lab
