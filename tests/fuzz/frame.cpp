// Fuzzing of netmove/frame.hpp with libFuzzer: a guest's frames are hostile input. Built with
// -DSIDECAR_FUZZ=ON; run as `fuzz-frame tests/fuzz/corpus/frame`. Invariant, besides memory safety:
// a learnt address is valid for a station, and its announcement teaches the same address.
#include <cstdlib>

#include "netmove/adjacency.hpp"
#include "netmove/frame.hpp"

namespace {

using namespace netmove;

void require(bool holds) {
    if (!holds) std::abort();
}

/// The same parser understands the announcement of the learnt address.
void announce(MacAddress const& mac, Address const& address, bool router) {
    auto const frame = address.is_ipv4() ? gratuitous_arp(mac, address, ArpForm::request)
                                         : neighbour_advertisement(mac, address, router);
    auto const parsed = parse_ethernet(frame);
    require(parsed.has_value());
    auto const again = learn(mac, *parsed);
    require(again.address == address);
    require(address.is_ipv4() || again.router == router);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(std::uint8_t const* data, std::size_t size) {
    if (auto const number = adjacency_number({data, size})) {
        require(*number <= adjacency_number_max);
        require(adjacency_number(adjacency_frame({}, *number)) == number);
    }
    auto const frame = parse_ethernet({data, size});
    if (!frame) return 0;
    require(frame->payload.size() <= size);
    require(frame->tags <= 2 && frame->vlan <= 4095);
    auto const learned = learn(frame->source, *frame);
    if (learned.address) {
        require(learned.address->is_host());
        require(Address::parse(learned.address->text()).value() == *learned.address);
        announce(frame->source, *learned.address, learned.router.value_or(false));
    }
    MacAddress other = frame->source;
    other.bytes[5] ^= 1;
    require(!learn(other, *frame).address);
    return 0;
}
