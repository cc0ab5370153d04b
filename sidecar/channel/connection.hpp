// Connection: requests and answers over a stream, between two sidecars (TLS, through `serve`) or
// between a command and a sidecar (a unix socket). protocol.hpp has the requests.
//
// A message is a head of 32 bits (big-endian; 8 bits of kind, 24 bits of length) and a body:
//   kind 0   JSON text
//   kind 1   32 bits, the length of the JSON text; the text; bytes that belong to it
// The JSON is one of
//   {"id":7,"verb":"prepare","arguments":{...}}   ->   {"id":7,"result":{...}} |
//                                                      {"id":7,"error":{"code","what"}}
//   {"verb":"progress","arguments":{...}}              a notification: no answer
//   {"beat":12}                                   ->   {"beaten":12}
//
// The length and depth of every message are checked before it is parsed. A message of another shape
// ends the connection.
#pragma once

#include <deque>
#include <map>
#include <memory>
#include <string>

#include "core/json.hpp"
#include "core/stream.hpp"
#include "core/sync.hpp"
#include "sidecar/channel/protocol.hpp"
#include "sidecar/host/limits.hpp"

namespace sidecar {

using Bytes = protocol::Bytes;

/// A message as it is on the wire. Fails with invalid when it is longer than the limit.
core::Result<Bytes> encode(core::Json const& message, Bytes const& bytes = {});

struct Message {
    core::Json json;
    Bytes bytes;  ///< Of kind 1.
};

/// Whole messages on a stream. One receiver and one sender at a time.
class Messages {
public:
    explicit Messages(std::unique_ptr<core::Stream> stream) : stream_(std::move(stream)) {}
    core::Task<core::Result<Message>> receive(core::Deadline deadline);
    /// After an error, also timed_out and cancelled, the stream cannot be used any more.
    core::Task<core::Result<>> send(core::Json message, core::Deadline deadline);
    /// Writes an encoded message (see encode()); it must outlive the call.
    core::Task<core::Result<>> write(std::span<std::uint8_t const> bytes, core::Deadline deadline);
    /// Sends the only request of the stream and waits for its answer.
    template <class Request>
    core::Task<core::Result<typename Request::Answer>> ask(Request request,
                                                           core::Deadline deadline) {
        CO_TRY(auto const answer, co_await ask_packed(Request::verb, request.to_json(), deadline));
        co_return Request::Answer::from_json(answer);
    }
    [[nodiscard]] core::Stream& stream() { return *stream_; }

private:
    core::Task<core::Result<core::Json>> ask_packed(protocol::Verb verb, core::Json arguments,
                                                    core::Deadline deadline);
    std::unique_ptr<core::Stream> stream_;
};

/// Errors cross a connection as {"code","what"}; the receiver gets an Error of the same kind.
core::Json error_to_json(core::Error const& error);
core::Error error_from_json(core::Json const& error);

class Connection;

/// Answers the messages that arrive. Calls for one connection may overlap: each request runs in its
/// own task.
class Handler {
public:
    virtual ~Handler() = default;
    /// Called for requests and notifications (whose result is dropped) that protocol::may_ask()
    /// allows to the role of the other side.
    virtual core::Task<core::Result<protocol::Packed>> handle(Connection& from,
                                                              protocol::Call call) = 0;
};

class Connection {
public:
    /// `other`: the role of the other end, which decides which requests are accepted from it. With
    /// remote roles the connection has heartbeats.
    Connection(core::Loop& loop, std::unique_ptr<Messages> messages, Handler& handler,
               protocol::Role other);

