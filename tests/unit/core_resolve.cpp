// core/resolve.hpp: the loop keeps running while the resolver is silent, and every address is
// tried. getaddrinfo(3) in this program is the C library's until a test case silences it.
#include "core/resolve.hpp"

#include <dlfcn.h>
#include <netdb.h>
#include <unistd.h>

#include <atomic>
#include <catch2/catch.hpp>

#include "core/stream.hpp"
#include "core/sync.hpp"
#include "tests/unit/silent_resolver.hpp"

using namespace core;

namespace {
std::atomic<bool> silent = false;
}

extern "C" int getaddrinfo(char const* host, char const* port, addrinfo const* hints,
                           addrinfo** found) {
    bool const numeric = hints != nullptr && (hints->ai_flags & AI_NUMERICHOST) != 0;
    if (silent && !numeric && host != nullptr) {
        alarm(20);  // a caller that hangs must not hang the test
        for (;;) pause();
    }
    static auto const real =
        reinterpret_cast<decltype(&getaddrinfo)>(dlsym(RTLD_NEXT, "getaddrinfo"));
    return real(host, port, hints, found);
}

SilentResolver::SilentResolver() { silent = true; }
SilentResolver::~SilentResolver() { silent = false; }

namespace {

/// Counts how often a timer fires meanwhile.
Task<void> tick(Loop& loop, int& ticks, std::stop_token token) {
    while (co_await sleep_for(loop, 10ms, token)) ++ticks;
}

}  // namespace

TEST_CASE("resolve: the loop goes on while the resolver does not answer") {
    auto loop = std::move(*Loop::create());
    SilentResolver const resolver;
    TaskGroup tasks(*loop);
    std::stop_source stop;
    int ticks = 0;
    tasks.spawn(tick(*loop, ticks, stop.get_token()));
    auto const begun = Clock::now();
    auto const socket =
        loop->run(connect_tcp(*loop, "destination.example", "4790", Deadline::after(500ms)));
    CHECK(Clock::now() - begun < 5s);
    CHECK(ticks > 10);
    REQUIRE_FALSE(socket);
    CHECK(socket.error().code == Errc::timed_out);
    CHECK(socket.error().what.find("resolver does not answer") != std::string::npos);
    stop.request_stop();
    loop->run(tasks.join());
}

TEST_CASE("resolve: names and digits, and what is neither") {
    auto loop = std::move(*Loop::create());
    auto const soon = [] { return Deadline::after(10s); };
    auto const named = loop->run(resolve(*loop, "localhost", "4790", soon()));
    REQUIRE(named);
    CHECK((named->front().host() == "127.0.0.1" || named->front().host() == "::1"));
    SilentResolver const resolver;  // a numeric address needs no resolver
    auto const six = loop->run(resolve(*loop, "fd77::2", "4790", soon()));
    REQUIRE(six);
    REQUIRE(six->size() == 1);
    CHECK(six->front().host() == "fd77::2");
    CHECK_FALSE(loop->run(resolve(*loop, "127.0.0.1", "no-such-port", Deadline::after(300ms))));
}

TEST_CASE("connect: an address that refuses, or drops, leaves time for the next") {
    auto loop = std::move(*Loop::create());
    auto const listener = listen_tcp("127.0.0.1", "0");
    REQUIRE(listener);
    auto const port = std::to_string(*local_port(listener->get()));
    auto const soon = [] { return Deadline::after(5s); };
    auto const address = [&](char const* host) {
        return loop->run(resolve(*loop, host, port, soon()))->front();
    };
    // 127.0.0.2 has no listener. 240.0.0.1 never answers, or the kernel refuses it.
    for (auto const* bad : {"127.0.0.2", "240.0.0.1", "::1"}) {
        auto const begun = Clock::now();
        std::vector<SocketAddress> addresses;
        addresses.push_back(address(bad));
        addresses.push_back(address("127.0.0.1"));
        auto const socket = loop->run(connect_tcp(*loop, addresses, "both", soon()));
        REQUIRE(socket);
        CHECK(peer_address(socket->get())->host() == "127.0.0.1");
        CHECK(Clock::now() - begun < 2s);
    }
    std::vector<SocketAddress> none;
    none.push_back(address("127.0.0.2"));
    none.push_back(address("::1"));
    auto const refused = loop->run(connect_tcp(*loop, none, "both", soon()));
    REQUIRE_FALSE(refused);
    CHECK(refused.error().what.find("cannot reach both") != std::string::npos);
}
