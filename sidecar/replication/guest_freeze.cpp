#include "sidecar/replication/guest_freeze.hpp"

#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "core/log.hpp"
#include "qmp/guest_agent.hpp"
#include "qmp/wire.hpp"
#include "sidecar/host/limits.hpp"
#include "sidecar/host/test_hooks.hpp"

namespace sidecar {

using core::Deadline;
using core::Errc;
using core::fail;
using core::fail_errno;
using core::Result;
using core::Task;

namespace {

bool is_marked(Paths const& paths, std::string const& guest) {
    return access(paths.frozen_mark(guest).c_str(), F_OK) == 0;
}

Result<> remove_mark(Paths const& paths, std::string const& guest) {
    auto const path = paths.frozen_mark(guest);
    if (unlink(path.c_str()) == 0 || errno == ENOENT) return {};
    return fail_errno(errno, "cannot remove {}", path);
}

/// Thaws through a new connection. Returns the number of file systems that were thawed.
Task<Result<std::int64_t>> thaw_by(core::Loop& loop, std::string socket, Deadline deadline) {
    CO_TRY(auto const agent, co_await qmp::GuestAgent::connect(loop, socket, deadline));
    co_return co_await agent->thaw(deadline);
}

}  // namespace

std::string Consistency::text() const {
    if (kind == Kind::off) return "of a guest that was off";
    return fmt::format("{}-consistent{}", protocol::name(kind),
                       why.empty() ? "" : ", because " + why);
}

Consistency Consistency::from(Kind kind, std::string why) {
    if (kind != Kind::crash) return {kind, ""};
    std::erase_if(why, [](char c) { return c < ' ' || c > '~'; });
    why.resize(std::min(why.size(), limits::consistency_reason_bytes_max));
    return {kind, std::move(why)};
}

Consistency Consistency::from_json(core::Json const& point) {
    auto const kind = protocol::consistency_kind_from(point["consistency"].text_or(""));
    return from(kind.value_or(Kind::crash), point["why"].text_or(""));
}

Task<Result<>> thaw_left(core::Loop& loop, Paths paths, std::string guest, Deadline deadline) {
    if (!is_marked(paths, guest)) co_return Result<>{};
    CO_TRY(auto const socket, read_file(paths.frozen_mark(guest), limits::manifest_bytes_max));
    // Held until the mark is gone: no later user of the agent can set a new mark in between.
    auto const agent = co_await qmp::GuestAgent::connect(loop, socket, deadline);
    auto const thawed = agent ? co_await (*agent)->thaw(deadline)
                              : Result<std::int64_t>(std::unexpected(agent.error()));
    if (!thawed) {
        co_return fail(thawed.error().code,
                       "the file systems of {} may be frozen, and could not be thawed: {}", guest,
                       thawed.error().sentence());
    }
    core::log::warning("guest={} {} file systems that a replication had left frozen were thawed",
                       guest, *thawed);
    co_return remove_mark(paths, guest);
}

struct GuestFreeze::Conversation {
    std::unique_ptr<qmp::GuestAgent> agent;
    std::int64_t frozen = -1;  ///< File systems; -1: the freeze was not answered, or refused.
    bool refused = false;  ///< The agent refused, and has thawed what it had frozen.
};

GuestFreeze::GuestFreeze(Guest& guest, std::string agent_socket, std::string why_none)
    : guest_(guest), socket_(std::move(agent_socket)), why_none_(std::move(why_none)) {}

GuestFreeze::~GuestFreeze() = default;

bool GuestFreeze::owes_thaw() const { return is_marked(guest_.paths, guest_.name); }

Result<> GuestFreeze::start_watch() {
    if (watchdog_ && watchdog_->running()) return {};
    TRY(watchdog_, Watchdog::start_thawing(guest_.paths, guest_.name));
    return {};
}

Task<Result<>> GuestFreeze::freeze(Deadline deadline) {
    auto const patience = deadline.sooner(limits::agent_timeout);
    CO_TRY_VOID(co_await thaw_left(guest_.loop, guest_.paths, guest_.name, patience));
    auto talk = std::make_unique<Conversation>();
    CO_TRY(talk->agent, co_await qmp::GuestAgent::connect(guest_.loop, socket_, patience));
    CO_TRY(bool const frozen, co_await talk->agent->frozen(patience));
    if (frozen) {
        co_return fail(Errc::refused,
                       "its file systems are frozen already, by another program, which may thaw "
                       "them at any moment");
    }
    CO_TRY_VOID(start_watch());
    CO_TRY_VOID(write_replacing(guest_.paths.frozen_mark(guest_.name), socket_));
    talk_ = std::move(talk);
    watchdog_->stopped(limits::agent_watchdog_limit);
    auto const count = co_await talk_->agent->freeze(deadline.sooner(limits::agent_freeze_timeout));
    stop_for_test("frozen");
    talk_->refused = !count && count.error().code == Errc::refused;
    if (!count) co_return std::unexpected(count.error());
    talk_->frozen = *count;
    if (*count > 0) co_return Result<>{};
    co_return fail(Errc::refused, "the guest agent found no file system to freeze");
}

Task<void> GuestFreeze::hold(Deadline deadline) {
    last_ = excuse_.value_or(Consistency{Consistency::Kind::crash, why_none_});
    if (excuse_ || socket_.empty()) co_return;
    auto const frozen = co_await freeze(std::move(deadline));
    last_ = frozen ? Consistency{Consistency::Kind::filesystem, ""}
                   : Consistency::from(Consistency::Kind::crash, frozen.error().sentence());
}

/// Uses the connection of the freeze, which an agent that is only slow reads first. If that
/// connection is lost, it uses new ones.
Task<Result<std::int64_t>> GuestFreeze::thaw(Deadline deadline) {
    auto thawed = co_await talk_->agent->thaw(deadline.sooner(limits::agent_timeout));
    bool const refused = talk_->refused;
    talk_.reset();  // otherwise nothing else, not even the watchdog, could use the agent
    while (!thawed && !refused && !deadline.passed() && guest_.process.running()) {
        (void)co_await core::sleep_for(guest_.loop, limits::retry_pause_min);
        thawed = co_await thaw_by(guest_.loop, socket_, deadline.sooner(limits::agent_timeout));
    }
    co_return thawed;
}

Task<void> GuestFreeze::release() {
    if (!talk_) co_return;
    auto const frozen = talk_->frozen;
    bool const refused = talk_->refused;
    auto const thawed = co_await thaw(Deadline::after(limits::agent_thaw_patience));
    watchdog_->released();
    if (!thawed && !refused && guest_.process.running()) {
        last_ = Consistency::from(
            Consistency::Kind::crash,
            "the guest agent did not answer the thaw: " + thawed.error().sentence());
        core::log::error("guest={} its file systems may still be frozen: {}; trying again",
                         guest_.name, thawed.error().sentence());
        co_return;
    }
    if (auto const removed = remove_mark(guest_.paths, guest_.name); !removed) {
        core::log::warning("guest={} {}", guest_.name, removed.error().sentence());
    }
    // qemu-ga-ref(7): otherwise some were thawed earlier, and may have been written to.
    if (last_.kind == Consistency::Kind::filesystem && thawed.value_or(-1) != frozen) {
        last_ = {Consistency::Kind::crash,
                 fmt::format("{} of its file systems were frozen, and {} still were when "
                             "they were thawed",
                             frozen, thawed.value_or(0))};
    }
}

Task<void> GuestFreeze::thaw_again() {
    auto const thawed = co_await thaw_left(guest_.loop, guest_.paths, guest_.name,
                                           Deadline::after(limits::agent_timeout));
    if (!thawed) core::log::error("{}", thawed.error().sentence());
}

Task<void> GuestFreeze::end() {
    if (!watchdog_) co_return;
    auto const watchdog = std::move(watchdog_);
    // If we could not thaw, the watchdog keeps trying: it starts when its pipe ends.
    if (!owes_thaw()) co_await watchdog->end(guest_.loop);
}

}  // namespace sidecar
