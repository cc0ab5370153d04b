// The delay line of the benchmark of distances: no byte arrives early, all bytes arrive in order,
// and none arrives while the line is held.
#include "tests/support/delay_line.hpp"

#include <poll.h>
#include <sys/socket.h>
#include <catch2/catch.hpp>

#include <random>

#include "core/stream.hpp"
#include "tests/support/command.hpp"

namespace delay_line_cases {

using namespace std::chrono_literals;
using Clock = std::chrono::steady_clock;

namespace {

constexpr auto limit = 20s;

bool readable(core::Fd const& fd, std::chrono::milliseconds patience) {
    pollfd entry{fd.get(), POLLIN, 0};
    return ::poll(&entry, 1, static_cast<int>(patience.count())) == 1;
}

/// Both ends of a connection over the line.
struct Ends {
    explicit Ends(std::chrono::milliseconds round_trip)
        : listener(core::listen_tcp("127.0.0.1", "0").value()),
          line(core::local_port(listener.get()).value(), round_trip),
          near(lab::connect_in("", "127.0.0.1", line.port())) {
        REQUIRE(near);
        REQUIRE(readable(listener, limit));
        far = core::Fd(::accept4(listener.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
        REQUIRE(far);
    }
    core::Fd listener;
    lab::DelayLine line;
    core::Fd near;
    core::Fd far;
};

void send(core::Fd const& fd, char letter) { REQUIRE(::send(fd.get(), &letter, 1, 0) == 1); }

char receive(core::Fd const& fd) {
    char letter = 0;
    REQUIRE(readable(fd, limit));
    REQUIRE(::recv(fd.get(), &letter, 1, 0) == 1);
    return letter;
}

}  // namespace

TEST_CASE("delay line: there and back takes a round trip", "[support]") {
    Ends ends(60ms);
    for (int i = 0; i < 5; ++i) {
        auto const begun = Clock::now();
        send(ends.near, 'a');
        CHECK(receive(ends.far) == 'a');
        CHECK(Clock::now() - begun >= 30ms);
        send(ends.far, 'b');
        CHECK(receive(ends.near) == 'b');
        auto const took = Clock::now() - begun;
        CHECK(took >= 60ms);
        CHECK(took < 1s);
    }
}

TEST_CASE("delay line: many bytes arrive complete and in order, up to the last", "[support]") {
    Ends ends(50ms);
    std::mt19937_64 random(1);
    std::vector<std::uint64_t> words(4 * 1024 * 1024);
    for (auto& word : words) word = random();
    auto const bytes = std::as_bytes(std::span(words));
    std::vector<std::byte> got;
    std::vector<std::byte> room(1024 * 1024);
    auto const begun = Clock::now();
    for (std::size_t sent = 0; got.size() < bytes.size();) {
        REQUIRE(Clock::now() - begun < limit);
        auto const rest = bytes.subspan(sent);
        auto const went = ::send(ends.near.get(), rest.data(), rest.size(), MSG_DONTWAIT);
        if (went > 0) sent += static_cast<std::size_t>(went);
        auto const came = ::recv(ends.far.get(), room.data(), room.size(), MSG_DONTWAIT);
        if (came > 0) got.insert(got.end(), room.begin(), room.begin() + came);
    }
    CHECK(std::ranges::equal(got, bytes));
    ends.near = core::Fd();
    REQUIRE(readable(ends.far, limit));
    CHECK(::recv(ends.far.get(), room.data(), room.size(), 0) == 0);
}

TEST_CASE("delay line: while held it delivers nothing, and everything afterwards", "[support]") {
    Ends ends(2ms);
    ends.line.hold();
    send(ends.near, 'x');
    CHECK_FALSE(readable(ends.far, 200ms));
    ends.line.release();
    CHECK(receive(ends.far) == 'x');
}

}  // namespace delay_line_cases
