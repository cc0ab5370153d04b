// The address watcher on a real tap: what it learns from the guest's frames, and which frames it
// ignores. An independent decoder (tcpdump) reads the announcements.
#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "core/sync.hpp"
#include "netmove/watcher.hpp"
#include "tests/process/netmove_lab.hpp"

namespace netmove_watcher_cases {

namespace {

using namespace netmove_lab;

MacAddress const guest = mac("52:54:00:12:34:56");
MacAddress const other = mac("52:54:00:aa:bb:cc");

struct WatchedTap : OneHost {
    WatchedTap() {
        make_bridge("br0");
        for (auto const* name : {"tap0", "tap1"}) must(place_tap(netlink, name, {"br0", 0, 0}));
        watcher = must(AddressWatcher::open(*loop, "tap0", guest));
    }
    std::vector<std::string> known() {
        std::vector<std::string> out;
        for (auto const& [address, vlan] : watcher->addresses()) {
            out.push_back(vlan == 0 ? address.text() : fmt::format("{}@{}", address.text(), vlan));
        }
        return out;
    }
    void sends(Bytes const& frame) { must(tap.write_frame(frame)); }
    void sends_udp(std::string const& from, std::uint8_t hops = 64) {
        auto const source = ip(from);
        sends(udp_frame(guest, other, source, ip(source.is_ipv4() ? "192.0.2.1" : "2001:db8::1"),
                        hops));
    }

