// What a source asks about the bridges of a destination before anything is touched: whether there
// is one for each of its own, and whether both are in one L2 network (netmove/adjacency.hpp).
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "core/json.hpp"
#include "core/result.hpp"
#include "sidecar/channel/verb.hpp"

namespace sidecar::protocol {

using core::Json;
using core::Result;

/// What a host says of a bridge.
struct BridgePlace {
    std::string bridge;  ///< Its name there; empty: there is none.
    std::vector<std::string> subnets;  ///< "192.0.2.0/24", of its global addresses.
    bool listens = false;  ///< It can be tested whether it is in the source's network.
    [[nodiscard]] Json to_json() const;
    static Result<BridgePlace> from_json(Json const& json);
};

struct SurveyAnswer {
    std::vector<BridgePlace> places;  ///< One for each bridge that was asked for.
    [[nodiscard]] Json to_json() const;
    static Result<SurveyAnswer> from_json(Json const& json);
};

/// Only if the destination has Feature::anchor. It listens from its answer on, until `heard` or the
/// end of the connection.
struct Survey {
    static constexpr Verb verb = Verb::survey;
    using Answer = SurveyAnswer;
    std::vector<std::string> bridges;  ///< Names at the source.
    /// Of the frame that the source will send from the first bridge; the others follow. At most
    /// adjacency_number_max.
    std::uint64_t number = 0;
    [[nodiscard]] Json to_json() const;
    static Result<Survey> from_json(Json const& json);
};

struct HeardAnswer {
    std::vector<bool> bridges;  ///< In the order of Survey: the frame has arrived there.
    [[nodiscard]] Json to_json() const;
    static Result<HeardAnswer> from_json(Json const& json);
};

/// After the frames were sent: which have arrived. The answer waits for them, for a moment. May be
/// repeated, after the frames were sent again.
struct Heard {
    static constexpr Verb verb = Verb::heard;
    using Answer = HeardAnswer;
    [[nodiscard]] Json to_json() const { return Json::object(); }
    static Result<Heard> from_json(Json const&) { return Heard{}; }
};

}  // namespace sidecar::protocol
