// Options that consist of type, length and data, and the padding between them: in a Mobility Header
// (RFC 6275 6.2) and in IPv6's options headers (RFC 8200 4.2), where padding is the same. For
// message.cpp and packet.cpp only. Invariant: reading stays inside the options.
#pragma once

#include <optional>

#include "netmove/frame_fields.hpp"

namespace netmove::mobile_ipv6 {

inline constexpr std::uint8_t option_pad1 = 0;
inline constexpr std::uint8_t option_padn = 1;

struct Option {
    std::uint8_t type = 0;
    ByteView data;  ///< Without type and length.
};

/// Reads options one after the other.
class OptionReader {
public:
    explicit OptionReader(ByteView options) : rest_(options) {}

    /// The next one that is not padding. None: there is no more, or it is cut off.
    std::optional<Option> next() {
        while (!rest_.empty()) {
            if (rest_[0] == option_pad1) {
                rest_ = rest_.subspan(1);
                continue;
            }
            if (rest_.size() < 2 || rest_.size() - 2 < rest_[1]) return std::nullopt;
            Option const option{rest_[0], rest_.subspan(2, rest_[1])};
            rest_ = rest_.subspan(2 + option.data.size());
            if (option.type != option_padn) return option;
        }
        return std::nullopt;
    }
    /// After next() gave none: whether the last option was whole.
    [[nodiscard]] bool at_end() const { return rest_.empty(); }

private:
    ByteView rest_;
};

/// Pads a header, which begins at `begin` of `out`, to a size of multiple * n + remainder.
inline void pad_header(Bytes& out, std::size_t begin, std::size_t multiple,
                       std::size_t remainder = 0) {
    std::size_t const past = (out.size() - begin) % multiple;
    std::size_t const gap = (multiple + remainder - past) % multiple;
    if (gap == 1) put8(out, option_pad1);
    if (gap < 2) return;
    put8(out, option_padn);
    put8(out, static_cast<unsigned>(gap - 2));
    out.resize(out.size() + gap - 2);
}

}  // namespace netmove::mobile_ipv6