    /// Reads, writes and answers until the stream ends or `token` is stopped. With heartbeats it
    /// also ends if the other side was silent, or did not read, for longer than set_patience()
    /// allows. Then every caller gets closed. When it returns, everything that it started has ended
    /// and no caller is in the connection any more: it may be freed.
    core::Task<void> run(std::stop_token token);
    /// Sends a request and waits for its answer. Fails with the other side's error; with protocol
    /// if the answer is malformed; or with closed, timed_out, cancelled: the request may then have
    /// taken effect there.
    template <class Request>
    core::Task<core::Result<typename Request::Answer>> request(Request request,
                                                               core::Deadline deadline) {
        CO_TRY(auto answer,
               co_await ask(Request::verb, protocol::pack(std::move(request)), deadline));
        co_return protocol::unpack<typename Request::Answer>(answer.json, std::move(answer.bytes));
    }
    /// Sends a notification. It arrives before any later request of this connection.
    template <class Request>
    core::Task<core::Result<>> notify(Request request, core::Deadline deadline) {
        return tell(Request::verb, protocol::pack(std::move(request)), std::move(deadline));
    }
    /// The command at the other end was `serve`: from now on the other end is a remote sidecar,
    /// which is lost if it is silent for too long. Call once, while run() runs.
    void accept(protocol::Role remote);
    [[nodiscard]] protocol::Role other() const { return other_; }
    /// How long the other side may be silent; limits::heartbeat_silence unless set.
    void set_patience(core::milliseconds patience) { patience_ = patience; }
    /// Waits until all messages and answers so far are written: before close(), for
    /// the last answers.
    core::Task<void> flush(core::Deadline deadline);
    /// Ends run() soon. Messages that are not written yet are lost.
    void close() { stop_.request_stop(); }
    [[nodiscard]] bool open() const { return open_; }
    /// Why it ended; meaningful once open() is false.
    [[nodiscard]] core::Error const& ended_because() const { return ended_because_; }
    /// The shortest round trip of the heartbeats so far; 0 before the first.
    [[nodiscard]] double rtt_ms() const { return rtt_ms_; }
    [[nodiscard]] std::string peer() const { return messages_->stream().peer(); }

private:
    struct Pending {
        explicit Pending(core::Loop& loop) : answered(loop) {}
        core::Event answered;
        core::Result<protocol::Packed> answer =
            core::fail(core::Errc::closed, "the connection was lost");
    };
    /// Shared by the caller, who may stop waiting at its deadline, and write_messages().
    struct Unsent {
        Unsent(core::Loop& loop, Bytes bytes_) : bytes(std::move(bytes_)), written(loop) {}
        Bytes bytes;
        bool begun = false;
        core::Event written;
        core::Result<> outcome;  ///< Once `written` is set.
    };
    core::Task<core::Result<protocol::Packed>> ask(protocol::Verb verb, protocol::Packed arguments,
                                                   core::Deadline deadline);
    core::Task<core::Result<>> tell(protocol::Verb verb, protocol::Packed arguments,
                                    core::Deadline deadline);
    core::Result<> dispatch(Message message);
    core::Task<void> answer(std::int64_t id, std::string verb, protocol::Packed arguments);
    core::Task<core::Result<>> deliver(core::Json message, Bytes bytes, core::Deadline deadline);
    std::shared_ptr<Unsent> push(Bytes bytes);
    core::Task<void> write_messages();
    core::Task<void> beat();
    void echo(core::Json const& beat);
    void lose(core::Error why);

    core::Loop& loop_;
    std::unique_ptr<Messages> messages_;
    Handler& handler_;
    protocol::Role other_;
    bool beating_;
    core::milliseconds patience_ = limits::heartbeat_silence;
    bool open_ = true;
    core::Error ended_because_;
    core::TaskGroup scope_;
    core::CallGate callers_;  ///< Callers in request(), notify() and flush().
    std::stop_source stop_;
    std::map<std::int64_t, Pending*> pending_;
    /// In order. Each caller, answer, heartbeat and echo has at most one message in it.
    std::deque<std::shared_ptr<Unsent>> outbox_;
    std::shared_ptr<Unsent> writing_;
    core::Event has_unsent_;
    std::shared_ptr<Unsent> echo_;  ///< The last one.
    std::int64_t next_id_ = 1;
    std::int64_t beat_ = 0;
    core::Clock::time_point beat_sent_{};
    core::Clock::time_point last_heard_{};
    double rtt_ms_ = 0;
};

}  // namespace sidecar
