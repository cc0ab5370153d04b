#include "sidecar/handover/vteps.hpp"

#include "core/log.hpp"
#include "sidecar/host/limits.hpp"

namespace sidecar {

using core::Deadline;
using core::Errc;
using core::fail;
using core::Json;
using core::Result;
using core::Task;

Vteps::Vteps(core::Loop& loop, Config config) : loop_(loop), progress_(loop), tasks_(loop) {
    for (auto const& host : config.hosts) {
        auto& vtep = vteps_.emplace_back(loop);
        vtep.host = host;
        vtep.channel = std::make_unique<PeerChannel>(
            loop,
            PeerChannel::Config{host, config.tls, config.guest, config.migration_id,
                                protocol::Role::vtep_source},
            [](bool) {});  // the caller notices it
    }
}

Task<Result<>> Vteps::prepare(std::vector<netmove::VxlanMove> moves, Deadline deadline) {
    moves_ = std::move(moves);
    for (auto& vtep : vteps_) {
        auto prepared = co_await prepare_one(vtep, deadline);
        if (prepared) continue;
        co_return fail(Errc::refused, "the VTEP {} cannot take part: {}", vtep.host,
                       prepared.error().sentence());
    }
    co_return Result<>{};
}

Task<Result<>> Vteps::prepare_one(Vtep& vtep, Deadline deadline) {
    if (!vtep.begun) {
        CO_TRY_VOID(co_await vtep.channel->connect(deadline.sooner(limits::connect_timeout)));
        begin(vtep);
    }
    CO_TRY_VOID(co_await vtep.channel->reached(deadline.sooner(limits::connect_timeout)));
    CO_TRY(auto const answer,
           co_await vtep.channel->request(protocol::VtepPrepare{moves_},
                                          deadline.sooner(limits::check_timeout)));
    vtep.devices = answer.devices;
    co_return Result<>{};
}

void Vteps::begin_unknown(std::vector<netmove::VxlanMove> moves) {
    moves_ = std::move(moves);
    for (auto& vtep : vteps_) {
        if (vtep.begun) continue;
        vtep.told.reset();
        vtep.wanted.reset();
        begin(vtep);
    }
}

void Vteps::begin(Vtep& vtep) {
    vtep.begun = true;
    tasks_.spawn(vtep.channel->keep(stop_.get_token()));
    tasks_.spawn(keep_told(vtep));
}

void Vteps::repoint_fdb(machine::Side to) {
    for (auto& vtep : vteps_) {
        if (vtep.wanted != to && vtep.asking != nullptr) vtep.asking->request_stop();
        vtep.wanted = to;
        vtep.wanted_changed.set();
    }
}

/// An earlier request that was replaced reaches the VTEP before the current one: one stream,
/// answered in order.
Task<void> Vteps::keep_told(Vtep& vtep) {
    auto const token = stop_.get_token();
    while (!token.stop_requested()) {
        if (vtep.told == vtep.wanted) {
            vtep.wanted_changed.reset();
            if (!co_await vtep.wanted_changed.wait(Deadline::never(token))) break;
            continue;
        }
        auto const to = *vtep.wanted;
        core::LinkedStop asking(token);
        vtep.asking = &asking;
        vtep.told.reset();
        auto const told =
            co_await tell(vtep, to, Deadline::after(limits::vtep_answer_timeout, asking.token()));
        vtep.asking = nullptr;
        if (told) {
            vtep.told = to;
            vtep.repointed_at = core::Clock::now();
            vtep.error.clear();
            progress_.set();
        } else if (to == vtep.wanted && !token.stop_requested()) {
            vtep.error = told.error().sentence();
            core::log::warning("vtep={} is not repointed yet: {}", vtep.host, vtep.error);
            (void)co_await core::sleep_for(loop_, limits::retry_pause_min, token);
        }
    }
}

Task<Result<>> Vteps::tell(Vtep& vtep, machine::Side to, Deadline deadline) {
    CO_TRY_VOID(co_await vtep.channel->reached(deadline));
    auto const owner =
        to == machine::Side::source ? protocol::Owner::source : protocol::Owner::destination;
    CO_TRY(auto const answer,
           co_await vtep.channel->request(protocol::VtepRepointFdb{moves_, owner}, deadline));
    vtep.changed = answer.changed;
    co_return Result<>{};
}

bool Vteps::repointed() const {
    for (auto const& vtep : vteps_) {
        if (vtep.told != vtep.wanted) return false;
    }
    return true;
}

std::optional<core::Clock::time_point> Vteps::repointed_at() const {
    std::optional<core::Clock::time_point> last;
    for (auto const& vtep : vteps_) {
        if (vtep.repointed_at && (!last || *vtep.repointed_at > *last)) last = vtep.repointed_at;
    }
    return last;
}

Task<Result<>> Vteps::wait_repointed(Deadline deadline) {
    while (!repointed()) {
        progress_.reset();
        if (co_await progress_.wait(deadline)) continue;
        std::string silent;
        for (auto const& vtep : vteps_) {
            if (vtep.told != vtep.wanted) silent += (silent.empty() ? "" : ", ") + vtep.host;
        }
        co_return fail(Errc::timed_out, "these VTEPs are not repointed yet: {}", silent);
    }
    co_return Result<>{};
}

Task<void> Vteps::end() {
    stop_.request_stop();
    co_await tasks_.join();
}

Json Vteps::report(std::optional<core::Clock::time_point> since) const {
    Json list = Json::array();
    for (auto const& vtep : vteps_) {
        auto one = Json::object(
            {{"vtep", vtep.host}, {"devices", vtep.devices}, {"changed", vtep.changed}});
        if (vtep.repointed_at && since) {
            std::chrono::duration<double, std::milli> const after = *vtep.repointed_at - *since;
            one.set("repointed_ms", after.count());
        }
        if (vtep.told != vtep.wanted && !vtep.error.empty()) one.set("error", vtep.error);
        list.add(one);
    }
    return list;
}

std::vector<std::string> Vteps::lines() const {
    std::vector<std::string> out;
    for (auto const& vtep : vteps_) {
        out.push_back(fmt::format(
            "VTEP {}: reached, authenticated, {}", vtep.host,
            vtep.devices.empty() ? "is one of the two hosts" : "ready with " + vtep.devices));
    }
    return out;
}

}  // namespace sidecar
