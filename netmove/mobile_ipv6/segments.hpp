// Segments: TCP packets that the kernel has merged on their way through a network card (GRO), cut
// again. Used by DataPath: a raw socket gets merged packets of a tunnel, and no link carries them.
// Pure code over bytes. Invariant: whatever the bytes are, reading stays inside them.
#pragma once

#include <vector>

#include "netmove/frame.hpp"

namespace netmove::mobile_ipv6 {

/// `packet`: a whole IPv6 or IPv4 packet. As packets of at most `most` bytes, with the same
/// headers, and sequence numbers, lengths and checksums of their own. Empty: it is not TCP directly
/// after its IP header, or a fragment, or its headers do not fit. What size its packets had before
/// is not known: `most` should pass everywhere.
std::vector<Bytes> tcp_segments(ByteView packet, std::size_t most);

}  // namespace netmove::mobile_ipv6
