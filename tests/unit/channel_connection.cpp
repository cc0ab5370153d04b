// Connection and PeerChannel: what their callers get when the peer is gone, is silent, or does not
// read. Over socket pairs and loopback TCP; the resolver is the one of core_resolve.cpp.
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <vector>

#include "core/sync.hpp"
#include "sidecar/channel/connection.hpp"
#include "sidecar/channel/peer.hpp"
#include "tests/unit/silent_resolver.hpp"

namespace channel_connection_cases {

using namespace sidecar;
using namespace std::chrono_literals;
using core::Deadline;
using core::Errc;
using core::Json;
using core::Result;
using core::Task;

namespace {

class Nothing : public Handler {
public:
    Task<Result<protocol::Packed>> handle(Connection&, protocol::Call) override {
        if (asked != nullptr) asked->set();
        co_return protocol::Packed{};
    }
    core::Event* asked = nullptr;
};

/// A connection that is freed as soon as it has ended, as in PeerChannel, and the raw other end.
struct Line {
    std::unique_ptr<core::Loop> loop = std::move(*core::Loop::create());
    Nothing handler;
    core::Fd raw;
    std::unique_ptr<Connection> connection;
    core::TaskGroup tasks{*loop};
    std::vector<Result<>> ends;  ///< One per caller.

    explicit Line(bool heartbeats) {
        int ends_of_it[2];
        REQUIRE(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends_of_it) == 0);
        raw.reset(ends_of_it[1]);
        connection = std::make_unique<Connection>(
            *loop,
            std::make_unique<Messages>(
                core::plain_stream(*loop, core::Fd(ends_of_it[0]), "the other end")),
            handler, heartbeats ? protocol::Role::destination : protocol::Role::sidecar);
    }
    Task<void> keep() {
        co_await connection->run({});
        connection.reset();
    }
    Task<void> ask(std::size_t bytes, core::Clock::duration limit) {
        auto const answer = co_await connection->request(
            protocol::Check{Json::object({{"text", std::string(bytes, 'x')}})},
            Deadline::after(limit));
        ends.push_back(answer ? Result<>{} : std::unexpected(answer.error()));
    }
    /// Waits until the other end can read (POLLIN) or write (POLLOUT).
    Task<void> wait_for(short events) {
        REQUIRE(co_await loop->poll(raw.get(), events, Deadline::after(5s)));
    }
};

constexpr std::size_t more_than_a_socket_holds = 900 * 1024;

}  // namespace

TEST_CASE("connection: requests that wait when the peer closes end before it is freed") {
    Line line(false);
    for (int i = 0; i < 3; ++i) line.tasks.spawn(line.ask(10, 5s));
    line.tasks.spawn(line.keep());
    line.loop->run(line.wait_for(POLLIN));
    line.raw.reset();
    line.loop->run(line.tasks.join());
    REQUIRE(line.ends.size() == 3);
    for (auto const& end : line.ends) CHECK(end.error().code == Errc::closed);
    CHECK_FALSE(line.connection);
}

TEST_CASE("connection: a write that blocks when the peer closes ends before it is freed") {
    Line line(false);
    line.tasks.spawn(line.ask(more_than_a_socket_holds, 5s));
    line.tasks.spawn(line.ask(10, 5s));
    line.tasks.spawn(line.keep());
    line.loop->run(line.wait_for(POLLIN));
    auto const begun = core::Clock::now();
    SECTION("the peer closes") { line.raw.reset(); }
    SECTION("we close, and the peer reads nothing") { line.connection->close(); }
    line.loop->run(line.tasks.join());
    REQUIRE(line.ends.size() == 2);
    for (auto const& end : line.ends) CHECK(end.error().code == Errc::closed);
    CHECK(core::Clock::now() - begun < 2s);
}

TEST_CASE("connection: a peer that reads nothing is lost after the allowed silence") {
    Line line(true);
    line.connection->set_patience(300ms);
    line.tasks.spawn(line.ask(more_than_a_socket_holds, 60s));
    line.tasks.spawn(line.keep());
    auto const begun = core::Clock::now();
    line.loop->run(line.tasks.join());
    REQUIRE(line.ends.size() == 1);
    CHECK(line.ends[0].error().code == Errc::closed);
    CHECK(core::Clock::now() - begun < 3s);
}

TEST_CASE("connection: a caller that gives up during a write leaves the stream intact") {
    Line line(false);
    line.tasks.spawn(line.ask(more_than_a_socket_holds, 200ms));
    line.tasks.spawn(line.keep());
    while (line.ends.empty()) {
        line.loop->run(core::sleep_for(*line.loop, 10ms));
    }
    CHECK(line.ends[0].error().code == Errc::timed_out);
    line.tasks.spawn(line.ask(10, 300ms));
    Messages there(core::plain_stream(*line.loop, std::move(line.raw), "ours"));
    for (std::size_t size : {more_than_a_socket_holds, std::size_t{10}}) {
        auto const message = line.loop->run(there.receive(Deadline::after(5s)));
        REQUIRE(message);
        CHECK(message->json["arguments"]["description"]["text"].text_or("").size() == size);
    }
    line.connection->close();
    line.loop->run(line.tasks.join());
}

