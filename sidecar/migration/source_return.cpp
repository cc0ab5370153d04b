#include "sidecar/migration/source_return.hpp"

#include <algorithm>

#include "sidecar/migration/network_survey.hpp"

namespace sidecar {

using core::Result;
using core::Task;

Task<Result<>> choose_return(SourceContext context, SourceAnchors& anchors) {
    bool const automatic = context.options.network == NetworkChoice::automatic;
    bool const known_there = context.peer.offers(protocol::Feature::stand_in);
    if (!automatic || !known_there || !anchors.behind_stand_ins()) co_return Result<>{};
    std::vector<BridgeToSurvey> bridges;
    for (auto const& interface : context.description.interfaces) {
        if (!interface.anchor) continue;
        bridges.push_back({interface.bridge, interface.anchor->home_bridge});
    }
    CO_TRY(auto const seen, co_await survey_bridges(context, std::move(bridges)));
    bool const back = std::ranges::all_of(
        seen, [](SurveyedBridge const& one) { return one.adjacent.value_or(false); });
    if (back) anchors.leave_stand_in(context.description.interfaces);
    co_return Result<>{};
}

}  // namespace sidecar
