#include "sidecar/daemon/incoming_side.hpp"

#include "core/log.hpp"

namespace sidecar {

using core::Deadline;
using core::Errc;
using core::fail;
using core::Json;
using core::Result;
using core::Task;

namespace {

/// How long a source that asks how an aborted migration ended may keep its connection.
constexpr auto last_question_timeout = std::chrono::seconds(30);

}  // namespace

Result<> IncomingSide::accept(Connection& from, protocol::Peer const& peer) {
    switch (peer.role) {
        case protocol::Role::source:
            return accept_migration(from, peer);
        case protocol::Role::replication_source:
            return accept_replication(from, peer.migration_id);
        case protocol::Role::command:
        case protocol::Role::vtep_source:
        case protocol::Role::anchor_source:
        case protocol::Role::local:
        case protocol::Role::destination:
        case protocol::Role::sidecar:
            break;
    }
    return fail(Errc::protocol, "a {} may not send requests to a guest's sidecar",
                protocol::name(peer.role));
}

Result<> IncomingSide::check_no_guest() const {
    if (!context_.guest) return {};
    return fail(Errc::refused, "a guest named {} runs here already", context_.name);
}

Result<> IncomingSide::accept_migration(Connection& from, protocol::Peer const& peer) {
    if (replication_target_) return fail(Errc::closed, "a round of a replication is ending");
    if (destination_ && destination_->migration_id() != peer.migration_id) {
        TRY_VOID(check_no_guest());
        destination_->abandon();
        return fail(Errc::closed, "another migration of {} into this host is ending",
                    context_.name);
    }
    if (!destination_) {
        TRY_VOID(check_no_guest());
        auto const& last = context_.journal->last();
        if (last.must_be_ended_first() && last.migration_id != peer.migration_id) {
            return fail(
                Errc::refused,
                "an earlier migration of {} (migration_id {}) is not ended on this host: its "
                "record is `{}`",
                context_.name, last.migration_id, last.record_name());
        }
        begin(peer.migration_id);
    }
    from.accept(protocol::Role::source);
    destination_->peer_attached();
    core::log::info("guest={} migration_id={} peer={} state=attached", context_.name,
                    peer.migration_id, peer.from);
    return {};
}

Result<> IncomingSide::accept_replication(Connection& from, std::string migration_id) {
    if (replication_target_) return fail(Errc::closed, "another round of a replication is ending");
    auto const& last = context_.journal->last();
    if (context_.guest && last.failed_over()) {
        return fail(Errc::refused,
                    "{} was failed over to this host, and runs here: its old source must not run "
                    "it any more",
                    context_.name);
    }
    TRY_VOID(check_no_guest());
    if (destination_) {
        return fail(Errc::refused, "a migration of {} into this host is under way", context_.name);
    }
    if (last.must_be_ended_first()) {
        return fail(
            Errc::refused,
            "a migration of {} (migration_id {}) is not ended on this host: its record is `{}`",
            context_.name, last.migration_id, last.record_name());
    }
    replication_target_ = std::make_unique<ReplicationTarget>(
        context_.loop, context_.paths, context_.name, std::move(migration_id), *context_.journal,
        context_.options.serve);
    from.accept(protocol::Role::replication_source);
    return {};
}

Task<Result<protocol::Packed>> IncomingSide::answer_source(protocol::Call call) {
    if (!destination_) co_return fail(Errc::closed, "no migration into this host is under way");
    CO_TRY(auto request, protocol::parse<protocol::FromSource>(std::move(call)));
    co_return co_await destination_->handle(std::move(request));
}

Task<Result<protocol::Packed>> IncomingSide::answer_replication_source(protocol::Call call) {
    if (!replication_target_) co_return fail(Errc::closed, "the round is over");
    CO_TRY(auto request, protocol::parse<protocol::FromReplicationSource>(std::move(call)));
    co_return co_await replication_target_->handle(std::move(request));
}

Task<void> IncomingSide::detached(protocol::Role who) {
    if (who == protocol::Role::replication_source && replication_target_) {
        co_await replication_target_->end();
        replication_target_.reset();
        context_.leave("the round of the replication is over");
    }
    if (who != protocol::Role::source || !destination_) co_return;
    destination_->peer_detached();
    if (destination_->untouched()) context_.leave("the source asked for nothing");
}

void IncomingSide::take_over(std::string migration_id) {
    core::log::warning(
        "guest={} migration_id={} ending a migration into this host that was left in `owner`",
        context_.name, migration_id);
    begin(std::move(migration_id));
}

void IncomingSide::begin(std::string migration_id) {
    destination_ = std::make_unique<DestinationMigration>(
        context_.loop, context_.paths, context_.name, std::move(migration_id), *context_.journal,
        context_.options.serve);
    tasks_.spawn(run());
}

Task<void> IncomingSide::run() {
    core::TaskGroup driver(context_.loop);
    driver.spawn(destination_->run(stop_.get_token()));
    auto const finished =
        co_await destination_->finished().wait(Deadline::never(stop_.get_token()));
    if (finished && destination_->owns_guest()) {
        auto const& description = destination_->description();
        context_.ownership.arrived(description.owner, destination_->migration_id(),
                                   description.addresses());
        if (auto guest = destination_->take_guest()) arrived_(std::move(guest));
        if (!context_.guest) context_.leave("QEMU of the moved guest has ended");
    } else if (finished) {
        // The source may be asking now how it ended; it hangs up when it knows.
        (void)co_await destination_->no_peer().wait(
            Deadline::after(last_question_timeout, stop_.get_token()));
        context_.leave("the incoming migration was given up");
    }
    co_await driver.join();
}

Result<> IncomingSide::release() {
    TRY_VOID(check_no_guest());
    if (destination_) {
        return fail(Errc::refused, "a migration of {} into this host is under way", context_.name);
    }
    if (replication_target_) replication_target_->stop();
    return {};
}

Task<void> IncomingSide::end_migration() {
    stop_.request_stop();
    co_await tasks_.join();
    destination_.reset();
    stop_ = std::stop_source();
}

void IncomingSide::add_copy_status(Json& now) const {
    auto const copy = destination_ ? Json() : copy_status();
    now.set("status", copy.is_null() ? "incoming" : "copy");
    if (!copy.is_null()) now.set("copy", copy);
}

/// The copy of the guest on this host; null: there is none. From the record, whatever the state
/// of a round.
Json IncomingSide::copy_status() const {
    auto const record = ReplicaRecord::read(context_.paths, context_.name);
    if (!record || !*record) return {};
    auto now = (*record)->status();
    now.set("round_under_way", replication_target_ && replication_target_->round_under_way());
    return now;
}

}  // namespace sidecar
