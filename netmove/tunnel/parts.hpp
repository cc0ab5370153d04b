// What all tunnels of one Hub share. Used by hub.cpp, peer.cpp and end*.cpp. Invariant: the buffers
// hold something only while one of them runs, never across a suspension, so that a thousand
// tunnels need no more of them than one.
#pragma once

#include <memory>
#include <vector>

#include "core/sync.hpp"
#include "netmove/tunnel/dtls.hpp"
#include "netmove/tunnel/fragment.hpp"
#include "netmove/tunnel/socket.hpp"

namespace netmove::tunnel {

/// Tests of paths that tunnels begin of their own accord, at once: when all of a thousand begin, as
/// after a restart, they would fill the socket's buffer with 30 pings each.
constexpr std::size_t path_tests_max = 8;

struct Parts {
    Parts(core::Loop& its_loop, Socket its_socket, std::unique_ptr<DtlsContext> context)
        : loop(its_loop),
          socket(std::move(its_socket)),
          dtls(std::move(context)),
          outgoing(socket),
          writable(its_loop),
          blocked(its_loop),
          path_tests(its_loop, path_tests_max) {
        writable.set();
    }
    Parts(Parts const&) = delete;
    Parts& operator=(Parts const&) = delete;

    core::Loop& loop;
    Socket socket;
    std::unique_ptr<DtlsContext> dtls;
    Outgoing outgoing;
    core::Event writable;  ///< Set while `outgoing` is not blocked.
    core::Event blocked;  ///< Set when it has become so; the Hub then waits for the socket.
    core::Semaphore path_tests;
    std::vector<std::uint8_t> frame = std::vector<std::uint8_t>(content_max + 64);
    std::vector<std::uint8_t> plain = std::vector<std::uint8_t>(datagram_limit);
    std::vector<std::uint8_t> control = std::vector<std::uint8_t>(datagram_limit);
    std::vector<std::uint8_t> datagram = std::vector<std::uint8_t>(datagram_limit);
};

}  // namespace netmove::tunnel
