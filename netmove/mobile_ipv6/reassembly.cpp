#include "netmove/mobile_ipv6/reassembly.hpp"

#include <algorithm>

#include "netmove/mobile_ipv6/headers.hpp"
#include "netmove/mobile_ipv6/packet.hpp"

namespace netmove::mobile_ipv6 {

namespace {

constexpr unsigned more_bit = 1;
constexpr unsigned offset_mask = 0xfff8;
/// ECN lies in these bits of an IPv6 header's second byte; all set: congestion (RFC 3168 5).
constexpr std::uint8_t ecn_bits = 0x30;
/// What keeping a fragment takes besides its bytes, and a packet besides its fragments, at most.
constexpr std::size_t part_overhead = 128;
constexpr std::size_t partial_overhead = 512;

}  // namespace

/// Views point into the packet that was read.
struct Reassembly::Fragment {
    Key key;
    std::size_t offset = 0;
    bool more = false;
    bool congestion = false;
    ByteView headers;  ///< All before the Fragment header.
    std::size_t next_header_at = 0;  ///< In `headers`.
    std::uint8_t next_header = 0;  ///< What is to be there when the Fragment header is gone.
    ByteView data;

    [[nodiscard]] std::size_t end() const { return offset + data.size(); }
    [[nodiscard]] Bytes own_headers() const {
        Bytes made(headers.begin(), headers.end());
        made[next_header_at] = next_header;
        return made;
    }
};

std::optional<Reassembly::Fragment> Reassembly::read(ByteView bytes) {
    auto const packet = ip_packet(bytes);
    if (!packet || (*packet)[0] >> 4 != 6) return std::nullopt;
    HeaderReader reader(*packet);
    if (!read_extensions(reader) || reader.next_header() != next_is_fragment) return std::nullopt;
    auto const rest = reader.rest();
    if (rest.size() <= fragment_header_size) return std::nullopt;
    auto const place = get16(rest, 2);
    Fragment const fragment{
        .key = {ipv6_at(*packet, 8), ipv6_at(*packet, 24), get32(rest, 4)},
        .offset = place & offset_mask,
        .more = (place & more_bit) != 0,
        .congestion = ((*packet)[1] & ecn_bits) == ecn_bits,
        .headers = packet->first(reader.size()),
        .next_header_at = reader.next_header_at(),
        .next_header = rest[0],
        .data = rest.subspan(fragment_header_size),
    };
    if (fragment.end() > length_field_max) return std::nullopt;
    if (fragment.more && fragment.data.size() % 8 != 0) return std::nullopt;
    return fragment;
}

std::optional<Bytes> Reassembly::add(ByteView packet, core::Clock::time_point now) {
    expire(now);
    auto const fragment = read(packet);
    if (!fragment) return std::nullopt;
    if (fragment->offset == 0 && !fragment->more) {
        Partial alone{.key = fragment->key,
                      .congestion = fragment->congestion,
                      .headers = fragment->own_headers(),
                      .received = fragment->data.size()};
        alone.parts.emplace(0, Bytes(fragment->data.begin(), fragment->data.end()));
        return join(alone);
    }
    auto& partial = partial_for(fragment->key, now);
    if (partial.abandoned) return std::nullopt;
    if (!insert(partial, *fragment)) {
        abandon(partial);
        return std::nullopt;
    }
    if (partial.received != partial.size) return std::nullopt;
    auto whole = join(partial);
    if (!whole) ++incomplete_;
    erase(by_key_.at(fragment->key));
    return whole;
}

Reassembly::Partial& Reassembly::partial_for(Key const& key, core::Clock::time_point now) {
    if (auto const at = by_key_.find(key); at != by_key_.end()) return *at->second;
    while (!partials_.empty() && partials_.size() >= limits_.packets) drop(partials_.begin());
    partials_.push_back({.key = key, .since = now, .bytes = partial_overhead});
    bytes_ += partial_overhead;
    by_key_.emplace(key, std::prev(partials_.end()));
    return partials_.back();
}

/// False: it contradicts what is there, or there is no room for it.
bool Reassembly::insert(Partial& into, Fragment const& fragment) {
    auto const next = into.parts.lower_bound(fragment.offset);
    if (next != into.parts.end() && next->first == fragment.offset) {
        bool const same_end = fragment.more != (into.size == fragment.end());
        return same_end && std::ranges::equal(next->second, fragment.data);
    }
    if (next != into.parts.end() && next->first < fragment.end()) return false;
    if (next != into.parts.begin()) {
        auto const& [offset, data] = *std::prev(next);
        if (offset + data.size() > fragment.offset) return false;
    }
    bool const beyond_end = into.size && fragment.end() > *into.size;
    bool const ends_before_others = !fragment.more && next != into.parts.end();
    if (beyond_end || ends_before_others || (!fragment.more && into.size)) return false;
    if (into.parts.size() >= limits_.fragments) return false;
    auto const headers = fragment.offset == 0 ? fragment.headers.size() : 0;
    if (!charge(into, part_overhead + headers + fragment.data.size())) return false;

    into.parts.emplace_hint(next, fragment.offset,
                            Bytes(fragment.data.begin(), fragment.data.end()));
    into.received += fragment.data.size();
    into.congestion |= fragment.congestion;
    if (fragment.offset == 0) into.headers = fragment.own_headers();
    if (!fragment.more) into.size = fragment.end();
    return true;
}

/// Counts bytes that a packet is to take. Others make room for it, oldest first. False: there is
/// none.
bool Reassembly::charge(Partial& partial, std::size_t bytes) {
    partial.bytes += bytes;
    bytes_ += bytes;
    for (auto other = partials_.begin(); bytes_ > limits_.bytes && other != partials_.end();) {
        auto const which = other++;
        if (&*which != &partial) drop(which);
    }
    return bytes_ <= limits_.bytes;
}

std::optional<Bytes> Reassembly::join(Partial const& partial) {
    auto const payload = partial.headers.size() - ipv6_header_size + partial.received;
    if (payload > length_field_max) return std::nullopt;
    Bytes packet = partial.headers;
    packet.reserve(ipv6_header_size + payload);
    packet[4] = static_cast<std::uint8_t>(payload >> 8);
    packet[5] = static_cast<std::uint8_t>(payload & 0xff);
    if (partial.congestion && (packet[1] & ecn_bits) != 0) packet[1] |= ecn_bits;
    for (auto const& [offset, data] : partial.parts) put(packet, data);
    return packet;
}

void Reassembly::abandon(Partial& partial) {
    ++incomplete_;
    bytes_ -= partial.bytes - partial_overhead;
    partial = {
        .key = partial.key, .since = partial.since, .abandoned = true, .bytes = partial_overhead};
}

void Reassembly::drop(Partials::iterator which) {
    if (!which->abandoned) ++incomplete_;
    erase(which);
}

void Reassembly::erase(Partials::iterator which) {
    bytes_ -= which->bytes;
    by_key_.erase(which->key);
    partials_.erase(which);
}

void Reassembly::expire(core::Clock::time_point now) {
    while (!partials_.empty() && now - partials_.front().since > limits_.age) {
        drop(partials_.begin());
    }
}

}  // namespace netmove::mobile_ipv6
