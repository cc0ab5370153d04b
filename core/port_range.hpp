// PortRange: TCP ports among which a listener takes the first that is free, so that a firewall can
// name them.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "core/fd.hpp"
#include "core/result.hpp"

namespace core {

struct PortRange {
    std::uint16_t first = 0;  ///< 0: any port, which the kernel chooses.
    std::uint16_t last = 0;  ///< Not lower than `first`.

    /// "FIRST-LAST" or "PORT"; "0" for any. Fails with invalid.
    static Result<PortRange> parse(std::string_view text);
    [[nodiscard]] std::string text() const;
    [[nodiscard]] bool operator==(PortRange const&) const = default;
};

/// Listens on a numeric address ("": all, both families), on the first free port of the range.
/// Fails with the kernel's error, or with refused if none is free.
Result<Fd> listen_tcp(std::string const& host, PortRange ports);

}  // namespace core
