// Shared by the tests of anchors as `sidecar serve` holds them: two hosts that are joined by a
// router's wire, real taps and tunnels, and a "guest" whose tap the test holds as QEMU would. The
// requests are those that the sidecars of both hosts send. Invariant: a host and its processes are
// removed with it.
#pragma once

#include <signal.h>

#include <catch2/catch.hpp>

#include <optional>

#include "sidecar/anchor/ask_serve.hpp"
#include "sidecar/channel/peer.hpp"
#include "sidecar/host/limits.hpp"
#include "tests/process/netmove_lab.hpp"
#include "tests/process/storage_lab.hpp"
#include "tests/support/lab.hpp"

namespace anchor_lab {

using namespace netmove_lab;
using core::Deadline;
using core::Json;
using netmove::tunnel::Key;
using sidecar::Paths;
using storage_lab::Runner;
namespace protocol = sidecar::protocol;

constexpr auto guest = "web1";
constexpr auto guest_mac = "52:54:00:77:00:10";
constexpr auto station_mac = "52:54:00:77:00:20";
constexpr int serve_port = 4790;

/// A network namespace with a bridge and a directory of its own; all is removed with it.
struct AnchorHost {
    AnchorHost(std::string const& letter, std::string const& directory)
        : netns(fmt::format("anchor{}-{}{}", ::getpid(), lab::unique_suffix(), letter)),
          paths{directory + "/" + letter + "/run", directory + "/" + letter + "/state"},
          logs(directory + "/" + letter) {
        lab::fs::create_directories(paths.run_directory);
        lab::fs::create_directories(paths.state_directory);
        lab::must_run({"ip", "netns", "add", netns});
        sh(fmt::format("ip -n {} link set lo up", netns));
    }
    ~AnchorHost() {
        for (auto const& seen : lab::processes_in(netns)) {
            auto const process = core::Process::open(seen.pid);
            if (process) (void)process->signal(SIGKILL);
        }
        lab::run({"ip", "netns", "del", netns});
    }
    AnchorHost(AnchorHost const&) = delete;

    void start_serve(lab::Argv const& more = {}) {
        lab::Argv argv{lab::program("sidecar"), "serve",       "--plaintext",        "--run-dir",
                       paths.run_directory,     "--state-dir", paths.state_directory};
        argv.insert(argv.end(), more.begin(), more.end());
        serve.emplace("serve", argv, lab::Place{netns, environment}, logs);
        // A killed serve's listener accepts for some milliseconds more, and answers nothing.
        lab::wait_until("`sidecar serve` to answer", 20s, [&] {
            return lab::run({lab::program("sidecar"), "anchor", "list", "--run-dir",
                             paths.run_directory, "--state-dir", paths.state_directory})
                       .exit_status == 0;
        });
    }
    [[nodiscard]] bool has_link(std::string const& name) const {
        return lab::run({"ip", "-n", netns, "link", "show", name}).exit_status == 0;
    }

    std::string netns;
    Paths paths;
    std::string logs;
    std::vector<std::string> environment;  ///< Of `serve`.
    std::optional<lab::Daemon> serve;
};

/// Host a has the guest's network: br0 with the guest's tap and a station. Host b is elsewhere.
struct AnchorLab {
    AnchorLab() {
        sh(fmt::format("ip -n {} link add wire type veth peer name wire netns {}", a.netns,
                       b.netns));
        for (auto const& [host, number] : {std::pair(&a, 1), std::pair(&b, 2)}) {
            sh(
                fmt::format("ip -n {0} address add 192.0.2.{1}/24 dev wire; "
                            "ip -n {0} link set wire up",
                            host->netns, number));
        }
        {
            lab::Visit const visit(a.netns);
            make_bridge("br0");
            auto netlink = must(Netlink::open());
            guest_tap.emplace(port_of("br0", "guest", netlink));
            station.emplace(port_of("br0", "station", netlink));
        }
        write_manifest();
        a.start_serve();
        b.start_serve();
    }

