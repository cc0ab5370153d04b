// Where a home agent sends packets (netmove/mobile_ipv6/tunnel_table.hpp), merged TCP packets that
// are cut again (segments.hpp), and the file of its bindings (binding_log.hpp).
#include <catch2/catch.hpp>

#include <stdlib.h>

#include <filesystem>
#include <fstream>

#include "core/sync.hpp"
#include "netmove/frame_fields.hpp"
#include "netmove/mobile_ipv6/binding_log.hpp"
#include "netmove/mobile_ipv6/segments.hpp"
#include "netmove/mobile_ipv6/tunnel_table.hpp"

namespace mobile_ipv6_tunnels_cases {

namespace {

using namespace netmove;
using namespace netmove::mobile_ipv6;
using namespace std::chrono_literals;

Address address(char const* text) { return Address::parse(text).value(); }

Address const home = address("2001:db8:1::100");
Address const other_home = address("2001:db8:1::101");
Address const ipv4 = address("192.0.2.100");
Address const place = address("2001:db8:2::1");
Address const other_place = address("2001:db8:2::2");

/// A TCP packet with that many bytes of data, each different from the next.
Bytes tcp_packet(bool over_ipv4, std::size_t data) {
    constexpr std::size_t tcp_size = 32;  // with the timestamp option
    Bytes out;
    if (over_ipv4) {
        out = {0x45, 0, 0, 0, 0x12, 0xff, 0x40, 0, 64, 6, 0, 0};
        put(out, ipv4.bytes());
        put(out, address("192.0.2.2").bytes());
        out[2] = static_cast<std::uint8_t>((20 + tcp_size + data) >> 8);
        out[3] = static_cast<std::uint8_t>((20 + tcp_size + data) & 0xff);
    } else {
        out = {0x60, 0, 0, 0, 0, 0, 6, 64};
        out[4] = static_cast<std::uint8_t>((tcp_size + data) >> 8);
        out[5] = static_cast<std::uint8_t>((tcp_size + data) & 0xff);
        put(out, home.bytes());
        put(out, address("2001:db8:1::2").bytes());
    }
    put16(out, 4000);
    put16(out, 80);
    put32(out, 0xffff'fff0);  // the sequence number wraps
    put32(out, 77);
    put8(out, tcp_size / 4 << 4);
    put8(out, 0x80 | 0x10 | 0x08 | 0x01);  // CWR, ACK, PSH, FIN
    put16(out, 1000);
    put32(out, 0);
    for (unsigned i = 0; i < 12; ++i) put8(out, i);
    for (std::size_t i = 0; i < data; ++i) put8(out, static_cast<unsigned>(i * 7 % 251));
    return out;
}

std::uint8_t flags_of(Bytes const& segment, std::size_t ip) { return segment[ip + 13]; }

}  // namespace

TEST_CASE("tunnel table: one tunnel for both families, one path for each place",
          "[mobile-ipv6][home-agent]") {
    TunnelTable table;
    CHECK(table.find(home) == nullptr);
    auto& tunnel = table.bind({home, ipv4, {place}}, 1'500);
    CHECK(table.find(home) == &tunnel);
    CHECK(table.find(ipv4) == &tunnel);
    CHECK(tunnel.overhead() == 40);
    table.bind({other_home, {}, {place}}, 1'500);
    CHECK(table.find(other_home)->path == tunnel.path);
    tunnel.traffic.packets_to = 3;

    table.bind({home, {}, {other_place}}, 1'400);
    CHECK(table.find(ipv4) == nullptr);
    CHECK(table.find(home)->traffic.packets_to == 3);
    CHECK(table.find(home)->path->mtu({}) == 1'400);
    CHECK(table.path(place) != nullptr);
    table.unbind(other_home);
    CHECK(table.path(place) == nullptr);
    table.unbind(home);
    CHECK(table.path(other_place) == nullptr);
    CHECK(table.size() == 0);
    table.unbind(home);
}

TEST_CASE("tunnel table: what a path carries is learned, and forgotten",
          "[mobile-ipv6][home-agent]") {
    TunnelTable table;
    TimePoint const now{1h};
    auto* const path = table.bind({home, {}, {place}}, 1'500).path;
    CHECK(path->learn(1'400, now));
    CHECK(path->mtu(now) == 1'400);
    CHECK_FALSE(path->learn(1'450, now));
    // A forged message makes no packet smaller than each link carries.
    CHECK(path->learn(68, now));
    CHECK(path->mtu(now) == 1'280);
    CHECK(path->mtu(now + path_mtu_lifetime) == 1'500);
    auto* const over_ipv4 = table.bind({home, {}, {address("198.51.100.7"), 4191}}, 1'500).path;
    CHECK(over_ipv4->learn(0, now));
    CHECK(over_ipv4->mtu(now) == ipv4_path_mtu_min);
    CHECK(table.find(home)->overhead() == 28);
}

TEST_CASE("segments: a merged packet is cut, and nothing of it is lost or changed",
          "[mobile-ipv6][home-agent]") {
    bool const over_ipv4 = GENERATE(false, true);
    auto const whole = tcp_packet(over_ipv4, GENERATE(0U, 1U, 1'208U, 5'000U, 60'000U));
    std::size_t const ip = over_ipv4 ? 20 : 40;
    std::size_t const headers = ip + 32;
    auto const segments = tcp_segments(whole, 1'280);
    Bytes data;
    for (std::size_t i = 0; i < segments.size(); ++i) {
        auto const& one = segments[i];
        REQUIRE(one.size() > headers);
        CHECK(one.size() <= 1'280);
        CHECK(get32(one, ip + 4) == 0xffff'fff0U + static_cast<std::uint32_t>(data.size()));
        auto const source = over_ipv4 ? ipv4_at(one, 12) : ipv6_at(one, 8);
        auto const destination = over_ipv4 ? ipv4_at(one, 16) : ipv6_at(one, 24);
        CHECK(upper_layer_checksum(source, destination, 6, ByteView(one).subspan(ip)) == 0);
        if (over_ipv4) {
            CHECK(internet_checksum(ByteView(one).first(20)) == 0);
            CHECK(get16(one, 2) == one.size());
            CHECK(get16(one, 4) == 0x12ff + i);
        } else {
            CHECK(get16(one, 4) == one.size() - ip);
        }
        bool const last = i + 1 == segments.size();
        CHECK(flags_of(one, ip) == ((i == 0 ? 0x80 : 0) | 0x10 | (last ? 0x09 : 0)));
        data.insert(data.end(), one.begin() + static_cast<std::ptrdiff_t>(headers), one.end());
    }
    CHECK(std::ranges::equal(data, ByteView(whole).subspan(headers)));
}

TEST_CASE("segments: what is no TCP, or malformed, is not cut", "[mobile-ipv6][home-agent]") {
    auto const good = tcp_packet(false, 5'000);
    auto other = good;
    other[6] = 17;
    CHECK(tcp_segments(other, 1'280).empty());
    auto short_header = good;
    short_header[40 + 12] = 0x10;
    CHECK(tcp_segments(short_header, 1'280).empty());
    CHECK(tcp_segments(ByteView(good).first(50), 1'280).empty());
    auto a_fragment = tcp_packet(true, 5'000);
    a_fragment[6] = 0x20;
    CHECK(tcp_segments(a_fragment, 1'280).empty());
    CHECK(tcp_segments(good, 72).empty());
    CHECK(tcp_segments({}, 1'280).empty());
}

namespace {

struct LogFile {
    LogFile() {
        std::string pattern =
            (std::filesystem::temp_directory_path() / "sidecar-bindings-XXXXXX").string();
        REQUIRE(::mkdtemp(pattern.data()) != nullptr);
        directory = pattern;
    }
    ~LogFile() {
        std::error_code ignored;  // there is no one to report it to
        std::filesystem::remove_all(directory, ignored);
    }
    [[nodiscard]] std::string path() const { return directory / "bindings"; }
    std::filesystem::path directory;
};

core::Json record_of(int number) { return core::Json::object({{"home", number}}); }

/// Appends some records, waits until they are durable, and ends the log.
core::Task<void> append_all(core::Loop& loop, BindingLog& log, core::Json& all, int from, int to) {
    core::Event durable(loop);
    std::stop_source stop;
    core::TaskGroup group(loop);
    group.spawn(log.run(stop.get_token()));
    for (int i = from; i < to; ++i) {
        all.add(record_of(i));
        log.append(record_of(i), [&durable, last = i + 1 == to] {
            if (last) durable.set();
        });
    }
    CHECK(co_await durable.wait(core::Deadline::after(20s)));
    stop.request_stop();
    co_await group.join();
}

}  // namespace

TEST_CASE("binding log: what was durable is read again, and a torn line is none",
          "[mobile-ipv6][home-agent]") {
    LogFile file;
    auto const loop = core::Loop::create().value();
    core::Json all = core::Json::array();
    auto const snapshot = [&all] { return core::Json::object({{"bindings", all}}); };
    CHECK(BindingLog::read(file.path()).value().empty());
    {
        BindingLog log(*loop, file.path(), snapshot);
        loop->run(append_all(*loop, log, all, 0, 10));
    }
    CHECK(BindingLog::read(file.path()).value().size() == 10);
    std::ofstream(file.path(), std::ios::app) << R"({"home":)";
    auto const read = BindingLog::read(file.path()).value();
    REQUIRE(read.size() == 10);
    CHECK(read.back()["home"].integer_or(-1) == 9);
    {
        // It is written anew at the start.
        BindingLog log(*loop, file.path(), snapshot);
        loop->run(append_all(*loop, log, all, 10, 12));
    }
    CHECK(BindingLog::read(file.path()).value().size() == 12);
    std::ofstream(file.path(), std::ios::app) << "no JSON\n";
    auto const refused = BindingLog::read(file.path());
    REQUIRE_FALSE(refused);
    CHECK(refused.error().sentence().contains("line 13"));
}

}  // namespace mobile_ipv6_tunnels_cases
