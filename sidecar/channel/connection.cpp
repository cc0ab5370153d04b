#include "sidecar/channel/connection.hpp"

#include <array>
#include <cassert>

namespace sidecar {

using core::Deadline;
using core::Errc;
using core::Error;
using core::fail;
using core::Json;
using core::Result;
using core::Task;

namespace {
// Requests of one connection that are answered at the same time. Our commands and peers
// never send more.
constexpr std::size_t answers_in_flight_max = 64;
constexpr std::size_t length_bytes = 4;
constexpr std::uint8_t kind_with_bytes = 1;
static_assert(limits::message_bytes_max + length_bytes < (1U << 24));

std::size_t number_in(std::span<std::byte const, length_bytes> bytes) {
    std::size_t number = 0;
    for (auto const byte : bytes) number = number << 8 | static_cast<std::size_t>(byte);
    return number;
}

void add_number(Bytes& to, std::size_t number) {
    for (int shift = 24; shift >= 0; shift -= 8) {
        to.push_back(static_cast<std::uint8_t>(number >> shift));
    }
}
}  // namespace

Task<Result<Message>> Messages::receive(Deadline deadline) {
    std::array<std::byte, length_bytes> head{};
    CO_TRY_VOID(co_await read_exactly(*stream_, head, deadline));
    auto const kind = static_cast<std::uint8_t>(head[0]);
    head[0] = std::byte{0};
    std::size_t length = number_in(head);
    std::size_t text_length = length;
    if (kind == kind_with_bytes) {
        CO_TRY_VOID(co_await read_exactly(*stream_, head, deadline));
        text_length = number_in(head);
        length -= std::min(length, length_bytes);
    }
    if (kind > kind_with_bytes) {
        co_return fail(Errc::protocol, "{} sent something that is not a message of a sidecar",
                       stream_->peer());
    }
    if (text_length == 0 || text_length > length || length > limits::message_bytes_max) {
        co_return fail(Errc::protocol, "{} sent a message of {} bytes; the limit is {}",
                       stream_->peer(), std::max(length, text_length), limits::message_bytes_max);
    }
    std::string text(text_length, '\0');
    CO_TRY_VOID(co_await read_exactly(*stream_, std::as_writable_bytes(std::span(text)), deadline));
    Message message;
    message.bytes.resize(length - text_length);
    CO_TRY_VOID(co_await read_exactly(*stream_, std::as_writable_bytes(std::span(message.bytes)),
                                      deadline));
    auto parsed = Json::parse(text);
    if (!parsed) {
        co_return std::unexpected(
            std::move(parsed.error())
                .while_doing(fmt::format("reading a message of {}", stream_->peer())));
    }
    message.json = std::move(*parsed);
    co_return message;
}

Result<Bytes> encode(Json const& message, Bytes const& bytes) {
    auto const text = message.dump();
    auto const length = text.size() + bytes.size();
    if (length > limits::message_bytes_max) {
        return fail(Errc::invalid, "a message of {} bytes is too long to be sent", length);
    }
    Bytes frame;
    frame.reserve(2 * length_bytes + length);
    if (bytes.empty()) {
        add_number(frame, text.size());
    } else {
        add_number(frame, length_bytes + length);
        frame[0] = kind_with_bytes;
        add_number(frame, text.size());
    }
    frame.insert(frame.end(), text.begin(), text.end());
    frame.insert(frame.end(), bytes.begin(), bytes.end());
    return frame;
}

Task<Result<>> Messages::write(std::span<std::uint8_t const> bytes, Deadline deadline) {
    return stream_->write_all(std::as_bytes(bytes), std::move(deadline));
}

Task<Result<>> Messages::send(Json message, Deadline deadline) {
    CO_TRY(auto const bytes, encode(message));
    co_return co_await write(bytes, deadline);
}

Task<Result<Json>> Messages::ask_packed(protocol::Verb verb, Json arguments, Deadline deadline) {
    CO_TRY_VOID(co_await send(
        Json::object({{"id", 1}, {"verb", protocol::name(verb)}, {"arguments", arguments}}),
        deadline));
    CO_TRY(auto const answer, co_await receive(deadline));
    if (answer.json.has("result")) co_return answer.json["result"];
    co_return std::unexpected(error_from_json(answer.json["error"]));
}

Json error_to_json(Error const& error) {
    return Json::object(
        {{"code", std::string(core::name(error.code))}, {"what", error.sentence()}});
}

Error error_from_json(Json const& error) {
    auto const code = error["code"].text_or("");
    Error made{Errc::protocol, 0, error["what"].text_or("an error without a message"), {}};
    for (int value = 0; value <= static_cast<int>(Errc::invalid); ++value) {
        if (core::name(static_cast<Errc>(value)) == code) made.code = static_cast<Errc>(value);
    }
    return made;
}

namespace {

bool is_remote(protocol::Role role) {
    switch (role) {
        case protocol::Role::source:
        case protocol::Role::replication_source:
        case protocol::Role::vtep_source:
        case protocol::Role::anchor_source:
        case protocol::Role::destination:
            return true;
        case protocol::Role::command:
        case protocol::Role::local:
        case protocol::Role::sidecar:
            return false;
    }
    return false;
}

}  // namespace

Connection::Connection(core::Loop& loop, std::unique_ptr<Messages> messages, Handler& handler,
                       protocol::Role other)
    : loop_(loop),
      messages_(std::move(messages)),
      handler_(handler),
      other_(other),
      beating_(is_remote(other)),
      scope_(loop),
      callers_(loop),
      has_unsent_(loop) {
    last_heard_ = core::Clock::now();
}

Task<void> Connection::run(std::stop_token token) {
    core::LinkedStop outer(token);
    std::stop_callback forward(outer.token(), [this] { stop_.request_stop(); });
    scope_.spawn(write_messages());
    if (beating_) scope_.spawn(beat());
    for (;;) {
        auto message = co_await messages_->receive(Deadline::never(stop_.get_token()));
        auto handled = message ? dispatch(std::move(*message)) : std::unexpected(message.error());
        if (!handled) {
            lose(std::move(handled.error()));
            break;
        }
    }
    for (auto& [id, pending] : pending_) {
        pending->answer = fail(Errc::closed, "the connection to {} was lost", peer());
        pending->answered.set();
    }
    for (auto const& unsent : std::exchange(outbox_, {})) {
        unsent->outcome = fail(Errc::closed, "the connection to {} was lost", peer());
        unsent->written.set();
    }
    co_await scope_.join();
    // The callers that were just woken look at the connection once more.
    co_await callers_.close();
}

void Connection::lose(core::Error why) {
    if (open_ && ended_because_.what.empty()) ended_because_ = std::move(why);
    open_ = false;
    stop_.request_stop();
}

Result<> Connection::dispatch(Message received) {
    auto& message = received.json;
    last_heard_ = core::Clock::now();
    if (message.has("beat")) {
        echo(message["beat"]);
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
            return fail(Errc::protocol, "{} sent too many requests at once", peer());
        }
        scope_.spawn(answer(id, message["verb"].text_or(""),
                            {message["arguments"], std::move(received.bytes)}));
        return {};
    }
    auto const pending = pending_.find(id);
    if (pending == pending_.end()) return {};  // a late answer to a request that timed out
    if (message.has("result")) {
        pending->second->answer = protocol::Packed{message["result"], std::move(received.bytes)};
    } else if (message.has("error")) {
        pending->second->answer = std::unexpected(error_from_json(message["error"]));
    } else {
        return fail(Errc::protocol, "{} sent a message that is neither request nor answer", peer());
    }
    pending->second->answered.set();
    return {};
}

