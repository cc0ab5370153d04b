// Input from outside: the command line, names, maps, a source's description, and a peer's messages.
#include <catch2/catch.hpp>

#include <sys/socket.h>

#include <filesystem>

#include "sidecar/channel/connection.hpp"
#include "sidecar/cli/options.hpp"
#include "sidecar/guest/bases.hpp"
#include "sidecar/guest/description.hpp"
#include "sidecar/guest/destination_line.hpp"

namespace sidecar_inputs_cases {

using namespace sidecar;
using core::Json;

namespace {

std::variant<Options, int> parse(std::vector<std::string> words) {
    words.insert(words.begin(), "sidecar");
    std::vector<char*> pointers;
    for (auto& word : words) pointers.push_back(word.data());
    return parse_options(static_cast<int>(pointers.size()), pointers.data());
}

bool is_usage_error(std::vector<std::string> words) {
    auto const parsed = parse(std::move(words));
    auto const* status = std::get_if<int>(&parsed);
    return status != nullptr && *status == 2;
}

}  // namespace

TEST_CASE("options: --anchor implies a move by an anchor, and fits no other") {
    auto const parsed = parse({"migrate", "--with-storage", "web1", "hostb", "--key", "k",
                               "--anchor", "[2001:db8::3]:77"});
    REQUIRE(std::holds_alternative<Options>(parsed));
    auto const& chosen = std::get<Options>(parsed).migrate;
    CHECK(chosen.network == NetworkChoice::anchor);
    CHECK(chosen.anchor_host == "[2001:db8::3]:77");
    auto const sent = MigrateOptions::from_json(chosen.to_json());
    REQUIRE(sent);
    CHECK(sent->anchor_host == chosen.anchor_host);
    for (auto const* network : {"bridge", "vxlan", "evpn"}) {
        CHECK(is_usage_error({"migrate", "--with-storage", "web1", "hostb", "--key", "k",
                              "--anchor", "hostc", "--network", network}));
    }
}

TEST_CASE("options: migrate") {
    auto const parsed =
        parse({"migrate", "--with-storage", "web1", "hostb:77", "--key", "k", "--downtime-limit",
               "50", "--bandwidth", "100M", "--progress", "json", "--throttle", "never"});
    auto const* options = std::get_if<Options>(&parsed);
    REQUIRE(options != nullptr);
    CHECK(options->command == Options::Command::migrate);
    CHECK(options->guest == "web1");
    CHECK(options->migrate.destination == "hostb:77");
    CHECK(options->migrate.downtime_limit_ms == 50);
    CHECK(options->migrate.bandwidth == 100'000'000);
    CHECK(options->progress == ProgressStyle::json);
    auto const again = MigrateOptions::from_json(options->migrate.to_json());
    REQUIRE(again);
    CHECK(again->bandwidth == 100'000'000);
    CHECK_FALSE(again->throttle);
    CHECK(sidecar::MigrateOptions().throttle);
    CHECK(again->tls.path == "k");
    CHECK_FALSE(again->verify);
    CHECK(again->converge_limit_s == 600);
}

TEST_CASE("options: one default and one range of --downtime-limit and --converge-limit") {
    CHECK(sidecar::MigrateOptions().downtime_limit_ms == 1000);
    CHECK(sidecar::MigrateOptions().converge_limit_s == 600);
    auto const usage = [](char const* option, char const* value) {
        return is_usage_error(
            {"migrate", "--with-storage", "w", "h", "--plaintext", option, value});
    };
    for (auto const* value : {"19", "60001", "1s", "-20", ""}) {
        INFO(value);
        CHECK(usage("--downtime-limit", value));
        CHECK(is_usage_error({"set", "w", "downtime-limit=" + std::string(value)}));
    }
    for (auto const* value : {"9s", "25h", "86401", "soon", "10x", "", "99999999999999999999"}) {
        INFO(value);
        CHECK(usage("--converge-limit", value));
        CHECK(is_usage_error({"set", "w", "converge-limit=" + std::string(value)}));
    }
    auto const parsed = parse({"migrate", "--with-storage", "w", "h", "--plaintext",
                               "--converge-limit", "2m", "--downtime-limit", "60000"});
    auto const* options = std::get_if<Options>(&parsed);
    REQUIRE(options != nullptr);
    CHECK(options->migrate.converge_limit_s == 120);
    CHECK(options->migrate.downtime_limit_ms == 60000);
    auto const changed =
        parse({"set", "w", "converge-limit=1h", "downtime-limit=20", "bandwidth=12MiB"});
    options = std::get_if<Options>(&changed);
    REQUIRE(options != nullptr);
    CHECK(options->changes.converge_limit_s == 3600);
    CHECK(options->changes.downtime_limit_ms == 20);
    CHECK(options->changes.bandwidth == std::uint64_t{12} << 20);
}

TEST_CASE("options: a rate has decimal or binary multiples") {
    auto const rate = [](std::string const& text) -> std::optional<std::uint64_t> {
        auto const parsed =
            parse({"migrate", "--with-storage", "w", "h", "--plaintext", "--bandwidth", text});
        auto const* options = std::get_if<Options>(&parsed);
        return options ? std::optional(options->migrate.bandwidth) : std::nullopt;
    };
    CHECK(rate("0") == 0);
    CHECK(rate("4M") == 4'000'000);
    CHECK(rate("4MB") == 4'000'000);
    CHECK(rate("64k") == 64'000);
    CHECK(rate("1GiB") == std::uint64_t{1} << 30);
    CHECK(rate("2Ki") == 2048);
    for (auto const* wrong : {"fast", "-4M", "4X", "", "2000T", "99999999999999999999G"}) {
        INFO(wrong);
        CHECK(rate(wrong) == std::nullopt);
        CHECK(is_usage_error({"set", "w", "bandwidth=" + std::string(wrong)}));
    }
}

TEST_CASE("settings that arrive at the guest's sidecar are checked against their ranges") {
    auto const wire = [] {
        sidecar::MigrateOptions good;
        good.destination = "h";
        return good.to_json();
    };
    CHECK(MigrateOptions::from_json(wire()));
    struct Case {
        char const* name;
        std::vector<std::int64_t> wrong;
    };
    std::vector<Case> const cases{{"downtime_limit_ms", {-1, 0, 19, 60001, std::int64_t{1} << 33}},
                                  {"converge_limit_s", {-1, 0, 9, 86401}},
                                  {"link_timeout_s", {-1, 0, 3601}},
                                  {"bandwidth", {-1, std::int64_t{1} << 60}}};
    for (auto const& one : cases) {
        for (auto const value : one.wrong) {
            INFO(one.name << " " << value);
            auto const told = MigrateOptions::from_json(wire().set(one.name, value));
            REQUIRE_FALSE(told);
            CHECK(told.error().sentence().find(one.name) != std::string::npos);
            if (std::string(one.name) == "link_timeout_s") continue;  // `set` does not have it
            CHECK_FALSE(sidecar::MigrationChanges::from_json(Json::object({{one.name, value}})));
        }
        CHECK_FALSE(MigrateOptions::from_json(wire().set(one.name, "many")));
    }
    auto replication = sidecar::ReplicationSettings{};
    replication.destination = "h";
    CHECK_FALSE(ReplicationSettings::from_json(replication.to_json().set("bandwidth", -1)));
}

TEST_CASE("the planned pause is shared: disks and RAM never have more than it together") {
    namespace limits = sidecar::limits;
    for (int const ms : {20, 50, 333, 1000, 60000}) {
        INFO(ms);
        core::milliseconds const limit(ms);
        CHECK(limits::downtime_disks(limit) + limits::downtime_ram_min(limit) ==
              limits::downtime_planned(limit));
        CHECK(limits::downtime_planned(limit) < limit);
        CHECK(limits::downtime_disks(limit).count() > 0);
        CHECK(limits::downtime_ram_min(limit).count() > 0);
    }
    using namespace std::chrono_literals;
    CHECK(limits::downtime_planned(1000ms) == 300ms);
    // A peer that answers heartbeats is not considered lost, however short the pause may be.
    CHECK(limits::heartbeat_silence_paused(20ms) >= 2 * limits::heartbeat_interval);
    CHECK(limits::heartbeat_silence_paused(60000ms) <= limits::heartbeat_silence);
}

TEST_CASE("options: replicate and failover") {
    auto const parsed =
        parse({"replicate", "web1", "hostb", "--key", "k", "--every", "5m", "--bandwidth", "10M"});
    auto const* options = std::get_if<Options>(&parsed);
    REQUIRE(options != nullptr);
    CHECK(options->command == Options::Command::replicate);
    auto const again = ReplicationSettings::from_json(options->replicate.to_json());
    REQUIRE(again);
    CHECK(again->destination == "hostb");
    CHECK(again->every_s == 300);
    CHECK(again->bandwidth == 10'000'000);
    CHECK(again->tls.path == "k");
    auto const stop = parse({"replicate", "web1", "--stop", "--forget"});
    options = std::get_if<Options>(&stop);
    REQUIRE(options != nullptr);
    CHECK(options->replicate_stop);
    CHECK(options->replicate_forget);
    CHECK(is_usage_error({"replicate", "web1", "--key", "k"}));
    CHECK(is_usage_error({"replicate", "web1", "hostb"}));
    CHECK(is_usage_error({"replicate", "web1", "hostb", "--key", "k", "--forget"}));
    for (auto const* every : {"0s", "soon", "5x", "-5", "25h", "99999999999999999999"}) {
        INFO(every);
        CHECK(is_usage_error({"replicate", "web1", "hostb", "--key", "k", "--every", every}));
    }
    auto const failover = parse({"failover", "web1", "--previous"});
    options = std::get_if<Options>(&failover);
    REQUIRE(options != nullptr);
    CHECK(options->previous);
    CHECK_FALSE(options->fenced);
}

TEST_CASE("options: migrate --verify reaches the guest's sidecar") {
    auto const parsed = parse({"migrate", "--with-storage", "web1", "b", "--key", "k", "--verify"});
    auto const* options = std::get_if<Options>(&parsed);
    REQUIRE(options != nullptr);
    auto const again = MigrateOptions::from_json(options->migrate.to_json());
    REQUIRE(again);
    CHECK(again->verify);
}

TEST_CASE("options: migrate --base may be given several times, and is seen from here") {
    auto const parsed = parse({"migrate", "--with-storage", "web1", "b", "--key", "k", "--base",
                               "/srv/debian.qcow2", "--base", "images/other.raw"});
    auto const* options = std::get_if<Options>(&parsed);
    REQUIRE(options != nullptr);
    auto const again = MigrateOptions::from_json(options->migrate.to_json());
    REQUIRE(again);
    auto const here = std::filesystem::current_path() / "images/other.raw";
    CHECK(again->bases == std::vector<std::string>{"/srv/debian.qcow2", here.string()});
    CHECK(options->migrate.destination == "b");
    CHECK(is_usage_error({"migrate", "--with-storage", "web1", "b", "--key", "k", "--base"}));
}

TEST_CASE("a question for a base: what a source sends, and what no source would") {
    protocol::HashFile const sent{"/srv/base.raw", 1 << 20, 4096};
    auto const got = protocol::HashFile::from_json(sent.to_json());
    REQUIRE(got);
    CHECK(got->path == sent.path);
    CHECK(got->offset == sent.offset);
    CHECK(got->length == sent.length);
    for (auto const* text :
         {"{}", R"({"path":"/x"})", R"({"path":"x","offset":0,"length":0})",
          R"({"path":"/x","offset":-4096,"length":0})", R"({"path":"/x","offset":1,"length":1})",
          R"({"path":"/x","offset":0,"length":-1})",
          R"({"path":"/x","offset":0,"length":67108865})",
          R"({"path":["/x"],"offset":0,"length":0})"}) {
        INFO(text);
        CHECK_FALSE(protocol::HashFile::from_json(*Json::parse(text)));
    }
}

TEST_CASE("an image names its base as the source's does") {
    CHECK(backing_name("/srv/base/d.raw", "/srv/vm/web1.qcow2", false) == "/srv/base/d.raw");
    CHECK(backing_name("/srv/base/d.raw", "/srv/vm/web1.qcow2", true) == "../base/d.raw");
    CHECK(backing_name("/srv/vm/d.raw", "/srv/vm/web1.qcow2", true) == "d.raw");
    CHECK(backing_name("/srv/vm/d:1.raw", "/srv/vm/web1.qcow2", true) == "./d:1.raw");
}

TEST_CASE("a request for hashes: what a source sends, and what no source would") {
    protocol::Hash const sent{3, {{4096, 8192, false}, {1ULL << 40, 4096, false}}};
    auto const got = protocol::Hash::from_json(sent.to_json());
    REQUIRE(got);
    CHECK(got->disk == 3);
    CHECK(got->ranges == sent.ranges);
    for (auto const* text :
         {"{}", "[]", R"({"disk":0})", R"({"disk":0,"ranges":[]})", R"({"disk":0,"ranges":[0]})",
          R"({"disk":-1,"ranges":[0,4096]})", R"({"disk":64,"ranges":[0,4096]})",
          R"({"disk":0,"ranges":[-1,4096]})", R"({"disk":0,"ranges":[0,0]})",
          R"({"disk":0,"ranges":["0",4096]})", R"({"disk":0,"ranges":[[0,4096],[0,4096]]})",
          R"({"disk":0,"ranges":{"0":4096}})"}) {
        INFO(text);
        CHECK_FALSE(protocol::Hash::from_json(*Json::parse(text)));
    }
    Json many = Json::array();
    for (int i = 0; i < 2 * 4097; ++i) many.add(i + 1);
    CHECK_FALSE(protocol::Hash::from_json(Json::object({{"disk", 0}, {"ranges", many}})));
}

TEST_CASE("options: what follows -- is QEMU's, untouched") {
    auto const parsed = parse(
        {"run", "web1", "--bridge", "br0", "--", "qemu-system-x86_64", "--bridge", "-v", "--"});
    auto const* options = std::get_if<Options>(&parsed);
    REQUIRE(options != nullptr);
    CHECK(options->run.bridge == "br0");
    CHECK(options->run.qemu ==
          std::vector<std::string>{"qemu-system-x86_64", "--bridge", "-v", "--"});
}

TEST_CASE("options: without --with-storage no disk is copied") {
    auto const parsed = parse({"migrate", "web1", "h", "--plaintext"});
    REQUIRE(std::holds_alternative<Options>(parsed));
    auto const& chosen = std::get<Options>(parsed).migrate;
    CHECK_FALSE(chosen.with_storage);
    auto const again = MigrateOptions::from_json(chosen.to_json());
    REQUIRE(again);
    CHECK_FALSE(again->with_storage);
}

TEST_CASE("options: what is wrong is usage, exit 2") {
    CHECK(is_usage_error({}));
    CHECK(is_usage_error({"mirgate"}));
    CHECK(is_usage_error({"migrate", "web1"}));
    CHECK(is_usage_error({"migrate", "--with-storage", "web1", "h"}));  // no security option
    CHECK(is_usage_error({"migrate", "--with-storage", "../x", "h", "--plaintext"}));
    CHECK(is_usage_error({"migrate", "--with-storage", "w", "h", "--plaintext", "--key", "k"}));
    CHECK(is_usage_error(
        {"migrate", "--with-storage", "w", "h", "--plaintext", "--bandwidth", "fast"}));
    CHECK(is_usage_error(
        {"migrate", "--with-storage", "w", "h", "--plaintext", "--downtime-limit", "0"}));
    CHECK(is_usage_error({"run", "w"}));
    CHECK(is_usage_error({"status", "--", "qemu"}));
    CHECK(is_usage_error({"serve", "--plaintext", "--map-path", "nowhere"}));
    CHECK(is_usage_error({"serve", "--plaintext", "--allow-path", "images"}));
    CHECK(is_usage_error({"serve", "--plaintext", "--allow-path", "/srv/../images"}));
    CHECK(is_usage_error({"serve", "--plaintext", "--qemu", "qemu-system-x86_64"}));
    CHECK(is_usage_error({"serve", "--plaintext", "--swtpm", "swtpm"}));
    CHECK(is_usage_error({"resolve", "w", "--to", "elsewhere"}));
}

TEST_CASE("options: what serve allows, each more than once") {
    auto const parsed = parse({"serve",          "--plaintext", "--allow-path",   "/a",
                               "--allow-path",   "/b",          "--allow-bridge", "br0",
                               "--allow-device", "vfio-pci",    "--allow-device", "usb-host",
                               "--qemu",         "/q/a",        "--qemu",         "/q/b",
                               "--map-path",     "/srv=/data",  "--swtpm",        "/q/swtpm"});
    auto const* options = std::get_if<Options>(&parsed);
    REQUIRE(options != nullptr);
    auto const& maps = options->serve.maps;
    using Words = std::vector<std::string>;
    CHECK(maps.programs == Words{"/q/a", "/q/b"});
    CHECK(maps.allowed_devices == Words{"vfio-pci", "usb-host"});
    CHECK(maps.swtpm == "/q/swtpm");
    CHECK(is_allowed_bridge(maps, "br0"));
    CHECK_FALSE(is_allowed_bridge(maps, "br1"));
    CHECK(is_allowed_bridge({}, "br1"));
    auto const policy = policy_of(maps, {});
    CHECK(policy.directories == Words{"/srv/vm", "/var/lib/libvirt/images", "/data", "/a", "/b"});
}

TEST_CASE("a command line from a peer runs only if all of it is allowed") {
    Description guest;
    guest.argv = {"qemu-system-x86_64", "-drive", "file=d0.raw,format=raw,if=virtio",
                  "-incoming",          "exec:x", "-daemonize"};
    guest.working_directory = "/srv/vm";
    guest.machine_type = "pc-q35-7.2";
    MovedDisk disk;
    disk.name = "d0";
    disk.path = "/srv/vm/d0.raw";
    guest.disks.push_back(disk);
    HostMaps maps;
    maps.paths = {{"/srv/vm", "/data"}};
    auto const allowed = map_command_line(maps, guest, {});
    if (!allowed) FAIL(allowed.error().sentence());
    CHECK(allowed->line.program() == "/usr/bin/qemu-system-x86_64");
    REQUIRE(allowed->files.size() == 1);
    CHECK(allowed->files[0].path == "/data/d0.raw");
    CHECK(allowed->files[0].access == qmp::FileAccess::image);

    guest.argv.insert(guest.argv.end(), {"-plugin", "x.so", "-D", "/etc/passwd"});
    guest.argv[0] = "/bin/sh";
    auto const refused = map_command_line(maps, guest, {});
    REQUIRE_FALSE(refused);
    CHECK(refused.error().code == core::Errc::refused);
    for (auto const* const part : {"`/bin/sh`: ", "`-plugin x.so`: ", "`-D /etc/passwd`: "}) {
        INFO(refused.error().sentence());
        CHECK(refused.error().sentence().find(part) != std::string::npos);
    }
}

TEST_CASE("paths are mapped by whole components, the longest first") {
    HostMaps maps;
    maps.paths = {{"/srv/vm", "/data"}, {"/srv/vm/fast", "/nvme"}, {"/srv/vm/b.raw", "/c.raw"}};
    CHECK(map_path(maps, "/srv/vm/a.raw") == "/data/a.raw");
    CHECK(map_path(maps, "/srv/vm/fast/a.raw") == "/nvme/a.raw");
    CHECK(map_path(maps, "/srv/vmx/a.raw") == "/srv/vmx/a.raw");
    CHECK(map_path(maps, "/srv/vm") == "/data");
    CHECK(map_path(maps, "/srv/vm/b.raw") == "/c.raw");
    CHECK(map_path(maps, "/srv/vm/x/../b.raw") == "/data/b.raw");
    CHECK(absolute("a/../b.raw", "/srv") == "/srv/b.raw");
}

namespace {

/// Of a guest without disks.
Description description() {
    Description made;
    made.guest = "web1";
    made.migration_id = "0123456789abcdef";
    made.argv = {"qemu-system-x86_64"};
    made.working_directory = "/";
    made.machine_type = "pc-q35-7.2";
    return made;
}

MovedDisk raw_disk() { return {"d0", "d0", "", "#block1", "/srv/d0.raw", "raw", 1 << 20, 0, {}}; }

}  // namespace

TEST_CASE("a description of shared disks from a peer is checked against its limits") {
    auto good = description();
    good.shared.push_back(raw_disk());
    good.shared.front().shared_inode = "12";
    good.shared_secret = "s";
    auto const again = Description::from_json(good.to_json());
    REQUIRE(again);
    CHECK(again->disks.empty());
    CHECK(again->shared.at(0).shared_inode == "12");
    CHECK(again->shared_secret == "s");
    auto without_inode = good;
    without_inode.shared.front().shared_inode.clear();
    CHECK_FALSE(Description::from_json(without_inode.to_json()));
    auto too_many = good;
    too_many.shared.resize(1000, too_many.shared.front());
    CHECK_FALSE(Description::from_json(too_many.to_json()));
}

TEST_CASE("a description from a peer is checked against its limits") {
    auto good = description();
    good.disks.push_back(raw_disk());
    auto const again = Description::from_json(good.to_json());
    REQUIRE(again);
    CHECK(again->disks.front().path == "/srv/d0.raw");
    auto const spoil = [&](auto change) {
        auto bad = good;
        change(bad);
        return Description::from_json(bad.to_json());
    };
    CHECK_FALSE(spoil([](Description& d) { d.guest = "../../etc"; }));
    CHECK_FALSE(spoil([](Description& d) { d.migration_id = "a/b"; }));
    CHECK_FALSE(spoil([](Description& d) { d.argv.clear(); }));
    CHECK_FALSE(spoil([](Description& d) { d.disks.front().path = "relative.raw"; }));
    CHECK_FALSE(spoil([](Description& d) { d.disks.front().format = "vmdk"; }));
    CHECK_FALSE(spoil([](Description& d) { d.disks.resize(1000, d.disks.front()); }));
    auto const over_base = [](Description& d) {
        auto& disk = d.disks.front();
        disk.format = "qcow2";
        disk.layers_above_base = 2;
        disk.layout = {65536, "1.1", 16, "zstd", true, true};
        disk.bases = {{"/srv/base.raw", "raw", 512, std::string(64, 'a'), {1, 2, 512, 3, 4}}};
        disk.chain = {"/srv/a.qcow2", "/srv/b.qcow2", "/srv/base.raw"};
    };
    auto const whole = spoil(over_base);
    REQUIRE(whole);
    auto const& disk = whole->disks.front();
    CHECK(disk.layers_above_base == 2);
    CHECK(disk.layout.compression == "zstd");
    CHECK(disk.layout.extended_l2);
    REQUIRE(disk.bases.size() == 1);
    CHECK(disk.bases[0].identity == storage::FileIdentity{1, 2, 512, 3, 4});
    CHECK(disk.chain.size() == 3);
    auto const spoil_base = [&](auto change) {
        return spoil([&](Description& d) {
            over_base(d);
            change(d.disks.front());
        });
    };
    CHECK_FALSE(spoil_base([](MovedDisk& d) { d.format = "raw"; }));
    CHECK_FALSE(spoil_base([](MovedDisk& d) { d.bases.clear(); }));
    CHECK_FALSE(spoil_base([](MovedDisk& d) { d.layers_above_base = 0; }));
    CHECK_FALSE(spoil_base([](MovedDisk& d) { d.bases.resize(100, d.bases.front()); }));
    CHECK_FALSE(spoil_base([](MovedDisk& d) { d.bases.front().path = "base.raw"; }));
    CHECK_FALSE(spoil_base([](MovedDisk& d) { d.bases.front().format = "vmdk"; }));
    CHECK_FALSE(spoil_base([](MovedDisk& d) { d.layout.compat = "1.1,preallocation=full"; }));
    CHECK_FALSE(spoil_base([](MovedDisk& d) { d.layout.compression = "lzma"; }));
    CHECK_FALSE(spoil_base([](MovedDisk& d) { d.layout.refcount_bits = 65; }));
    CHECK_FALSE(Description::from_json(Json::array()));
}

namespace {

class Silent : public Handler {
public:
    core::Task<core::Result<protocol::Packed>> handle(Connection&, protocol::Call call) override {
        ++calls;
        if (call.verb == protocol::Verb::abort) co_return core::fail(core::Errc::refused, "no");
        co_return protocol::Packed{Json::object({{"verb", protocol::name(call.verb)}})};
    }
    int calls = 0;
};

/// A connection over a socket pair, and the raw other end.
struct Wire {
    std::unique_ptr<core::Loop> loop = std::move(*core::Loop::create());
    Silent handler;
    core::Fd raw;
    std::unique_ptr<Connection> connection;
    Wire() {
        int ends[2];
        REQUIRE(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) == 0);
        raw.reset(ends[1]);
        auto stream = core::plain_stream(*loop, core::Fd(ends[0]), "test");
        connection = std::make_unique<Connection>(
            *loop, std::make_unique<Messages>(std::move(stream)), handler, protocol::Role::source);
    }
    void say(std::string const& bytes) const {
        REQUIRE(::write(raw.get(), bytes.data(), bytes.size()) ==
                static_cast<ssize_t>(bytes.size()));
    }
    static std::string frame(std::string const& text) {
        std::string head(4, '\0');
        for (int i = 0; i < 4; ++i)
            head[static_cast<std::size_t>(i)] =
                static_cast<char>(text.size() >> (24 - 8 * i) & 0xFF);
        return head + text;
    }
    std::string hear() const {
        char buffer[4096];
        auto const got = ::read(raw.get(), buffer, sizeof buffer);
        return {buffer, static_cast<std::size_t>(std::max<ssize_t>(got, 0))};
    }
};

}  // namespace

TEST_CASE("connection: requests are answered, errors keep their kind") {
    Wire wire;
    wire.say(Wire::frame(R"({"id":1,"verb":"seal"})") + Wire::frame(R"({"id":2,"verb":"abort"})"));
    shutdown(wire.raw.get(), SHUT_WR);
    wire.loop->run(wire.connection->run({}));
    auto const heard = wire.hear();
    CHECK(heard.find(R"("result":{"verb":"seal"})") != std::string::npos);
    CHECK(heard.find(R"("code":"refused")") != std::string::npos);
    CHECK(wire.handler.calls == 2);
}

TEST_CASE("connection: only what the other side's role may ask reaches the handler") {
    Wire wire;
    wire.say(Wire::frame(R"({"id":1,"verb":"migrate"})") +
             Wire::frame(R"({"id":2,"verb":"no_such_verb"})") +
             Wire::frame(R"({"id":3,"verb":"vtep_prepare"})"));
    shutdown(wire.raw.get(), SHUT_WR);
    wire.loop->run(wire.connection->run({}));
    auto const heard = wire.hear();
    CHECK(heard.find("a source may not send `migrate`") != std::string::npos);
    CHECK(heard.find("a source may not send `no_such_verb`") != std::string::npos);
    CHECK(wire.handler.calls == 0);
}

TEST_CASE("a message carries bytes beside its JSON") {
    auto const loop = std::move(*core::Loop::create());
    int ends[2];
    REQUIRE(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) == 0);
    Messages here(core::plain_stream(*loop, core::Fd(ends[0]), "here"));
    Messages there(core::plain_stream(*loop, core::Fd(ends[1]), "there"));
    auto const soon = [] { return core::Deadline::after(std::chrono::seconds(5)); };
    for (std::size_t size : {0U, 1U, 1500U, 65536U}) {
        Bytes bytes(size);
        for (std::size_t i = 0; i < size; ++i) bytes[i] = static_cast<std::uint8_t>(i * 7);
        auto const encoded = encode(Json::object({{"id", 1}}), bytes);
        REQUIRE(encoded);
        REQUIRE(loop->run(here.write(*encoded, soon())));
        auto const got = loop->run(there.receive(soon()));
        REQUIRE(got);
        CHECK(got->json["id"].integer_or(0) == 1);
        CHECK(got->bytes == bytes);
    }
    CHECK_FALSE(encode(Json::object({{"id", 1}}), Bytes(limits::message_bytes_max)));
}