    static Tap port_of(std::string const& bridge, std::string const& name, Netlink& netlink) {
        auto tap = must(Tap::open(netlink, name, {}));
        must(place_tap(netlink, name, {bridge, 1500, migration_queue_length}));
        return tap;
    }
    static GuestInterface interface() {
        GuestInterface made;
        made.netdev = "net0";
        made.tap = "guest";
        made.bridge = "br0";
        made.mac = mac(guest_mac);
        return made;
    }
    /// As the sidecar of a guest writes it. The process that holds the tap is this test.
    void write_manifest() const {
        auto manifest =
            Json::object({{"guest", guest}, {"interfaces", Json::array({interface().to_json()})}});
        must(must(core::Process::open(::getpid())).identity()).add_to(manifest);
        must(sidecar::make_directory(a.paths.state(guest)));
        must(sidecar::write_durably(a.paths.state(guest) + "/guest.json", manifest.dump()));
    }

    template <class Request>
    auto ask(AnchorHost const& host, Request request) {
        return runner.loop().run(sidecar::ask_serve(runner.loop(), host.paths, std::move(request),
                                                    Deadline::after(30s)));
    }
    [[nodiscard]] protocol::AnchorEnd end(std::uint64_t id) const {
        return {mac(guest_mac), id, "guest", 1500, {}};
    }
    /// The far end on host b, and the tunnel from host a; returns the bridge there.
    std::string prepare() {
        auto fresh = end(0);
        fresh.key = key;
        auto const received =
            must(ask(b, protocol::AnchorReceive{guest, "m1", serve_port, {fresh}}));
        REQUIRE(received.bridges.size() == 1);
        REQUIRE(received.port == netmove::tunnel::default_port);
        auto const peer =
            netmove::tunnel::Endpoint{ip("192.0.2.2"), static_cast<std::uint16_t>(received.port)};
        auto const path = must(ask(a, protocol::AnchorPrepare{guest, "m1", peer, {fresh}}));
        CHECK(path.datagram_max >= 1200);
        return received.bridges[0];
    }
    /// The guest's tap on a host where it has moved.
    static Tap tap_at(AnchorHost const& host, std::string const& bridge) {
        lab::Visit const visit(host.netns);
        auto netlink = must(Netlink::open());
        return port_of(bridge, "moved", netlink);
    }
    /// `count` frames from the station to the guest; each ends in its number.
    void send_to_guest(int count) {
        for (int sent = 0; sent < count; ++sent) {
            auto frame =
                udp_frame(mac(station_mac), mac(guest_mac), ip("10.0.0.20"), ip("10.0.0.10"));
            frame.back() = static_cast<std::uint8_t>(next_number++);
            must(station->write_frame(frame));
        }
    }
    /// The numbers of the station's frames that a guest gets, until `count` have come.
    static std::vector<int> numbers(Tap const& tap, std::size_t count) {
        std::vector<int> got;
        (void)soon(
            [&] {
                for (auto const& frame : received(tap)) {
                    if (frame.size() > 12 && std::equal(frame.begin(), frame.begin() + 6,
                                                        mac(guest_mac).bytes.begin())) {
                        got.push_back(frame.back());
                    }
                }
                return got.size() >= count;
            },
            10s);
        return got;
    }

    storage_lab::Directory directory;
    AnchorHost a{"a", directory.text()};
    AnchorHost b{"b", directory.text()};
    Runner runner;
    Key key = Key::generate();
    std::optional<Tap> guest_tap;
    std::optional<Tap> station;
    int next_number = 0;
};

/// The sidecar of a guest on host b, which asks the host of that address as its anchor.
class RemoteSource {
public:
    explicit RemoteSource(AnchorLab& lab, std::string const& address = "192.0.2.1")
        : lab_(lab),
          visit_(lab.b.netns),
          channel_(lab.runner.loop(),
                   {address,
                    {core::TlsConfig::Mode::plaintext, ""},
                    guest,
                    "m2",
                    protocol::Role::anchor_source},
                   [](bool) {}),
          beside_(lab.runner.loop()) {
        lab.runner.must(channel_.connect(Deadline::after(10s)));
        beside_.spawn(channel_.keep(stop_.get_token()));
    }
    ~RemoteSource() {
        stop_.request_stop();
        lab_.runner.loop().run(beside_.join());
    }
    template <class Request>
    auto ask(Request request) {
        return lab_.runner.loop().run(channel_.request(std::move(request), Deadline::after(30s)));
    }

private:
    AnchorLab& lab_;
    lab::Visit visit_;
    sidecar::PeerChannel channel_;
    std::stop_source stop_;
    core::TaskGroup beside_;
};

inline std::vector<int> from_to(int first, int end) {
    std::vector<int> all;
    for (int number = first; number < end; ++number) all.push_back(number);
    return all;
}

}  // namespace anchor_lab
