// The client against servers that misbehave: sockets that are not QMP, silence, garbage, replies
// out of order, floods. Each over a real unix socket. qmp_commands.cpp tests against real QEMUs.
#include <future>
#include <optional>

#include "core/sync.hpp"
#include "qmp/limits.hpp"
#include "tests/process/qmp_support.hpp"

namespace qmp_client_cases {

using namespace qmp_test;
using qmp::Client;

namespace {

core::Error connect_error(std::string const& path, Deadline deadline = soon()) {
    auto loop = make_loop();
    auto client = loop->run(Client::connect(*loop, path, deadline));
    REQUIRE_FALSE(client);
    return client.error();
}

core::Error greeted_with(std::string const& text) {
    ScriptedServer server([&](auto& peer) { peer.say(text); }, 2);
    return connect_error(server.path());
}

Task<void> ask(Client& client, std::string command, std::optional<Result<Json>>& answer,
               Deadline deadline) {
    answer = co_await client.execute(std::move(command), {}, deadline);
}

// Sends all commands before the first reply, and returns the reply to each.
Task<std::vector<Result<Json>>> ask_all(Loop& loop, Client& client,
                                        std::vector<std::string> commands) {
    std::vector<std::optional<Result<Json>>> answers(commands.size());
    core::TaskGroup scope(loop);
    for (std::size_t i = 0; i < commands.size(); ++i) {
        scope.spawn(ask(client, commands[i], answers[i], soon()));
    }
    co_await scope.join();
    std::vector<Result<Json>> given;
    for (auto& answer : answers) given.push_back(std::move(*answer));
    co_return given;
}

Task<void> close_beside(Client& client) { co_await client.close(); }

Task<std::vector<Result<Json>>> ask_and_close(Loop& loop, Client& client, std::size_t count) {
    std::vector<std::optional<Result<Json>>> answers(count);
    core::TaskGroup scope(loop);
    for (auto& answer : answers) scope.spawn(ask(client, "never-answered", answer, soon()));
    scope.spawn(close_beside(client));
    co_await scope.join();
    std::vector<Result<Json>> given;
    for (auto& answer : answers) given.push_back(std::move(*answer));
    co_return given;
}

}  // namespace

TEST_CASE("a path that is not a socket is reported", "[qmp][client]") {
    Directory const directory;
    auto const missing = connect_error(directory.file("none.sock"));
    CHECK(missing.code == Errc::closed);
    CHECK(missing.what == "the QMP socket " + directory.file("none.sock") +
                              " is gone: QEMU has ended, or was started with another -qmp path");

    std::ofstream(directory.file("file")) << "text";
    CHECK(connect_error(directory.file("file")).code == Errc::closed);

    auto const stale = directory.file("stale.sock");
    get(core::listen_unix(stale, 0600)).reset();  // the file stays, without a listener
    auto const dead = connect_error(stale);
    CHECK(dead.code == Errc::closed);
    CHECK(dead.what.starts_with("no process listens on the QMP socket"));

    CHECK(connect_error("/tmp/" + std::string(200, 'x')).code == Errc::invalid);
}

TEST_CASE("a socket that is not QMP is reported with what it says", "[qmp][client]") {
    auto const garbage = greeted_with("SSH-2.0-OpenSSH_9.2\r\n");
    CHECK(garbage.code == Errc::protocol);
    CHECK(garbage.what.find("is not a QMP socket: it says `SSH-2.0-OpenSSH_9.2`") !=
          std::string::npos);
    auto const human =
        greeted_with("QEMU 7.2.22 monitor - type 'help' for more information\r\n(qemu) ");
    CHECK(human.what.find("QEMU's monitor for people (use the one of -qmp)") != std::string::npos);
    CHECK(greeted_with("{\"hello\": 1}\n").code == Errc::protocol);
    CHECK(greeted_with("{\"QMP\": \n").code == Errc::closed);
    CHECK(greeted_with("{\"return\": {}, \"id\": 1}\n").what.find("speaks before its greeting") !=
          std::string::npos);
    auto const closed = greeted_with("");
    CHECK(closed.code == Errc::closed);
    CHECK(closed.what.find("closed the connection without a QMP greeting") != std::string::npos);
}

TEST_CASE("a client that QEMU takes for the previous one tries once more", "[qmp][client]") {
    int clients = 0;
    ScriptedServer server(
        [&](auto& peer) {
            if (++clients == 1) return;
            peer.greet();
            peer.wait_end();
        },
        2);
    auto loop = make_loop();
    auto const client = get(loop->run(Client::connect(*loop, server.path(), soon())));
    loop->run(client->close());
}

TEST_CASE("a QEMU that greets twice while its monitor begins is asked twice", "[qmp][client]") {
    bool const refuses = GENERATE(false, true);
    CAPTURE(refuses);
    std::string const greeting = R"({"QMP": {"version": {"qemu": {}}, "capabilities": []}})"
                                 "\r\n";
    ScriptedServer server([&](auto& peer) {
        peer.say(greeting);
        (void)peer.hear();
        peer.say(greeting + R"({"id": 1, "return": {}})");
        CHECK(peer.hear().find("qmp_capabilities") != std::string::npos);
        peer.say(refuses ? R"({"id": 2, "error": {"class": "CommandNotFound", "desc": "done"}})"
                         : R"({"id": 2, "return": {}})");
        (void)peer.hear();
        peer.say(R"({"id": 3, "return": "it works"})");
        (void)peer.hear();
        peer.say(greeting);  // too late
        peer.wait_end();
    });
    auto loop = make_loop();
    Connected client(*loop, server.path());
    CHECK(loop->run(client->execute("a", {}, soon()))->text_or("") == "it works");
    auto const lost = loop->run(client->execute("b", {}, soon()));
    REQUIRE_FALSE(lost);
    CHECK(lost.error().what.find("greets a second time") != std::string::npos);
}

TEST_CASE("a silent socket times out, and a stopped connect is cancelled", "[qmp][client]") {
    ScriptedServer silent([](auto& peer) { peer.wait_end(); });
    auto const error = connect_error(silent.path(), Deadline::after(50ms));
    CHECK(error.code == Errc::timed_out);
    CHECK(error.what.find("another client may hold this monitor") != std::string::npos);

    std::stop_source stop;
    stop.request_stop();
    CHECK(connect_error(silent.path(), Deadline::after(10s, stop.get_token())).code ==
          Errc::cancelled);
}

TEST_CASE("a server that refuses the negotiation is reported", "[qmp][client]") {
    ScriptedServer server([](auto& peer) {
        peer.say("{\"QMP\": {\"version\": {\"qemu\": {}}, \"capabilities\": []}}\n");
        (void)peer.hear();
        peer.say(R"({"id": 1, "error": {"class": "CommandNotFound", "desc": "no negotiation"}})");
        peer.wait_end();
    });
    auto const error = connect_error(server.path());
    CHECK(error.code == Errc::qemu_refused);
    CHECK(error.sentence().find("QEMU refused qmp_capabilities: no negotiation") !=
          std::string::npos);
    CHECK(qmp::refusal_class(error) == "CommandNotFound");
}

TEST_CASE("replies find their caller in any order", "[qmp][client]") {
    ScriptedServer server([](auto& peer) {
        peer.greet();
        for (int i = 0; i < 4; ++i) (void)peer.hear();
        peer.say(R"({"return": "fourth", "id": 5})"
                 "\r\n"
                 R"({"event": "RESUME", "timestamp": {"seconds": 1, "microseconds": 2}})"
                 "\r\n"
                 R"({"return": "second", "id": 3}{"return": "first", "id": 2})");
        peer.say(R"({"error": {"class": "GenericError", "desc": "no third"}, "id": 4})");
        peer.wait_end();
    });
    auto loop = make_loop();
    Connected client(*loop, server.path());
    CHECK(client->peer_pid() == getpid());
    CHECK(client->version() == "7.2.1");
    auto events = client->subscribe();
    auto const answers = loop->run(ask_all(*loop, *client, {"a", "b", "c", "d"}));
    CHECK(answers[0]->text_or("") == "first");
    CHECK(answers[1]->text_or("") == "second");
    CHECK(answers[3]->text_or("") == "fourth");
    REQUIRE_FALSE(answers[2]);
    CHECK(answers[2].error().what == "QEMU refused c: no third (GenericError)");
    auto const event = events.take();
    REQUIRE(event);
    CHECK(event->name == "RESUME");
    CHECK(event->timestamp_us == 1'000'002);
}

TEST_CASE("a late reply is dropped, and the connection stays open", "[qmp][client]") {
    ScriptedServer server([](auto& peer) {
        peer.greet();
        (void)peer.hear();  // answered only at the next command, after the first timed out
        (void)peer.hear();
        peer.say(R"({"return": "late", "id": 2}{"return": "in time", "id": 3})");
        peer.wait_end();
    });
    auto loop = make_loop();
    Connected client(*loop, server.path());
    auto const late = loop->run(client->execute("slow", {}, Deadline::after(20ms)));
    REQUIRE_FALSE(late);
    CHECK(late.error().code == Errc::timed_out);
    CHECK(late.error().what == "QEMU did not answer slow in time");
    CHECK(get(loop->run(client->execute("quick", {}, soon()))).text_or("") == "in time");
}

TEST_CASE("a stopped caller is cancelled, and sends nothing when stopped before", "[qmp][client]") {
    ScriptedServer server([](auto& peer) {
        peer.greet();
        auto const heard = peer.hear();
        peer.say(R"({"return": ")" +
                 std::string(heard.find("second") == std::string::npos ? "wrong" : "right") +
                 R"(", "id": 2})");
        peer.wait_end();
    });
    auto loop = make_loop();
    Connected client(*loop, server.path());
    std::stop_source stop;
    stop.request_stop();
    auto const first =
        loop->run(client->execute("first", {}, Deadline::after(5s, stop.get_token())));
    REQUIRE_FALSE(first);
    CHECK(first.error().code == Errc::cancelled);
    CHECK(get(loop->run(client->execute("second", {}, soon()))).text_or("") == "right");
}

