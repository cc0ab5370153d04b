#include "netmove/mobile_ipv6/data_path.hpp"

#include <poll.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>

#include "core/log.hpp"
#include "core/sync.hpp"
#include "netmove/frame_fields.hpp"
#include "netmove/mobile_ipv6/segments.hpp"

namespace netmove::mobile_ipv6 {

using core::Deadline;
using core::Result;
using core::Task;
using IncomingKind = IncomingSocket::Kind;

namespace {

// Packets of one round: so many wait at most before the first of them is sent.
constexpr std::size_t tun_batch = 64;
constexpr unsigned ipv4_dont_fragment = 0x4000;

Address unspecified_ipv4() { return {}; }

Address source_of(ByteView packet) {
    return packet[0] >> 4 == 6 ? ipv6_at(packet, 8) : ipv4_at(packet, 12);
}
Address destination_of(ByteView packet) {
    return packet[0] >> 4 == 6 ? ipv6_at(packet, 24) : ipv4_at(packet, 16);
}

/// Multicast or link-local: those stay on their link (RFC 6275 10.4.2).
bool stays_on_link(Address const& address) {
    bool const multicast =
        address.is_ipv6() ? address.bytes()[0] == 0xff : (address.bytes()[0] & 0xf0) == 0xe0;
    return multicast || address.is_link_local();
}

/// Whether RFC 2473 7 has a packet of this size carried in fragments, in place of an answer.
bool is_to_be_fragmented(ByteView packet) {
    if (packet[0] >> 4 == 6) return packet.size() <= ipv6_mtu_min;
    return (get16(packet, 6) & ipv4_dont_fragment) == 0;
}

}  // namespace

std::string_view name(PacketDrop drop) {
    switch (drop) {
        case PacketDrop::no_binding:
            return "no_binding";
        case PacketDrop::wrong_care_of:
            return "wrong_care_of";
        case PacketDrop::malformed:
            return "malformed";
        case PacketDrop::not_unicast:
            return "not_unicast";
        case PacketDrop::too_big:
            return "too_big";
        case PacketDrop::congested:
            return "congested";
        case PacketDrop::not_sent:
            return "not_sent";
        case PacketDrop::not_taken:
            return "not_taken";
    }
    return "?";
}

// ---- opening ------------------------------------------------------------------------------------

Result<std::unique_ptr<DataPath>> DataPath::open(core::Loop& loop, Options options,
                                                 OnSignalling on_signalling) {
    TRY(auto ipv6, OutgoingPackets::open(Address::Family::ipv6));
    TRY(auto ipv4, OutgoingPackets::open(Address::Family::ipv4));
    TRY(auto netlink, Netlink::open());
    TRY(auto tun, TunDevice::make(netlink, options.tun, options.mtu));
    std::unique_ptr<DataPath> made(new DataPath(loop, std::move(options), std::move(on_signalling),
                                                std::move(netlink), std::move(tun), std::move(ipv6),
                                                std::move(ipv4)));
    TRY_VOID(made->open_sockets());
    return made;
}

DataPath::DataPath(core::Loop& loop, Options options, OnSignalling on_signalling, Netlink netlink,
                   TunDevice tun, OutgoingPackets ipv6, OutgoingPackets ipv4)
    : loop_(loop),
      options_(std::move(options)),
      on_signalling_(std::move(on_signalling)),
      netlink_(std::move(netlink)),
      tun_(std::move(tun)),
      ipv6_(std::move(ipv6)),
      ipv4_(std::move(ipv4)),
      tun_bytes_(tun_batch * static_cast<std::size_t>(tun_.mtu())),
      identification_(arc4random()) {}

Result<> DataPath::open_sockets() {
    auto const add = [this](IncomingKind kind, Address const& local) -> Result<> {
        TRY(auto socket, IncomingSocket::open(kind, local));
        sockets_.push_back(std::make_unique<IncomingSocket>(std::move(socket)));
        return {};
    };
    for (auto const kind :
         {IncomingKind::ipv6_in_ipv6, IncomingKind::ipv4_in_ipv6, IncomingKind::icmpv6_too_big}) {
        TRY_VOID(add(kind, options_.agent));
    }
    if (!options_.ipv4_agent) return {};
    for (auto const kind : {IncomingKind::ipv6_in_ipv4, IncomingKind::ipv4_in_ipv4,
                            IncomingKind::udp, IncomingKind::icmpv4_too_big}) {
        TRY_VOID(add(kind, *options_.ipv4_agent));
    }
    return {};
}

IncomingSocket* DataPath::socket_of(IncomingKind kind) {
    auto const at =
        std::ranges::find_if(sockets_, [kind](auto const& one) { return one->kind() == kind; });
    return at == sockets_.end() ? nullptr : at->get();
}

Task<void> DataPath::run(std::stop_token stop) {
    core::TaskGroup group(loop_);
    group.spawn(read_tun(stop));
    for (auto const& socket : sockets_) group.spawn(read_socket(*socket, stop));
    co_await group.join();
}

// ---- bindings -----------------------------------------------------------------------------------

std::size_t DataPath::route_mtu(Address const& care_of) {
    auto const route = netlink_.route(care_of);
    auto const least = care_of.is_ipv6() ? ipv6_mtu_min : ipv4_path_mtu_min;
    if (!route || route->mtu <= 0) return ipv6_mtu_min;
    return std::max(static_cast<std::size_t>(route->mtu), least);
}

Result<> DataPath::bind(Route const& route) {
    bool const is_new = tunnels_.find(route.home) == nullptr;
    auto const* before = tunnels_.find(route.home);
    auto const ipv4_before = before == nullptr ? std::nullopt : before->ipv4_home;
    tunnels_.bind(route, route_mtu(route.care_of.address));
    if (is_new) TRY_VOID(tun_.add_route(netlink_, route.home));
    if (ipv4_before == route.ipv4_home) return {};
    if (ipv4_before) TRY_VOID(tun_.remove_route(netlink_, *ipv4_before));
    if (route.ipv4_home) TRY_VOID(tun_.add_route(netlink_, *route.ipv4_home));
    return {};
}

Result<> DataPath::unbind(Address const& home, std::optional<Address> const& ipv4_home) {
    tunnels_.unbind(home);
    TRY_VOID(tun_.remove_route(netlink_, home));
    if (ipv4_home) TRY_VOID(tun_.remove_route(netlink_, *ipv4_home));
    return {};
}

Result<> DataPath::send(SignallingPacket const& packet, CareOf const& to) {
    auto const bytes = encode(packet);
    int error = 0;
    if (to.address.is_ipv6() || to.address == unspecified_ipv4()) {
        error = ipv6_.send(packet.destination, bytes);
    } else {
        auto* const udp = socket_of(IncomingKind::udp);
        auto const port = to.udp_port == 0 ? dual_stack_port : to.udp_port;
        error = udp == nullptr ? EAFNOSUPPORT : udp->send(to.address, port, bytes);
    }
    if (error == 0) return {};
    return core::fail_errno(error, "cannot send to {}",
                            to.address.is_ipv6() ? packet.destination.text() : to.address.text());
}

// ---- to mobile nodes ----------------------------------------------------------------------------

Task<void> DataPath::read_tun(std::stop_token stop) {
    auto const for_ever = Deadline::never(stop);
    while (!stop.stop_requested()) {
        auto const polled = co_await loop_.poll(tun_.descriptor(), POLLIN, for_ever);
        if (!polled) break;
        bool const more = fill_from_tun();
        if (!ipv6_.empty()) co_await flush(ipv6_, stop);
        if (!ipv4_.empty()) co_await flush(ipv4_, stop);
        if (more) co_await loop_.next_turn();
    }
}

/// Reads what waits, one batch at most; whether more waits.
bool DataPath::fill_from_tun() {
    auto const size = static_cast<std::size_t>(tun_.mtu());
    for (std::size_t i = 0; i < tun_batch; ++i) {
        auto const slot = std::span(tun_bytes_).subspan(i * size, size);
        auto const got = tun_.read(slot);
        if (!got || *got == 0) return false;
        auto const packet = ip_packet(slot.first(*got));
        if (packet) {
            forward(*packet);
        } else {
            drop(PacketDrop::malformed);
        }
    }
    return true;
}

void DataPath::forward(ByteView packet) {
    auto const to = destination_of(packet);
    // The host itself reports its multicast groups (MLD) on each interface.
    if (stays_on_link(to)) return;
    if (source_of(packet).is_link_local()) return drop(PacketDrop::not_unicast);
    auto* const tunnel = tunnels_.find(to);
    if (tunnel == nullptr) return drop(PacketDrop::no_binding);
    auto const mtu = tunnel->path->mtu(core::Clock::now());
    auto const room = mtu - tunnel->overhead();
    if (packet.size() > room && !is_to_be_fragmented(packet)) return answer_too_big(packet, room);
    ++tunnel->traffic.packets_to;
    tunnel->traffic.bytes_to += packet.size();
    if (packet.size() <= room) {
        send_whole(*tunnel, packet);
    } else {
        send_in_fragments(*tunnel, packet, mtu);
    }
}

void DataPath::send_whole(Tunnel const& tunnel, ByteView packet) {
    auto const& to = tunnel.care_of;
    bool room = false;
    if (to.address.is_ipv6()) {
        auto const header = outer_header(options_.agent, to.address, packet);
        room = ipv6_.put(to.address, header, packet);
    } else if (options_.ipv4_agent) {
        Ipv4End const own{*options_.ipv4_agent,
                          to.udp_port == 0 ? std::uint16_t{0} : dual_stack_port};
        auto const header = outer_ipv4_header(own, {to.address, to.udp_port}, packet);
        room = ipv4_.put(to.address, header, packet);
    }
    if (!room) drop(PacketDrop::not_sent);
}

void DataPath::send_in_fragments(Tunnel const& tunnel, ByteView packet, std::size_t mtu) {
    ++fragmented_;
    auto const& to = tunnel.care_of;
    if (to.address.is_ipv6()) {
        auto const header = outer_header(options_.agent, to.address, packet);
        Bytes whole(header.begin(), header.end());
        whole.insert(whole.end(), packet.begin(), packet.end());
        for (auto& part : fragment(whole, mtu, ++identification_)) {
            if (!ipv6_.put(to.address, std::move(part))) drop(PacketDrop::not_sent);
        }
        return;
    }
    bool const ipv6_inside = packet[0] >> 4 == 6;
    auto* const socket = socket_of(to.udp_port != 0 ? IncomingKind::udp
                                   : ipv6_inside    ? IncomingKind::ipv6_in_ipv4
                                                    : IncomingKind::ipv4_in_ipv4);
    bool const sent = socket != nullptr && socket->send(to.address, to.udp_port, packet) == 0;
    if (!sent) drop(PacketDrop::not_sent);
}

void DataPath::answer_too_big(ByteView packet, std::size_t room) {
    drop(PacketDrop::too_big);
    auto const now = core::Clock::now();
    auto const since = std::chrono::duration<double>(now - too_big_at_).count();
    too_big_tokens_ = std::min(too_big_per_second, too_big_tokens_ + since * too_big_per_second);
    too_big_at_ = now;
    if (too_big_tokens_ < 1) return;
    bool const ipv6 = packet[0] >> 4 == 6;
    auto const answer = packet_too_big(ipv6 ? options_.agent : options_.ipv4_router, packet,
                                       static_cast<std::uint32_t>(room));
    if (!answer) return;
    too_big_tokens_ -= 1;
    (void)(ipv6 ? ipv6_ : ipv4_).send(destination_of(*answer), *answer);  // as any ICMP error
}

Task<void> DataPath::flush(OutgoingPackets& packets, std::stop_token stop) {
    for (auto const& failed : co_await packets.flush(loop_, stop)) could_not_send(failed);
}

void DataPath::could_not_send(OutgoingPackets::Failed const& failed) {
    drop(PacketDrop::not_sent);
    auto* const path = tunnels_.path(failed.to);
    if (failed.error != EMSGSIZE || path == nullptr) return;
    // The host's route there has changed.
    auto const now = core::Clock::now();
    auto const before = path->mtu(now);
    auto const mtu = route_mtu(failed.to);
    path->set_link_mtu(mtu < before ? mtu : ipv6_mtu_min);
}

// ---- from mobile nodes --------------------------------------------------------------------------

Task<void> DataPath::read_socket(IncomingSocket& socket, std::stop_token stop) {
    auto const for_ever = Deadline::never(stop);
    while (!stop.stop_requested()) {
        auto const polled = co_await loop_.poll(socket.descriptor(), POLLIN, for_ever);
        if (!polled) break;
        auto const batch = socket.receive(*buffers_);
        for (auto const& one : batch) take(socket.kind(), one);
        if (batch.size() == incoming_packets_max) co_await loop_.next_turn();
    }
}

void DataPath::take(IncomingKind kind, Incoming const& one) {
    switch (kind) {
        case IncomingKind::udp:
            if (one.bytes.size() <= 1) return;  // a keepalive
            if (take_signalling(one)) return;
            [[fallthrough]];
        case IncomingKind::ipv6_in_ipv6:
        case IncomingKind::ipv4_in_ipv6:
        case IncomingKind::ipv6_in_ipv4:
        case IncomingKind::ipv4_in_ipv4:
            return take_data(one);
        case IncomingKind::icmpv6_too_big:
            return take_too_big(one);
        case IncomingKind::icmpv4_too_big:
            return take_ipv4_too_big(one);
    }
}

void DataPath::take_data(Incoming const& one) {
    auto const packet = ip_packet(one.bytes);
    if (!packet) return drop(PacketDrop::malformed);
    auto const source = source_of(*packet);
    if (stays_on_link(source) || stays_on_link(destination_of(*packet))) {
        return drop(PacketDrop::not_unicast);
    }
    auto* const tunnel = tunnels_.find(source);
    if (tunnel == nullptr) return drop(PacketDrop::no_binding);
    if (tunnel->care_of.address != one.from || tunnel->care_of.udp_port != one.port) {
        return drop(PacketDrop::wrong_care_of);
    }
    auto const inner = one.bytes.first(packet->size());
    if (!carry_congestion(one.traffic_class, inner)) return drop(PacketDrop::congested);
    if (!write_tun(inner)) return drop(PacketDrop::not_taken);
    ++tunnel->traffic.packets_from;
    tunnel->traffic.bytes_from += inner.size();
}

/// A packet that is longer than any that a mobile node sends was merged from several.
bool DataPath::write_tun(ByteView packet) const {
    if (packet.size() > static_cast<std::size_t>(tun_.mtu())) {
        auto const segments = tcp_segments(packet, ipv6_mtu_min);
        if (!segments.empty()) {
            return std::ranges::all_of(segments,
                                       [this](auto const& one) { return tun_.write(one); });
        }
    }
    return tun_.write(packet);
}

/// False: it is data.
bool DataPath::take_signalling(Incoming const& one) {
    auto const packet = ip_packet(one.bytes);
    if (!packet || (*packet)[0] >> 4 != 6 || ipv6_at(*packet, 24) != options_.agent) return false;
    auto const parsed = parse_packet(*packet);
    if (!parsed) return false;
    on_signalling_(*parsed, {one.from, one.port});
    return true;
}

/// RFC 4443 3.2: the MTU, and as much of our outer packet as fits.
void DataPath::take_too_big(Incoming const& one) {
    constexpr std::size_t header = 8;
    ByteView const message = one.bytes;
    if (message.size() < header + ipv6_header_size) return;
    auto const ours = message.subspan(header);
    if (ours[0] >> 4 != 6 || ipv6_at(ours, 8) != options_.agent) return;
    auto* const path = tunnels_.path(ipv6_at(ours, 24));
    auto const mtu = std::size_t{get16(message, 4)} << 16U | get16(message, 6);
    if (path != nullptr) (void)path->learn(mtu, core::Clock::now());
}

/// RFC 1191 4: the same in the last two bytes of the header; 0: a router that does not say it.
void DataPath::take_ipv4_too_big(Incoming const& one) {
    constexpr std::size_t header = 8;
    constexpr std::uint8_t fragmentation_needed = 4;
    ByteView const message = one.bytes;
    if (message.size() < header + 20 || message[1] != fragmentation_needed) return;
    auto const ours = message.subspan(header);
    if (ours[0] >> 4 != 4 || ipv4_at(ours, 12) != options_.ipv4_agent) return;
    auto* const path = tunnels_.path(ipv4_at(ours, 16));
    if (path != nullptr) (void)path->learn(get16(message, 6), core::Clock::now());
}

}  // namespace netmove::mobile_ipv6