TEST_CASE("connection: heartbeats that cannot be answered cost no memory") {
    Line line(false);
    line.tasks.spawn(line.keep());
    // Fill the send buffer, then send beats: at most one echo may wait.
    line.tasks.spawn(line.ask(more_than_a_socket_holds, 60s));
    line.loop->run(line.wait_for(POLLIN));
    constexpr int beats = 1000;
    Bytes const beat = *encode(Json::object({{"beat", 7}}));
    for (int i = 0; i < beats; ++i) {
        line.loop->run(line.wait_for(POLLOUT));
        REQUIRE(::write(line.raw.get(), beat.data(), beat.size()) ==
                static_cast<ssize_t>(beat.size()));
    }
    Messages there(core::plain_stream(*line.loop, std::move(line.raw), "ours"));
    REQUIRE(line.loop->run(there.receive(Deadline::after(5s))));  // the request
    int echoes = 0;
    while (line.loop->run(there.receive(Deadline::after(200ms)))) ++echoes;
    CHECK(echoes < beats / 2);  // sent before, or one per message that this test reads
    line.connection->close();
    line.loop->run(line.tasks.join());
}

namespace {

/// As a session ends: it writes the last answer, then closes the connection.
Task<void> close_after_answer(Line& line, core::Event& asked) {
    (void)co_await asked.wait(Deadline::after(5s));
    co_await line.connection->flush(Deadline::after(5s));
    line.connection->close();
}

}  // namespace

TEST_CASE("connection: the last answer is written before the connection is closed") {
    Line line(false);
    core::Event asked(*line.loop);
    line.handler.asked = &asked;
    line.tasks.spawn(line.keep());
    line.tasks.spawn(close_after_answer(line, asked));
    Messages there(core::plain_stream(*line.loop, std::move(line.raw), "ours"));
    auto const request = Json::object({{"id", 1}, {"verb", "progress"}});
    REQUIRE(line.loop->run(there.send(request, Deadline::after(5s))));
    auto const answer = line.loop->run(there.receive(Deadline::after(5s)));
    REQUIRE(answer);
    CHECK(answer->json.has("result"));
    line.loop->run(line.tasks.join());
}

namespace {

/// A destination that accepts `count` sources, one after the other. When `hang_up` is set it closes
/// all connections but the last.
Task<void> accept_sources(core::Loop& loop, int listener, int count, core::Event& hang_up,
                          std::stop_token end) {
    Nothing handler;
    for (int i = 0; i < count; ++i) {
        auto const accepted = co_await loop.accept(listener, Deadline::after(5s, end));
        if (!accepted) co_return;
        auto messages =
            std::make_unique<Messages>(core::plain_stream(loop, core::Fd(*accepted), "the source"));
        auto const hello = co_await messages->receive(Deadline::after(5s));
        REQUIRE(hello);
        REQUIRE(protocol::Hello::from_json(hello->json));
        REQUIRE(co_await messages->send(protocol::Welcome{}.to_json(), Deadline::after(5s)));
        Connection connection(loop, std::move(messages), handler, protocol::Role::source);
        core::TaskGroup running(loop);
        running.spawn(connection.run(end));
        if (i + 1 < count) {
            (void)co_await hang_up.wait(Deadline::after(5s));
            connection.close();
        }
        co_await running.join();
    }
}

}  // namespace

TEST_CASE("peer: a connection that was lost comes back while the resolver is silent") {
    auto const loop = std::move(*core::Loop::create());
    auto const listener = core::listen_tcp("", "0");
    REQUIRE(listener);
    core::TaskGroup tasks(*loop);
    core::Event hang_up(*loop);
    std::stop_source end;
    tasks.spawn(accept_sources(*loop, listener->get(), 2, hang_up, end.get_token()));
    auto const destination = fmt::format("localhost:{}", *core::local_port(listener->get()));
    int losses = 0;
    PeerChannel peer(*loop, {destination, {core::TlsConfig::Mode::plaintext, ""}, "web1", "m1"},
                     [&losses](bool up) { losses += up ? 0 : 1; });
    REQUIRE(loop->run(peer.connect(Deadline::after(5s))));
    CHECK((peer.host() == "127.0.0.1" || peer.host() == "::1"));
    CHECK(peer.offers(protocol::Feature::verify));
    tasks.spawn(peer.keep(end.get_token()));
    REQUIRE(loop->run(peer.request(protocol::Seal{}, Deadline::after(5s))));
    SilentResolver const resolver;
    auto const begun = core::Clock::now();
    hang_up.set();
    while (losses == 0) loop->run(core::sleep_for(*loop, 5ms));
    REQUIRE(loop->run(peer.reached(Deadline::after(5s))));
    CHECK(core::Clock::now() - begun < 2s);
    REQUIRE(loop->run(peer.request(protocol::Seal{}, Deadline::after(5s))));
    end.request_stop();
    loop->run(tasks.join());
}

}  // namespace channel_connection_cases
