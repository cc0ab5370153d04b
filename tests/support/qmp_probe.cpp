#include "tests/support/qmp_probe.hpp"

#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <cerrno>
#include <cstring>

namespace lab {

using core::Json;
using SteadyClock = std::chrono::steady_clock;

namespace {

core::Fd connect_unix(fs::path const& path) {
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    if (path.string().size() >= sizeof address.sun_path)
        throw Failure("too long for a socket: " + path.string());
    std::strcpy(address.sun_path, path.c_str());
    core::Fd fd(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    if (::connect(fd.get(), reinterpret_cast<sockaddr*>(&address), sizeof address) < 0) return {};
    return fd;
}

}  // namespace

Qmp::Qmp(fs::path const& socket, Milliseconds limit) {
    wait_until("a connection to " + socket.string(), limit, [&] {
        socket_ = connect_unix(socket);
        return static_cast<bool>(socket_);
    });
    auto const greeting = read_message(SteadyClock::now() + limit);
    if (!greeting.has("QMP")) throw Failure("no QMP greeting from " + socket.string());
    execute("qmp_capabilities");
}

Json Qmp::execute(std::string const& command, Json arguments) {
    auto const reply = exchange(command, std::move(arguments));
    if (reply.has("error")) throw Failure(command + ": " + reply["error"]["desc"].text_or("?"));
    return reply["return"];
}

std::string Qmp::refusal(std::string const& command, Json arguments) {
    return exchange(command, std::move(arguments))["error"]["desc"].text_or("");
}

Qmp::Event Qmp::wait_event(std::string const& name, Milliseconds limit) {
    return wait_event_if(name, [&](Event const& event) { return event.name == name; }, limit);
}

Qmp::Event Qmp::wait_event_if(std::string const& what,
                              std::function<bool(Event const&)> const& wanted, Milliseconds limit) {
    auto const until = SteadyClock::now() + limit;
    for (std::size_t seen = 0;; ++seen) {
        while (seen >= events_.size()) {
            auto const message = read_message(until);
            if (message.is_null()) {
                throw Failure(fmt::format("no event {} within {} ms", what, limit.count()));
            }
            keep_event(message);
        }
        if (wanted(events_[seen])) {
            Event found = std::move(events_[seen]);
            events_.erase(events_.begin() + static_cast<std::ptrdiff_t>(seen));
            return found;
        }
    }
}

void Qmp::forget_events() {
    // When QEMU has answered this, all events that it sent before have arrived.
    execute("query-version");
    events_.clear();
}

std::string Qmp::status() { return execute("query-status")["status"].text_or("?"); }

Json Qmp::exchange(std::string const& command, Json arguments) {
    int const id = ++next_id_;
    Json request = Json::object({{"execute", command}, {"id", id}});
    if (!arguments.is_null()) request.set("arguments", std::move(arguments));
    send_line(request.dump() + "\n");
    auto const until = SteadyClock::now() + reply_limit;
    while (true) {
        auto message = read_message(until);
        if (message.is_null()) throw Failure("no reply to " + command);
        if (message["id"].integer_or(0) == id) return message;
        keep_event(message);
    }
}

void Qmp::send_line(std::string const& line) {
    for (std::size_t sent = 0; sent < line.size();) {
        auto const n = send(socket_.get(), line.data() + sent, line.size() - sent, MSG_NOSIGNAL);
        if (n < 0 && errno != EINTR) throw Failure(std::string("QMP: ") + std::strerror(errno));
        if (n > 0) sent += static_cast<std::size_t>(n);
    }
}

// One message; null if none came in time.
Json Qmp::read_message(SteadyClock::time_point until) {
    while (true) {
        if (auto const end = received_.find('\n'); end != std::string::npos) {
            auto message = parse_json(received_.substr(0, end));
            received_.erase(0, end + 1);
            return message;
        }
        auto const left = std::chrono::duration_cast<Milliseconds>(until - SteadyClock::now());
        pollfd entry{socket_.get(), POLLIN, 0};
        int const ready = ::poll(&entry, 1, static_cast<int>(std::max(left, 0ms).count()));
        if (ready < 0 && errno == EINTR) continue;
        if (ready <= 0) return {};
        char buffer[65536];
        auto const n = recv(socket_.get(), buffer, sizeof buffer, 0);
        if (n <= 0) throw Failure("QEMU closed its QMP connection");
        received_.append(buffer, static_cast<std::size_t>(n));
    }
}

void Qmp::keep_event(Json const& message) {
    if (!message.has("event")) return;
    auto const time = message["timestamp"];
    events_.push_back(
        {message["event"].text_or(""), message["data"],
         time["seconds"].integer_or(0) * 1'000'000 + time["microseconds"].integer_or(0)});
}

}  // namespace lab
