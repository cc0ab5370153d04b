// Fuzzing of netmove/mobile_ipv6/message.hpp and packet.hpp with libFuzzer: any host
// can send these packets to a home agent. Run as `fuzz-mobile_ipv6 tests/fuzz/corpus/mobile_ipv6`.
// Invariants, besides memory safety: what was read is written and read again to the same value, a
// packet in a packet lies inside it, an ICMP error is small and is not answered, and fragments
// are together the packet. Checksums are mended, because no fuzzer would guess them.
#include <algorithm>
#include <cstdlib>
#include <functional>

#include "netmove/mobile_ipv6/headers.hpp"
#include "netmove/mobile_ipv6/packet.hpp"

namespace {

using namespace netmove;
using namespace netmove::mobile_ipv6;

void require(bool holds) {
    if (!holds) std::abort();
}

bool is_inside(ByteView part, ByteView whole) {
    return std::less_equal<>()(whole.data(), part.data()) &&
           std::less_equal<>()(part.data() + part.size(), whole.data() + whole.size());
}

/// The Mobility Header with which `bytes` begin gets its right checksum.
void mend(std::span<std::uint8_t> bytes, Address const& source, Address const& destination) {
    if (bytes.size() < 8) return;
    std::size_t const size = 8 * (std::size_t{bytes[1]} + 1);
    if (bytes.size() < size) return;
    bytes[4] = bytes[5] = 0;
    unsigned const sum =
        upper_layer_checksum(source, destination, next_is_mobility, bytes.first(size));
    bytes[4] = static_cast<std::uint8_t>(sum >> 8);
    bytes[5] = static_cast<std::uint8_t>(sum & 0xff);
}

void read_message(ByteView input) {
    constexpr std::uint8_t ends[32] = {0x20, 1, 0x0d, 0xb8, 0, 1};
    auto const source = ipv6_at(ends, 0);
    auto const destination = ipv6_at(ends, 16);
    Bytes bytes(input.begin(), input.end());
    mend(bytes, source, destination);
    auto const message = parse_message(bytes, source, destination);
    if (!message) return;
    auto const written = encode(*message, source, destination);
    require(parse_message(written, source, destination) == *message);
}

/// The Mobility Header of a packet, if there is one, gets its right checksum.
Bytes mended(ByteView input) {
    Bytes bytes(input.begin(), input.end());
    auto const packet = ip_packet(bytes);
    if (!packet || packet->front() >> 4 != 6) return bytes;
    HeaderReader reader(*packet);
    auto const homes = read_extensions(reader);
    if (!homes || reader.next_header() != next_is_mobility) return bytes;
    auto const header = std::span(bytes).subspan(reader.size(), reader.rest().size());
    mend(header, homes->option.value_or(ipv6_at(bytes, 8)),
         homes->routing.value_or(ipv6_at(bytes, 24)));
    return bytes;
}

void read_signalling(ByteView input) {
    auto const packet = parse_packet(mended(input));
    if (packet) require(parse_packet(encode(*packet)) == packet);
}

void read_outer(ByteView input) {
    auto const outer = decapsulate(input);
    if (!outer) return;
    require(is_inside(outer->inner, input));
    auto const inner = ip_packet(outer->inner);
    require(inner && inner->size() == outer->inner.size());
    Bytes again;
    if (outer->source.is_ipv6()) {
        put(again, outer_header(outer->source, outer->destination, *inner));
    } else {
        put(again, outer_ipv4_header({outer->source, outer->udp_source},
                                     {outer->destination, outer->udp_destination}, *inner));
    }
    put(again, *inner);
    auto const same = decapsulate(again);
    require(same && same->source == outer->source && same->udp_source == outer->udp_source);
    require(std::ranges::equal(same->inner, *inner));
    Bytes marked(inner->begin(), inner->end());
    (void)carry_congestion(outer->traffic_class, marked);
    auto const still = ip_packet(marked);
    require(still && still->size() == marked.size());
}

void answer(ByteView input) {
    auto const packet = ip_packet(input);
    if (!packet) return;
    bool const is_ipv4 = packet->front() >> 4 == 4;
    auto const router = is_ipv4 ? ipv4_at(*packet, 16) : ipv6_at(*packet, 24);
    auto const error = packet_too_big(router, *packet, 1'400);
    if (!error) return;
    require(error->size() <= (is_ipv4 ? 576 : 1'280));
    auto const whole = ip_packet(*error);
    require(whole && whole->size() == error->size());
    require(!packet_too_big(router, *error, 1'400));
}

void cut_and_join(ByteView input) {
    auto const packet = ip_packet(input);
    if (!packet || packet->front() >> 4 != 6 || packet->size() <= ipv6_mtu_min) return;
    auto const parts = fragment(*packet, ipv6_mtu_min, 1);
    Bytes data;
    for (auto const& part : parts) {
        require(part.size() <= ipv6_mtu_min && (get16(part, 42) & 0xfff8U) == data.size());
        data.insert(data.end(), part.begin() + 48, part.end());
    }
    require(std::ranges::equal(data, packet->subspan(40)));
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(std::uint8_t const* data, std::size_t size) {
    ByteView const input(data, size);
    read_message(input);
    read_signalling(input);
    read_outer(input);
    answer(input);
    cut_and_join(input);
    return 0;
}
