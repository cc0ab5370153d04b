#include "qmp/guest_agent.hpp"

#include <array>
#include <cerrno>
#include <random>

#include "core/sync.hpp"
#include "qmp/limits.hpp"
#include "qmp/wire.hpp"

namespace qmp {

using core::Deadline;
using core::Result;
using core::Task;

namespace {

// Before a request it makes the agent drop half a request of an earlier client; before an answer
// it marks the answer to guest-sync-delimited.
constexpr char sentinel = '\xff';

std::string request(std::string_view command, Json const& arguments = {}) {
    auto message = Json::object({{"execute", command}});
    if (!arguments.is_null()) message.set("arguments", arguments);
    return message.dump() + "\n";
}

std::string step(std::int64_t id) {
    return sentinel + request("guest-sync-delimited", Json::object({{"id", id}}));
}

// Another number than the last client's, of whose answers some may still be on their way. Positive,
// and small enough for every JSON parser.
std::int64_t first_id() {
    std::random_device source;
    return static_cast<std::int64_t>(source() & 0x3fffffffU);
}

std::unexpected<core::Error> silent(std::string const& socket_path) {
    return core::fail(Errc::timed_out,
                      "the guest agent on {} does not answer: none runs in the guest, or another "
                      "client talks to it",
                      socket_path);
}

}  // namespace

GuestAgent::GuestAgent(std::unique_ptr<core::Stream> stream)
    : stream_(std::move(stream)), next_id_(first_id()) {}

Task<Result<std::unique_ptr<GuestAgent>>> GuestAgent::connect(core::Loop& loop,
                                                              std::string socket_path,
                                                              Deadline deadline) {
    auto socket = co_await core::connect_unix(loop, socket_path, deadline);
    // QEMU serves one client, and one may wait in the queue; it refuses others.
    while (!socket && socket.error().os == EAGAIN && !deadline.passed()) {
        CO_TRY_VOID(co_await core::sleep_for(loop, agent_queue_pause, deadline.token()));
        socket = co_await core::connect_unix(loop, socket_path, deadline);
    }
    if (!socket && (socket.error().os == EAGAIN || socket.error().code == Errc::timed_out)) {
        co_return silent(socket_path);
    }
    if (!socket) {
        co_return core::fail(Errc::closed, "the guest agent's socket {} cannot be reached: {}",
                             socket_path, socket.error().what);
    }
    std::unique_ptr<GuestAgent> agent(new GuestAgent(
        core::plain_stream(loop, std::move(*socket), "the guest agent's socket " + socket_path)));
    auto const id = agent->next_id_++;
    CO_TRY_VOID(co_await agent->send(step(id), deadline));
    auto const in_step = co_await agent->await_step(id, deadline);
    if (in_step) co_return agent;
    if (in_step.error().code != Errc::timed_out) co_return std::unexpected(in_step.error());
    co_return silent(socket_path);
}

Task<Result<>> GuestAgent::send(std::string text, Deadline deadline) {
    co_return co_await stream_->write_all(std::as_bytes(std::span(text)), deadline);
}

Task<Result<std::string>> GuestAgent::read_line(Deadline deadline) {
    for (;;) {
        if (auto const end = unread_.find('\n'); end != std::string::npos) {
            auto line = unread_.substr(0, end);
            unread_.erase(0, end + 1);
            co_return line;
        }
        if (unread_.size() > agent_message_bytes_max) {
            auto const beginning = quoted(unread_);
            unread_.clear();
            co_return core::fail(Errc::protocol,
                                 "the guest agent says more than {} bytes at once: `{}`",
                                 agent_message_bytes_max, beginning);
        }
        std::array<std::byte, 4096> buffer;
        CO_TRY(auto const got, co_await stream_->read_some(buffer, deadline));
        unread_.append(reinterpret_cast<char const*>(buffer.data()), got);
    }
}

// What comes before is the answer to an earlier request: ours, or another client's. The deadline
// ends an agent that never stops sending.
Task<Result<>> GuestAgent::await_step(std::int64_t id, Deadline deadline) {
    for (;;) {
        auto line = co_await read_line(deadline);
        if (!line && line.error().code == Errc::protocol) continue;
        if (!line && line.error().code == Errc::timed_out) {
            co_return core::fail(Errc::timed_out, "the guest agent does not answer");
        }
        if (!line) co_return std::unexpected(std::move(line.error()));
        auto const mark = line->rfind(sentinel);
        if (mark == std::string::npos) continue;
        auto const reply = Json::parse(std::string_view(*line).substr(mark + 1));
        if (reply && (*reply)["return"].is_integer() && (*reply)["return"].integer_or(0) == id) {
            co_return Result<>{};
        }
    }
}

Task<Result<Json>> GuestAgent::answer(std::string command, Deadline deadline) {
    auto const line = co_await read_line(deadline);
    if (!line && line.error().code == Errc::timed_out) {
        co_return core::fail(Errc::timed_out, "the guest agent did not answer `{}` in time",
                             command);
    }
    if (!line) co_return std::unexpected(line.error());
    auto const reply = Json::parse(*line);
    if (reply && reply->has("return")) co_return (*reply)["return"];
    if (reply && (*reply)["error"].is_object()) {
        co_return core::fail(Errc::refused, "the guest agent refused `{}`: {}", command,
                             quoted((*reply)["error"]["desc"].text_or("no reason given")));
    }
    co_return core::fail(Errc::protocol, "the guest agent answered `{}` with `{}`", command,
                         quoted(*line));
}

Task<Result<bool>> GuestAgent::frozen(Deadline deadline) {
    std::string const command = "guest-fsfreeze-status";
    CO_TRY_VOID(co_await send(request(command), deadline));
    CO_TRY(auto const reply, co_await answer(command, deadline));
    auto const word = reply.text_or("");
    if (word == "frozen") co_return true;
    if (word == "thawed") co_return false;
    co_return core::fail(Errc::protocol, "the guest agent answered `{}` with `{}`", command,
                         quoted(reply.dump()));
}

Task<Result<std::int64_t>> GuestAgent::count(std::string command, Deadline deadline) {
    CO_TRY(auto const reply, co_await answer(command, deadline));
    auto const number = reply.integer_or(-1);
    if (number >= 0 && number <= agent_file_systems_max) co_return number;
    co_return core::fail(Errc::protocol, "the guest agent answered `{}` with `{}`", command,
                         quoted(reply.dump()));
}

Task<Result<std::int64_t>> GuestAgent::freeze(Deadline deadline) {
    std::string const command = "guest-fsfreeze-freeze";
    CO_TRY_VOID(co_await send(request(command), deadline));
    co_return co_await count(command, deadline);
}

Task<Result<std::int64_t>> GuestAgent::thaw(Deadline deadline) {
    std::string const command = "guest-fsfreeze-thaw";
    auto const id = next_id_++;
    // At once, not after the answer to the first: an agent that is stuck finds both when it goes
    // on, even if this process has ended.
    CO_TRY_VOID(co_await send(step(id) + request(command), deadline));
    CO_TRY_VOID(co_await await_step(id, deadline));
    co_return co_await count(command, deadline);
}

}  // namespace qmp
