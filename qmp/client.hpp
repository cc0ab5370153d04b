// Client: one connection to one QEMU's QMP monitor. Commands may be in flight side by side; replies
// find their caller by id. Used by every room that talks to QEMU, through the typed commands of
// machine.hpp, block.hpp and migration.hpp. Invariant: whatever ends the connection ends every
// waiting execute and subscription.
#pragma once

#include <sys/types.h>

#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <stop_token>
#include <string>
#include <vector>

#include "core/deadline.hpp"
#include "core/fd.hpp"
#include "core/json.hpp"
#include "core/loop.hpp"
#include "core/result.hpp"
#include "core/sync.hpp"
#include "core/task.hpp"
#include "qmp/wire.hpp"

namespace qmp {

using core::Clock;
using core::Deadline;
using core::Loop;
using core::Task;

/// Something QEMU told of its own accord.
struct Event {
    std::string name;  ///< "STOP", "MIGRATION", ...
    Json data;
    std::int64_t timestamp_us = -1;  ///< QEMU's wall clock.
    Clock::time_point received;  ///< Our clock, when the bytes had been read.
};

namespace detail {
struct Subscriber;
}

/// The events from subscribe() on. May outlive its client. One reader at a time.
class Subscription {
public:
    explicit Subscription(std::shared_ptr<detail::Subscriber> subscriber);
    Subscription(Subscription&&) noexcept = default;
    Subscription& operator=(Subscription&&) noexcept = default;
    ~Subscription();

    /// The next event, in QEMU's order. Fails with closed once all that arrived before the
    /// connection ended was handed out; with protocol when events_unread_max were unread (events
    /// are missing: ask QEMU's state).
    Task<Result<Event>> next(Deadline deadline);
    /// An event that has arrived already, without waiting.
    std::optional<Event> take();

private:
    std::shared_ptr<detail::Subscriber> subscriber_;
};

class Client {
public:
    /// Connects, reads the greeting and negotiates. Fails with
    /// - closed: no socket there, or no process listens on it (QEMU has ended);
    /// - protocol: the other end answers, but not in QMP;
    /// - timed_out: connected, but no greeting (another client holds the monitor: QEMU serves one
    /// at a time).
    static Task<Result<std::unique_ptr<Client>>> connect(Loop& loop, std::string socket_path,
                                                         Deadline deadline);
    /// The same for a QEMU that has just been started: until its greeting comes the whole deadline
    /// may pass (it may have to zero its memory first).
    static Task<Result<std::unique_ptr<Client>>> connect_starting(Loop& loop,
                                                                  std::string socket_path,
                                                                  Deadline deadline);
    /// Must have been closed, or the connection must have ended, before.
    ~Client();
    Client(Client const&) = delete;
    Client& operator=(Client const&) = delete;

    /// Sends one command and waits for its reply: the value of "return".
    /// Fails with qemu_refused (QEMU's class and text in the sentence; refusal_class() reads the
    /// class), closed, timed_out, cancelled. After timed_out or cancelled QEMU may still run the
    /// command; its late reply is recognised by its id and dropped. `arguments` null: none.
    Task<Result<Json>> execute(std::string command, Json arguments, Deadline deadline);
    /// The same, with one descriptor passed beside the command (getfd, add-fd). It is duplicated:
    /// the caller keeps its own.
    Task<Result<Json>> execute_with_fd(std::string command, Json arguments, int fd,
                                       Deadline deadline);

    /// Events from now on: all, or those of these names.
    Subscription subscribe(std::vector<std::string> names = {});

    /// `prepare` is called before each reconnect(): it starts what serves the socket, if that
    /// has ended. If it fails, so does reconnect().
    void before_reconnect(std::function<Result<>()> prepare) { prepare_ = std::move(prepare); }
    /// Connects again after the connection has ended, QEMU being alive; references to this client
    /// stay valid. Ends a connection that is still open. Subscriptions from before have ended:
    /// subscribe again, then ask QEMU's state, since events may be missing. Fails as connect does;
    /// one caller at a time.
    Task<Result<>> reconnect(Deadline deadline);
    /// While set, a command that finds the connection ended waits for reconnect() within its
    /// deadline, and a query that was cut off is sent again. Only for an owner that reconnects.
    void expect_reconnect(bool expected);
    /// Ends the connection as if QEMU had: for a QEMU that does not answer.
    void cut(std::string why);

