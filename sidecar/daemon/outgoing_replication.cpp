#include "sidecar/daemon/outgoing_replication.hpp"

#include <unistd.h>

#include "core/log.hpp"
#include "sidecar/host/limits.hpp"

namespace sidecar {

using core::Deadline;
using core::Errc;
using core::fail;
using core::Json;
using core::Result;
using core::Task;

Task<Result<protocol::ReplicateAnswer>> OutgoingReplication::begin(ReplicationSettings settings) {
    if (replication_) {
        co_return fail(Errc::refused,
                       "{} is being replicated already: `sidecar replicate {} --stop` ends that",
                       context_.name, context_.name);
    }
    auto& guest = *context_.guest;
    if (!guest.client->open()) {
        CO_TRY_VOID(co_await guest.reconnect(Deadline::after(limits::qmp_timeout)));
    }
    auto const begun = std::make_shared<ReplicationSource>(guest, settings, false);
    replication_ = begun;
    rounds_.spawn(begun->run());
    auto& enough = settings.once ? begun->ended() : begun->begun();
    CO_TRY_VOID(co_await enough.wait(Deadline::never(context_.stop.get_token())));
    if (replication_ != begun) co_return fail(Errc::cancelled, "the replication was ended");
    protocol::ReplicateAnswer answer{begun->freezing(), {}};
    Result<> done;
    if (begun->failure()) done = std::unexpected(*begun->failure());
    if (done && settings.once) answer.point = begun->last_point();
    if (done && settings.hand_over) done = co_await hand_over();
    if (!done || settings.once) (void)co_await end(false);
    if (!done) co_return std::unexpected(done.error());
    co_return answer;
}

/// Ends the guest's QEMU. That must not end the session before the destination knows.
Task<Result<>> OutgoingReplication::hand_over() {
    handing_over_ = true;
    auto const done = co_await hand_over_steps();
    if (moved_away_) {
        auto const late = co_await context_.ownership.departed(
            {{.id = "", .address = replication_->status()["destination"].text_or("")},
             replication_->migration_id(),
             registry::State::handed_over,
             {}});
        if (!late.empty()) core::log::warning("guest={} {}", context_.name, late);
    }
    handing_over_ = false;
    handed_over_.set();
    co_return done;
}

Task<Result<>> OutgoingReplication::hand_over_steps() {
    CO_TRY_VOID(co_await replication_->end_guest());
    CO_TRY_VOID(replication_->set_images_aside());
    moved_away_ = true;
    auto const to = replication_->status()["destination"].text_or("");
    auto const recorded = context_.journal->record(
        {replication_->migration_id(),
         SourceEntry{SourceEntry::Record::ended, SourceEntry::Outcome::moved, to}});
    if (!recorded) core::log::warning("guest={} {}", context_.name, recorded.error().sentence());
    auto const told = co_await replication_->tell_handed_over();
    if (told) co_return Result<>{};
    co_return fail(Errc::closed,
                   "{} is handed over, and its images here are IMAGE.moved-{}, but {} could "
                   "not be notified ({}): start it there with `sidecar failover {} "
                   "--i-have-fenced`",
                   context_.name, replication_->migration_id(), to, told.error().sentence(),
                   context_.name);
}

Result<> OutgoingReplication::check_active() const {
    if (replication_) return {};
    return fail(Errc::refused, "{} is not being replicated", context_.name);
}

Task<Result<>> OutgoingReplication::end(bool forget) {
    CO_TRY_VOID(check_active());
    if (handing_over_) {
        co_return fail(Errc::refused, "a hand-over of {} is under way", context_.name);
    }
    replication_->stop();
    co_await rounds_.join();
    CO_TRY_VOID(check_active());  // another command may have ended it meanwhile
    auto const ending = std::move(replication_);
    CO_TRY_VOID(co_await ending->drop());
    thaw_what_is_left();
    ReplicationSource::forget_record(context_.paths, context_.name);
    if (forget) CO_TRY_VOID(co_await ending->forget_copy());
    co_return Result<>{};
}

Task<void> OutgoingReplication::stop() {
    if (!replication_) co_return;
    co_await wait_handed_over(Deadline::never());  // each of its steps is bounded
    if (!replication_) co_return;
    replication_->stop();
    co_await rounds_.join();
    if (!replication_) co_return;
    if (auto const dropped = co_await replication_->drop(); !dropped) {
        core::log::warning("guest={} {}", context_.name, dropped.error().sentence());
    }
    replication_.reset();
    if (!context_.guest || !context_.guest->process.running()) {
        ReplicationSource::forget_record(context_.paths, context_.name);
    }
}

Task<void> OutgoingReplication::wait_handed_over(Deadline deadline) {
    if (handing_over_) (void)co_await handed_over_.wait(std::move(deadline));
}

Task<void> OutgoingReplication::take_over() {
    auto const settings = co_await ReplicationSource::take_over(*context_.guest);
    if (!settings) {
        core::log::error("guest={} cannot continue with its replication: {}", context_.name,
                         settings.error().sentence());
    }
    if (!settings || !*settings) co_return;
    if ((*settings)->once) {  // its command was told that it failed
        ReplicationSource::forget_record(context_.paths, context_.name);
        co_return;
    }
    core::log::warning("guest={} continues with the replication to {}", context_.name,
                       (*settings)->destination);
    replication_ = std::make_shared<ReplicationSource>(*context_.guest, **settings, true);
    rounds_.spawn(replication_->run());
}

/// Repeats until the agent has answered: a frozen guest hangs at its next write.
void OutgoingReplication::thaw_what_is_left() {
    bool const left = access(context_.paths.frozen_mark(context_.name).c_str(), F_OK) == 0;
    if (!left || thawing_) return;
    thawing_ = true;
    thawing_tasks_.spawn(keep_thawing());
}

Task<void> OutgoingReplication::keep_thawing() {
    auto const token = context_.stop.get_token();
    while (!token.stop_requested()) {
        auto const thawed = co_await thaw_left(context_.loop, context_.paths, context_.name,
                                               Deadline::after(limits::agent_timeout, token));
        if (thawed) break;
        core::log::error("{}", thawed.error().sentence());
        (void)co_await core::sleep_for(context_.loop, limits::agent_thaw_interval, token);
    }
    thawing_ = false;
}

void OutgoingReplication::add_status(Json& now) const {
    if (replication_) now.set("replicate", replication_->status());
}

}  // namespace sidecar
