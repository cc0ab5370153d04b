// netmove/dns/ uses core/ and netmove/address.hpp; sidecar/handover/ and sidecar/cli/ use it.
//
// Client: sends requests to one DNS server and waits for their answers, on the loop: over UDP, and
// over TCP if that is needed (RFC 7766). Used by primary.cpp. Invariant: an answer that is not
// valid, or not for the request, counts as none.
#pragma once

#include <string>
#include <vector>

#include "core/loop.hpp"
#include "core/resolve.hpp"
#include "netmove/dns/message.hpp"

namespace netmove::dns {

/// Waits for the answer to one datagram, for each try in turn, and for one TCP connection with its
/// answer after them: some firewalls pass no UDP.
constexpr core::milliseconds udp_waits[] = {core::milliseconds(1000), core::milliseconds(2000)};
constexpr core::milliseconds tcp_wait{3000};
/// Datagrams that are not the answer, for one request; more are an attempt to guess it.
constexpr int foreign_datagrams_max = 100;

enum class Transport : std::uint8_t { udp, tcp };

class Client {
public:
    /// `addresses` of the server, in the order in which they are to be tried; not empty. `name` is
    /// for messages.
    Client(core::Loop& loop, std::vector<core::SocketAddress> addresses, std::string name);

    /// Asks until there is an answer: a request that may be repeated. Fails with the last try's
    /// error: io, timed_out, closed, protocol (no valid answer), or cancelled.
    core::Task<core::Result<Answer>> ask(Request const& request, core::Deadline deadline) const;
    /// One try: one datagram, or one TCP connection. `number` of the try, from 0, chooses the
    /// address and the wait. If the request or its answer is too long for a datagram, TCP is used.
    core::Task<core::Result<Answer>> try_once(Request const& request, Transport transport,
                                              std::size_t number, core::Deadline deadline) const;
    [[nodiscard]] std::string const& name() const { return name_; }
    [[nodiscard]] std::vector<core::SocketAddress> const& addresses() const { return addresses_; }

private:
    core::Task<core::Result<Answer>> over_udp(Request const& request, core::SocketAddress address,
                                              core::Deadline deadline) const;
    core::Task<core::Result<Answer>> over_tcp(Request const& request,
                                              core::Deadline deadline) const;

    core::Loop* loop_;
    std::vector<core::SocketAddress> addresses_;
    std::string name_;
};

}  // namespace netmove::dns
