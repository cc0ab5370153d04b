#include "sidecar/channel/connection.hpp"

#include <array>

namespace sidecar {

using core::Deadline;
using core::Errc;
using core::Error;
using core::fail;
using core::Json;
using core::Result;
using core::Task;

namespace {
// Requests being answered at once for one connection; more is not how our commands or peers behave.
constexpr std::size_t answers_in_flight_max = 64;
}  // namespace

Task<Result<Json>> Messages::receive(Deadline deadline) {
    std::array<std::byte, 4> head{};
    CO_TRY_VOID(co_await read_exactly(*stream_, head, deadline));
    std::size_t length = 0;
    for (auto const byte : head) length = length << 8 | static_cast<std::size_t>(byte);
    if (length == 0 || length > limits::message_bytes_max) {
        co_return fail(Errc::protocol, "{} sent a message of {} bytes; the limit is {}",
                       stream_->peer(), length, limits::message_bytes_max);
    }
    std::string text(length, '\0');
    CO_TRY_VOID(co_await read_exactly(*stream_, std::as_writable_bytes(std::span(text)), deadline));
    auto parsed = Json::parse(text);
    if (!parsed) {
        co_return std::unexpected(
            std::move(parsed.error())
                .while_doing(fmt::format("reading a message of {}", stream_->peer())));
    }
    co_return parsed;
}

Task<Result<>> Messages::send(Json message, Deadline deadline) {
    auto const text = message.dump();
    if (text.size() > limits::message_bytes_max) {
        co_return fail(Errc::invalid, "a message of {} bytes is too long to be sent", text.size());
    }
    std::string frame;
    for (int shift = 24; shift >= 0; shift -= 8) {
        frame.push_back(static_cast<char>(text.size() >> shift & 0xFF));
    }
    frame += text;
    CO_TRY_VOID(co_await turn_.acquire(deadline));
    auto sent = co_await stream_->write_all(std::as_bytes(std::span(frame)), deadline);
    turn_.release();
    co_return sent;
}

Json error_to_json(Error const& error) {
    return Json::object(
        {{"code", std::string(core::name(error.code))}, {"what", error.sentence()}});
}

Error error_from_json(Json const& error) {
    auto const code = error["code"].text_or("");
    Error made{Errc::protocol, 0, error["what"].text_or("an error without words"), {}};
    for (int value = 0; value <= static_cast<int>(Errc::invalid); ++value) {
        if (core::name(static_cast<Errc>(value)) == code) made.code = static_cast<Errc>(value);
    }
    return made;
}

Connection::Connection(core::Loop& loop, std::unique_ptr<Messages> messages, Handler& handler,
                       bool heartbeats)
    : loop_(loop),
      messages_(std::move(messages)),
      handler_(handler),
      heartbeats_(heartbeats),
      scope_(loop) {
    last_heard_ = core::Clock::now();
}

Task<void> Connection::run(std::stop_token token) {
    core::LinkedStop outer(token);
    std::stop_callback forward(outer.token(), [this] { stop_.request_stop(); });
    if (heartbeats_) scope_.spawn(beat());
    for (;;) {
        auto message = co_await messages_->receive(Deadline::never(stop_.get_token()));
        auto handled = message ? dispatch(std::move(*message)) : std::unexpected(message.error());
        if (!handled) {
            if (ended_because_.what.empty()) ended_because_ = handled.error();
            break;
        }
    }
    open_ = false;
    stop_.request_stop();
    for (auto& [id, pending] : pending_) {
        pending->answer = fail(Errc::closed, "the connection to {} was lost", peer());
        pending->answered.set();
    }
    co_await scope_.join();
}

Result<> Connection::dispatch(Json message) {
    last_heard_ = core::Clock::now();
    if (message.has("beat")) {
        scope_.spawn(send_quietly(Json::object({{"beaten", message["beat"]}})));
        return {};
    }
    if (message.has("beaten")) {
        if (message["beaten"].integer_or(-1) == beat_) {
            double const ms =
                std::chrono::duration<double, std::milli>(core::Clock::now() - beat_sent_).count();
            if (rtt_ms_ == 0 || ms < rtt_ms_) rtt_ms_ = ms;
        }
        return {};
    }
    auto const id = message["id"].integer_or(0);
    if (message.has("verb")) {
        if (scope_.running() > answers_in_flight_max) {
            return fail(Errc::protocol, "{} asks too much at once", peer());
        }
        scope_.spawn(answer(id, message["verb"].text_or(""), message["arguments"]));
        return {};
    }
    auto const pending = pending_.find(id);
    if (pending == pending_.end()) return {};  // a late answer to a request that timed out
    if (message.has("result")) {
        pending->second->answer = message["result"];
    } else if (message.has("error")) {
        pending->second->answer = std::unexpected(error_from_json(message["error"]));
    } else {
        return fail(Errc::protocol, "{} sent a message that is neither request nor answer", peer());
    }
    pending->second->answered.set();
    return {};
}

Task<void> Connection::answer(std::int64_t id, std::string verb, Json arguments) {
    auto result = co_await handler_.handle(*this, verb, arguments);
    if (id == 0) co_return;
    Json reply = Json::object({{"id", id}});
    if (result) {
        reply.set("result", result->is_null() ? Json::object() : *result);
    } else {
        reply.set("error", error_to_json(result.error()));
    }
    co_await send_quietly(reply);
}

Task<void> Connection::send_quietly(Json message) {
    // A failed send shows as the end of the stream in run(); nobody else waits for it.
    (void)co_await messages_->send(message,
                                   Deadline::after(limits::connect_timeout, stop_.get_token()));
}

Task<void> Connection::beat() {
    while (!stop_.stop_requested()) {
        auto const slept =
            co_await core::sleep_for(loop_, limits::heartbeat_interval, stop_.get_token());
        if (!slept) co_return;
        if (core::Clock::now() - last_heard_ > patience_) {
            ended_because_ =
                fail(Errc::closed, "{} has been silent for {} ms", peer(), patience_.count())
                    .error();
            stop_.request_stop();
            co_return;
        }
        beat_sent_ = core::Clock::now();
        co_await send_quietly(Json::object({{"beat", ++beat_}}));
    }
}

Task<Result<Json>> Connection::request(std::string verb, Json arguments, Deadline deadline) {
    if (!open_) co_return fail(Errc::closed, "the connection to {} was lost", peer());
    auto const id = next_id_++;
    Pending pending(loop_);
    pending_[id] = &pending;
    auto sent = co_await messages_->send(
        Json::object({{"id", id}, {"verb", verb}, {"arguments", std::move(arguments)}}), deadline);
    Result<> waited;
    if (sent) waited = co_await pending.answered.wait(deadline);
    pending_.erase(id);
    if (!sent) co_return std::unexpected(sent.error());
    if (!waited) {
        waited.error().what =
            fmt::format("{} did not answer `{}`: {}", peer(), verb, waited.error().what);
        co_return std::unexpected(waited.error());
    }
    co_return std::move(pending.answer);
}

Task<Result<>> Connection::notify(std::string verb, Json arguments, Deadline deadline) {
    if (!open_) co_return fail(Errc::closed, "the connection to {} was lost", peer());
    co_return co_await messages_->send(
        Json::object({{"verb", verb}, {"arguments", std::move(arguments)}}), deadline);
}

}  // namespace sidecar
