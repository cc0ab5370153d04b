#include "netmove/mobile_ipv6/home_link.hpp"

#include <arpa/inet.h>
#include <linux/filter.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <net/if.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <cerrno>

#include "core/log.hpp"
#include "netmove/frame_fields.hpp"

namespace netmove::mobile_ipv6 {

using core::Deadline;
using core::Errc;
using core::fail;
using core::Result;

namespace {

constexpr std::size_t link_frame_max = 2'048;  // an advertisement with its options is shorter
constexpr int link_batch_max = 64;
constexpr int link_receive_buffer = 1 << 20;  // questions of a whole link after a power failure
constexpr std::size_t discovery_size = 24;
// How often a link that is down is looked at, to see whether it still exists.
constexpr core::seconds link_down_poll{1};

/// Untagged ARP, and neighbour solicitations and advertisements, of other stations.
Result<> filter_home_link(int socket) {
    auto const load = [](int size, int at) {
        return sock_filter{static_cast<std::uint16_t>(BPF_LD | BPF_ABS | size), 0, 0,
                           static_cast<std::uint32_t>(at)};
    };
    auto const jump = [](int test, std::uint32_t k, std::uint8_t when_true,
                         std::uint8_t when_false) {
        return sock_filter{static_cast<std::uint16_t>(BPF_JMP | BPF_K | test), when_true,
                           when_false, k};
    };
    std::array<sock_filter, 14> code{load(BPF_W, SKF_AD_OFF + SKF_AD_VLAN_TAG_PRESENT),
                                     jump(BPF_JEQ, 0, 0, 11),
                                     load(BPF_W, SKF_AD_OFF + SKF_AD_PKTTYPE),
                                     jump(BPF_JEQ, PACKET_OUTGOING, 9, 0),
                                     load(BPF_H, 12),
                                     jump(BPF_JEQ, ETH_P_ARP, 6, 0),
                                     jump(BPF_JEQ, ETH_P_IPV6, 0, 6),
                                     load(BPF_B, 14 + 6),
                                     jump(BPF_JEQ, next_is_icmpv6, 0, 4),
                                     load(BPF_B, 14 + static_cast<int>(ipv6_header_size)),
                                     jump(BPF_JGE, neighbour_solicitation, 0, 2),
                                     jump(BPF_JGT, neighbour_advert, 1, 0),
                                     sock_filter{BPF_RET | BPF_K, 0, 0, link_frame_max},
                                     sock_filter{BPF_RET | BPF_K, 0, 0, 0}};
    sock_fprog const program{static_cast<unsigned short>(code.size()), code.data()};
    if (::setsockopt(socket, SOL_SOCKET, SO_ATTACH_FILTER, &program, sizeof program) < 0) {
        return core::fail_errno(errno, "cannot give a packet socket its filter");
    }
    return {};
}

/// The neighbour solicitation or advertisement in a frame; empty: it has none, or RFC 4861 7.1 says
/// that it must be ignored.
ByteView discovery_of(EthernetFrame const& frame) {
    auto const& packet = frame.payload;
    bool const fits = frame.tags == 0 &&
                      frame.ether_type == static_cast<unsigned>(EtherType::ipv6) &&
                      packet.size() >= ipv6_header_size + discovery_size && packet[0] >> 4 == 6 &&
                      packet[6] == next_is_icmpv6 && packet[7] == 255;
    if (!fits) return {};
    auto const size = std::min<std::size_t>(get16(packet, 4), packet.size() - ipv6_header_size);
    auto const message = packet.subspan(ipv6_header_size, size);
    bool const known = message.size() >= discovery_size && message[1] == 0 &&
                       (message[0] == neighbour_solicitation || message[0] == neighbour_advert);
    auto const right = [&] {
        return icmpv6_checksum(ipv6_at(packet, 8), ipv6_at(packet, 24), message) == 0;
    };
    return known && right() ? message : ByteView();
}

bool is_unspecified(Address const& address) {
    return std::ranges::all_of(address.bytes(), [](std::uint8_t byte) { return byte == 0; });
}

}  // namespace

Address link_local_of(Address const& home) {
    std::array<std::uint8_t, 16> bytes{0xfe, 0x80};
    std::ranges::copy(home.bytes().subspan(8), bytes.begin() + 8);
    return Address::ipv6(bytes);
}

// ---- GroupMemberships ---------------------------------------------------------------------------

Result<std::size_t> GroupMemberships::socket_with_room() {
    auto const room = std::ranges::find_if(
        sockets_, [](auto const& one) { return one.groups < memberships_per_socket_max; });
    if (room != sockets_.end()) return static_cast<std::size_t>(room - sockets_.begin());
    core::Fd made(::socket(AF_INET6, SOCK_DGRAM | SOCK_CLOEXEC, 0));
    if (!made) return core::fail_errno(errno, "cannot make a socket for multicast groups");
    sockets_.push_back({std::move(made), 0});
    return sockets_.size() - 1;
}

Result<> GroupMemberships::join(Address const& group) {
    if (auto const known = groups_.find(group); known != groups_.end()) {
        ++known->second.users;
        return {};
    }
    TRY(auto const at, socket_with_room());
    ipv6_mreq request{};
    std::ranges::copy(group.bytes(), request.ipv6mr_multiaddr.s6_addr);
    request.ipv6mr_interface = static_cast<unsigned>(link_);
    if (::setsockopt(sockets_[at].fd.get(), IPPROTO_IPV6, IPV6_JOIN_GROUP, &request,
                     sizeof request) < 0) {
        return core::fail_errno(errno, "cannot join the multicast group {}", group.text());
    }
    ++sockets_[at].groups;
    groups_.emplace(group, Membership{at, 1});
    return {};
}

void GroupMemberships::leave(Address const& group) {
    auto const known = groups_.find(group);
    if (known == groups_.end() || --known->second.users > 0) return;
    auto& socket = sockets_[known->second.socket];
    ipv6_mreq request{};
    std::ranges::copy(group.bytes(), request.ipv6mr_multiaddr.s6_addr);
    request.ipv6mr_interface = static_cast<unsigned>(link_);
    // It fails if the link is gone, and the membership with it.
    (void)::setsockopt(socket.fd.get(), IPPROTO_IPV6, IPV6_LEAVE_GROUP, &request, sizeof request);
    --socket.groups;
    groups_.erase(known);
}

// ---- HomeLink -----------------------------------------------------------------------------------

Result<std::unique_ptr<HomeLink>> HomeLink::open(core::Loop& loop, Link const& link,
                                                 Address const& agent) {
    // Protocol 0: nothing is received before the filter is there and the socket is bound.
    core::Fd made(::socket(AF_PACKET, SOCK_RAW | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
    if (!made && (errno == EPERM || errno == EACCES)) {
        return core::fail_os(Errc::netlink, errno,
                             fmt::format("no privilege: CAP_NET_RAW is needed to answer for home "
                                         "addresses on {}; run as root",
                                         link.name));
    }
    if (!made) return core::fail_errno(errno, "cannot open a packet socket");
    TRY_VOID(filter_home_link(made.get()));
    (void)::setsockopt(made.get(), SOL_SOCKET, SO_RCVBUF, &link_receive_buffer,
                       sizeof link_receive_buffer);
    sockaddr_ll where{};
    where.sll_family = AF_PACKET;
    where.sll_protocol = htons(ETH_P_ALL);
    where.sll_ifindex = link.index;
    if (::bind(made.get(), reinterpret_cast<sockaddr const*>(&where), sizeof where) < 0) {
        return core::fail_errno(errno, "cannot watch {}", link.name);
    }
    return std::unique_ptr<HomeLink>(new HomeLink(loop, std::move(made), link, agent));
}

HomeLink::HomeLink(core::Loop& loop, core::Fd socket, Link const& link, Address const& agent)
    : loop_(loop),
      socket_(std::move(socket)),
      link_(link.index),
      name_(link.name),
      mac_(link.mac),
      agent_(agent),
      groups_(link.index) {}

core::Task<Result<>> HomeLink::run(std::stop_token stop) {
    auto const for_ever = Deadline::never(stop);
    bool up = true;
    for (;;) {
        auto const deadline = up ? for_ever : for_ever.sooner(link_down_poll);
        auto const polled = co_await loop_.poll(socket_.get(), POLLIN, deadline);
        if (!polled && polled.error().code == Errc::cancelled) co_return Result<>{};
        up = take_in();
        char name[IF_NAMESIZE];
        if (!up && if_indextoname(static_cast<unsigned>(link_), name) == nullptr) {
            co_return fail(Errc::closed, "the home link {} is gone", name_);
        }
        co_await loop_.next_turn();  // a flood of questions holds up nothing else
    }
}

bool HomeLink::take_in() {
    std::array<std::uint8_t, link_frame_max> buffer;
    for (int frames = 0; frames < link_batch_max; ++frames) {
        auto const got = ::recv(socket_.get(), buffer.data(), buffer.size(), 0);
        if (got < 0) return errno == EAGAIN || errno == EINTR;
        auto const frame = parse_ethernet(ByteView(buffer).first(static_cast<std::size_t>(got)));
        if (frame && frame->source != mac_) handle(*frame);
    }
    return true;
}

void HomeLink::handle(EthernetFrame const& frame) {
    if (frame.ether_type == static_cast<unsigned>(EtherType::arp)) {
        handle_arp(frame);
    } else {
        handle_discovery(frame);
    }
}

void HomeLink::handle_arp(EthernetFrame const& frame) {
    auto const& arp = frame.payload;
    if (!is_arp_for_ipv4(arp)) return;
    auto const sender = ipv4_at(arp, 14);
    auto const target = ipv4_at(arp, 24);
    constexpr unsigned request = 1;
    bool const probe = is_unspecified(sender);
    if (!probe) claimed_by_other(sender);
    if (get16(arp, 6) != request) return;
    if (probe && detecting_.contains(target)) claimed_by_other(target);
    if (!claimed_.contains(target) || sender == target) return;
    ++(probe ? counters_.defended : counters_.answered);
    send(arp_answer(mac_, target, frame.source, sender));
}

void HomeLink::handle_discovery(EthernetFrame const& frame) {
    auto const message = discovery_of(frame);
    if (message.empty()) return;
    auto const source = ipv6_at(frame.payload, 8);
    auto const target = ipv6_at(message, 8);
    if (message[0] == neighbour_advert) {
        claimed_by_other(target);
        return;
    }
    if (!is_unspecified(source)) {
        claimed_by_other(source);
        answer(target, {frame.source, source});
        return;
    }
    // Another station looks whether it may have the address. While we do the same, neither may
    // have it (RFC 4862 5.4.3).
    if (detecting_.contains(target)) claimed_by_other(target);
    if (!claimed_.contains(target)) return;
    ++counters_.defended;
    send(proxy_advertisement(mac_, agent_, target));
}

void HomeLink::answer(Address const& target, NeighbourAsker const& asker) {
    if (!claimed_.contains(target) || !asker.address.is_host()) return;
    ++counters_.answered;
    send(proxy_advertisement(mac_, agent_, target, asker));
}

/// Of an address that is being detected: it is a duplicate. Of a claimed one: the node itself has
/// come home and will deregister, or two stations use one address.
void HomeLink::claimed_by_other(Address const& address) {
    if (auto const at = detecting_.find(address); at != detecting_.end()) at->second->found.set();
    if (claimed_.contains(address)) ++counters_.conflicts;
}

core::Task<Result<bool>> HomeLink::detect(std::vector<Address> addresses, std::stop_token stop) {
    Detection detection(loop_);
    std::vector<Address> asked;
    for (auto const& address : addresses) {
        if (detecting_.contains(address)) continue;
        if (address.is_ipv6()) CO_TRY_VOID(groups_.join(solicited_node(address)));
        detecting_.emplace(address, &detection);
        asked.push_back(address);
        send(address_question(mac_, address));
    }
    auto const waited = co_await detection.found.wait(Deadline::after(detection_time, stop));
    for (auto const& address : asked) {
        detecting_.erase(address);
        if (address.is_ipv6()) groups_.leave(solicited_node(address));
    }
    if (!waited && waited.error().code == Errc::cancelled) {
        co_return std::unexpected(waited.error());
    }
    co_return waited.has_value();
}

Result<> HomeLink::claim_one(Address const& address) {
    auto const known = claimed_.find(address);
    if (known != claimed_.end()) {
        ++known->second;
    } else {
        if (address.is_ipv6()) TRY_VOID(groups_.join(solicited_node(address)));
        claimed_.emplace(address, 1);
    }
    if (address.is_ipv6()) {
        send(proxy_advertisement(mac_, agent_, address));
        return {};
    }
    for (auto const form : {ArpForm::request, ArpForm::reply}) {
        send(gratuitous_arp(mac_, address, form));
    }
    return {};
}

void HomeLink::release_one(Address const& address) {
    auto const known = claimed_.find(address);
    if (known == claimed_.end() || --known->second > 0) return;
    claimed_.erase(known);
    if (address.is_ipv6()) groups_.leave(solicited_node(address));
}

Result<> HomeLink::claim(Address const& address, bool with_link_local) {
    TRY_VOID(claim_one(address));
    if (with_link_local && address.is_ipv6()) TRY_VOID(claim_one(link_local_of(address)));
    return {};
}

void HomeLink::release(Address const& address, bool with_link_local) {
    release_one(address);
    if (with_link_local && address.is_ipv6()) release_one(link_local_of(address));
}

void HomeLink::send(ByteView frame) {
    if (::send(socket_.get(), frame.data(), frame.size(), MSG_DONTWAIT) < 0) ++counters_.not_sent;
}

}  // namespace netmove::mobile_ipv6
