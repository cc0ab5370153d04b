// The guest agent's protocol: against the real qemu-ga on this machine, and against hostile replies
// over a real unix socket. The real agent is never asked to freeze anything, because its file
// systems are this machine's. tests/vm/freeze.cpp freezes a guest.
#include "qmp/guest_agent.hpp"
#include "qmp/limits.hpp"
#include "tests/process/qmp_support.hpp"
#include "tests/support/lab.hpp"

namespace qmp_guest_agent_cases {

using namespace qmp_test;
using qmp::GuestAgent;

namespace {

constexpr auto short_time = 500ms;

/// A qemu-ga that listens on a socket; ended with the object.
class RealAgent {
public:
    RealAgent()
        : daemon_("qemu-ga",
                  {program(), "-m", "unix-listen", "-p", socket(), "-t", directory_.file(""), "-b",
                   "guest-fsfreeze-freeze,guest-fsfreeze-freeze-list"},
                  {}, directory_.file("")) {
        lab::wait_until("qemu-ga's socket", 20s,
                        [&] { return !daemon_.running() || std::filesystem::exists(socket()); });
        if (!daemon_.running()) FAIL("qemu-ga ended: " << daemon_.err());
    }
    static std::string program() { return lab::deps() / "agent" / "usr" / "sbin" / "qemu-ga"; }
    [[nodiscard]] std::string socket() const { return directory_.file("ga.sock"); }
    lab::Daemon& daemon() { return daemon_; }

private:
    Directory directory_;
    lab::Daemon daemon_;
};

Task<Result<bool>> ask_status(Loop& loop, std::string socket, Deadline deadline) {
    CO_TRY(auto const agent, co_await GuestAgent::connect(loop, socket, deadline));
    co_return co_await agent->frozen(deadline);
}

Task<Result<std::int64_t>> ask_freeze(Loop& loop, std::string socket, Deadline deadline) {
    CO_TRY(auto const agent, co_await GuestAgent::connect(loop, socket, soon()));
    co_return co_await agent->freeze(deadline);
}

/// The id that guest-sync-delimited must return.
std::string id_of(std::string const& request) {
    auto const at = request.find("\"id\":");
    auto const end = request.find_first_of("},", at);
    return at == std::string::npos ? "0" : request.substr(at + 5, end - at - 5);
}

void in_step(ScriptedServer::Peer& peer) {
    peer.say("\xff{\"return\": " + id_of(peer.hear()) + "}\n");
}

/// The status that the client reads when the agent answers with `text`.
Result<bool> status_of(std::string const& text) {
    ScriptedServer server([&](ScriptedServer::Peer& peer) {
        in_step(peer);
        (void)peer.hear();
        peer.say(text);
        peer.wait_end();
    });
    auto loop = make_loop();
    return loop->run(ask_status(*loop, server.path(), Deadline::after(short_time)));
}

}  // namespace

TEST_CASE("guest agent: the real one answers, refuses, and is silent when stopped",
          "[qmp][guest_agent]") {
    RealAgent real;
    auto loop = make_loop();
    for (int i = 0; i < 3; ++i) {
        CHECK_FALSE(get(loop->run(ask_status(*loop, real.socket(), soon()))));
    }
    {
        INFO("somebody before us left half a request, and others who said nothing");
        for (int i = 0; i < 3; ++i) (void)lab::accepts(real.socket());
        auto half = get(loop->run(core::connect_unix(*loop, real.socket(), soon())));
        std::string const text = "{\"execute\": \"guest-pi";
        REQUIRE(::write(half.get(), text.data(), text.size()) == std::ssize(text));
    }
    CHECK_FALSE(get(loop->run(ask_status(*loop, real.socket(), soon()))));
    auto const refused = loop->run(ask_freeze(*loop, real.socket(), soon()));
    REQUIRE_FALSE(refused);
    INFO(refused.error().sentence());
    CHECK(refused.error().code == Errc::refused);
    CHECK(refused.error().sentence().find("guest-fsfreeze-freeze") != std::string::npos);
    real.daemon().signal(SIGSTOP);
    auto const silent = loop->run(ask_status(*loop, real.socket(), Deadline::after(short_time)));
    real.daemon().signal(SIGCONT);
    REQUIRE_FALSE(silent);
    CHECK(silent.error().code == Errc::timed_out);
    CHECK(silent.error().sentence().find("does not answer") != std::string::npos);
    // The agent now reads what the abandoned connection had sent, and its replies go nowhere.
    CHECK_FALSE(get(loop->run(ask_status(*loop, real.socket(), soon()))));
}

TEST_CASE("guest agent: no agent listens", "[qmp][guest_agent]") {
    auto loop = make_loop();
    auto const status = loop->run(ask_status(*loop, "/nowhere/ga.sock", soon()));
    REQUIRE_FALSE(status);
    CHECK(status.error().code == Errc::closed);
}

TEST_CASE("guest agent: what a guest may send instead of an answer", "[qmp][guest_agent]") {
    CHECK(get(status_of("{\"return\": \"frozen\"}\n")));
    CHECK_FALSE(get(status_of("{\"return\": \"thawed\"}\n")));
    for (std::string const text :
         {"{\"return\": \"FROZEN\"}\n", "{\"return\": 1}\n", "{}\n", "[]\n", "\n", "\xff\xff\n",
          "{\"return\": {\"a\": [\n", "null\n"}) {
        INFO(qmp::quoted(text));
        auto const status = status_of(text);
        REQUIRE_FALSE(status);
        CHECK(status.error().code == Errc::protocol);
    }
    auto const rude = status_of("{\"error\": {\"class\": \"X\", \"desc\": \"" +
                                std::string(3000, '\a') + "\"}}\n");
    REQUIRE_FALSE(rude);
    CHECK(rude.error().sentence().find('\a') == std::string::npos);
    CHECK(rude.error().sentence().size() < 300);
    auto const wordy = status_of("{\"error\": {\"desc\": \"" + std::string(3000, 'x') + "\"}}\n");
    REQUIRE_FALSE(wordy);
    CHECK(wordy.error().code == Errc::refused);
    CHECK(wordy.error().sentence().size() < 300);
    auto const flood = status_of(std::string(4 * qmp::agent_message_bytes_max, 'x'));
    REQUIRE_FALSE(flood);
    CHECK(flood.error().code == Errc::protocol);
    CHECK(flood.error().sentence().size() < 300);
    CHECK(status_of("").error().code == Errc::timed_out);
}

TEST_CASE("guest agent: impossible numbers of file systems", "[qmp][guest_agent]") {
    for (std::string const number : {"-1", "1e9", "9223372036854775807", "\"3\"", "null"}) {
        INFO(number);
        ScriptedServer server([&](ScriptedServer::Peer& peer) {
            in_step(peer);
            (void)peer.hear();
            peer.say("{\"return\": " + number + "}\n");
            peer.wait_end();
        });
        auto loop = make_loop();
        auto const frozen = loop->run(ask_freeze(*loop, server.path(), soon()));
        REQUIRE_FALSE(frozen);
        CHECK(frozen.error().code == Errc::protocol);
    }
}

TEST_CASE("guest agent: answers to other clients, before the first to us, are dropped",
          "[qmp][guest_agent]") {
    ScriptedServer server([](ScriptedServer::Peer& peer) {
        auto const id = id_of(peer.hear());
        peer.say("{\"return\": \"frozen\"}\n{\"return\": " + id + "}\n");  // without the sentinel
        peer.say("\xff{\"return\": 1}\n" + std::string(2 * qmp::agent_message_bytes_max, 'y'));
        peer.say("\xff{\"return\": " + id + "}\n");
        (void)peer.hear();
        peer.say("{\"return\": \"thawed\"}\n");
        peer.wait_end();
    });
    auto loop = make_loop();
    CHECK_FALSE(get(loop->run(ask_status(*loop, server.path(), soon()))));
}

TEST_CASE("guest agent: a thaw follows a freeze that was given up", "[qmp][guest_agent]") {
    ScriptedServer server([](ScriptedServer::Peer& peer) {
        in_step(peer);
        (void)peer.hear();  // the freeze, which takes longer than any caller waits
        auto const step = peer.hear();
        CHECK(step.find("guest-sync-delimited") != std::string::npos);
        CHECK(peer.hear().find("guest-fsfreeze-thaw") != std::string::npos);
        peer.say("{\"return\": 2}\n");  // the freeze ends only now
        peer.say("\xff{\"return\": " + id_of(step) + "}\n{\"return\": 3}\n");
        peer.wait_end();
    });
    auto loop = make_loop();
    auto const both = [](Loop& on, std::string socket) -> Task<Result<std::int64_t>> {
        CO_TRY(auto const agent, co_await GuestAgent::connect(on, socket, soon()));
        auto const frozen = co_await agent->freeze(Deadline::after(short_time));
        if (frozen) co_return core::fail(Errc::invalid, "it was not given up");
        CHECK(frozen.error().code == Errc::timed_out);
        co_return co_await agent->thaw(soon());
    };
    CHECK(get(loop->run(both(*loop, server.path()))) == 3);
}

}  // namespace qmp_guest_agent_cases
