#include "netmove/mobile_ipv6/signalling_socket.hpp"

#include <arpa/inet.h>
#include <linux/filter.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <poll.h>
#include <sys/socket.h>

#include <array>
#include <cerrno>
#include <vector>

#include "netmove/frame_fields.hpp"

namespace netmove::mobile_ipv6 {

using core::Deadline;
using core::Errc;
using core::Result;
using core::Task;

namespace {

// Signalling fits any link; longer packets are cut, and malformed then.
constexpr std::size_t signalling_packet_max = 2'048;
constexpr int signalling_batch = 64;
constexpr int signalling_buffer = 4 << 20;  // updates of all mobile nodes of a network that failed
// Headers that may stand before a Mobility Header (RFC 8200 4.1), and itself.
constexpr std::array<std::uint8_t, 4> next_headers{0, 43, 60, next_is_mobility};

std::uint32_t word_of(Address const& address, std::size_t at) {
    auto const bytes = address.bytes();
    return std::uint32_t{bytes[at]} << 24U | std::uint32_t{bytes[at + 1]} << 16U |
           std::uint32_t{bytes[at + 2]} << 8U | std::uint32_t{bytes[at + 3]};
}

/// IPv6 packets for `agent` that may carry a Mobility Header. Offsets are from the IPv6 header.
Result<> filter_signalling(int socket, Address const& agent) {
    std::vector<sock_filter> code;
    auto const load = [&code](int size, int at) {
        code.push_back({static_cast<std::uint16_t>(BPF_LD | BPF_ABS | size), 0, 0,
                        static_cast<std::uint32_t>(at)});
    };
    auto const jump = [&code](std::uint32_t value, std::size_t when_true, std::size_t when_false) {
        code.push_back({BPF_JMP | BPF_K | BPF_JEQ, static_cast<std::uint8_t>(when_true),
                        static_cast<std::uint8_t>(when_false), value});
    };
    constexpr std::size_t words = 4;
    constexpr std::size_t drop_at = 2 + 2 * words + 1 + next_headers.size();
    auto const to_drop = [&code] { return drop_at - code.size() - 1; };
    load(BPF_W, SKF_AD_OFF + SKF_AD_PKTTYPE);
    jump(PACKET_OUTGOING, to_drop(), 0);
    // The last word first: it differs most.
    for (std::size_t part = words; part > 0; --part) {
        load(BPF_W, 24 + 4 * (static_cast<int>(part) - 1));
        jump(word_of(agent, 4 * (part - 1)), 0, to_drop());
    }
    load(BPF_B, 6);
    for (auto const next : next_headers) jump(next, to_drop() + 1, 0);
    code.push_back({BPF_RET | BPF_K, 0, 0, 0});
    code.push_back({BPF_RET | BPF_K, 0, 0, signalling_packet_max});
    sock_fprog const program{static_cast<unsigned short>(code.size()), code.data()};
    if (::setsockopt(socket, SOL_SOCKET, SO_ATTACH_FILTER, &program, sizeof program) < 0) {
        return core::fail_errno(errno, "cannot give a packet socket its filter");
    }
    return {};
}

}  // namespace

Result<std::unique_ptr<SignallingSocket>> SignallingSocket::open(core::Loop& loop,
                                                                 Address const& agent) {
    core::Fd made(::socket(AF_PACKET, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
    if (!made && (errno == EPERM || errno == EACCES)) {
        return core::fail_os(Errc::netlink, errno,
                             "no privilege: CAP_NET_RAW is needed to receive Binding Updates; run "
                             "as root");
    }
    if (!made) return core::fail_errno(errno, "cannot open a packet socket");
    TRY_VOID(filter_signalling(made.get(), agent));
    if (::setsockopt(made.get(), SOL_SOCKET, SO_RCVBUFFORCE, &signalling_buffer,
                     sizeof signalling_buffer) < 0) {
        (void)::setsockopt(made.get(), SOL_SOCKET, SO_RCVBUF, &signalling_buffer,
                           sizeof signalling_buffer);
    }
    sockaddr_ll where{};
    where.sll_family = AF_PACKET;
    where.sll_protocol = htons(ETH_P_IPV6);
    if (::bind(made.get(), reinterpret_cast<sockaddr const*>(&where), sizeof where) < 0) {
        return core::fail_errno(errno, "cannot receive Binding Updates");
    }
    return std::unique_ptr<SignallingSocket>(new SignallingSocket(loop, std::move(made)));
}

Task<void> SignallingSocket::run(OnPacket on_packet, std::stop_token stop) {
    auto const for_ever = Deadline::never(stop);
    while (!stop.stop_requested()) {
        auto const polled = co_await loop_.poll(socket_.get(), POLLIN, for_ever);
        if (!polled) break;
        if (take_in(on_packet)) co_await loop_.next_turn();
    }
}

bool SignallingSocket::take_in(OnPacket const& on_packet) {
    std::array<std::uint8_t, signalling_packet_max> buffer;
    for (int packets = 0; packets < signalling_batch; ++packets) {
        auto const got = ::recv(socket_.get(), buffer.data(), buffer.size(), 0);
        if (got <= 0) return false;
        auto const parsed = parse_packet(ByteView(buffer).first(static_cast<std::size_t>(got)));
        if (parsed) {
            ++counters_.received;
            on_packet(*parsed);
        } else if (parsed.error() == NotSignalling::malformed) {
            ++counters_.malformed;
        } else if (parsed.error() == NotSignalling::bad_checksum) {
            ++counters_.bad_checksum;
        }
    }
    return true;
}

}  // namespace netmove::mobile_ipv6