TEST_CASE("the end of the connection ends every wait", "[qmp][client]") {
    ScriptedServer server([](auto& peer) {
        peer.greet();
        (void)peer.hear();
        (void)peer.hear();
        peer.say(R"({"event": "SHUTDOWN", "timestamp": {"seconds": 1, "microseconds": 2}})");
    });
    auto loop = make_loop();
    Connected client(*loop, server.path());
    auto events = client->subscribe();
    auto const answers = loop->run(ask_all(*loop, *client, {"a", "b"}));
    for (auto const& answer : answers) {
        REQUIRE_FALSE(answer);
        CHECK(answer.error().code == Errc::closed);
    }
    CHECK(answers[1].error().what ==
          "QEMU closed its monitor " + server.path() + " before it answered b");
    CHECK_FALSE(client->open());
    CHECK(loop->run(client->wait_closed(soon())));
    // Messages that arrived before the end are delivered first, then the end.
    CHECK(get(loop->run(events.next(soon()))).name == "SHUTDOWN");
    auto const after = loop->run(events.next(soon()));
    REQUIRE_FALSE(after);
    CHECK(after.error().code == Errc::closed);
    auto const again = loop->run(client->execute("c", {}, soon()));
    REQUIRE_FALSE(again);
    CHECK(again.error().code == Errc::closed);
    auto late_events = client->subscribe();
    CHECK_FALSE(loop->run(late_events.next(soon())));
}

