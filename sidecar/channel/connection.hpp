// Connection: requests and answers as length-prefixed JSON (a 32-bit big-endian length, then the
// text) over a stream: between two sidecars (TLS, through `serve`) and between a command and a
// sidecar (a unix socket).
//
//   {"id":7,"verb":"prepare","arguments":{...}}   ->   {"id":7,"result":{...}} |
//   {"id":7,"error":{"code","what"}}
//   {"verb":"progress","arguments":{...}}              a notification: no answer
//   {"beat":12}                                   ->   {"beaten":12}
//
// Every byte that arrives is limited in length and depth before it is looked at; a message of
// another shape ends the connection.
#pragma once

#include <map>
#include <memory>
#include <string>

#include "core/json.hpp"
#include "core/stream.hpp"
#include "core/sync.hpp"
#include "sidecar/host/limits.hpp"

namespace sidecar {

/// Whole messages on a stream. Sending is serialised; one receiver.
class Messages {
public:
    Messages(core::Loop& loop, std::unique_ptr<core::Stream> stream)
        : stream_(std::move(stream)), turn_(loop, 1) {}
    core::Task<core::Result<core::Json>> receive(core::Deadline deadline);
    core::Task<core::Result<>> send(core::Json message, core::Deadline deadline);
    [[nodiscard]] core::Stream& stream() { return *stream_; }

private:
    std::unique_ptr<core::Stream> stream_;
    core::Semaphore turn_;
};

/// Errors cross a connection as {"code","what"}; the receiver gets an Error of the same kind.
core::Json error_to_json(core::Error const& error);
core::Error error_from_json(core::Json const& error);

class Connection;

/// Who answers what arrives. Calls for one connection may overlap: each request runs in a task of
/// its own.
class Handler {
public:
    virtual ~Handler() = default;
    /// Called for requests and notifications (whose result is dropped).
    virtual core::Task<core::Result<core::Json>> handle(Connection& from, std::string verb,
                                                        core::Json arguments) = 0;
};

class Connection {
public:
    Connection(core::Loop& loop, std::unique_ptr<Messages> messages, Handler& handler,
               bool heartbeats);

    /// Reads and answers until the stream ends, `token` is stopped, or (with heartbeats) the other
    /// side has been silent for longer than set_patience() allows. Everything it started has ended
    /// when it returns.
    core::Task<void> run(std::stop_token token);
    core::Task<core::Result<core::Json>> request(std::string verb, core::Json arguments,
                                                 core::Deadline deadline);
    core::Task<core::Result<>> notify(std::string verb, core::Json arguments,
                                      core::Deadline deadline);
    /// How long the other side may be silent; limits::heartbeat_silence unless set.
    void set_patience(core::milliseconds patience) { patience_ = patience; }
    /// From now on the other side counts as lost when it is silent too long. Once, while run()
    /// runs.
    void start_heartbeats() { scope_.spawn(beat()); }
    /// Ends run() soon.
    void close() { stop_.request_stop(); }
    [[nodiscard]] bool open() const { return open_; }
    /// Why it ended; meaningful once open() is false.
    [[nodiscard]] core::Error const& ended_because() const { return ended_because_; }
    /// The shortest round trip of the heartbeats so far; 0 before the first.
    [[nodiscard]] double rtt_ms() const { return rtt_ms_; }
    [[nodiscard]] std::string peer() const { return messages_->stream().peer(); }

    /// Set once by the control server: this connection carries a remote sidecar, not a local
    /// command.
    bool remote = false;

private:
    struct Pending {
        explicit Pending(core::Loop& loop) : answered(loop) {}
        core::Event answered;
        core::Result<core::Json> answer = core::fail(core::Errc::closed, "the connection was lost");
    };
    core::Result<> dispatch(core::Json message);
    core::Task<void> answer(std::int64_t id, std::string verb, core::Json arguments);
    core::Task<void> send_quietly(core::Json message);
    core::Task<void> beat();

    core::Loop& loop_;
    std::unique_ptr<Messages> messages_;
    Handler& handler_;
    bool heartbeats_;
    core::milliseconds patience_ = limits::heartbeat_silence;
    bool open_ = true;
    core::Error ended_because_;
    core::TaskGroup scope_;
    std::stop_source stop_;
    std::map<std::int64_t, Pending*> pending_;
    std::int64_t next_id_ = 1;
    std::int64_t beat_ = 0;
    core::Clock::time_point beat_sent_{};
    core::Clock::time_point last_heard_{};
    double rtt_ms_ = 0;
};

}  // namespace sidecar
