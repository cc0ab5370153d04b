#include "core/resolve.hpp"

#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <sys/prctl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <memory>
#include <span>

#include "core/process.hpp"
#include "core/sync.hpp"

namespace core {

namespace {

/// A killed child is reaped within this time.
constexpr seconds reap_timeout{5};
constexpr int pipe_in_child = 3;

/// What the child writes: less than PIPE_BUF, so in one piece.
struct Found {
    int error = 0;  ///< Of getaddrinfo().
    std::size_t count = 0;
    SocketAddress addresses[resolved_addresses_max];
};
static_assert(sizeof(Found) <= 4096);

/// Alternates between the families and keeps the order within each (RFC 8305, section 4).
void interleave(Found& found) {
    std::vector<SocketAddress> first;
    std::vector<SocketAddress> second;
    for (std::size_t i = 0; i < found.count; ++i) {
        auto const& one = found.addresses[i];
        bool const preferred = one.storage.ss_family == found.addresses[0].storage.ss_family;
        (preferred ? first : second).push_back(one);
    }
    std::size_t at = 0;
    for (std::size_t i = 0; i < std::max(first.size(), second.size()); ++i) {
        if (i < first.size()) found.addresses[at++] = first[i];
        if (i < second.size()) found.addresses[at++] = second[i];
    }
}

Found look_up(std::string const& host, std::string const& port, int flags) {
    Found found;
    addrinfo hints{};
    hints.ai_socktype = SOCK_STREAM;
    hints.ai_flags = flags;
    addrinfo* list = nullptr;
    found.error = getaddrinfo(host.c_str(), port.c_str(), &hints, &list);
    if (found.error != 0) return found;
    for (auto const* entry = list; entry != nullptr; entry = entry->ai_next) {
        if (found.count == resolved_addresses_max) break;
        auto& one = found.addresses[found.count++];
        std::memcpy(&one.storage, entry->ai_addr, entry->ai_addrlen);
        one.length = entry->ai_addrlen;
    }
    freeaddrinfo(list);
    interleave(found);
    return found;
}

/// Holds nothing of its parent's open: a socket or a lock must end with the parent, not with us.
[[noreturn]] void be_resolver(std::string const& host, std::string const& port, int writer) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (dup2(writer, pipe_in_child) < 0) _exit(1);
    close_range(pipe_in_child + 1, ~0U, 0);
    auto const found = look_up(host, port, 0);
    [[maybe_unused]] auto written = ::write(pipe_in_child, &found, sizeof found);
    _exit(0);
}

Task<Result<Found>> look_up_in_child(Loop& loop, std::string host, std::string port,
                                     Deadline deadline) {
    int ends[2];
    if (pipe2(ends, O_CLOEXEC) < 0) co_return fail_errno(errno, "cannot make a pipe");
    Fd const reader(ends[0]);
    Fd writer(ends[1]);
    pid_t const pid = fork();
    if (pid < 0) co_return fail_errno(errno, "cannot start a process");
    if (pid == 0) be_resolver(host, port, writer.get());
    writer.reset();
    CO_TRY(auto const child, Process::open(pid));
    Found found;
    auto const into = std::as_writable_bytes(std::span(&found, 1));
    auto const got = co_await loop.read(reader.get(), into, deadline);
    (void)child.signal(SIGKILL);  // it has answered, or never will
    (void)co_await wait_exit(loop, child, Deadline::after(reap_timeout));
    if (!got) co_return std::unexpected(got.error());
    if (static_cast<std::size_t>(*got) != sizeof found) {
        co_return fail(Errc::io, "the resolver's process ended without an answer");
    }
    co_return found;
}

struct Race {
    explicit Race(Loop& loop) : progress(loop) {}
    Event progress;  ///< An attempt has ended.
    std::size_t ended = 0;
    Fd won;
    Error last{Errc::invalid, 0, "there is no address", {}};
};

Task<void> attempt(Loop& loop, SocketAddress address, Race& race, Deadline deadline) {
    auto const family = address.storage.ss_family;
    Fd socket(::socket(family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    Result<int> connected = fail_errno(errno, "cannot make a socket");
    if (socket) {
        int const on = 1;
        setsockopt(socket.get(), IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
        connected =
            co_await loop.connect(socket.get(), reinterpret_cast<sockaddr const*>(&address.storage),
                                  address.length, deadline);
    }
    if (connected && !race.won) race.won = std::move(socket);
    if (!connected && connected.error().code != Errc::cancelled) race.last = connected.error();
    ++race.ended;
    race.progress.set();
}

}  // namespace

std::string SocketAddress::host() const {
    char text[NI_MAXHOST];
    if (getnameinfo(reinterpret_cast<sockaddr const*>(&storage), length, text, sizeof text, nullptr,
                    0, NI_NUMERICHOST) != 0) {
        return "";
    }
    return text;
}

Task<Result<std::vector<SocketAddress>>> resolve(Loop& loop, std::string host, std::string port,
                                                 Deadline deadline) {
    auto found = look_up(host, port, AI_NUMERICHOST | AI_NUMERICSERV);
    if (found.error == EAI_NONAME) {
        auto asked = co_await look_up_in_child(loop, host, port, deadline);
        if (!asked) {
            if (asked.error().code == Errc::timed_out) {
                asked.error().what = "the resolver does not answer";
            }
            asked.error().what =
                fmt::format("cannot find the address of `{}`: {}", host, asked.error().what);
            co_return std::unexpected(std::move(asked.error()));
        }
        found = *asked;
    }
    if (found.error != 0 || found.count == 0) {
        co_return fail(Errc::invalid, "cannot find the address of `{}`: {}", host,
                       found.error != 0 ? gai_strerror(found.error) : "it has none");
    }
    co_return std::vector(found.addresses, found.addresses + found.count);
}

Task<Result<Fd>> connect_tcp(Loop& loop, std::vector<SocketAddress> addresses, std::string name,
                             Deadline deadline) {
    Race race(loop);
    LinkedStop stop(deadline.token());
    Deadline const until(deadline.at(), stop.token());
    TaskGroup attempts(loop);
    std::size_t begun = 0;
    for (auto const& address : addresses) {
        race.progress.reset();
        attempts.spawn(attempt(loop, address, race, until));
        ++begun;
        (void)co_await race.progress.wait(until.sooner(connect_stagger));
        if (race.won || until.passed() || until.stopped()) break;
    }
    while (!race.won && race.ended < begun) {
        race.progress.reset();
        (void)co_await race.progress.wait(Deadline::never());  // each attempt has the deadline
    }
    stop.request_stop();
    co_await attempts.join();
    if (race.won) co_return std::move(race.won);
    if (deadline.stopped()) race.last = {Errc::cancelled, 0, "cancelled", {}};
    race.last.what = fmt::format("cannot reach {}: {}", name, race.last.what);
    co_return std::unexpected(std::move(race.last));
}

Task<Result<Fd>> connect_tcp(Loop& loop, std::string host, std::string port, Deadline deadline) {
    CO_TRY(auto addresses, co_await resolve(loop, host, port, deadline));
    co_return co_await connect_tcp(loop, std::move(addresses),
                                   fmt::format("{} port {}", host, port), deadline);
}

Result<SocketAddress> peer_address(int socket) {
    SocketAddress address;
    address.length = sizeof address.storage;
    if (getpeername(socket, reinterpret_cast<sockaddr*>(&address.storage), &address.length) < 0) {
        return fail_errno(errno, "cannot read a socket's address");
    }
    return address;
}

}  // namespace core
