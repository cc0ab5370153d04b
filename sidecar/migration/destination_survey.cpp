#include "sidecar/migration/destination_survey.hpp"

#include <poll.h>

#include "core/log.hpp"
#include "core/stream.hpp"
#include "sidecar/guest/allowed_files.hpp"
#include "sidecar/guest/destination_line.hpp"
#include "sidecar/guest/preflight.hpp"
#include "sidecar/host/limits.hpp"
#include "storage/shared_storage.hpp"

namespace sidecar {

using core::Deadline;
using core::Result;
using core::Task;

Result<protocol::DataPort> DestinationSurvey::offer_port() {
    auto const& range = context_.options.data_ports;
    if (!offered_) {
        TRY(offered_, core::listen_tcp("", range));
    }
    TRY(int const port, core::local_port(offered_.get()));
    return protocol::DataPort{port, range};
}

protocol::FindSharedAnswer DestinationSurvey::find_shared(
    protocol::FindShared const& request) const {
    auto const& maps = context_.options.maps;
    auto const policy = policy_of(maps, {});
    protocol::FindSharedAnswer answer;
    for (auto const& image : request.images) {
        auto const path = map_path(maps, image.path);
        qmp::FileUse const use{"a disk", path, qmp::FileAccess::image};
        answer.shared.push_back(
            check_file_use(context_.paths, policy, use) &&
            storage::is_same_storage(path, image.inode, context_.migration_id, request.secret));
    }
    return answer;
}

Result<protocol::SurveyAnswer> DestinationSurvey::begin(protocol::Survey const& survey) {
    protocol::SurveyAnswer answer;
    number_ = survey.number;
    bridges_.clear();
    if (survey.bridges.empty()) return answer;
    TRY(auto netlink, netmove::Netlink::open());
    for (auto const& bridge : survey.bridges) {
        auto& listening = bridges_.emplace_back();
        auto& place = answer.places.emplace_back();
        auto const here = map_bridge(context_.options.maps, bridge);
        if (!is_allowed_bridge(context_.options.maps, here)) continue;
        TRY(auto subnets, subnets_of(netlink, here));
        if (!subnets) continue;
        TRY(auto const link, netlink.link(here));
        place = {here, std::move(*subnets), false};
        if (!netmove::can_test_adjacency(link)) continue;
        auto listener = netmove::AdjacencyListener::open(link);
        if (!listener) {
            core::log::warning("guest={} {}", context_.name, listener.error().sentence());
            continue;
        }
        listening.listener = std::move(*listener);
        place.listens = true;
    }
    return answer;
}

Task<Result<protocol::HeardAnswer>> DestinationSurvey::heard() {
    auto const deadline = Deadline::after(limits::adjacency_wait);
    protocol::HeardAnswer answer;
    for (std::size_t index = 0; index < bridges_.size(); ++index) {
        auto const number = netmove::adjacency_number_of(number_, index);
        // Looked at again after each wait, because the list may be replaced meanwhile.
        while (index < bridges_.size() && bridges_[index].listener && !bridges_[index].heard) {
            bridges_[index].heard = bridges_[index].listener->heard(number);
            if (bridges_[index].heard) break;
            auto const socket = bridges_[index].listener->descriptor();
            if (!co_await context_.loop.poll(socket, POLLIN, deadline)) break;
        }
        answer.bridges.push_back(index < bridges_.size() && bridges_[index].heard);
    }
    co_return answer;
}

}  // namespace sidecar