    Tap tap = must(Tap::open(netlink, "tap0", {}));
    Tap peer = must(Tap::open(netlink, "tap1", {}));
    std::unique_ptr<core::Loop> loop = must(core::Loop::create());
    std::unique_ptr<AddressWatcher> watcher;
};

using Names = std::vector<std::string>;

core::Task<void> watch(AddressWatcher& watcher, std::stop_token stop, core::Result<>& result,
                       core::Event& ended) {
    result = co_await watcher.run(stop);
    ended.set();
}

}  // namespace

TEST_CASE("the watcher learns both families, newest first", "[netmove]") {
    WatchedTap host;
    CHECK(host.known().empty());
    host.sends(gratuitous_arp(guest, ip("192.0.2.10"), ArpForm::request));
    host.sends(neighbour_advertisement(guest, ip("fe80::10"), false));
    host.sends_udp("2001:db8::10");
    host.sends_udp("192.0.2.11", 128);
    CHECK(host.known() == Names{"192.0.2.11", "2001:db8::10", "fe80::10", "192.0.2.10"});
    CHECK_FALSE(host.watcher->router());
    host.sends(neighbour_advertisement(guest, ip("fe80::10"), true));
    CHECK(host.watcher->router());
    CHECK(host.known().front() == "fe80::10");
    // A new address that differs from a known one in one place only, and a known address.
    host.sends_udp("2001:db8::11");
    host.sends_udp("2001:db9::10");
    host.sends_udp("192.0.2.10");
    CHECK(host.known().size() == 6);
    CHECK(host.known().front() == "2001:db9::10");
}

TEST_CASE("the watcher ignores what is not the guest's", "[netmove]") {
    WatchedTap host;
    SECTION("frames to the guest, even in its own name") {
        must(host.peer.write_frame(gratuitous_arp(guest, ip("192.0.2.66"), ArpForm::request)));
        must(host.peer.write_frame(udp_frame(guest, other, ip("192.0.2.67"), ip("192.0.2.1"))));
        std::vector<Bytes> got;
        CHECK(soon([&] { return !(got = received(host.tap)).empty(); }));
    }
    SECTION("another station behind the tap") {
        host.sends(udp_frame(other, guest, ip("192.0.2.66"), ip("192.0.2.1")));
        host.sends(gratuitous_arp(other, ip("192.0.2.66"), ArpForm::request));
    }
    SECTION("what it routes for others") {
        host.sends_udp("203.0.113.5", 63);
        host.sends_udp("2001:db8:5::1", 63);
    }
    SECTION("no addresses at all") {
        host.sends_udp("0.0.0.0");
        host.sends_udp("::");
        host.sends(rarp_announcement(guest));
        host.sends(Bytes(14, 0));
    }
    CHECK(host.known().empty());
}

TEST_CASE("the watcher knows the VLAN an address is used in", "[netmove]") {
    WatchedTap host;
    host.sends(gratuitous_arp(guest, ip("192.0.2.10"), ArpForm::request, 30));
    host.sends(neighbour_advertisement(guest, ip("2001:db8::10"), false, 31));
    host.sends(gratuitous_arp(guest, ip("192.0.2.10"), ArpForm::request));
    CHECK(host.known() == Names{"192.0.2.10", "2001:db8::10@31", "192.0.2.10@30"});
    auto twice = gratuitous_arp(guest, ip("192.0.2.99"), ArpForm::request, 30);
    twice.insert(twice.begin() + 12, {0x88, 0xa8, 0, 5});
    host.sends(twice);
    CHECK(host.known().size() == 3);
}

TEST_CASE("a guest that forges sources fills no memory", "[netmove]") {
    WatchedTap host;
    for (int i = 0; i < 400; ++i) host.sends_udp(fmt::format("10.1.{}.{}", i / 200, i % 200 + 1));
    CHECK(host.known().size() == learned_addresses_max);
    // Addresses that the guest claims by ARP are still seen, whatever else it sends.
    host.sends(gratuitous_arp(guest, ip("192.0.2.10"), ArpForm::request));
    CHECK(host.known().front() == "192.0.2.10");
}

TEST_CASE("a running watcher ends when stopped, and when the tap is gone", "[netmove]") {
    WatchedTap host;
    core::Result<> result = core::fail(core::Errc::invalid, "still running");
    core::Event ended(*host.loop);
    core::TaskGroup scope(*host.loop);
    std::stop_source stop;
    scope.spawn(watch(*host.watcher, stop.get_token(), result, ended));
    struct Steps {
        static core::Task<bool> learns(WatchedTap& lab, std::size_t count) {
            for (int look = 0; look < 500; ++look) {
                (void)co_await core::sleep_for(*lab.loop, 10ms);
                if (lab.watcher->seen().size() == count) co_return true;
            }
            co_return false;
        }
        static core::Task<bool> ends(core::Event& event, core::TaskGroup& tasks) {
            auto const waited = co_await event.wait(core::Deadline::after(10s));
            co_await tasks.join();
            co_return waited.has_value();
        }
    };
    host.sends_udp("192.0.2.10");
    CHECK(host.loop->run(Steps::learns(host, 1)));
    SECTION("stopped") {
        stop.request_stop();
        CHECK(host.loop->run(Steps::ends(ended, scope)));
        CHECK(result);
    }
    SECTION("down and up again: goes on; deleted: ends") {
        must(host.netlink.set_down("tap0"));
        must(host.netlink.set_up("tap0"));
        host.sends_udp("192.0.2.11");
        CHECK(host.loop->run(Steps::learns(host, 2)));
        must(host.netlink.set_down("tap0"));
        must(host.netlink.delete_link("tap0"));
        CHECK(host.loop->run(Steps::ends(ended, scope)));
        CHECK(contains(sentence(result), "the tap tap0 is gone"));
    }
}

TEST_CASE("a watcher of nothing is refused", "[netmove]") {
    OneHost host;
    auto loop = must(core::Loop::create());
    CHECK(contains(sentence(AddressWatcher::open(*loop, "tap0", guest)),
                   "there is no network interface tap0"));
}

namespace {

/// A capture file with these frames, in a temporary directory.
struct Capture {
    explicit Capture(std::vector<Bytes> const& frames) {
        char pattern[] = "/tmp/netmove-capture-XXXXXX";
        REQUIRE(::mkdtemp(pattern) != nullptr);
        directory = pattern;
        std::ofstream file(directory / "frames.pcap", std::ios::binary);
        auto const put = [&file](std::initializer_list<std::uint32_t> words) {
            for (auto const word : words) {
                file.write(reinterpret_cast<char const*>(&word), sizeof word);
            }
        };
        put({0xa1b2c3d4, 2 | 4 << 16, 0, 0, 65535, 1});  // version 2.4, Ethernet
        for (auto const& frame : frames) {
            auto const size = static_cast<std::uint32_t>(frame.size());
            put({0, 0, size, size});
            file.write(reinterpret_cast<char const*>(frame.data()),
                       static_cast<std::streamsize>(frame.size()));
        }
    }
    ~Capture() {
        std::error_code ignored;
        std::filesystem::remove_all(directory, ignored);
    }
    Capture(Capture const&) = delete;
    Capture& operator=(Capture const&) = delete;
    [[nodiscard]] std::string decoded() const {
        return sh(fmt::format("tcpdump -nn -e -vv -t -r {}/frames.pcap", directory.string()));
    }
    std::filesystem::path directory;
};

std::string decoded(Bytes const& frame) { return Capture({frame}).decoded(); }

}  // namespace

TEST_CASE("an independent decoder reads the announcements as meant", "[netmove]") {
    if (std::system("tcpdump --version >/dev/null 2>&1") != 0) {
        WARN("no tcpdump here: not shown");
        return;
    }
    auto const rarp = decoded(rarp_announcement(guest));
    CHECK(contains(rarp,
                   "52:54:00:12:34:56 > ff:ff:ff:ff:ff:ff, ethertype Reverse ARP (0x8035), "
                   "length 60"));
    CHECK(contains(rarp, "who-is 52:54:00:12:34:56 tell 52:54:00:12:34:56"));

    auto const request = decoded(gratuitous_arp(guest, ip("192.0.2.10"), ArpForm::request));
    CHECK(contains(request,
                   "Ethernet (len 6), IPv4 (len 4), Request who-has 192.0.2.10 tell "
                   "192.0.2.10"));
    auto const reply = decoded(gratuitous_arp(guest, ip("192.0.2.10"), ArpForm::reply, 30));
    CHECK(contains(reply, "vlan 30, p 0, ethertype ARP"));
    CHECK(contains(reply, "Reply 192.0.2.10 is-at 52:54:00:12:34:56"));

    auto const host = decoded(neighbour_advertisement(guest, ip("2001:db8::10"), false));
    CHECK(contains(host, "52:54:00:12:34:56 > 33:33:00:00:00:01, ethertype IPv6"));
    CHECK(contains(host,
                   "hlim 255, next-header ICMPv6 (58) payload length: 32) 2001:db8::10 > "
                   "ff02::1: [icmp6 sum ok] ICMP6, neighbor advertisement"));
    CHECK(contains(host, "tgt is 2001:db8::10, Flags [override]"));
    CHECK(contains(host, "destination link-address option (2), length 8 (1): 52:54:00:12:34:56"));
    auto const router = decoded(neighbour_advertisement(guest, ip("fe80::10"), true));
    CHECK(contains(router, "Flags [router, override]"));
    CHECK(contains(router, "[icmp6 sum ok]"));

    Address const groups[] = {solicited_node(ip("2001:db8::10")), solicited_node(ip("fe80::1:2"))};
    auto const report = decoded(multicast_report(guest, ip("fe80::10"), groups));
    CHECK(contains(report, "fe80::10 > ff02::16: HBH (rtalert: 0x0000) (padn)"));
    CHECK(
        contains(report, "[icmp6 sum ok] ICMP6, multicast listener report v2, 2 group record(s)"));
    CHECK(contains(report, "[gaddr ff02::1:ff00:10 to_ex { }]"));
    CHECK(contains(report, "[gaddr ff02::1:ff01:2 to_ex { }]"));
}

}  // namespace netmove_watcher_cases
