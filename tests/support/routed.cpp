#include "tests/support/routed.hpp"

namespace lab {

namespace {

constexpr Milliseconds sessions_limit = 60s;
constexpr int sessions = 4;  // of the router: two hosts, two families

/// A subnet of two addresses in each family: the lab's own address, and the router's beside it.
struct Wire {
    std::string netns;
    std::string port;  ///< Of the router.
    std::string device;  ///< That has the address now.
    std::string ip4, router4, ip6, router6;
};

void forward(std::string const& netns) {
    must_run(
        {"sh", "-c", "cd /proc/sys/net; echo 1 >ipv4/ip_forward; echo 1 >ipv6/conf/all/forwarding"},
        {netns, {}});
}

void lay(std::string const& router, Wire const& wire) {
    ip(router, {"link", "set", wire.port, "nomaster"});
    ip(router, {"address", "add", wire.router4 + "/31", "dev", wire.port});
    ip(router, {"address", "add", wire.router6 + "/127", "dev", wire.port, "nodad"});
    ip(wire.netns, {"link", "set", "up0", "nomaster"});
    ip(wire.netns, {"address", "flush", "dev", wire.device, "scope", "global"});
    ip(wire.netns, {"address", "add", wire.ip4 + "/31", "dev", "up0"});
    ip(wire.netns, {"address", "add", wire.ip6 + "/127", "dev", "up0", "nodad"});
    ip(wire.netns, {"route", "add", "default", "via", wire.router4});
    ip(wire.netns, {"-6", "route", "add", "default", "via", wire.router6});
}

std::string out_of(Lab const& lab, char const* family, char const* to) {
    auto const said = run({"ip", "-n", lab.switch_netns(), family, "route", "get", to});
    auto const at = said.out.find(" dev ");
    if (at == std::string::npos) return {};
    auto const rest = said.out.substr(at + 5);
    return rest.substr(0, rest.find(' '));
}

}  // namespace

std::string recipe(std::string const& name, Changes const& changes) {
    auto text = read_file(docs() / "recipes" / name);
    if (text.empty()) throw Failure((docs() / "recipes").string() + " has no " + name);
    for (auto const& [from, to] : changes) {
        for (auto at = text.find(from); at != std::string::npos;
             at = text.find(from, at + to.size())) {
            text.replace(at, from.size(), to);
        }
    }
    return text;
}

void RoutedSite::furnish(Lab const& lab) {
    auto const router = lab.switch_netns();
    Wire const wires[] = {
        {lab.a().netns, "host-a", bridge, "10.77.0.1", "10.77.0.0", "fd77::1", "fd77::"},
        {lab.b().netns, "host-b", bridge, "10.77.0.2", "10.77.0.3", "fd77::2", "fd77::3"},
        {lab.client_netns(), "client", "up0", "10.77.0.100", "10.77.0.101", "fd77::100",
         "fd77::101"}};
    forward(router);
    for (auto const& wire : wires) lay(router, wire);
    Changes const guests{{"10.9.0.0/16", "10.77.0.0/16"}, {"fd09::/64", "fd77::/64"}};
    auto const start = [&](std::string const& name, std::string const& netns, std::string const& of,
                           Changes changes) {
        changes.insert(changes.end(), guests.begin(), guests.end());
        auto const path = lab.directory() / (name + ".conf");
        write_file(path, recipe(of, changes));
        birds_.emplace_back(name,
                            Argv{deps() / "bin" / "bird", "-f", "-c", path, "-s",
                                 lab.directory() / (name + ".ctl")},
                            Place{netns, {}}, lab.directory());
    };
    for (auto const* host : {&lab.a(), &lab.b()}) {
        auto const& wire = wires[host == &lab.a() ? 0 : 1];
        forward(host->netns);
        start("bird-" + host->name, host->netns, "bird.conf",
              {{"10.1.0.254", wire.router4},
               {"fd01::254", wire.router6},
               {"10.1.0.1", wire.ip4},
               {"fd01::1", wire.ip6}});
    }
    start("bird-r", router, "bird-router.conf",
          {{"10.1.0.254", "10.77.0.101"},
           {"10.1.0.1", "10.77.0.1"},
           {"10.2.0.1", "10.77.0.2"},
           {"fd01::1", "fd77::1"},
           {"fd02::1", "fd77::2"}});
    auto const control = lab.directory() / "bird-r.ctl";
    wait_until("BIRD's sessions to be established", sessions_limit, [&] {
        auto const said = run({deps() / "bin" / "birdc", "-s", control, "show", "protocols"}).out;
        int count = 0;
        for (auto at = said.find("Established"); at != std::string::npos;
             at = said.find("Established", at + 1)) {
            ++count;
        }
        return count == sessions;
    });
}

void RoutedSite::run_guest(Scene& scene, std::vector<std::string> const& environment) {
    auto const& host = scene.a();
    Argv argv{program("sidecar"), "run",       scene.guest().name(),
              "--routed",         "--address", guest_ip4,
              "--address",        guest_ip6,   "--"};
    for (auto word : scene.guest().command_line(host)) {
        // IPv4 as on a shared network, all of which the host answers for; IPv6 by its gateway.
        std::string const on_link = fmt::format("ip6={}/64", guest_ip6);
        if (auto const at = word.find(on_link); at != std::string::npos) {
            word.replace(at, on_link.size(),
                         fmt::format("ip6={}/128,gw6=fe80::ecee:eeff:feee:eeee", guest_ip6));
        }
        argv.push_back(word);
    }
    sidecar_.emplace("run", std::move(argv), host.place(environment), host.logs);
    wait_until("the guest's first answer", Guest::boot_limit, [&] {
        if (auto const ended = sidecar_->wait(0ms)) {
            throw Failure(fmt::format("`sidecar run` ended with {}: {}", *ended, sidecar_->err()));
        }
        return scene.guest().answers();
    });
    wait_until("`sidecar run` to answer", Guest::answer_limit, [&] {
        return scene.sidecar(host, {"status", scene.guest().name()}).exit_status == 0;
    });
    scene.guest().learn();
}

std::string RoutedSite::leads_to(Lab const& lab) {
    auto const ipv4 = out_of(lab, "-4", guest_ip4);
    return ipv4 == out_of(lab, "-6", guest_ip6) ? ipv4 : "";
}

}  // namespace lab
