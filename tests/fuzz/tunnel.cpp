// Fuzzing of the tunnel's parsers with libFuzzer: the outside of a datagram, which anybody can send
// (netmove/tunnel/datagram.hpp), and the plain text of records, which a peer sends
// (netmove/tunnel/fragment.hpp). Invariants, besides memory safety: a frame that is delivered has a
// length that a tap takes, what is held is bounded, and a ping is written back unchanged.
#include <algorithm>
#include <cstdlib>

#include "netmove/tunnel/datagram.hpp"
#include "netmove/tunnel/fragment.hpp"

namespace {

using namespace netmove;
using namespace netmove::tunnel;

struct Checked final : FrameSink {
    void frame(FrameView frame) override {
        if (!frame.vnet.empty() && frame.vnet.size() != virtio_header_size) std::abort();
        if (frame.ethernet.size() < ethernet_min) std::abort();
        if (frame.vnet.size() + frame.ethernet.size() > content_max) std::abort();
    }
};

void read_datagram(ByteView bytes) {
    auto const datagram = parse_datagram(bytes);
    if (!datagram) return;
    if (datagram->record.size() + id_size != bytes.size()) std::abort();
    if (!std::ranges::equal(id_bytes(datagram->id), bytes.first(id_size))) std::abort();
    bool const hello = datagram->kind == DatagramKind::client_hello;
    if (hello != (datagram->client_random.size() == client_random_size)) std::abort();
}

/// The input as records: each after its length (16 bits).
void read_records(ByteView bytes) {
    ReassemblyLimits const limits{4, 2 * content_max, 8, std::chrono::seconds{1}};
    Reassembly reassembly(limits);
    Checked sink;
    core::Clock::time_point now{};
    while (bytes.size() >= 2) {
        std::size_t const length = static_cast<std::size_t>(bytes[0]) << 8 | bytes[1];
        bytes = bytes.subspan(2);
        auto const record = bytes.first(std::min(length, bytes.size()));
        bytes = bytes.subspan(record.size());
        (void)reassembly.read(record, 1, now, sink);
        if (reassembly.bytes() > limits.bytes) std::abort();
        now += std::chrono::milliseconds{100};
    }
}

void read_ping(ByteView bytes) {
    auto const ping = parse_ping(bytes);
    if (!ping) return;
    Bytes again(ping_size);
    write_ping(*ping, again);
    if (!std::ranges::equal(again, bytes.first(ping_size))) std::abort();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(std::uint8_t const* data, std::size_t size) {
    ByteView const bytes(data, size);
    read_datagram(bytes);
    read_records(bytes);
    read_ping(bytes);
    return 0;
}
