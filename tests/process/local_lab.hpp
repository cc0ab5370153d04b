// Shared by the tests of local addresses: a guest with real sockets that moves from its home
// network to a host of another one, each a namespace. A wire stands in the place of the tunnel; its
// end on the far host has the name of the tunnel's tap.
//
//   guest eth0 ~ home bridge :core: to-far ---- up0 :far: sca1 ~ guest eth0, after the move
//                      tun ~~~~~~~~~~~~~~~~~~~~~ sat1 :far: sca1
//                                to-client ---- up0 :client
#pragma once

#include <sys/socket.h>

#include "netmove/local_address.hpp"
#include "tests/process/netmove_lab.hpp"

namespace local_lab {

using namespace netmove_lab;

inline constexpr char const* guest_mac = "52:54:00:10:00:10";

/// What has an address in each family.
struct Named {
    char const* ipv4;
    char const* ipv6;
    [[nodiscard]] std::string of(bool four) const { return four ? ipv4 : ipv6; }
};
inline constexpr Named guest_at_home{"10.1.0.10", "fd01::10"};
inline constexpr Named neighbour{"10.1.0.1", "fd01::1"};  ///< The guest's gateway.
inline constexpr Named far_host{"10.2.0.1", "fd02::1"};
inline constexpr Named local_address{"10.2.0.50", "fd02::50"};
inline constexpr Named client_address{"10.3.0.100", "fd03::100"};

/// One TCP or UDP session, by its two sockets.
struct Session {
    core::Fd opener;
    core::Fd answerer;
    std::string seen;  ///< The opener's address, as the answerer sees it.
    /// `bytes` arrive, both ways.
    [[nodiscard]] bool passes(std::chrono::milliseconds limit = 8s, std::size_t bytes = 1) const;
};

class Lab {
public:
    Lab();
    /// Its wire is taken from home, and put into its bridge on the far host.
    void move();
    /// Of the guest on the far host. Names and number are those of `which`.
    [[nodiscard]] LocalAddress local(bool new_sessions = false, int which = 1) const;
    /// Makes the bridge of another guest on the far host, with a wire that ends in core.
    void add_far_bridge(int which);
    /// In the far host.
    void make(LocalAddress const& local);
    [[nodiscard]] LocalSessions sessions(LocalAddress const& local);
    /// The guest has been there for long.
    void end_settling(LocalAddress const& local);
    /// From a socket in `from`, bound to `own`, to one in `to` that is bound to any address.
    Session open(int type, Space const& from, std::string const& own, Space const& to,
                 std::string const& target);
    Session from_client(int type, std::string const& target);
    Session from_guest(int type, Space const& to, std::string const& target);
    /// Frames that have come through the wire to the guest's home.
    [[nodiscard]] std::uint64_t frames_at_home();
    std::string at(Space const& space, std::string const& command) const {
        space.enter();
        return sh(command);
    }

    Home home;  ///< First, so that the thread returns to where it was.
    Space core_;
    Space far_;
    Space client_;
    Space guest_;
    Netlink netlink;  ///< Of the far host.

private:
    void make_core();
    std::uint16_t next_port_ = 4000;
};

/// A guest of the same home address, but another: its frames to its gateway need no ARP.
void make_twin(Space const& twin, Space const& far, int which);

}  // namespace local_lab
