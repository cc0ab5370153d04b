// The lossy line of the benchmark of distances: its delay and its loss are as configured.
#include "tests/support/packet_line.hpp"

#include <arpa/inet.h>
#include <poll.h>
#include <sys/socket.h>
#include <catch2/catch.hpp>

#include <cstring>

#include "tests/support/command.hpp"
#include "tests/support/lab.hpp"

namespace packet_line_cases {

using namespace std::chrono_literals;
using Clock = std::chrono::steady_clock;

namespace {

constexpr std::uint16_t port = 7000;

core::Fd udp_in(std::string const& netns, char const* address) {
    lab::Visit const inside(netns);
    core::Fd made(socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
    int const room = 8 * 1024 * 1024;  // enough for all of them: packets are lost on the line only
    REQUIRE(setsockopt(made.get(), SOL_SOCKET, SO_RCVBUFFORCE, &room, sizeof room) == 0);
    sockaddr_in here{};
    here.sin_family = AF_INET;
    here.sin_port = htons(port);
    REQUIRE(inet_pton(AF_INET, address, &here.sin_addr) == 1);
    REQUIRE(bind(made.get(), reinterpret_cast<sockaddr*>(&here), sizeof here) == 0);
    return made;
}

bool send_to(core::Fd const& from, char const* address, int number) {
    sockaddr_in there{};
    there.sin_family = AF_INET;
    there.sin_port = htons(port);
    REQUIRE(inet_pton(AF_INET, address, &there.sin_addr) == 1);
    return sendto(from.get(), &number, sizeof number, 0, reinterpret_cast<sockaddr*>(&there),
                  sizeof there) == sizeof number;
}

std::optional<int> receive(core::Fd const& at, std::chrono::milliseconds patience) {
    pollfd entry{at.get(), POLLIN, 0};
    if (::poll(&entry, 1, static_cast<int>(patience.count())) != 1) return {};
    int number = -1;
    REQUIRE(recv(at.get(), &number, sizeof number, 0) == sizeof number);
    return number;
}

}  // namespace

TEST_CASE("packet line: nothing is early, and no more is lost than was asked for", "[lab]") {
    constexpr auto one_way = 20ms;
    lab::Lab const hosts;
    lab::PacketLine line(hosts.a().netns, hosts.b().netns, 2 * one_way, 0.1);
    auto const near = udp_in(hosts.a().netns, lab::PacketLine::near_address);
    auto const far = udp_in(hosts.b().netns, lab::PacketLine::far_address);
    constexpr int sent = 1000;
    auto const begun = Clock::now();
    int arrived = 0;
    int last = -1;
    for (int i = 0; i < sent; ++i) REQUIRE(send_to(near, lab::PacketLine::far_address, i));
    while (auto const number = receive(far, 500ms)) {
        if (arrived == 0) CHECK(Clock::now() - begun >= one_way);
        CHECK(*number > last);
        last = *number;
        ++arrived;
    }
    // A tenth is lost at random: 100, plus or minus ten standard deviations.
    CHECK(arrived > 800);
    CHECK(arrived < 1000);
    CHECK(line.overflowed() == 0);
    CHECK(line.lost() >= static_cast<std::uint64_t>(sent - arrived));

    line.hold();
    for (int i = 0; i < 20; ++i) REQUIRE(send_to(near, lab::PacketLine::far_address, sent + i));
    CHECK_FALSE(receive(far, 3 * one_way));
    line.release();
    CHECK(receive(far, 500ms));
}

}  // namespace packet_line_cases
