#include <algorithm>

#include "storage/limits.hpp"
#include "storage/nbd.hpp"
#include "storage/when_all.hpp"

namespace storage {

using core::Result;
using core::Task;

namespace {

Task<Result<>> open_one(core::Loop& loop, NbdAddress address, std::string export_name,
                        std::vector<std::string> contexts,
                        std::vector<std::unique_ptr<Nbd>>& opened, core::Deadline deadline) {
    CO_TRY(auto one, co_await Nbd::connect(loop, std::move(address), std::move(export_name),
                                           std::move(contexts), std::move(deadline)));
    opened.push_back(std::move(one));
    co_return Result<>{};
}

}  // namespace

Task<Result<>> NbdPool::open(NbdAddress address, std::string export_name,
                             std::vector<std::string> contexts, unsigned count,
                             core::Deadline deadline) {
    count = std::clamp(count, 1u, limits::connections_max);
    CO_TRY_VOID(co_await open_one(loop_, address, export_name, contexts, connections_, deadline));
    co_return co_await widen(address, export_name, contexts, count, deadline);
}

Task<Result<>> NbdPool::widen(NbdAddress address, std::string export_name,
                              std::vector<std::string> contexts, unsigned count,
                              core::Deadline deadline) {
    if (!traits().can_multi_conn) co_return Result<>{};
    std::vector<Task<Result<>>> rest;
    while (rest.size() + connections_.size() < count) {
        rest.push_back(open_one(loop_, address, export_name, contexts, connections_, deadline));
    }
    co_return co_await when_all(loop_, std::move(rest));
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
    connections_.clear();
}

void NbdPool::say_goodbye() {
    for (auto& one : connections_) one->say_goodbye();
}

void NbdPool::abort(std::string_view why) {
    for (auto& one : connections_) one->abort(why);
}

}  // namespace storage
