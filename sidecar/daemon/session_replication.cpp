// The part of a guest's sidecar that handles replications. It begins and ends one at the source,
// receives the rounds of one from another host, and starts the guest from such a copy.
#include <unistd.h>

#include "core/log.hpp"
#include "sidecar/daemon/session.hpp"
#include "sidecar/replication/failover.hpp"

namespace sidecar {

using core::Deadline;
using core::Errc;
using core::fail;
using core::Json;
using core::Result;
using core::Task;

Task<Result<protocol::Nothing>> Session::on(Connection&, protocol::ReplicateStop stop) {
    CO_TRY_VOID(co_await end_replication(stop.forget));
    co_return protocol::Nothing{};
}

Task<Result<protocol::ReplicateAnswer>> Session::on(Connection&, protocol::Replicate replicate) {
    auto const& settings = replicate.settings;
    if (!guest_ || !guest_->client) co_return fail(Errc::refused, "QEMU of {} has ended", name_);
    if (migrating_) co_return fail(Errc::refused, "a migration of {} is under way", name_);
    if (replication_) {
        co_return fail(Errc::refused,
                       "{} is being replicated already: `sidecar replicate {} --stop` ends that",
                       name_, name_);
    }
    if (!guest_->client->open()) {
        CO_TRY_VOID(co_await guest_->reconnect(Deadline::after(limits::qmp_timeout)));
    }
    auto const begun = std::make_shared<ReplicationSource>(*guest_, settings, false);
    replication_ = begun;
    replication_tasks_.spawn(begun->run());
    auto& enough = settings.once ? begun->ended() : begun->begun();
    CO_TRY_VOID(co_await enough.wait(Deadline::never(stop_.get_token())));
    if (replication_ != begun) co_return fail(Errc::cancelled, "the replication was ended");
    protocol::ReplicateAnswer answer{begun->freezing(), {}};
    Result<> done;
    if (begun->failure()) done = std::unexpected(*begun->failure());
    if (done && settings.once) answer.point = begun->last_point();
    if (done && settings.hand_over) done = co_await hand_over();
    if (!done || settings.once) (void)co_await end_replication(false);
    if (!done) co_return std::unexpected(done.error());
    co_return answer;
}

/// Ends the guest's QEMU. That must not end this session before the destination knows.
Task<Result<>> Session::hand_over() {
    handing_over_ = true;
    auto done = co_await replication_->end_guest();
    if (done) done = replication_->set_images_aside();
    if (done) {
        moved_away_ = true;
        auto const to = replication_->status()["destination"].text_or("");
        done = journal_->record(
            {replication_->migration_id(),
             SourceEntry{SourceEntry::Record::ended, SourceEntry::Outcome::moved, to}});
        if (!done) core::log::warning("guest={} {}", name_, done.error().sentence());
        done = co_await replication_->tell_handed_over();
        if (!done) {
            done = fail(Errc::closed,
                        "{} is handed over, and its images here are IMAGE.moved-{}, but {} could "
                        "not be told so ({}): start it there with `sidecar failover {} "
                        "--i-have-fenced`",
                        name_, replication_->migration_id(), to, done.error().sentence(), name_);
        }
    }
    if (moved_away_) {
        auto const late = co_await ownership_.departed(
            {{.id = "", .address = replication_->status()["destination"].text_or("")},
             replication_->migration_id(),
             registry::State::handed_over,
             {}});
        if (!late.empty()) core::log::warning("guest={} {}", name_, late);
    }
    handing_over_ = false;
    handed_over_.set();
    co_return done;
}

Task<Result<>> Session::end_replication(bool forget) {
    if (!replication_) co_return fail(Errc::refused, "{} is not being replicated", name_);
    if (handing_over_) co_return fail(Errc::refused, "{} is just being handed over", name_);
    replication_->stop();
    co_await replication_tasks_.join();
    if (!replication_) co_return fail(Errc::refused, "{} is not being replicated", name_);
    auto const ending = std::move(replication_);
    CO_TRY_VOID(co_await ending->drop());
    thaw_what_is_left();
    ReplicationSource::forget_record(paths_, name_);
    if (forget) CO_TRY_VOID(co_await ending->forget_copy());
    co_return Result<>{};
}

/// The session ends. The record stays as long as QEMU: a later sidecar continues.
Task<void> Session::stop_replication() {
    if (!replication_) co_return;
    if (handing_over_) (void)co_await handed_over_.wait(Deadline::never());  // each step is bounded
    if (!replication_) co_return;
    replication_->stop();
    co_await replication_tasks_.join();
    if (!replication_) co_return;
    if (auto const dropped = co_await replication_->drop(); !dropped) {
        core::log::warning("guest={} {}", name_, dropped.error().sentence());
    }
    replication_.reset();
    if (!guest_ || !guest_->process.running()) ReplicationSource::forget_record(paths_, name_);
}

/// Repeats until the agent has answered: a frozen guest hangs at its next write.
void Session::thaw_what_is_left() {
    bool const left = access(paths_.frozen_mark(name_).c_str(), F_OK) == 0;
    if (!left || thawing_) return;
    thawing_ = true;
    tasks_.spawn(keep_thawing());
}

Task<void> Session::keep_thawing() {
    while (!stop_.stop_requested()) {
        auto const thawed = co_await thaw_left(
            loop_, paths_, name_, Deadline::after(limits::agent_timeout, stop_.get_token()));
        if (thawed) break;
        core::log::error("{}", thawed.error().sentence());
        (void)co_await core::sleep_for(loop_, limits::agent_thaw_interval, stop_.get_token());
    }
    thawing_ = false;
}

/// After `attach`: removes what an earlier sidecar's replication left in QEMU, and continues
/// that replication. If that is not possible, the guest is kept, and its next replication
/// clears the rest.
Task<void> Session::take_over_replication() {
    auto const settings = co_await ReplicationSource::take_over(*guest_);
    if (!settings) {
        core::log::error("guest={} cannot go on with its replication: {}", name_,
                         settings.error().sentence());
    }
    if (!settings || !*settings) co_return;
    if ((*settings)->once) {  // its command was told that it failed
        ReplicationSource::forget_record(paths_, name_);
        co_return;
    }
    core::log::warning("guest={} going on with the replication to {}", name_,
                       (*settings)->destination);
    replication_ = std::make_shared<ReplicationSource>(*guest_, **settings, true);
    replication_tasks_.spawn(replication_->run());
}

Result<> Session::accept_replication(Connection& from, std::string migration_id) {
    if (replication_target_)
        return fail(Errc::closed, "another round of a replication is just ending");
    auto const& last = journal_->last();
    if (guest_ && last.failed_over()) {
        return fail(Errc::refused,
                    "{} was failed over to this host, and runs here: its old source must not run "
                    "it any more",
                    name_);
    }
    if (guest_) return fail(Errc::refused, "a guest named {} runs here already", name_);
    if (destination_) return fail(Errc::refused, "{} is just being migrated to this host", name_);
    if (last.must_be_ended_first()) {
        return fail(
            Errc::refused,
            "a migration of {} (migration_id {}) is not ended on this host: its record is `{}`",
            name_, last.migration_id, last.record_name());
    }
    replication_target_ = std::make_unique<ReplicationTarget>(
        loop_, paths_, name_, std::move(migration_id), *journal_, options_.serve);
    from.accept(protocol::Role::replication_source);
    return {};
}

/// A `failover` needs this guest: a round from its source ends, in whatever state it is.
Task<Result<protocol::Nothing>> Session::on(Connection&, protocol::Release) {
    if (guest_) co_return fail(Errc::refused, "a guest named {} runs here already", name_);
    if (destination_) {
        co_return fail(Errc::refused, "{} is just being migrated to this host", name_);
    }
    if (replication_target_) replication_target_->stop();
    leave("a failover of the guest begins");
    co_return protocol::Nothing{};
}

/// The copy of the guest on this host; null: there is none. From the record, whatever the state
/// of a round.
Json Session::copy_status() const {
    auto const record = ReplicaRecord::read(paths_, name_);
    if (!record || !*record) return {};
    auto now = (*record)->status();
    now.set("round_under_way", replication_target_ && replication_target_->round_under_way());
    return now;
}

Task<Result<>> Session::ask_replica_to_leave() {
    auto const deadline = Deadline::after(limits::qmp_timeout);
    auto socket = co_await core::connect_unix(loop_, paths_.control_socket(name_), deadline);
    if (!socket) co_return Result<>{};  // no sidecar is there
    Messages messages(core::plain_stream(loop_, std::move(*socket), name_));
    auto const left = co_await messages.ask(protocol::Release{}, deadline);
    if (!left && left.error().code == Errc::refused) co_return std::unexpected(left.error());
    co_return Result<>{};
}

Task<Result<>> Session::failover(std::stop_token terminate) {
    auto const copy = ReplicaRecord::read(paths_, name_);
    bool const given = copy && *copy && (*copy)->handed_over != 0;
    if (!options_.fenced && !given) {
        co_return fail(Errc::invalid,
                       "only with --i-have-fenced: if the old host of {} still runs it, or can "
                       "start it again, two copies would run. Switch that host off, or cut its "
                       "power or its network, and then say so",
                       name_);
    }
    CO_TRY_VOID(co_await ask_replica_to_leave());
    // The sidecar may be starting or ending a QEMU for its round.
    auto const until = Deadline::after(limits::prepare_timeout);
    auto opened = co_await wait_for_journal();
    while (!opened && opened.error().code == Errc::refused && !until.passed()) {
        opened = co_await wait_for_journal();
    }
    CO_TRY_VOID(opened);
    registry::Claim claim{.fenced = options_.fenced};
    if (copy && *copy) {
        claim.addresses = (*copy)->description.addresses();
        claim.migration_id = (*copy)->replication_id;
        claim.source = (*copy)->description.owner;
    }
    CO_TRY_VOID(co_await ownership_.claim(std::move(claim)));
    auto guest =
        co_await fail_over(loop_, paths_, name_, *journal_, options_.previous, announcing_);
    if (!guest) co_return std::unexpected(std::move(guest.error()));
    stay_with(std::move(*guest));
    tasks_.spawn(settle_network());
    auto const listening = listen();
    if (!listening) leave("it could not begin");
    auto const stayed = co_await stay(terminate);
    co_return listening ? stayed : listening;
}

Task<void> Session::settle_network() {
    auto const settled =
        co_await announcing_.settle(Deadline::after(limits::prepare_timeout, stop_.get_token()));
    if (!settled) {
        core::log::warning("guest={} announcing again failed: {}", name_,
                           settled.error().sentence());
    }
}

}  // namespace sidecar
