#include "netmove/dns/client.hpp"

#include <algorithm>
#include <array>
#include <cerrno>
#include <ctime>
#include <iterator>

#include "core/stream.hpp"

namespace netmove::dns {

using core::Deadline;
using core::Errc;
using core::Error;
using core::fail;
using core::fail_errno;
using core::Fd;
using core::Result;
using core::SocketAddress;
using core::Task;

namespace {

/// The error with the server's name, and in words that name the silence.
std::unexpected<Error> about(std::string const& server, Error error) {
    auto const why = error.code == Errc::timed_out ? "it does not answer" : error.what;
    error.what = fmt::format("the DNS server {}: {}", server, why);
    return std::unexpected(std::move(error));
}

Result<Fd> connected_udp_socket(SocketAddress const& address) {
    Fd socket(::socket(address.storage.ss_family, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    if (!socket) return fail_errno(errno, "cannot make a UDP socket");
    // Connected: the kernel drops datagrams of others, and reports an ICMP error.
    if (::connect(socket.get(), reinterpret_cast<sockaddr const*>(&address.storage),
                  address.length) < 0) {
        return fail_errno(errno, "cannot reach {}", address.host());
    }
    return socket;
}

}  // namespace

Client::Client(core::Loop& loop, std::vector<SocketAddress> addresses, std::string name)
    : loop_(&loop), addresses_(std::move(addresses)), name_(std::move(name)) {}

Task<Result<Answer>> Client::over_udp(Request const& request, SocketAddress address,
                                      Deadline deadline) const {
    CO_TRY(auto const socket, connected_udp_socket(address));
    CO_TRY_VOID(co_await loop_->write(socket.get(), std::as_bytes(request.wire()), deadline));
    std::array<std::uint8_t, udp_bytes_max> room;
    Error last{Errc::protocol, 0, "it sends no valid answer", {}};
    for (int datagrams = 0; datagrams < foreign_datagrams_max; ++datagrams) {
        auto const got =
            co_await loop_->read(socket.get(), std::as_writable_bytes(std::span(room)), deadline);
        if (!got && got.error().code == Errc::timed_out && datagrams > 0) break;
        if (!got) co_return std::unexpected(got.error());
        auto const bytes = std::span(room).first(static_cast<std::size_t>(*got));
        if (!request.is_answered_by(bytes)) continue;
        auto answer = request.read(bytes, std::time(nullptr));
        if (answer) co_return answer;
        last = std::move(answer.error());  // may be forged: the right one may follow
    }
    co_return std::unexpected(std::move(last));
}

Task<Result<Answer>> Client::over_tcp(Request const& request, Deadline deadline) const {
    CO_TRY(auto socket, co_await core::connect_tcp(*loop_, addresses_, "it over TCP", deadline));
    auto const stream = core::plain_stream(*loop_, std::move(socket), name_);
    auto const wire = request.wire();
    std::vector<std::uint8_t> message{static_cast<std::uint8_t>(wire.size() >> 8),
                                      static_cast<std::uint8_t>(wire.size() & 0xff)};
    message.insert(message.end(), wire.begin(), wire.end());
    CO_TRY_VOID(co_await stream->write_all(std::as_bytes(std::span(message)), deadline));
    std::array<std::uint8_t, 2> length{};
    CO_TRY_VOID(
        co_await core::read_exactly(*stream, std::as_writable_bytes(std::span(length)), deadline));
    auto const size = static_cast<std::size_t>(length[0] << 8 | length[1]);
    if (size > answer_bytes_max) {
        co_return fail(Errc::protocol, "its answer has {} bytes, more than {}", size,
                       answer_bytes_max);
    }
    std::vector<std::uint8_t> bytes(size);
    CO_TRY_VOID(
        co_await core::read_exactly(*stream, std::as_writable_bytes(std::span(bytes)), deadline));
    co_return request.read(bytes, std::time(nullptr));
}

Task<Result<Answer>> Client::try_once(Request const& request, Transport transport,
                                      std::size_t number, Deadline deadline) const {
    Result<Answer> answer = fail(Errc::invalid, "not asked");
    bool tcp = transport == Transport::tcp || request.wire().size() > udp_bytes_max;
    if (!tcp) {
        auto const wait = udp_waits[std::min(number, std::size(udp_waits) - 1)];
        answer = co_await over_udp(request, addresses_[number % addresses_.size()],
                                   deadline.sooner(wait));
        tcp = answer && answer->truncated;
    }
    if (tcp) answer = co_await over_tcp(request, deadline.sooner(tcp_wait));
    if (!answer) co_return about(name_, std::move(answer.error()));
    co_return answer;
}

Task<Result<Answer>> Client::ask(Request const& request, Deadline deadline) const {
    std::size_t number = 0;
    for (; number < std::size(udp_waits); ++number) {
        auto answer = co_await try_once(request, Transport::udp, number, deadline);
        if (answer || deadline.passed() || deadline.stopped()) co_return answer;
    }
    co_return co_await try_once(request, Transport::tcp, number, deadline);
}

}  // namespace netmove::dns
