#include "tests/bench/bare_line.hpp"

#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <thread>
#include <vector>

#include "core/deadline.hpp"
#include "core/stream.hpp"

namespace bench {

namespace {

/// The size of one send or receive: the size of a copier's request.
constexpr std::size_t piece_bytes = 256 * 1024;
/// If no byte moves for this long, the line is broken.
constexpr int stall_limit_ms = 60'000;

/// Passes each ready socket to `move` until `bytes` have been moved in all. Returns the number of
/// missing bytes: not 0 if the line broke.
template <class Move>
std::uint64_t move_all(std::vector<core::Fd> const& sockets, short events, std::uint64_t bytes,
                       Move const& move) {
    std::vector<pollfd> waiting;
    for (auto const& one : sockets) waiting.push_back({one.get(), events, 0});
    while (bytes > 0) {
        if (::poll(waiting.data(), waiting.size(), stall_limit_ms) <= 0) break;
        for (auto& one : waiting) {
            if (one.revents == 0) continue;
            auto const moved = move(one.fd, std::min<std::uint64_t>(bytes, piece_bytes));
            if (moved > 0) bytes -= static_cast<std::uint64_t>(moved);
            if (moved == 0 || (moved < 0 && errno != EAGAIN)) return bytes;
        }
    }
    return bytes;
}

/// The far end: takes all bytes, then confirms with one byte of its own.
void swallow(core::Fd const& listener, std::uint64_t bytes, unsigned connections) {
    std::vector<core::Fd> sockets;
    pollfd one{listener.get(), POLLIN, 0};
    while (sockets.size() < connections && ::poll(&one, 1, stall_limit_ms) > 0) {
        core::Fd next(::accept4(listener.get(), nullptr, nullptr, SOCK_CLOEXEC));
        if (next) sockets.push_back(std::move(next));
    }
    std::vector<std::byte> room(piece_bytes);
    auto const missing = move_all(sockets, POLLIN, bytes, [&](int fd, std::size_t most) {
        return ::recv(fd, room.data(), most, MSG_DONTWAIT);
    });
    // Without it the near end reports that the connection was closed.
    if (missing == 0) (void)::send(sockets[0].get(), room.data(), 1, MSG_NOSIGNAL);
}

}  // namespace

double bare_line_ms(lab::Place const& near, lab::Place const& far, std::string const& address,
                    std::uint64_t bytes, unsigned connections,
                    std::function<std::pair<std::string, int>(int port)> const& line_to) {
    core::Fd listener;
    {
        lab::Visit const there(far.netns);
        auto made = core::listen_tcp(address, "0");
        if (!made) throw lab::Failure(made.error().sentence());
        listener = std::move(*made);
    }
    auto const port = core::local_port(listener.get());
    if (!port) throw lab::Failure(port.error().sentence());
    auto const [host, entry] = line_to(*port);
    std::jthread const sink([&] { swallow(listener, bytes, connections); });
    std::vector<core::Fd> sockets;
    while (sockets.size() < connections) {
        sockets.push_back(lab::connect_in(near.netns, host, entry));
        if (!sockets.back()) throw lab::Failure("no connection is accepted at the end of the line");
    }
    std::vector<std::byte> const piece(piece_bytes, std::byte{1});
    auto const begun = core::Clock::now();
    auto const missing = move_all(sockets, POLLOUT, bytes, [&](int fd, std::size_t most) {
        return ::send(fd, piece.data(), most, MSG_DONTWAIT | MSG_NOSIGNAL);
    });
    std::byte told{};
    pollfd answer{sockets[0].get(), POLLIN, 0};
    if (missing != 0 || ::poll(&answer, 1, stall_limit_ms) != 1 ||
        ::recv(sockets[0].get(), &told, 1, MSG_DONTWAIT) != 1) {
        throw lab::Failure("the line did not carry all bytes");
    }
    return std::chrono::duration<double, std::milli>(core::Clock::now() - begun).count();
}

}  // namespace bench
