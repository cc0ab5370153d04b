#include "sidecar/guest/address_check.hpp"

#include <netdb.h>
#include <sys/socket.h>

#include <cerrno>
#include <cstring>
#include <memory>

#include "core/fd.hpp"
#include "core/port_range.hpp"
#include "qmp/bound_address.hpp"

namespace sidecar {

using core::Errc;
using core::fail;
using core::fail_errno;
using core::Result;

namespace {

/// QEMU allows others to bind the same port (SO_REUSEADDR) in the same way.
Result<> try_udp(std::string const& host, std::uint16_t port) {
    addrinfo hints{};
    hints.ai_socktype = SOCK_DGRAM;
    hints.ai_family = host.empty() ? AF_INET : AF_UNSPEC;
    hints.ai_flags = AI_PASSIVE | AI_NUMERICHOST | AI_NUMERICSERV;
    addrinfo* found = nullptr;
    if (getaddrinfo(host.empty() ? nullptr : host.c_str(), std::to_string(port).c_str(), &hints,
                    &found) != 0) {
        return fail(Errc::invalid, "{} is not an address", host);
    }
    std::unique_ptr<addrinfo, decltype(&freeaddrinfo)> const address(found, freeaddrinfo);
    core::Fd const socket(::socket(address->ai_family, SOCK_DGRAM | SOCK_CLOEXEC, 0));
    if (!socket) return fail_errno(errno, "cannot make a socket");
    int const on = 1;
    setsockopt(socket.get(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (bind(socket.get(), address->ai_addr, address->ai_addrlen) < 0)
        return fail_errno(errno, "cannot listen");
    return {};
}

std::string ports_text(qmp::BoundAddress const& wanted) {
    core::PortRange const ports{wanted.first_port, wanted.last_port};
    return fmt::format("{} port {}", wanted.udp ? "UDP" : "TCP", ports.text());
}

Result<> check_one(qmp::BoundAddress const& wanted) {
    auto const host = wanted.host == "localhost" ? "127.0.0.1" : wanted.host;
    if (!host.empty() && !qmp::is_numeric_address(host)) return {};
    auto const free = wanted.udp ? try_udp(host, wanted.first_port) : [&]() -> Result<> {
        TRY_VOID(core::listen_tcp(host, core::PortRange{wanted.first_port, wanted.last_port}));
        return {};
    }();
    if (free) return {};
    if (free.error().os == EADDRNOTAVAIL) {
        return fail(Errc::refused,
                    "`{}` listens on {}, which is not an address of the destination: name one of "
                    "its own with `serve --map-address {}=ADDRESS`",
                    wanted.option, host, host);
    }
    return fail(Errc::refused,
                "`{}` listens on {} of {} on the destination, and it cannot: {}; end what uses it "
                "there{}",
                wanted.option, ports_text(wanted), host.empty() ? "every address" : host,
                free.error().sentence(),
                host.empty() ? ""
                             : fmt::format(", or name another address with `serve --map-address "
                                           "{}=ADDRESS`",
                                           host));
}

}  // namespace

Result<> check_bound_addresses(qmp::CommandLine const& line) {
    for (auto const& wanted : qmp::bound_addresses(line)) TRY_VOID(check_one(wanted));
    return {};
}

}  // namespace sidecar