Task<void> Connection::answer(std::int64_t id, std::string verb, protocol::Packed arguments) {
    auto const known = protocol::verb_from(verb);
    Result<protocol::Packed> result =
        fail(Errc::protocol, "a {1} may not send `{0}`", verb, protocol::name(other_));
    if (known && protocol::may_ask(other_, *known)) {
        result = co_await handler_.handle(
            *this, {*known, std::move(arguments.json), std::move(arguments.bytes)});
    }
    if (id == 0) co_return;
    Json reply = Json::object({{"id", id}});
    if (result) {
        reply.set("result", result->json.is_null() ? Json::object() : result->json);
    } else {
        reply.set("error", error_to_json(result.error()));
    }
    // A failed write ends the connection, and run() reports that.
    (void)co_await deliver(std::move(reply), result ? std::move(result->bytes) : Bytes(),
                           Deadline::never());
}

/// Hands a message to write_messages() and waits until it is written. At the deadline, a message
/// whose writing has not begun is removed. One that has begun is written to its end, so that the
/// stream stays intact.
Task<Result<>> Connection::deliver(Json message, Bytes bytes, Deadline deadline) {
    if (!open_) co_return fail(Errc::closed, "the connection to {} was lost", peer());
    CO_TRY(auto encoded, encode(message, bytes));
    auto const unsent = push(std::move(encoded));
    auto const waited = co_await unsent->written.wait(deadline);
    if (unsent->written.is_set()) co_return unsent->outcome;
    std::erase(outbox_, unsent);
    co_return waited;
}

