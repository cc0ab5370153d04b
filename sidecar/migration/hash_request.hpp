// HashRequest: the peer's verb `hash` of `migrate --verify`: of which ranges of which disk the
// source wants to know what they hold at the destination. Used by both drivers and fuzzed by
// tests/fuzz/peer.cpp: it comes from a remote host.
#pragma once

#include <cstddef>
#include <vector>

#include "core/json.hpp"
#include "storage/extents.hpp"

namespace sidecar {

struct HashRequest {
    std::size_t disk = 0;  ///< Index in the description.
    std::vector<storage::Extent> ranges;

    /// {"disk": 0, "ranges": [OFFSET, LENGTH, OFFSET, LENGTH, ...]}
    [[nodiscard]] core::Json to_json() const;
    /// Shape and numbers only; whether the disk has such ranges is asked by storage::check_ranges.
    static core::Result<HashRequest> from_json(core::Json const& wire);
};

}  // namespace sidecar
