#include "tests/bench/peer.hpp"

namespace bench {

using core::Json;
using lab::Qmp;

namespace {

constexpr int migration_port = 4444;
constexpr int nbd_port = 10809;
/// Blocks the guest has written when a migration starts: two seconds of its rate.
constexpr std::int64_t warm_writes = 400;
/// The longest that a mirror of the benchmark's disk may take.
constexpr auto copy_limit = std::chrono::minutes(3);

void capabilities(Qmp& qemu, std::initializer_list<char const*> names) {
    auto wanted = Json::array();
    for (auto const* name : names) {
        wanted.add(Json::object({{"capability", name}, {"state", true}}));
    }
    qemu.execute("migrate-set-capabilities", Json::object({{"capabilities", wanted}}));
}

void wait_migration(Qmp& qemu, std::string const& status) {
    qemu.wait_event_if("MIGRATION " + status, [&](Qmp::Event const& event) {
        if (event.name != "MIGRATION") return false;
        auto const now = event.data["status"].text_or("");
        if (now == "failed") throw lab::Failure("QEMU's own migration failed");
        return now == status;
    });
}

Json nbd_address(std::string const& host) {
    return Json::object({{"type", "inet"}, {"host", host}, {"port", std::to_string(nbd_port)}});
}

}  // namespace

Pair::Pair(lab::GuestOptions const& options, bool shared, lab::Argv const& incoming,
           std::uint64_t link_mbit, std::function<void(lab::Lab const&)> const& furnish)
    : net(link_mbit), guest(net, options) {
    if (furnish) furnish(net);
    guest.make_disks(net.a());
    guest.make_tap(net.a());
    guest.make_tap(net.b());
    from.emplace(guest.start_plainly(net.a()));
    guest.wait_alive();
    if (!shared) make_empty_disk();
    auto argv = guest.command_line(net.b(), shared ? net.a() : net.b());
    argv.insert(argv.end(), incoming.begin(), incoming.end());
    to.emplace("destination", std::move(argv), net.b().place(), net.b().logs);
}

void Pair::make_empty_disk() const {
    lab::must_run({"qemu-img", "create", "-q", "-f", guest.options().format,
                   guest.image(net.b(), 0), fmt::format("{}M", guest.options().disk_mib)});
}

void Pair::start_ram(Qmp& source, Qmp& destination) const {
    destination.execute("migrate-incoming",
                        Json::object({{"uri", fmt::format("tcp:[::]:{}", migration_port)}}));
    source.execute(
        "migrate",
        Json::object({{"uri", fmt::format("tcp:[{}]:{}", net.b().ip6, migration_port)}}));
}

std::string disk_uri(Pair const& pair) {
    return fmt::format("nbd://[{}]:{}/d0", pair.net.b().ip6, nbd_port);
}

void serve_disk(Qmp& destination) {
    destination.execute(
        "nbd-server-start",
        Json::object({{"addr", Json::object({{"type", "inet"},
                                             {"data", Json::object({
                                                          {"host", "::"},
                                                          {"port", std::to_string(nbd_port)},
                                                      })}})}}));
    destination.execute("block-export-add", Json::object({{"type", "nbd"},
                                                          {"id", "e0"},
                                                          {"node-name", "d0"},
                                                          {"name", "d0"},
                                                          {"writable", true}}));
}

void start_mirror(Pair const& pair, Qmp& source, Qmp& destination, std::string const& copy_mode) {
    serve_disk(destination);
    source.execute("blockdev-add", Json::object({{"driver", "nbd"},
                                                 {"node-name", "target"},
                                                 {"server", nbd_address(pair.net.b().ip6)},
                                                 {"export", "d0"}}));
    source.execute("blockdev-mirror", Json::object({{"job-id", "mirror"},
                                                    {"device", "d0"},
                                                    {"target", "target"},
                                                    {"sync", "full"},
                                                    {"copy-mode", copy_mode}}));
}

void wait_mirror_ready(Qmp& source) { source.wait_event("BLOCK_JOB_READY", copy_limit); }

void end_replication(Qmp& source) {
    source.execute("block-job-cancel", Json::object({{"device", "mirror"}}));
    source.wait_event("BLOCK_JOB_COMPLETED");
}

lab::GuestOptions guest_options(std::string const& qemu, std::string const& format) {
    return {.name = "bench",
            .qemu = qemu,
            .format = format,
            .blockdev = true,
            .disk_mib = 1024,
            .random_mib = 512,
            .span_mib = 64,
            .rate = 200,
            .ram_mib = 256,
            .ram_rate = 0};
}

Standstill standstill(Qmp& source, Qmp& destination, lab::Milliseconds limit) {
    auto const stop = source.wait_event("STOP", limit);
    auto const resume = destination.wait_event("RESUME", limit);
    return {static_cast<double>(stop.timestamp_us) / 1000,
            static_cast<double>(resume.timestamp_us) / 1000};
}

double downtime_ms(Qmp& source, Qmp& destination) {
    auto const seen = standstill(source, destination);
    return seen.resumed_ms - seen.stopped_ms;
}

void warm_up(lab::Guest const& guest) {
    auto const written = [&] {
        auto const report = guest.ask(Json::object({{"cmd", "report"}}));
        return report["disks"].elements().at(0)["writes"].integer_or(0);
    };
    auto const before = written();
    lab::wait_until("the guest's writing", lab::Guest::answer_limit,
                    [&] { return written() >= before + warm_writes; });
}

double mirror_and_migrate(lab::GuestOptions const& guest) {
    Pair pair(guest, false, {"-S", "-incoming", "defer"});
    Qmp source(pair.guest.probe_socket(pair.net.a()));
    Qmp destination(pair.guest.probe_socket(pair.net.b()));
    warm_up(pair.guest);
    auto const seen = mirror_and_migrate(pair, source, destination, false);
    pair.guest.must_be_alive();
    must_have_arrived(pair.guest, pair.guest.image(pair.net.a(), 0),
                      pair.guest.image(pair.net.b(), 0));
    return seen.resumed_ms - seen.stopped_ms;
}

void must_have_arrived(lab::Guest const& guest, lab::fs::path const& left,
                       lab::fs::path const& arrived) {
    guest.must_be_whole();
    lab::compare_images(left, guest.options().format, arrived, guest.options().span_mib << 20);
}

Standstill mirror_and_migrate(Pair const& pair, Qmp& source, Qmp& destination, bool announce) {
    start_mirror(pair, source, destination, "background");
    wait_mirror_ready(source);
    capabilities(source, {"events", "return-path", "pause-before-switchover"});
    capabilities(destination, {"events", "return-path"});
    pair.start_ram(source, destination);
    wait_migration(source, "pre-switchover");
    end_replication(source);
    source.execute("migrate-continue", Json::object({{"state", "pre-switchover"}}));
    wait_migration(source, "completed");
    wait_migration(destination, "completed");
    destination.execute("nbd-server-stop");
    destination.execute("cont");
    if (announce) {
        destination.execute(
            "announce-self",
            Json::object({{"initial", 50}, {"max", 550}, {"rounds", 5}, {"step", 100}}));
    }
    return standstill(source, destination);
}

double ram_only(lab::GuestOptions guest) {
    guest.rate = 0;
    guest.read_rate = 0;
    Pair pair(guest, true, {"-incoming", "defer"});
    Qmp source(pair.guest.probe_socket(pair.net.a()));
    Qmp destination(pair.guest.probe_socket(pair.net.b()));
    capabilities(source, {"events"});
    capabilities(destination, {"events"});
    pair.start_ram(source, destination);
    double const downtime = downtime_ms(source, destination);
    pair.guest.wait_alive();
    return downtime;
}

}  // namespace bench