TEST_CASE("closing ends every wait, and may be repeated", "[qmp][client]") {
    ScriptedServer server([](auto& peer) {
        peer.greet();
        peer.wait_end();
    });
    auto loop = make_loop();
    Connected client(*loop, server.path());
    for (auto const& answer : loop->run(ask_and_close(*loop, *client, 3))) {
        REQUIRE_FALSE(answer);
        CHECK(answer.error().code == Errc::closed);
    }
    loop->run(client->close());
}

TEST_CASE("nonsense in the middle ends the connection", "[qmp][client]") {
    for (auto const* nonsense :
         {"}", "garbage\n", "{\"return\": {}, \"id\": 77}", "{\"return\": {}}", "{\"x\": 1}",
          "{\"error\": {\"class\": \"GenericError\", \"desc\": \"JSON parse error\"}}",
          "{\"QMP\": {\"version\": {}, \"capabilities\": []}}", "{\"return\": {,}, \"id\": 2}"}) {
        INFO(nonsense);
        ScriptedServer server([&](auto& peer) {
            peer.greet();
            (void)peer.hear();
            peer.say(nonsense);
            peer.wait_end();
        });
        auto loop = make_loop();
        Connected client(*loop, server.path());
        auto const answer = loop->run(client->execute("a", {}, soon()));
        REQUIRE_FALSE(answer);
        CHECK(answer.error().code == Errc::closed);
        CHECK_FALSE(client->open());
    }
}

