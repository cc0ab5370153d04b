// The guest's network: addresses by netlink (address.cpp), and the services with which clients
// watch it (services.cpp): UDP echo on 7, TCP echo on 7001, TCP source on 7002, control on 7003,
// the echo of `sidecar probe` on 4798. Invariant: only answers to clients are sent, and what the
// kernel sends by itself.
#pragma once

#include "probe.hpp"
#include "settings.hpp"

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>

namespace witness {

/// Brings the interface up with its addresses and routes. IPv6 addresses are usable at once (no
/// DAD). A family without an address stays silent. Failures are setup errors.
void configure(const NetSettings& net);

/// Brings the loopback interface up.
void configure_loopback();

inline constexpr std::uint16_t udp_echo_port = 7;
inline constexpr std::uint16_t tcp_echo_port = 7001;
inline constexpr std::uint16_t tcp_source_port = 7002;
inline constexpr std::uint16_t control_port = 7003;
inline constexpr std::uint16_t probe_port = 4798;  // UDP and TCP; netmove/probe_wire.hpp

struct Traffic {
    std::atomic<std::uint64_t> udp_echoed = 0;
    std::atomic<std::uint64_t> tcp_accepted = 0;
    std::atomic<std::uint64_t> tcp_open = 0;
    std::atomic<std::uint64_t> tcp_failed = 0;  // ended otherwise than by the client's FIN
    std::atomic<std::uint64_t> tcp_received_bytes = 0;
    std::atomic<std::uint64_t> tcp_sent_bytes = 0;
};

/// The servers of both families.
class Services {
public:
    /// `source_rate`: records per second that the TCP source sends to each of its clients.
    explicit Services(std::uint64_t source_rate);
    ~Services();
    Services(const Services&) = delete;
    Services& operator=(const Services&) = delete;

    /// Serves UDP echo, TCP echo and TCP source, before all other work of the guest. Never
    /// returns.
    [[noreturn]] void run_traffic();

    /// Serves control and never returns: each line goes to `execute`, and its answer is sent
    /// back. One command at a time.
    [[noreturn]] void run_control(const std::function<std::string(std::string_view)>& execute);

    std::atomic<std::uint64_t> source_rate;
    Traffic traffic[2];  // IPv4, IPv6

private:
    struct Session;
    void echo_udp(int fd, Traffic& count);
    void echo_probes(int fd);
    void accept_session(int epoll, int fd, bool source, Traffic& count);
    bool serve(Session& session);
    bool produce(Session& session);

    int udp_[2] = {-1, -1};
    int echo_[2] = {-1, -1};
    int source_[2] = {-1, -1};
    int control_[2] = {-1, -1};
    int probe_[2] = {-1, -1};
    int probe_tcp_[2] = {-1, -1};  // an echo like the other
    ProbeEcho probe_echo_;
    std::vector<std::unique_ptr<Session>> sessions_;
};

}  // namespace witness
