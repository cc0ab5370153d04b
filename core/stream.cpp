#include "core/stream.hpp"

#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <sys/stat.h>
#include <sys/un.h>

#include <cerrno>
#include <cstring>

#include "core/sync.hpp"

namespace core {

namespace {

constexpr int listen_backlog =
    64;  // connections waiting for accept(2); a host has few migrations at once
constexpr milliseconds full_queue_pause{5};  // between two tries of a queue that is full

class PlainStream : public Stream {
public:
    PlainStream(Loop& loop, Fd socket, std::string peer)
        : loop_(loop), socket_(std::move(socket)), peer_(std::move(peer)) {}

    Task<Result<std::size_t>> read_some(std::span<std::byte> buffer, Deadline deadline) override {
        auto got = co_await loop_.read(socket_.get(), buffer, deadline);
        if (!got) co_return std::unexpected(got.error());
        if (*got == 0) co_return fail(Errc::closed, "{} closed the connection", peer_);
        co_return static_cast<std::size_t>(*got);
    }
    Task<Result<>> write_all(std::span<std::byte const> bytes, Deadline deadline) override {
        while (!bytes.empty()) {
            iovec part{const_cast<std::byte*>(bytes.data()), bytes.size()};
            msghdr message{};
            message.msg_iov = &part;
            message.msg_iovlen = 1;
            CO_TRY(int const sent, co_await loop_.sendmsg(socket_.get(), &message, deadline));
            bytes = bytes.subspan(static_cast<std::size_t>(sent));
        }
        co_return Result<>{};
    }
    [[nodiscard]] std::string peer() const override { return peer_; }

private:
    Loop& loop_;
    Fd socket_;
    std::string peer_;
};

using AddressList = std::unique_ptr<addrinfo, void (*)(addrinfo*)>;

Result<AddressList> addresses_of(std::string const& host, std::string const& port, int flags) {
    addrinfo hints{};
    hints.ai_socktype = SOCK_STREAM;
    hints.ai_flags = flags;
    addrinfo* found = nullptr;
    int const error =
        getaddrinfo(host.empty() ? nullptr : host.c_str(), port.c_str(), &hints, &found);
    if (error != 0) {
        return fail(Errc::invalid, "cannot find the address of `{}`: {}", host,
                    gai_strerror(error));
    }
    return AddressList(found, freeaddrinfo);
}

Result<sockaddr_un> unix_address(std::string const& path) {
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    if (path.size() >= sizeof address.sun_path) {
        return fail(Errc::invalid,
                    "the socket path {} is longer than the {} bytes the kernel allows", path,
                    sizeof address.sun_path - 1);
    }
    std::memcpy(address.sun_path, path.data(), path.size());
    return address;
}

Result<Fd> listen_on(addrinfo const& entry) {
    Fd socket(::socket(entry.ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    if (!socket) return fail_errno(errno, "cannot make a socket");
    int const on = 1;
    int const off = 0;
    setsockopt(socket.get(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (entry.ai_family == AF_INET6) {
        setsockopt(socket.get(), IPPROTO_IPV6, IPV6_V6ONLY, &off, sizeof off);
    }
    if (bind(socket.get(), entry.ai_addr, entry.ai_addrlen) < 0 ||
        listen(socket.get(), listen_backlog) < 0) {
        return fail_errno(errno, "cannot listen");
    }
    return socket;
}

}  // namespace

Task<Result<>> read_exactly(Stream& stream, std::span<std::byte> buffer, Deadline deadline) {
    while (!buffer.empty()) {
        CO_TRY(auto const got, co_await stream.read_some(buffer, deadline));
        buffer = buffer.subspan(got);
    }
    co_return Result<>{};
}

std::unique_ptr<Stream> plain_stream(Loop& loop, Fd socket, std::string peer) {
    return std::make_unique<PlainStream>(loop, std::move(socket), std::move(peer));
}

Result<Fd> listen_tcp(std::string const& host, std::string const& port) {
    TRY(auto const addresses, addresses_of(host, port, AI_PASSIVE));
    // An unspecified host gives 0.0.0.0 and ::; the IPv6 socket serves both families.
    addrinfo const* chosen = addresses.get();
    for (addrinfo const* entry = addresses.get(); host.empty() && entry != nullptr;
         entry = entry->ai_next) {
        if (entry->ai_family == AF_INET6) chosen = entry;
    }
    auto socket = listen_on(*chosen);
    bool const no_ipv6 = !socket && socket.error().os != EADDRINUSE;
    if (no_ipv6 && host.empty() && chosen != addresses.get()) socket = listen_on(*addresses);
    if (!socket)
        socket.error().while_doing(
            fmt::format("listening on {}:{}", host.empty() ? "*" : host, port));
    return socket;
}

Result<int> local_port(int socket) {
    sockaddr_storage address{};
    socklen_t length = sizeof address;
    if (getsockname(socket, reinterpret_cast<sockaddr*>(&address), &length) < 0) {
        return fail_errno(errno, "cannot read a socket's address");
    }
    if (address.ss_family == AF_INET6) {
        return ntohs(reinterpret_cast<sockaddr_in6 const&>(address).sin6_port);
    }
    return ntohs(reinterpret_cast<sockaddr_in const&>(address).sin_port);
}

std::string peer_name(int socket) {
    sockaddr_storage address{};
    socklen_t length = sizeof address;
    char host[NI_MAXHOST];
    char port[NI_MAXSERV];
    if (getpeername(socket, reinterpret_cast<sockaddr*>(&address), &length) < 0) return "(gone)";
    if (address.ss_family == AF_UNIX) return "local process";
    if (getnameinfo(reinterpret_cast<sockaddr const*>(&address), length, host, sizeof host, port,
                    sizeof port, NI_NUMERICHOST | NI_NUMERICSERV) != 0) {
        return "(unknown)";
    }
    return address.ss_family == AF_INET6 ? fmt::format("[{}]:{}", host, port)
                                         : fmt::format("{}:{}", host, port);
}

Task<Result<Fd>> connect_unix(Loop& loop, std::string path, Deadline deadline) {
    CO_TRY(auto const address, unix_address(path));
    Fd socket(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    if (!socket) co_return fail_errno(errno, "cannot make a socket");
    auto const try_once = [&] {  // this kind of socket is connected, or not, without any wait
        return loop.connect(socket.get(), reinterpret_cast<sockaddr const*>(&address),
                            sizeof address, Deadline::never(deadline.token()));
    };
    auto connected = co_await try_once();
    // A full queue of connections: QEMU and its agent have room for one or two.
    while (!connected && connected.error().os == EAGAIN && !deadline.passed()) {
        CO_TRY_VOID(co_await sleep_for(loop, full_queue_pause, deadline.token()));
        connected = co_await try_once();
    }
    if (!connected && connected.error().os == EAGAIN) {
        co_return fail(Errc::timed_out, "cannot connect to {}: too many connections wait there",
                       path);
    }
    if (!connected) {
        connected.error().what =
            fmt::format("cannot connect to {}: {}", path, connected.error().what);
        co_return std::unexpected(std::move(connected.error()));
    }
    co_return std::move(socket);
}

Result<Fd> listen_unix(std::string const& path, unsigned mode) {
    TRY(auto const address, unix_address(path));
    struct stat existing{};
    if (lstat(path.c_str(), &existing) == 0 && S_ISSOCK(existing.st_mode)) ::unlink(path.c_str());
    Fd socket(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    if (!socket) return fail_errno(errno, "cannot make a socket");
    fchmod(socket.get(), mode);  // bind(2) gives the file the socket's mode
    if (bind(socket.get(), reinterpret_cast<sockaddr const*>(&address), sizeof address) < 0) {
        return fail_errno(errno, "cannot listen on {}", path);
    }
    if (chmod(path.c_str(), mode) < 0 || listen(socket.get(), listen_backlog) < 0) {
        return fail_errno(errno, "cannot listen on {}", path);
    }
    return socket;
}

Result<std::pair<std::string, std::string>> split_host_port(std::string const& text,
                                                            std::string const& default_port) {
    auto const bad = [&] {
        return fail(Errc::invalid, "`{}` is not an address: write HOST, HOST:PORT or [IPV6]:PORT",
                    text);
    };
    if (text.empty()) return bad();
    if (text.front() == '[') {
        auto const close = text.find(']');
        if (close == std::string::npos || close == 1) return bad();
        auto const rest = text.substr(close + 1);
        if (rest.empty()) return std::pair{text.substr(1, close - 1), default_port};
        if (rest.front() != ':' || rest.size() == 1) return bad();
        return std::pair{text.substr(1, close - 1), rest.substr(1)};
    }
    auto const colon = text.find(':');
    if (colon == std::string::npos) return std::pair{text, default_port};
    if (text.find(':', colon + 1) != std::string::npos)
        return std::pair{text, default_port};  // bare IPv6
    if (colon == 0 || colon + 1 == text.size()) return bad();
    return std::pair{text.substr(0, colon), text.substr(colon + 1)};
}

}  // namespace core
