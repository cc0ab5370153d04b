// switchover: how long a guest stands still while it moves, ours beside QEMU's own two ways,
// interleaved so that whatever else the machine does meets all three alike.
#include <cstdio>

#include "tests/bench/bench.hpp"
#include "tests/bench/peer.hpp"
#include "tests/support/scene.hpp"

namespace bench {

namespace {

double ours(std::string const& qemu) {
    lab::Scene scene({.guest = guest_options(qemu)});
    lab::Qmp source(scene.guest().probe_socket(scene.a()));
    warm_up(scene.guest());
    auto migration = scene.start_migration(scene.a());
    lab::Qmp destination(scene.guest().probe_socket(scene.b()));
    double const blackout = blackout_ms(source, destination);
    auto const ended = lab::Scene::finish(migration);
    if (ended.exit_status != 0) throw lab::Failure(ended.text());
    fmt::print(stderr, "  last delta {} bytes; ms after STOP: {}\n",
               ended.report["disks"].elements().at(0)["final_bytes"].integer_or(0),
               ended.report["blackout"].dump());
    scene.guest().must_be_alive();
    return blackout;
}

void measure(std::vector<double>& samples, std::string const& what,
             double (*one)(std::string const&), std::string const& qemu) {
    samples.push_back(one(qemu));
    fmt::print(stderr, "qemu-{} {}: {:.1f} ms\n", qemu, what, samples.back());
}

}  // namespace

Result switchover(Options const& options) {
    Result result{options.runs, {}};
    std::vector<std::string> versions;
    for (std::string const version : {"7.2", "10.0"}) {
        if (!options.wants("qemu-" + version)) continue;
        versions.push_back(version);
        result.rows.push_back({"qemu-" + version, "blackout_ms", "ms", {}, {}, {}});
    }
    for (int run = 0; run < options.runs; ++run) {
        for (std::size_t i = 0; i < versions.size(); ++i) {
            auto& row = result.rows[i];
            measure(row.ours, "ours", ours, versions[i]);
            measure(row.peer, "mirror", mirror_and_migrate, versions[i]);
            measure(row.floor, "RAM only", ram_only, versions[i]);
        }
    }
    return result;
}

}  // namespace bench
