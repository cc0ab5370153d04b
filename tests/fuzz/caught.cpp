// Fuzzing of netmove/caught.hpp with libFuzzer: the frames that a peer says it has caught.
// Invariant, besides memory safety: accepted frames have lengths that a tap takes, and are written
// as they were read.
#include <algorithm>
#include <cstdlib>

#include "netmove/caught.hpp"

extern "C" int LLVMFuzzerTestOneInput(std::uint8_t const* data, std::size_t size) {
    auto const frames = netmove::from_wire({data, size});
    if (!frames) return 0;
    for (auto const& frame : *frames) {
        if (frame.size() <= netmove::virtio_header_size) std::abort();
        if (frame.size() > netmove::tap_frame_max) std::abort();
    }
    if (!std::ranges::equal(netmove::to_wire(*frames), std::span(data, size))) std::abort();
    return 0;
}
