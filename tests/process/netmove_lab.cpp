#include "tests/process/netmove_lab.hpp"

#include <arpa/inet.h>
#include <sys/socket.h>

namespace netmove_lab {

namespace {

void put16(Bytes& out, std::size_t value) {
    out.push_back(static_cast<std::uint8_t>(value >> 8));
    out.push_back(static_cast<std::uint8_t>(value & 0xff));
}
template <class Range>
void put(Bytes& out, Range const& bytes) {
    out.insert(out.end(), bytes.begin(), bytes.end());
}

std::size_t header_sum(Bytes const& frame, std::size_t at, std::size_t size) {
    std::size_t sum = 0;
    for (std::size_t i = 0; i < size; i += 2) {
        sum += static_cast<std::size_t>(frame[at + i]) << 8 | frame[at + i + 1];
    }
    while (sum >> 16 != 0) sum = (sum & 0xffff) + (sum >> 16);
    return ~sum & 0xffff;
}

}  // namespace

void plug_station(Space const& host, int number) {
    sh(
        fmt::format("ip link add eth0 type veth peer name client0 netns {}; "
                    "ip link set eth0 addrgenmode none; ip link set eth0 up; "
                    "ip addr add 192.0.2.{}/24 dev eth0; "
                    "ip addr add 2001:db8::{}/64 dev eth0 nodad",
                    host.path(), number, number));
    host.enter();
    sh("ip link set client0 addrgenmode none; ip link set client0 master br0 up");
}

void send_datagram(Address const& to) {
    core::Fd const socket(::socket(to.is_ipv4() ? AF_INET : AF_INET6, SOCK_DGRAM, 0));
    sockaddr_in v4{AF_INET, htons(4000), {}, {}};
    sockaddr_in6 v6{AF_INET6, htons(4000), 0, {}, 0};
    std::ranges::copy(to.bytes(), to.is_ipv4() ? reinterpret_cast<std::uint8_t*>(&v4.sin_addr)
                                               : reinterpret_cast<std::uint8_t*>(&v6.sin6_addr));
    auto const* where = to.is_ipv4() ? reinterpret_cast<sockaddr const*>(&v4)
                                     : reinterpret_cast<sockaddr const*>(&v6);
    auto const size = static_cast<socklen_t>(to.is_ipv4() ? sizeof v4 : sizeof v6);
    REQUIRE(::sendto(socket.get(), "hello", 5, 0, where, size) == 5);
}

Bytes udp_frame(MacAddress const& from, MacAddress const& to, Address const& source,
                Address const& destination, std::uint8_t hops, std::size_t size) {
    Bytes out;
    put(out, to.bytes);
    put(out, from.bytes);
    std::size_t const udp_size = 8 + size;
    if (source.is_ipv4()) {
        put16(out, 0x0800);
        put16(out, 0x4500);
        put16(out, 20 + udp_size);
        put16(out, 0);
        put16(out, 0);
        put16(out, static_cast<std::size_t>(hops) << 8 | 17);
        put16(out, 0);
        put(out, source.bytes());
        put(out, destination.bytes());
        auto const sum = header_sum(out, 14, 20);
        out[24] = static_cast<std::uint8_t>(sum >> 8);
        out[25] = static_cast<std::uint8_t>(sum & 0xff);
    } else {
        put16(out, 0x86dd);
        put16(out, 0x6000);
        put16(out, 0);
        put16(out, udp_size);
        put16(out, std::size_t{17} << 8 | hops);
        put(out, source.bytes());
        put(out, destination.bytes());
    }
    put16(out, 4000);
    put16(out, 4000);
    put16(out, udp_size);
    put16(out, 0);
    out.resize(out.size() + size);
    return out;
}

}  // namespace netmove_lab
