#include "qmp/client.hpp"

#include <fcntl.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "core/log.hpp"
#include "core/stream.hpp"
#include "qmp/limits.hpp"

namespace qmp {

namespace detail {

struct Subscriber {
    explicit Subscriber(Loop& loop) : arrived(loop) {}
    std::vector<std::string> names;  ///< Empty: all.
    std::deque<Event> events;
    core::Event arrived;
    bool overflowed = false;
    std::optional<std::string> ended;
};

}  // namespace detail

namespace {

// What connect(2) says, as a sentence about QEMU.
core::Error no_monitor(std::string const& path, core::Error error) {
    switch (error.os) {
        case ENOENT:
            return core::fail(
                       Errc::closed,
                       "the QMP socket {} is gone: QEMU has ended, or was started with another "
                       "-qmp path",
                       path)
                .error();
        case ECONNREFUSED:
            return core::fail(Errc::closed,
                              "no process listens on the QMP socket {}: QEMU has ended, or it is "
                              "not a socket",
                              path)
                .error();
        case EACCES:
        case EPERM:
            return core::
                fail(Errc::refused,
                     "no permission for the QMP socket {}: run as root or as the user QEMU runs as",
                     path)
                    .error();
        default:
            return error;
    }
}

core::Error not_qmp(std::string const& path, core::Error error, std::string_view said) {
    if (error.code == Errc::timed_out) {
        return core::fail(
                   Errc::timed_out,
                   "{} accepts connections but gives no QMP greeting: another client may hold this "
                   "monitor (QEMU serves one at a time), or it is not a QMP socket",
                   path)
            .error();
    }
    if (error.code == Errc::closed) {
        return core::fail(Errc::closed, "{} closed the connection without a QMP greeting", path)
            .error();
    }
    if (error.code != Errc::protocol) return error;
    bool const human = said.find("monitor - type 'help'") != std::string_view::npos;
    return core::fail(Errc::protocol, "{} is not a QMP socket{}: it says `{}`", path,
                      human ? " but QEMU's monitor for people (use the one of -qmp)" : "",
                      quoted(said))
        .error();
}

Result<Json> refusal(std::string_view command, Refusal const& refusal) {
    return core::fail(Errc::qemu_refused, "QEMU refused {}: {} ({})", command, refusal.description,
                      refusal.error_class);
}

}  // namespace

Subscription::Subscription(std::shared_ptr<detail::Subscriber> subscriber)
    : subscriber_(std::move(subscriber)) {}
Subscription::~Subscription() = default;

std::optional<Event> Subscription::take() {
    auto& events = subscriber_->events;
    if (events.empty()) return std::nullopt;
    Event event = std::move(events.front());
    events.pop_front();
    return event;
}

Task<Result<Event>> Subscription::next(Deadline deadline) {
    auto const subscriber = subscriber_;  // the Subscription may be moved while we wait
    while (subscriber->events.empty()) {
        if (subscriber->overflowed) {
            co_return core::fail(
                Errc::protocol,
                "more than {} events of QEMU were unread: some are lost, ask for its state",
                events_unread_max);
        }
        if (subscriber->ended) co_return core::fail(Errc::closed, "{}", *subscriber->ended);
        subscriber->arrived.reset();
        CO_TRY_VOID(co_await subscriber->arrived.wait(deadline));
    }
    Event event = std::move(subscriber->events.front());
    subscriber->events.pop_front();
    co_return event;
}

Client::Client(Loop& loop, core::Fd socket, std::string socket_path)
    : loop_(loop),
      socket_(std::move(socket)),
      socket_path_(std::move(socket_path)),
      read_buffer_(read_bytes),
      has_unsent_(loop),
      ended_(loop),
      reopened_(loop),
      idle_(loop),
      fd_turn_(loop, 1),
      scope_(loop) {
    ucred peer{};
    socklen_t length = sizeof peer;
    if (getsockopt(socket_.get(), SOL_SOCKET, SO_PEERCRED, &peer, &length) == 0)
        peer_pid_ = peer.pid;
}

Client::~Client() { assert(inside_ == 0); }

Task<Result<std::unique_ptr<Client>>> Client::connect(Loop& loop, std::string socket_path,
                                                      Deadline deadline) {
    return connect_starting(loop, std::move(socket_path), deadline.sooner(greeting_timeout));
}

Task<Result<std::unique_ptr<Client>>> Client::connect_starting(Loop& loop, std::string socket_path,
                                                               Deadline deadline) {
    CO_TRY(auto client, co_await reach(loop, socket_path, deadline));
    auto greeted = co_await client->greet(deadline);
    if (!greeted && greeted.error().code == Errc::closed) {
        // QEMU may take us for the client before us, which it has just found to be gone.
        CO_TRY_VOID(co_await core::sleep_for(loop, greeting_again_pause, deadline.token()));
        CO_TRY(client, co_await reach(loop, socket_path, deadline));
        greeted = co_await client->greet(deadline);
    }
    if (!greeted) co_return std::unexpected(std::move(greeted.error()));
    client->scope_.spawn(read_loop(*client));
    client->scope_.spawn(write_loop(*client));
    auto negotiated = co_await client->execute("qmp_capabilities", {}, deadline);
    if (negotiated && client->greeted_again_) {
        // Of the two that QEMU then gets, one may be too many.
        negotiated = co_await client->execute("qmp_capabilities", {}, deadline);
        if (!negotiated && refusal_class(negotiated.error()) == "CommandNotFound") {
            negotiated = Json::object();
        }
    }
    client->negotiated_ = true;
    if (!negotiated) {
        co_await client->close();
        co_return std::unexpected(
            std::move(negotiated.error()).while_doing("negotiating with " + socket_path));
    }
    co_return std::move(client);
}

Task<Result<std::unique_ptr<Client>>> Client::reach(Loop& loop, std::string const& socket_path,
                                                    Deadline deadline) {
    auto socket = co_await core::connect_unix(loop, socket_path, deadline);
    if (!socket) co_return std::unexpected(no_monitor(socket_path, std::move(socket.error())));
    co_return std::unique_ptr<Client>(new Client(loop, std::move(*socket), socket_path));
}

Task<Result<>> Client::greet(Deadline deadline) {
    auto message = co_await read_message(deadline);
    if (!message) co_return std::unexpected(not_qmp(socket_path_, message.error(), framer_.rest()));
    auto const* greeting = std::get_if<Greeting>(&*message);
    if (greeting == nullptr) {
        co_return core::fail(Errc::protocol,
                             "{} is not a QMP socket: it speaks before its greeting", socket_path_);
    }
    version_ = greeting->version;
    co_return Result<>{};
}

/// Says `qmp_capabilities` before the reader and the writer run: no other command may come first.
Task<Result<>> Client::negotiate(Deadline deadline) {
    std::uint64_t const id = next_id_++;
    CO_TRY_VOID(co_await send({encode("qmp_capabilities", {}, id), core::Fd()}));
    for (;;) {
        CO_TRY(auto message, co_await read_message(deadline));
        auto const* reply = std::get_if<Return>(&message);
        if (reply != nullptr && reply->id == id) co_return Result<>{};
        CO_TRY_VOID(dispatch(std::move(message)));
    }
}

Task<Result<>> Client::reconnect(Deadline deadline) {
    Inside const inside(*this);
    cut(fmt::format("we connect to the monitor {} again", socket_path_));
    co_await scope_.join();
    unsent_.clear();
    unsent_bytes_ = 0;
    if (prepare_) CO_TRY_VOID(prepare_());
    deadline = deadline.sooner(greeting_timeout);
    auto socket = co_await core::connect_unix(loop_, socket_path_, deadline);
    if (!socket) co_return std::unexpected(no_monitor(socket_path_, std::move(socket.error())));
    socket_ = std::move(*socket);
    framer_ = Framer();
    stop_ = std::stop_source();
    auto greeted = co_await greet(deadline);
    if (greeted) greeted = co_await negotiate(deadline);
    if (!greeted) {
        socket_.reset();  // QEMU may take its next client at once
        co_return greeted;
    }
    why_closed_.reset();
    ended_.reset();
    scope_.spawn(read_loop(*this));
    scope_.spawn(write_loop(*this));
    reopened_.set();
    co_return Result<>{};
}

void Client::expect_reconnect(bool expected) {
    reconnects_ = expected;
    if (!expected) reopened_.set();
}

void Client::cut(std::string why) { end({Errc::closed, 0, std::move(why), {}}); }

Task<Result<Json>> Client::execute(std::string command, Json arguments, Deadline deadline) {
    Inside const inside(*this);
    for (;;) {
        auto reply = co_await call(command, arguments, core::Fd(), deadline);
        bool const cut_off = !reply && reply.error().code == Errc::closed;
        if (!cut_off || !reconnects_ || !command.starts_with("query-")) co_return reply;
    }
}

Task<Result<Json>> Client::execute_with_fd(std::string command, Json arguments, int fd,
                                           Deadline deadline) {
    core::Fd duplicate(fcntl(fd, F_DUPFD_CLOEXEC, 3));
    if (!duplicate) {
        co_return core::fail_errno(errno, "cannot duplicate descriptor {} for {}", fd, command);
    }
    Inside const inside(*this);
    // QEMU keeps the descriptors of the last message it read until a command takes them: one at a
    // time.
    CO_TRY_VOID(co_await fd_turn_.acquire(deadline));
    auto reply =
        co_await call(std::move(command), std::move(arguments), std::move(duplicate), deadline);
    fd_turn_.release();
    co_return reply;
}

Task<Result<Json>> Client::call(std::string command, Json arguments, core::Fd fd,
                                Deadline deadline) {
    Inside const inside(*this);
    if (deadline.stopped())
        co_return core::fail(Errc::cancelled, "cancelled before {} was sent", command);
    while (why_closed_ && reconnects_) {
        reopened_.reset();
        auto const reopened = co_await reopened_.wait(deadline);
        if (!reopened && reopened.error().code == Errc::cancelled) {
            co_return core::fail(Errc::cancelled, "cancelled before {} was sent", command);
        }
        if (!reopened) {
            co_return core::fail(Errc::timed_out, "QEMU did not answer {} in time: {}", command,
                                 why_closed_ ? why_closed_->what : "");
        }
    }
    if (why_closed_) {
        co_return core::fail(Errc::closed, "cannot send {}: {}", command, why_closed_->what);
    }
    auto bytes = encode(command, arguments, next_id_);
    if (unsent_bytes_ + bytes.size() > unsent_bytes_max) {
        co_return core::fail(Errc::timed_out, "cannot send {}: QEMU does not read its monitor {}",
                             command, socket_path_);
    }
    std::uint64_t const id = next_id_++;
    Call call(loop_, command);
    calls_.emplace(id, &call);
    unsent_bytes_ += bytes.size();
    unsent_.push_back({std::move(bytes), std::move(fd)});
    has_unsent_.set();

    auto const asked_at = Clock::now();
    auto waited = co_await call.done.wait(deadline);
    std::chrono::duration<double, std::milli> const took = Clock::now() - asked_at;
    core::log::debug("qmp={} command={} took_ms={:.1f}", socket_path_, command, took.count());
    calls_.erase(id);  // a reply that comes later finds nobody and is dropped
    Result<Json> outcome = Json();
    if (call.outcome) {
        outcome = std::move(*call.outcome);
        if (!outcome && outcome.error().code == Errc::closed) {
            outcome =
                core::fail(Errc::closed, "{} before it answered {}", outcome.error().what, command);
        }
    } else {
        if (waited.error().code == Errc::timed_out) {
            waited = core::fail(Errc::timed_out, "QEMU did not answer {} in time", command);
        }
        outcome = std::unexpected(std::move(waited.error()));
    }
    co_return outcome;
}

Task<Result<Message>> Client::read_message(Deadline deadline) {
    while (true) {
        CO_TRY(auto const text, framer_.next());
        if (text) co_return decode(*text);
        auto const got = co_await loop_.read(socket_.get(), read_buffer_, deadline);
        if ((got && *got == 0) || (!got && got.error().os == ECONNRESET)) {
            co_return core::fail(Errc::closed, "QEMU closed its monitor {}", socket_path_);
        }
        if (!got) co_return std::unexpected(got.error());
        framer_.feed(
            {reinterpret_cast<char const*>(read_buffer_.data()), static_cast<std::size_t>(*got)});
    }
}

Task<void> Client::read_loop(Client& client) {
    auto const deadline = Deadline::never(client.stop_.get_token());
    while (!client.why_closed_) {
        auto message = co_await client.read_message(deadline);
        auto taken =
            message ? client.dispatch(std::move(*message)) : std::unexpected(message.error());
        if (!taken) client.end(std::move(taken.error()));
    }
}

Task<void> Client::write_loop(Client& client) {
    auto const deadline = Deadline::never(client.stop_.get_token());
    while (!client.why_closed_) {
        if (client.unsent_.empty()) {
            client.has_unsent_.reset();
            (void)co_await client.has_unsent_.wait(
                deadline);  // fails only when stopped: the loop sees it
            continue;
        }
        Unsent unsent = std::move(client.unsent_.front());
        client.unsent_.pop_front();
        std::size_t const size = unsent.bytes.size();
        auto sent = co_await client.send(std::move(unsent));
        client.unsent_bytes_ -= size;
        if (!sent) client.end(std::move(sent.error()));
    }
}

Task<Result<>> Client::send(Unsent unsent) {
    std::size_t sent = 0;
    while (sent < unsent.bytes.size()) {
        iovec part{unsent.bytes.data() + sent, unsent.bytes.size() - sent};
        msghdr message{};
        message.msg_iov = &part;
        message.msg_iovlen = 1;
        alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {};
        if (unsent.fd) {  // with the first byte only
            message.msg_control = control;
            message.msg_controllen = sizeof control;
            cmsghdr* header = CMSG_FIRSTHDR(&message);
            header->cmsg_level = SOL_SOCKET;
            header->cmsg_type = SCM_RIGHTS;
            header->cmsg_len = CMSG_LEN(sizeof(int));
            int const fd = unsent.fd.get();
            std::memcpy(CMSG_DATA(header), &fd, sizeof fd);
        }
        auto const result =
            co_await loop_.sendmsg(socket_.get(), &message, Deadline::never(stop_.get_token()));
        if (!result && (result.error().os == EPIPE || result.error().os == ECONNRESET)) {
            co_return core::fail(Errc::closed, "QEMU closed its monitor {}", socket_path_);
        }
        if (!result) co_return std::unexpected(result.error());
        sent += static_cast<std::size_t>(*result);
        unsent.fd.reset();
    }
    co_return Result<>{};
}

Result<> Client::dispatch(Message message) {
    auto const deliver = [this](std::uint64_t id, Result<Json> outcome) -> Result<> {
        if (id == 0 || id >= next_id_) {
            return core::fail(Errc::protocol, "QEMU answered command {}, which was never sent", id);
        }
        auto const found = calls_.find(id);
        if (found == calls_.end() || found->second->outcome) return {};  // it stopped waiting
        found->second->outcome = std::move(outcome);
        found->second->done.set();
        return {};
    };
    if (auto* reply = std::get_if<Return>(&message))
        return deliver(reply->id, std::move(reply->value));
    if (auto* refused = std::get_if<Refusal>(&message)) {
        if (!refused->id) {
            return core::fail(Errc::protocol, "QEMU could not read a command: {}",
                              refused->description);
        }
        auto const found = calls_.find(*refused->id);
        return deliver(*refused->id,
                       refusal(found == calls_.end() ? "" : found->second->command, *refused));
    }
    if (auto* occurrence = std::get_if<Occurrence>(&message)) {
        publish(std::move(*occurrence));
        return {};
    }
    if (!negotiated_ && !std::exchange(greeted_again_, true)) return {};
    return core::fail(Errc::protocol, "QEMU greets a second time");
}

Subscription Client::subscribe(std::vector<std::string> names) {
    auto subscriber = std::make_shared<detail::Subscriber>(loop_);
    subscriber->names = std::move(names);
    if (why_closed_) subscriber->ended = why_closed_->what;
    subscribers_.push_back(subscriber);
    return Subscription(std::move(subscriber));
}

void Client::publish(Occurrence occurrence) {
    auto const now = Clock::now();
    std::erase_if(subscribers_, [](auto const& subscriber) { return subscriber.expired(); });
    for (auto const& weak : subscribers_) {
        auto const subscriber = weak.lock();
        auto const& names = subscriber->names;
        if (!names.empty() && std::ranges::find(names, occurrence.name) == names.end()) continue;
        if (subscriber->events.size() >= events_unread_max) {
            if (!subscriber->overflowed)
                core::log::warning("qmp={} events unread, lost", socket_path_);
            subscriber->overflowed = true;
        }
        if (!subscriber->overflowed) {
            subscriber->events.push_back(
                {occurrence.name, occurrence.data, occurrence.timestamp_us, now});
        }
        subscriber->arrived.set();
    }
}

void Client::end(core::Error why) {
    if (why_closed_) return;
    if (why.code == Errc::cancelled) why.code = Errc::closed;
    why_closed_ = std::move(why);
    if (socket_) shutdown(socket_.get(), SHUT_RDWR);  // QEMU may take its next client at once
    for (auto const& [id, call] : calls_) {
        if (!call->outcome) call->outcome = core::fail(Errc::closed, "{}", why_closed_->what);
        call->done.set();
    }
    for (auto const& weak : subscribers_) {
        if (auto const subscriber = weak.lock()) {
            subscriber->ended = why_closed_->what;
            subscriber->arrived.set();
        }
    }
    stop_.request_stop();
    ended_.set();
}

Task<Result<>> Client::wait_closed(Deadline deadline) {
    Inside const inside(*this);
    CO_TRY_VOID(co_await ended_.wait(deadline));
    co_return Result<>{};
}

Task<void> Client::close() {
    expect_reconnect(false);
    end({Errc::closed, 0, fmt::format("we closed the monitor {}", socket_path_), {}});
    co_await scope_.join();
    // Callers that were just woken still look at their Call through us.
    while (inside_ != 0) {
        idle_.reset();
        (void)co_await idle_.wait(Deadline::never());
    }
}

std::string refusal_class(core::Error const& error) {
    if (error.code != Errc::qemu_refused || !error.what.ends_with(')')) return {};
    auto const open = error.what.rfind('(');
    if (open == std::string::npos) return {};
    return error.what.substr(open + 1, error.what.size() - open - 2);
}

}  // namespace qmp
