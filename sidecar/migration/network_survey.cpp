#include "sidecar/migration/network_survey.hpp"

#include <fmt/ranges.h>

#include <algorithm>
#include <random>

#include "netmove/adjacency.hpp"
#include "sidecar/guest/preflight.hpp"

namespace sidecar {

using core::Result;
using core::Task;

namespace {

/// From every bridge whose frame has not arrived yet.
Result<> send_frames(netmove::Netlink& netlink, std::uint64_t number,
                     std::vector<SurveyedBridge>& bridges) {
    for (std::size_t index = 0; index < bridges.size(); ++index) {
        auto& bridge = bridges[index];
        if (!bridge.adjacent || *bridge.adjacent) continue;
        TRY(auto const link, netlink.link(bridge.here));
        TRY_VOID(netmove::send_adjacency_frame(link, netmove::adjacency_number_of(number, index)));
        ++bridge.frames_sent;
    }
    return {};
}

Result<std::vector<SurveyedBridge>> take_answer(netmove::Netlink& netlink,
                                                std::vector<BridgeToSurvey> const& bridges,
                                                protocol::SurveyAnswer const& answer) {
    std::vector<SurveyedBridge> all;
    if (answer.places.size() != bridges.size()) {
        return core::fail(core::Errc::protocol, "the destination told of {} bridges of {}",
                          answer.places.size(), bridges.size());
    }
    for (std::size_t index = 0; index < bridges.size(); ++index) {
        auto const& place = answer.places[index];
        auto const& name = bridges[index].here;
        TRY(auto const link, netlink.link(name));
        TRY(auto here, subnets_of(netlink, name));
        SurveyedBridge one{name,
                           std::move(here).value_or(std::vector<std::string>()),
                           place.bridge,
                           place.subnets,
                           {}};
        if (place.listens && netmove::can_test_adjacency(link)) one.adjacent = false;
        all.push_back(std::move(one));
    }
    return all;
}

}  // namespace

std::string SurveyedBridge::why_apart() const {
    if (there.empty()) return fmt::format("the destination has no bridge for {}", here);
    if (adjacent && *adjacent) return {};
    if (adjacent) {
        return fmt::format(
            "{} here and {} on the destination are not in one network ({} test frames did not "
            "arrive)",
            here, there, frames_sent);
    }
    if (subnets_here.empty() || subnets_there.empty()) return {};
    for (auto const& subnet : subnets_here) {
        if (std::ranges::find(subnets_there, subnet) != subnets_there.end()) return {};
    }
    return fmt::format("{} is in {} here, and {} on the destination is in {}", here,
                       fmt::join(subnets_here, " and "), there, fmt::join(subnets_there, " and "));
}

Task<Result<std::vector<SurveyedBridge>>> survey_bridges(SourceContext context,
                                                         std::vector<BridgeToSurvey> bridges) {
    auto& netlink = *context.guest.netlink;
    std::random_device random;
    std::uniform_int_distribution<std::uint64_t> any(0, netmove::adjacency_number_max);
    protocol::Survey survey{{}, any(random)};
    for (auto const& one : bridges) survey.bridges.push_back(one.asked_for);
    CO_TRY(auto const answer,
           co_await context.peer.request(survey, context.within(limits::check_timeout)));
    CO_TRY(auto all, take_answer(netlink, bridges, answer));
    for (int tries = 0; tries < limits::adjacency_tries; ++tries) {
        bool const silent = std::ranges::any_of(
            all, [](SurveyedBridge const& one) { return one.adjacent && !*one.adjacent; });
        if (!silent) break;
        CO_TRY_VOID(send_frames(netlink, survey.number, all));
        CO_TRY(auto const heard, co_await context.peer.request(
                                     protocol::Heard{}, context.within(limits::check_timeout)));
        for (std::size_t index = 0; index < all.size() && index < heard.bridges.size(); ++index) {
            if (all[index].adjacent) all[index].adjacent = heard.bridges[index];
        }
    }
    co_return all;
}

}  // namespace sidecar
