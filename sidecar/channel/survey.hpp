// What a host says of its bridges: the answer to Survey, which is in protocol.hpp.
#pragma once

#include <string>
#include <vector>

#include "core/json.hpp"
#include "core/result.hpp"

namespace sidecar::protocol {

using core::Json;
using core::Result;

/// What a host says of a bridge.
struct BridgePlace {
    std::string bridge;  ///< Its name there; empty: there is none.
    std::vector<std::string> subnets;  ///< "192.0.2.0/24", of its global addresses.
    [[nodiscard]] Json to_json() const;
    static Result<BridgePlace> from_json(Json const& json);
};

struct SurveyAnswer {
    std::vector<BridgePlace> places;  ///< One for each bridge that was asked for.
    [[nodiscard]] Json to_json() const;
    static Result<SurveyAnswer> from_json(Json const& json);
};

}  // namespace sidecar::protocol
