#include <algorithm>

#include "storage/limits.hpp"
#include "storage/nbd.hpp"

namespace storage {

using core::Result;
using core::Task;

Task<Result<>> NbdPool::open(NbdAddress address, std::string export_name,
                             std::vector<std::string> contexts, unsigned count,
                             core::Deadline deadline) {
    count = std::clamp(count, 1u, limits::connections_max);
    while (connections_.size() < count) {
        CO_TRY(auto one, co_await Nbd::connect(loop_, address, export_name, contexts, deadline));
        connections_.push_back(std::move(one));
        if (!traits().can_multi_conn) break;
    }
    co_return Result<>{};
}

Nbd& NbdPool::least_loaded() {
    Nbd* best = nullptr;
    for (std::size_t i = 0; i < connections_.size(); ++i) {
        Nbd& one = *connections_[(next_ + i) % connections_.size()];
        if (best == nullptr || (one.alive() && !best->alive()) ||
            (one.alive() == best->alive() && one.in_flight() < best->in_flight())) {
            best = &one;
        }
    }
    next_ = (next_ + 1) % connections_.size();
    return *best;
}

bool NbdPool::alive() const {
    return !connections_.empty() &&
           std::ranges::all_of(connections_, [](auto const& one) { return one->alive(); });
}

Task<void> NbdPool::close() {
    for (auto& one : connections_) co_await one->close();
}

void NbdPool::say_goodbye() {
    for (auto& one : connections_) one->say_goodbye();
}

void NbdPool::abort() {
    for (auto& one : connections_) one->abort();
}

}  // namespace storage
