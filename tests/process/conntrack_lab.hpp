// Two hosts between a client and a guest, in namespaces; both have a stateful filter. As in a
// migration, the guest's traffic is switched from one host to the other. The ends are real sockets.
//
//            +-- host a --+
//   client --|            |-- guest          10.99.0.1, fd99::1          10.88.0.10, fd88::10
//            +-- host b --+
#pragma once

#include <sys/socket.h>

#include "netmove/conntrack.hpp"
#include "tests/process/netmove_lab.hpp"

namespace conntrack_lab {

using namespace netmove_lab;

inline constexpr char const* guest_ip4 = "10.88.0.10";
inline constexpr char const* guest_ip6 = "fd88::10";
inline constexpr char const* client_ip4 = "10.99.0.1";
inline constexpr char const* client_ip6 = "fd99::1";
inline constexpr char const* service_ip4 =
    "198.51.100.5";  ///< A host's address, translated to the guest's.
inline constexpr std::uint16_t port = 4000;

inline std::vector<Address> guest_addresses() { return {ip(guest_ip4), ip(guest_ip6)}; }

/// One end of a connection, or a listener.
using Socket = core::Fd;

class Hosts {
public:
    Hosts();

    Space const& client() const { return client_; }
    Space const& guest() const { return guest_; }
    Space const& a() const { return a_; }
    Space const& b() const { return b_; }
    /// From now on all traffic of the client and the guest passes through that host.
    void turn_to(char const* host);
    /// Rules added to a host after `table inet filter`, which both hosts have.
    void add_rules(Space const& host, std::string const& rules) const;

    /// Opened in that host's namespace.
    Conntrack tracking(Space const& host) const;
    std::vector<ConntrackEntry> entries(Conntrack& tracking);
    core::Loop& loop() { return *loop_; }

private:
    Home home_;
    Space client_;
    Space guest_;
    Space a_;
    Space b_;
    std::unique_ptr<core::Loop> loop_;
};

/// A connection between the two ends, opened by either.
struct Session {
    Socket client;
    Socket guest;
    /// True if data sent by each end arrives at the other within `limit`.
    bool passes(std::chrono::milliseconds limit = 3s);
};
Session tcp_to_guest(Hosts& hosts, std::string const& to = guest_ip4);
Session tcp_from_guest(Hosts& hosts, std::string const& to = client_ip4);
/// With a datagram each way.
Session udp_to_guest(Hosts& hosts, std::string const& to = guest_ip4);

}  // namespace conntrack_lab