    [[nodiscard]] bool open() const { return !why_closed_.has_value(); }
    /// The QEMU at the other end, by SO_PEERCRED; 0 when it is in a foreign pid namespace. For the
    /// connection made by launch() it is ourselves: use Launched::process there.
    [[nodiscard]] pid_t peer_pid() const { return peer_pid_; }
    [[nodiscard]] Loop& loop() const { return loop_; }
    [[nodiscard]] std::string const& socket_path() const { return socket_path_; }
    /// QEMU's version text from the greeting: for messages, never for decisions.
    [[nodiscard]] std::string const& version() const { return version_; }

    /// Waits until the connection has ended by itself (QEMU quit or died).
    Task<Result<>> wait_closed(Deadline deadline);
    /// Ends the connection and joins its reader and writer. QEMU goes on. May be called again.
    Task<void> close();

private:
    struct Call {
        Call(Loop& loop, std::string_view name) : command(name), done(loop) {}
        std::string_view command;
        core::Event done;
        std::optional<Result<Json>> outcome;
    };
    struct Unsent {
        std::string bytes;
        core::Fd fd;
    };

    /// close() waits for every caller that is inside one of our functions.
    class Inside {
    public:
        explicit Inside(Client& client) : client_(client) { ++client_.inside_; }
        ~Inside() {
            if (--client_.inside_ == 0) client_.idle_.set();
        }
        Inside(Inside const&) = delete;
        Inside& operator=(Inside const&) = delete;

    private:
        Client& client_;
    };

    Client(Loop& loop, core::Fd socket, std::string socket_path);
    /// Connected, and no word said yet.
    static Task<Result<std::unique_ptr<Client>>> reach(Loop& loop, std::string const& socket_path,
                                                       Deadline deadline);
    Task<Result<>> greet(Deadline deadline);
    Task<Result<>> negotiate(Deadline deadline);
    Task<Result<Message>> read_message(Deadline deadline);
    Task<Result<Json>> call(std::string command, Json arguments, core::Fd fd, Deadline deadline);
    static Task<void> read_loop(Client& client);
    static Task<void> write_loop(Client& client);
    Task<Result<>> send(Unsent unsent);
    Result<> dispatch(Message message);
    void publish(Occurrence occurrence);
    void end(core::Error why);

    Loop& loop_;
    core::Fd socket_;
    std::string socket_path_;
    std::string version_;
    bool negotiated_ = false;  ///< With a QEMU that greets twice (docs/qemu-bugs.md): after both.
    bool greeted_again_ = false;
    pid_t peer_pid_ = 0;
    Framer framer_;
    std::vector<std::byte> read_buffer_;
    std::uint64_t next_id_ = 1;
    std::map<std::uint64_t, Call*> calls_;
    std::deque<Unsent> unsent_;
    std::size_t unsent_bytes_ = 0;
    core::Event has_unsent_;
    core::Event ended_;
    core::Event reopened_;  ///< Set by reconnect(), and when none is expected any more.
    bool reconnects_ = false;
    core::Event idle_;
    core::Semaphore fd_turn_;
    std::size_t inside_ = 0;
    std::vector<std::weak_ptr<detail::Subscriber>> subscribers_;
    std::optional<core::Error> why_closed_;
    std::stop_source stop_;
    core::TaskGroup scope_;
    std::function<Result<>()> prepare_;  ///< Before a reconnect.
};

/// QEMU's error class ("GenericError", "CommandNotFound", "DeviceNotFound", ...) of an error of
/// kind qemu_refused; empty for every other error.
std::string refusal_class(core::Error const& error);

}  // namespace qmp
