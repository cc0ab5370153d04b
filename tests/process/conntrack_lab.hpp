// Two hosts between a client and a guest, both of which filter with state, in namespaces: the
// guest's way is turned from one host to the other, as a move would. The ends are real sockets.
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
    "198.51.100.5";  ///< A host's, translated to the guest's.
inline constexpr std::uint16_t port = 4000;

inline std::vector<Address> guest_addresses() { return {ip(guest_ip4), ip(guest_ip6)}; }

/// One side of a connection or a listener.
using Socket = core::Fd;

class Hosts {
public:
    Hosts();

    Space const& client() const { return client_; }
    Space const& guest() const { return guest_; }
    Space const& a() const { return a_; }
    Space const& b() const { return b_; }
    /// All that the client and the guest send goes through that host from now on.
    void turn_to(char const* host);
    /// Rules added to a host, behind `table inet filter`, which both have.
    void add_rules(Space const& host, std::string const& rules) const;

    /// Made in that host's namespace.
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

/// A connection between the ends, opened by either.
struct Session {
    Socket client;
    Socket guest;
    /// What one end sends arrives at the other, and back; false after `limit`.
    bool passes(std::chrono::milliseconds limit = 3s);
};
Session tcp_to_guest(Hosts& hosts, std::string const& to = guest_ip4);
Session tcp_from_guest(Hosts& hosts, std::string const& to = client_ip4);
/// With a datagram each way.
Session udp_to_guest(Hosts& hosts, std::string const& to = guest_ip4);

}  // namespace conntrack_lab
