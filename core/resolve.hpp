// Names to addresses, and connections to the addresses. A resolver that does not answer may hold
// getaddrinfo(3) for minutes, and nothing can cancel it. So it runs in a child process (a fork of
// this one, without exec), which is killed at the deadline: the loop goes on, and no thread is left
// that cannot be joined. getaddrinfo_a(3) has such threads.
#pragma once

#include <sys/socket.h>

#include <string>
#include <vector>

#include "core/fd.hpp"
#include "core/loop.hpp"

namespace core {

struct SocketAddress {
    sockaddr_storage storage{};
    socklen_t length = 0;
    /// The address without the port, as digits: "192.0.2.1", "fe80::1%eth0".
    [[nodiscard]] std::string host() const;
};

/// All TCP addresses of a host and port, both families, in the order in which they should be tried
/// (RFC 6724, then alternating between the families as in RFC 8305). At most
/// resolved_addresses_max. A numeric address needs no resolver and does not suspend.
/// Fails with invalid (the resolver's own words), timed_out or cancelled.
Task<Result<std::vector<SocketAddress>>> resolve(Loop& loop, std::string host, std::string port,
                                                 Deadline deadline);
constexpr std::size_t resolved_addresses_max = 16;

/// Connects to the first address that answers. The next attempt starts when one has failed, or
/// after connect_stagger, so that an address that drops packets does not use up the deadline.
/// Fails with the last attempt's error. `name` is for messages.
Task<Result<Fd>> connect_tcp(Loop& loop, std::vector<SocketAddress> addresses, std::string name,
                             Deadline deadline);
/// RFC 8305, section 8: "Connection Attempt Delay".
constexpr milliseconds connect_stagger{250};

/// resolve(), then connect_tcp().
Task<Result<Fd>> connect_tcp(Loop& loop, std::string host, std::string port, Deadline deadline);

/// The address at the other end of a connected socket.
Result<SocketAddress> peer_address(int socket);

}  // namespace core