// A full ring of frames is more messages than may be answered at once, in one burst.
TEST_CASE("connection: notifications that came all at once are all handled") {
    constexpr int burst = 1000;
    Wire wire;
    std::string bytes;
    for (int i = 0; i < burst; ++i) bytes += Wire::frame(R"({"verb":"frames"})");
    wire.say(bytes);
    shutdown(wire.raw.get(), SHUT_WR);
    wire.loop->run(wire.connection->run({}));
    CHECK(wire.handler.calls == burst);
}

TEST_CASE("connection: hostile frames end it before anything is called") {
    std::vector<std::string> const bad = {
        std::string("\xff\xff\xff\xff", 4), std::string(4, '\0'), Wire::frame("not json"),
        Wire::frame(std::string(200, '[')), Wire::frame(R"({"id":9,"neither":1})"),
        Wire::frame("[1,2"),
        // An unknown kind; a message whose JSON is longer than itself; one without JSON.
        std::string("\x02\0\0\x02{}", 6), std::string("\x01\0\0\x06\0\0\0\x63{}", 10),
        std::string("\x01\0\0\x06\0\0\0\0{}", 10)};
    for (auto const& bytes : bad) {
        Wire wire;
        wire.say(bytes);
        shutdown(wire.raw.get(), SHUT_WR);
        wire.loop->run(wire.connection->run({}));
        CHECK_FALSE(wire.connection->open());
        CHECK(wire.handler.calls == 0);
    }
}

}  // namespace sidecar_inputs_cases
