// Whether an address is in use in a network of this host: the question is asked, and the answers of
// its stations are read.
#include <arpa/inet.h>
#include <linux/if_packet.h>
#include <net/ethernet.h>
#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <cerrno>

#include "core/fd.hpp"
#include "netmove/frame.hpp"
#include "netmove/local_address.hpp"

namespace netmove {

using core::Errc;
using core::fail;
using core::Result;
using core::Task;

namespace {

constexpr int question_rounds = 3;
// Frames that are read while the answer is waited for: a busy wire must not hold us.
constexpr int question_frames_max = 100'000;

Result<core::Fd> wire_socket(Link const& link, Address const& address) {
    auto const type = htons(address.is_ipv4() ? ETH_P_ARP : ETH_P_IPV6);
    core::Fd made(::socket(AF_PACKET, SOCK_RAW | SOCK_NONBLOCK | SOCK_CLOEXEC, type));
    sockaddr_ll where{};
    where.sll_family = AF_PACKET;
    where.sll_protocol = type;
    where.sll_ifindex = link.index;
    packet_mreq all{};
    all.mr_ifindex = link.index;
    all.mr_type = PACKET_MR_ALLMULTI;
    if (!made || ::bind(made.get(), reinterpret_cast<sockaddr const*>(&where), sizeof where) < 0 ||
        ::setsockopt(made.get(), SOL_PACKET, PACKET_ADD_MEMBERSHIP, &all, sizeof all) < 0) {
        return core::fail_errno(errno, "cannot ask on {} for {}", link.name, address.text());
    }
    return made;
}

/// The station that says that it has the address; reads what has arrived.
std::optional<MacAddress> read_answers(int socket, MacAddress const& own, Address const& address,
                                       int& frames) {
    std::array<std::uint8_t, 2048> buffer;
    for (; frames < question_frames_max; ++frames) {
        auto const got = ::recv(socket, buffer.data(), buffer.size(), 0);
        if (got <= 0) break;
        auto const frame = parse_ethernet(std::span(buffer).first(static_cast<std::size_t>(got)));
        if (frame && frame->source != own && claims_address(*frame, address)) return frame->source;
    }
    return {};
}

Task<Result<>> ask(core::Loop& loop, Link link, Address address) {
    CO_TRY(auto const socket, wire_socket(link, address));
    auto const question = address_question(link.mac, address);
    int frames = 0;
    for (int round = 0; round < question_rounds; ++round) {
        if (::send(socket.get(), question.data(), question.size(), 0) < 0) {
            co_return core::fail_errno(errno, "cannot ask on {} for {}", link.name, address.text());
        }
        auto const until = core::Deadline::after(local_question_time / question_rounds);
        while (!until.passed() && frames < question_frames_max) {
            if (!co_await loop.poll(socket.get(), POLLIN, until)) break;
            auto const station = read_answers(socket.get(), link.mac, address, frames);
            if (!station) continue;
            co_return fail(Errc::refused, "{} is in use already: by the station {} on {}",
                           address.text(), station->text(), link.name);
        }
    }
    co_return Result<>{};
}

}  // namespace

Task<Result<>> check_local_unused(core::Loop& loop, Netlink& netlink,
                                  std::vector<Address> addresses) {
    for (auto const& address : addresses) {
        CO_TRY(int const index, local_uplink(netlink, address));
        CO_TRY(auto const link, netlink.link(index));
        if (!link.mac.is_unicast()) continue;  // no wire with other stations
        CO_TRY_VOID(co_await ask(loop, link, address));
    }
    co_return Result<>{};
}

}  // namespace netmove
