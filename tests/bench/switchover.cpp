// switchover: how long a guest is stopped while it moves, ours next to QEMU's own two ways,
// interleaved so that other load on the machine affects all three alike.
#include <cstdio>

#include "tests/bench/bench.hpp"
#include "tests/bench/peer.hpp"
#include "tests/support/scene.hpp"

namespace bench {

namespace {

double ours(lab::GuestOptions const& guest) {
    lab::Scene scene({.guest = guest});
    lab::Qmp source(scene.guest().probe_socket(scene.a()));
    warm_up(scene.guest());
    auto migration = scene.start_migration(scene.a());
    lab::Qmp destination(scene.guest().probe_socket(scene.b()));
    double const downtime = downtime_ms(source, destination);
    auto const ended = lab::Scene::finish(migration);
    if (ended.exit_status != 0) throw lab::Failure(ended.text());
    fmt::print(stderr, "  last delta {} bytes; ms after STOP: {}\n",
               ended.report["disks"].elements().at(0)["final_bytes"].integer_or(0),
               ended.report["downtime"].dump());
    scene.guest().must_be_alive();
    must_have_arrived(scene.guest(), lab::moved_image(scene.guest().image(scene.a(), 0)),
                      scene.guest().image(scene.b(), 0));
    return downtime;
}

struct Situation {
    std::string name;
    lab::GuestOptions guest;
};

double told(Situation const& situation, std::string_view what, double downtime) {
    fmt::print(stderr, "{} {}: {:.1f} ms\n", situation.name, what, downtime);
    return downtime;
}

}  // namespace

Result switchover(Options const& options) {
    Result result{options.runs(runs_full, runs_quick), {}};
    std::vector<Situation> situations;
    for (std::string const format : {"raw", "qcow2"}) {
        for (std::string const qemu : {"7.2", "10.0"}) {
            auto const name = fmt::format("qemu-{} {}", qemu, format);
            if (!options.wants(name)) continue;
            situations.push_back({name, guest_options(qemu, format)});
            result.rows.push_back({name, "downtime_ms", "ms", {}, {}, {}});
        }
    }
    for (int run = 0; run < result.runs; ++run) {
        for (std::size_t i = 0; i < situations.size(); ++i) {
            auto const& guest = situations[i].guest;
            auto& row = result.rows[i];
            row.ours.push_back(told(situations[i], "ours", ours(guest)));
            row.peer.push_back(told(situations[i], "mirror", mirror_and_migrate(guest)));
            row.floor.push_back(told(situations[i], "RAM only", ram_only(guest)));
        }
    }
    return result;
}

}  // namespace bench
