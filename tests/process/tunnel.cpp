// The tunnel between two hosts with a router between them: frames of all sizes over paths of
// several MTUs, hold and forward, and what each end reports.
#include "tests/process/tunnel_lab.hpp"

namespace tunnel_cases {

namespace {

using namespace tunnel_lab;

/// Frames of all kinds of sizes, with and without work for the network card, in one order. The
/// kernel puts no longer ones than 65,535 bytes into a ring.
std::vector<Frame> mixed_frames(std::size_t count) {
    constexpr std::size_t sizes[] = {60,   61,   590,  1200, 1279, 1280,  1281, 1399, 1400,
                                     1401, 1500, 1514, 4000, 9014, 30000, 60,   65535};
    std::vector<Frame> frames;
    for (std::uint32_t i = 0; i < count; ++i) {
        auto const size = sizes[i % std::size(sizes)];
        // A superframe of one segment is none for the kernel.
        frames.push_back(size > 1514 ? super_frame(i, size, 1448) : plain_frame(i, size));
    }
    return frames;
}

void check_same(std::vector<Frame> const& sent, std::vector<Frame> const& got) {
    REQUIRE(got.size() == sent.size());
    std::size_t wrong = 0;
    for (std::size_t i = 0; i < sent.size(); ++i) {
        if (!same(sent[i], got[i])) ++wrong;
    }
    CHECK(wrong == 0);
}

}  // namespace

TEST_CASE("tunnel: frames of all sizes arrive identical and in order", "[tunnel]") {
    auto const mtu = GENERATE(1280, 1400, 1500);
    auto const ipv6 = GENERATE(false, true);
    CAPTURE(mtu, ipv6);
    Hosts hosts({mtu, ipv6});
    hosts.establish();
    hosts.connect_taps();
    // Before and after the path was tested.
    auto const frames = mixed_frames(200);
    check_same(frames, hosts.carry(*hosts.tap_a, *hosts.tap_b, frames));
    auto const tested = must(hosts.run(hosts.at_b->test_path(core::Deadline::after(10s))));
    auto const path_max = static_cast<std::size_t>(mtu) - (ipv6 ? 48 : 28);
    CHECK(tested.datagram_max == path_max);
    CHECK(tested.round_trip > 0ns);
    CHECK(tested.round_trip < 1s);
    REQUIRE(hosts.until([&] {
        auto const path = hosts.at_a->statistics().path;
        return path && path->datagram_max == path_max;
    }));
    check_same(frames, hosts.carry(*hosts.tap_b, *hosts.tap_a, frames));
    check_same(frames, hosts.carry(*hosts.tap_a, *hosts.tap_b, frames));
    for (auto const* end : {hosts.at_a, hosts.at_b}) {
        auto const seen = end->statistics();
        INFO(seen.to_json().dump_pretty());
        CHECK(seen.unauthenticated == 0);
        CHECK(seen.replayed == 0);
        CHECK(seen.malformed == 0);
        CHECK(seen.incomplete == 0);
        CHECK(seen.not_written == 0);
        CHECK(seen.handshakes == 1);
    }
    CHECK(hosts.at_a->statistics().frames_sent == 400);
    CHECK(hosts.at_b->statistics().frames_received == 400);
    CHECK(hosts.at_a->statistics().peer->address == ip(hosts.address_of('b')));
}

}  // namespace tunnel_cases
