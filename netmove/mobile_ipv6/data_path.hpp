// DataPath: packets between the home network and mobile nodes (RFC 6275 10.4.2 to 10.4.5, RFC 2473,
// RFC 5555 4). Used by HomeAgent. Needs CAP_NET_ADMIN and CAP_NET_RAW.
//
//   to a mobile node   a route leads its home addresses to a TUN device; from there, in an outer
//                      header, to the care-of address
//   from one           the outer source must be the care-of address of the inner source; then into
//                      the TUN device, and the host routes it
//
// A packet that does not fit is answered as RFC 2473 7 says: IPv6 of more than 1,280 bytes, and
// IPv4 that must not be fragmented, with Packet Too Big; others are carried in outer fragments. So
// a flow of full-size packets goes on, smaller. Multicast and link-local packets are not carried.
//
// Invariant: one look-up a packet, whatever the number of bindings.
#pragma once

#include <array>
#include <functional>
#include <memory>
#include <optional>
#include <stop_token>
#include <string>
#include <vector>

#include "core/json.hpp"
#include "core/loop.hpp"
#include "core/task.hpp"
#include "netmove/mobile_ipv6/incoming_socket.hpp"
#include "netmove/mobile_ipv6/outgoing_packets.hpp"
#include "netmove/mobile_ipv6/packet.hpp"
#include "netmove/mobile_ipv6/tun_device.hpp"
#include "netmove/mobile_ipv6/tunnel_table.hpp"

namespace netmove::mobile_ipv6 {

/// Why a packet was not carried.
enum class PacketDrop : std::uint8_t {
    no_binding,  ///< Its home address is not bound.
    wrong_care_of,  ///< It came from another address than its binding's: forged, or too late.
    malformed,
    not_unicast,  ///< Multicast or link-local.
    too_big,  ///< Answered with Packet Too Big.
    congested,  ///< RFC 6040: marked outside, and its sender knows no such marks.
    not_sent,  ///< The host could not send it.
    not_taken,  ///< The TUN device did not take it.
};
constexpr std::size_t packet_drops = 8;
std::string_view name(PacketDrop drop);

/// Packet Too Big messages a second, at most (RFC 4443 2.4 (f)).
constexpr double too_big_per_second = 1'000;

class DataPath {
public:
    struct Options {
        std::string tun;  ///< The name of the TUN device to make.
        int mtu = 1'500;  ///< Of the home link.
        Address agent;  ///< The home agent's address, on this host.
        /// Its IPv4 address, where mobile nodes in IPv4 networks reach it; none: they do not.
        std::optional<Address> ipv4_agent;
        /// The sender of ICMP errors over IPv4.
        Address ipv4_router;
    };
    /// A signalling message that came in UDP (RFC 5555 4.1).
    using OnSignalling = std::function<void(SignallingPacket const&, CareOf const& from)>;

    static core::Result<std::unique_ptr<DataPath>> open(core::Loop& loop, Options options,
                                                        OnSignalling on_signalling);

    /// Carries until stopped. One at a time.
    core::Task<void> run(std::stop_token stop);

    core::Result<> bind(Route const& route);
    core::Result<> unbind(Address const& home, std::optional<Address> const& ipv4_home);

    /// A signalling packet: at once, past the data. `to`: where, if the agent's client is in an
    /// IPv4 network.
    core::Result<> send(SignallingPacket const& packet, CareOf const& to);

    [[nodiscard]] TunnelTable const& tunnels() const { return tunnels_; }
    [[nodiscard]] std::uint64_t dropped(PacketDrop why) const {
        return drops_[static_cast<std::size_t>(why)];
    }
    /// Outer packets that were sent in fragments.
    [[nodiscard]] std::uint64_t fragmented() const { return fragmented_; }

private:
    DataPath(core::Loop& loop, Options options, OnSignalling on_signalling, Netlink netlink,
             TunDevice tun, OutgoingPackets ipv6, OutgoingPackets ipv4);
    core::Result<> open_sockets();

    // To mobile nodes.
    core::Task<void> read_tun(std::stop_token stop);
    bool fill_from_tun();
    void forward(ByteView packet);
    void send_whole(Tunnel const& tunnel, ByteView packet);
    void send_in_fragments(Tunnel const& tunnel, ByteView packet, std::size_t mtu);
    void answer_too_big(ByteView packet, std::size_t room);
    core::Task<void> flush(OutgoingPackets& packets, std::stop_token stop);
    void could_not_send(OutgoingPackets::Failed const& failed);
    [[nodiscard]] std::size_t route_mtu(Address const& care_of);

    // From them.
    core::Task<void> read_socket(IncomingSocket& socket, std::stop_token stop);
    void take(IncomingSocket::Kind kind, Incoming const& one);
    void take_data(Incoming const& one);
    [[nodiscard]] bool write_tun(ByteView packet) const;
    bool take_signalling(Incoming const& one);
    void take_too_big(Incoming const& one);
    void take_ipv4_too_big(Incoming const& one);

    void drop(PacketDrop why) { ++drops_[static_cast<std::size_t>(why)]; }
    IncomingSocket* socket_of(IncomingSocket::Kind kind);

    core::Loop& loop_;
    Options options_;
    OnSignalling on_signalling_;
    Netlink netlink_;
    TunDevice tun_;
    OutgoingPackets ipv6_;
    OutgoingPackets ipv4_;
    std::vector<std::unique_ptr<IncomingSocket>> sockets_;
    IncomingSocket::BuffersPointer buffers_ = IncomingSocket::make_buffers();
    std::vector<std::uint8_t> tun_bytes_;
    TunnelTable tunnels_;
    std::array<std::uint64_t, packet_drops> drops_{};
    std::uint64_t fragmented_ = 0;
    std::uint32_t identification_;
    double too_big_tokens_ = too_big_per_second;
    TimePoint too_big_at_{};
};

}  // namespace netmove::mobile_ipv6