std::shared_ptr<Connection::Unsent> Connection::push(Bytes bytes) {
    auto const& made = outbox_.emplace_back(std::make_shared<Unsent>(loop_, std::move(bytes)));
    has_unsent_.set();
    return made;
}

/// The only writer. A peer is lost if it does not read for as long as it may be silent.
Task<void> Connection::write_messages() {
    auto const token = stop_.get_token();
    while (!token.stop_requested()) {
        if (outbox_.empty()) {
            has_unsent_.reset();
            (void)co_await has_unsent_.wait(Deadline::never(token));
            continue;
        }
        auto const unsent = outbox_.front();
        outbox_.pop_front();
        unsent->begun = true;
        writing_ = unsent;
        auto const deadline = beating_ ? Deadline::after(patience_, token) : Deadline::never(token);
        unsent->outcome = co_await messages_->write(unsent->bytes, deadline);
        if (!unsent->outcome) {
            auto why = unsent->outcome.error();
            if (why.code == Errc::cancelled) {
                why.what = fmt::format("the connection to {} was lost", peer());
            } else if (why.code == Errc::timed_out) {
                why.what = fmt::format("{} has not read for {} ms", peer(), patience_.count());
            }
            why.code = Errc::closed;
            unsent->outcome = std::unexpected(why);
            lose(std::move(why));
        }
        unsent->written.set();
        writing_.reset();
    }
}

Task<void> Connection::flush(Deadline deadline) {
    core::CallGate::Hold const inside(callers_);
    auto const last = outbox_.empty() ? writing_ : outbox_.back();
    if (last) (void)co_await last->written.wait(deadline);
}

/// At most one echo waits to be written: a newer heartbeat replaces it.
void Connection::echo(Json const& beat) {
    auto bytes = encode(Json::object({{"beaten", beat}}));
    if (!bytes) return;
    if (!echo_ || echo_->written.is_set()) {
        echo_ = push(std::move(*bytes));
    } else if (!echo_->begun) {
        echo_->bytes = std::move(*bytes);
    }
}

Task<void> Connection::beat() {
    std::shared_ptr<Unsent> last;
    while (!stop_.stop_requested()) {
        auto const slept =
            co_await core::sleep_for(loop_, limits::heartbeat_interval, stop_.get_token());
        if (!slept) co_return;
        if (core::Clock::now() - last_heard_ > patience_) {
            lose(fail(Errc::closed, "{} has been silent for {} ms", peer(), patience_.count())
                     .error());
            co_return;
        }
        // The previous one still waits to be written.
        if (last && !last->written.is_set()) continue;
        auto bytes = encode(Json::object({{"beat", ++beat_}}));
        if (!bytes) continue;
        beat_sent_ = core::Clock::now();
        last = push(std::move(*bytes));
    }
}

void Connection::accept(protocol::Role remote) {
    assert(other_ == protocol::Role::command && is_remote(remote));
    other_ = remote;
    beating_ = true;
    last_heard_ = core::Clock::now();
    scope_.spawn(beat());
}

Task<Result<protocol::Packed>> Connection::ask(protocol::Verb verb, protocol::Packed arguments,
                                               Deadline deadline) {
    core::CallGate::Hold const inside(callers_);
    if (!open_) co_return fail(Errc::closed, "the connection to {} was lost", peer());
    auto const id = next_id_++;
    Pending pending(loop_);
    pending_[id] = &pending;
    auto sent = co_await deliver(
        Json::object(
            {{"id", id}, {"verb", protocol::name(verb)}, {"arguments", std::move(arguments.json)}}),
        std::move(arguments.bytes), deadline);
    Result<> waited;
    if (sent) waited = co_await pending.answered.wait(deadline);
    pending_.erase(id);
    if (!sent) co_return std::unexpected(sent.error());
    if (!waited) {
        waited.error().what = fmt::format("{} did not answer `{}`: {}", peer(),
                                          protocol::name(verb), waited.error().what);
        co_return std::unexpected(waited.error());
    }
    co_return std::move(pending.answer);
}

Task<Result<>> Connection::tell(protocol::Verb verb, protocol::Packed arguments,
                                Deadline deadline) {
    core::CallGate::Hold const inside(callers_);
    co_return co_await deliver(
        Json::object({{"verb", protocol::name(verb)}, {"arguments", std::move(arguments.json)}}),
        std::move(arguments.bytes), deadline);
}

}  // namespace sidecar
