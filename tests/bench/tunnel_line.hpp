// The place of the tunnel's benchmark: two stations, each in a bridge of its host, with a tunnel
// between the bridges, and a second pair of interfaces in bridges that share the hosts' link, which
// is the same without a tunnel. Used by tunnel.cpp. Invariant: everything is in namespaces without
// a name, which end with this process; the tunnel's ends are processes of their own.
//
//   station home                                             station guest
//    t0 -- brt -- tap0 -- [end a] ==+          +== [end b] -- tap0 -- brt -- t0
//                                   br0 = wire = br0
//    d0 ----------------------------+          +------------------------- d0
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <string>

#include "core/fd.hpp"
#include "netmove/tunnel/tunnel.hpp"

namespace bench {

/// Which of the two ways between the stations.
enum class Way : std::uint8_t { tunnel, direct };

class TunnelLine {
public:
    /// `link_mbit`: of the hosts' link, each direction; 0: as fast as the machine can.
    explicit TunnelLine(std::uint64_t link_mbit);
    ~TunnelLine();
    TunnelLine(TunnelLine const&) = delete;
    TunnelLine& operator=(TunnelLine const&) = delete;

    /// Sockets in the stations' namespaces.
    [[nodiscard]] core::Fd socket_at_home(int type) const;
    [[nodiscard]] core::Fd socket_at_guest(int type) const;
    /// The guest's address on that way.
    [[nodiscard]] static std::string guest(Way way);
    [[nodiscard]] static std::string home(Way way);

    /// Processor time of an end so far, in seconds, and its resident memory.
    [[nodiscard]] double cpu_seconds(char end) const;
    [[nodiscard]] double resident_mib(char end) const;

private:
    void make_host(core::Fd const& host, core::Fd const& station, int number);
    void shape(std::uint64_t link_mbit);
    pid_t start_end(core::Fd const& host, netmove::tunnel::Role role);
    void wait_until_up();
    [[nodiscard]] pid_t process(char end) const { return end == 'a' ? a_end_ : b_end_; }

    core::Fd own_;
    core::Fd home_;
    core::Fd a_;
    core::Fd b_;
    core::Fd guest_;
    netmove::tunnel::Key key_ = netmove::tunnel::Key::generate();
    pid_t a_end_ = -1;
    pid_t b_end_ = -1;
};

}  // namespace bench
