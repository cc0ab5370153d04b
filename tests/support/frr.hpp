// FRR's zebra and bgpd on a host of an EVPN fabric, set up by docs/recipes/frr-evpn.conf. Used by
// the process and vm tests. They end with the object.
#pragma once

#include <string>
#include <vector>

#include "tests/support/routed.hpp"

namespace lab {

class Frr {
public:
    /// In a network namespace ("": that of the thread), with the recipe changed so. Returns when
    /// the recipe is in force; the sessions take longer.
    Frr(std::string const& netns, Changes const& changes);
    ~Frr();
    Frr(Frr const&) = delete;
    Frr& operator=(Frr const&) = delete;
    /// Output of vtysh for one command.
    [[nodiscard]] std::string ask(std::string const& command) const;

private:
    void start(std::string const& program);
    [[nodiscard]] Argv vtysh(Argv const& more) const;

    std::string netns_;
    fs::path directory_;
    std::vector<Daemon> daemons_;
};

/// The changes that make the recipe, which is for host 1 of three, one for another of them; each
/// with its address: 10.1.0.NUMBER in the recipe, SUBNET.NUMBER in the test.
Changes frr_changes(int number, std::string const& subnet = "10.1.0");

}  // namespace lab
