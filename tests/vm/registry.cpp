// A guest moves while the registry's etcd dies and returns. Then a host that comes back with the
// state from before the move is refused.
#include <catch2/catch.hpp>

#include "tests/support/etcd.hpp"
#include "tests/vm/expect.hpp"

using namespace lab;

namespace {

/// Slow enough that copying the guest below takes several seconds.
constexpr std::uint64_t slow_mbit = 100;
/// The client's address, in whose namespace etcd runs: all hosts reach it.
constexpr char const* etcd_address = "10.77.0.100";

/// `sidecar locate web1 --json` on a host; null: it failed.
core::Json located(Scene const& scene, Host const& host, Etcd const& etcd) {
    auto const done = scene.sidecar(host, {"locate", "web1", "--json", "--registry", etcd.url()});
    return done.exit_status == 0 ? parse_json(done.out) : core::Json();
}

std::string id_of(Host const& host) { return read_file(host.state_dir / ".host-id"); }

}  // namespace

TEST_CASE("registry: a move ends in etcd although etcd dies, and a late host is refused",
          "[vm][registry][waits]") {
    std::optional<Etcd> etcd;
    auto const url = fmt::format("SIDECAR_REGISTRY=etcd://{}:2379", etcd_address);
    Scene scene({.guest = {.random_mib = 96},
                 .link_mbit = slow_mbit,
                 .serve_environment = {url},
                 .run_environment = {url},
                 .furnish = [&](Lab const& lab) {
                     etcd.emplace(lab.directory() / "etcd", Place{lab.client_netns(), {}},
                                  EtcdOptions{.address = etcd_address});
                 }});
    auto const& a = scene.a();
    auto const& b = scene.b();
    CHECK(located(scene, b, *etcd)["host"]["id"].text_or("") == id_of(a));
    CHECK(located(scene, b, *etcd)["token"].integer_or(0) == 1);
    // Host a as it is now: it will return so from a power loss.
    auto const late = scene.net().directory() / "late";
    fs::copy(a.state_dir, late, fs::copy_options::recursive);
    fs::remove(late / "web1/journal");  // so that only the registry knows

    auto migration = scene.start_migration(a);
    scene.wait_copied(a, 0.3);
    etcd->kill();
    auto const moved = Scene::finish(migration);
    INFO(moved.text());
    CHECK(moved.exit_status == 0);
    CHECK(moved.report["warning"].text_or("").find("the registry does not say yet") !=
          std::string::npos);
    expect::guest_whole(scene, b);

    etcd->start();
    wait_until("the registry, written by the destination's sidecar", 60s,
               [&] { return located(scene, a, *etcd)["host"]["id"].text_or("") == id_of(b); });
    CHECK(located(scene, a, *etcd)["token"].integer_or(0) == 2);
    CHECK(located(scene, a, *etcd)["host_alive"].boolean_or(false));

    auto const back =
        run({program("sidecar"), "run", "web1", "--run-dir", scene.net().directory() / "late-run",
             "--state-dir", late, "--registry", etcd->url(), "--", "qemu-system-x86_64", "-M",
             "none", "-display", "none"},
            a.place());
    INFO(back.err);
    CHECK(back.exit_status == 3);
    CHECK(back.err.find("web1 belongs to") != std::string::npos);
    expect::guest_whole(scene, b);
}
