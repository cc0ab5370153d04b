// A lab of routed guests: the switch is a router, and each host has a subnet of its own. BIRD 2
// runs on the router and on both hosts, set up by docs/recipes. Used by the vm tests.
//
//   host a: up0 ---- host-a :router: host-b ---- up0 :host b
//                             client ---- up0 :client
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "tests/support/scene.hpp"

namespace lab {

/// What a test changes in a recipe: each text becomes the other, wherever it is.
using Changes = std::vector<std::pair<std::string, std::string>>;
/// A file of docs/recipes, changed.
std::string recipe(std::string const& name, Changes const& changes);

class RoutedSite {
public:
    /// Builds this network and starts the daemons, before any sidecar runs (SceneOptions::furnish).
    /// Returns when their sessions are established.
    void furnish(Lab const& lab);
    /// Starts the guest of a scene, which has not been started, on host a with `sidecar run
    /// --routed`, and waits until it is alive. `environment`: added for its sidecar.
    void run_guest(Scene& scene, std::vector<std::string> const& environment = {});
    /// The wire on which the router sends to the guest: "host-a", "host-b"; both families, or "".
    [[nodiscard]] static std::string leads_to(Lab const& lab);

private:
    std::vector<Daemon> birds_;
    std::optional<Daemon> sidecar_;
};

}  // namespace lab