TEST_CASE("a huge and a too deep reply", "[qmp][client]") {
    std::size_t const huge = std::size_t{8} * 1024 * 1024;
    ScriptedServer server([&](auto& peer) {
        peer.greet();
        (void)peer.hear();
        peer.say("{\"return\": \"" + std::string(huge, 'x') + "\", \"id\": 2}");
        (void)peer.hear();
        peer.say("{\"return\": " + std::string(1000, '[') + std::string(1000, ']') +
                 ", \"id\": 3}");
        peer.wait_end();
    });
    auto loop = make_loop();
    Connected client(*loop, server.path());
    CHECK(get(loop->run(client->execute("a", {}, soon()))).text_or("").size() == huge);
    auto const deep = loop->run(client->execute("b", {}, soon()));
    REQUIRE_FALSE(deep);
    CHECK(deep.error().what.find("nested deeper than") != std::string::npos);
}

TEST_CASE("a flood of events overflows only the queue of a caller that does not read",
          "[qmp][client]") {
    std::size_t const count = qmp::events_unread_max * 3;
    ScriptedServer server([&](auto& peer) {
        peer.greet();
        (void)peer.hear();
        std::string flood;
        for (std::size_t i = 0; i < count; ++i) {
            flood += R"({"event": "RTC_CHANGE", "data": {"n": )" + std::to_string(i) +
                     R"(}, "timestamp": {"seconds": 1, "microseconds": 2}})"
                     "\r\n";
        }
        peer.say(flood + R"({"event": "STOP", "timestamp": {"seconds": 1, "microseconds": 2}})" +
                 R"({"return": "after", "id": 2})");
        peer.wait_end();
    });
    auto loop = make_loop();
    Connected client(*loop, server.path());
    auto all = client->subscribe();
    auto stops = client->subscribe({"STOP", "RESUME"});
    {
        auto const forgotten = client->subscribe();
    }  // dropped before the flood: costs nothing
    CHECK(get(loop->run(client->execute("a", {}, soon()))).text_or("") == "after");
    CHECK(get(loop->run(stops.next(soon()))).name == "STOP");
    for (std::size_t i = 0; i < qmp::events_unread_max; ++i) {
        REQUIRE(get(loop->run(all.next(soon()))).data["n"].integer_or(-1) ==
                static_cast<std::int64_t>(i));
    }
    auto const lost = loop->run(all.next(soon()));
    REQUIRE_FALSE(lost);
    CHECK(lost.error().code == Errc::protocol);
    auto const none = loop->run(stops.next(Deadline::after(5ms)));
    REQUIRE_FALSE(none);
    CHECK(none.error().code == Errc::timed_out);
}

TEST_CASE("the wait for a server that does not read has a limit", "[qmp][client]") {
    std::promise<void> done;
    ScriptedServer server([&](auto& peer) {
        peer.greet();
        done.get_future().wait();
    });
    auto loop = make_loop();
    {
        Connected client(*loop, server.path());
        auto const big = Json::object({{"text", std::string(qmp::unsent_bytes_max / 2, 'x')}});
        for (int i = 0; i < 2; ++i) {
            auto const answer = loop->run(client->execute("a", big, Deadline::after(10ms)));
            REQUIRE_FALSE(answer);
            CHECK(answer.error().code == Errc::timed_out);
        }
        auto const full = loop->run(client->execute("a", big, soon()));
        REQUIRE_FALSE(full);
        CHECK(full.error().what.find("does not read its monitor") != std::string::npos);
    }
    done.set_value();
}

}  // namespace qmp_client_cases
