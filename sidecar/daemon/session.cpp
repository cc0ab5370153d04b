#include "sidecar/daemon/session.hpp"

#include <sys/socket.h>
#include <unistd.h>

#include <filesystem>

#include "core/log.hpp"
#include "core/notify.hpp"
#include "qmp/vm.hpp"
#include "sidecar/migration/migration_record.hpp"
#include "sidecar/migration/source_images.hpp"

namespace sidecar {

using core::Deadline;
using core::Errc;
using core::fail;
using core::Json;
using core::Result;
using core::Task;

namespace {

/// How long an `incoming` waits for the source for which it was started.
constexpr auto first_peer_timeout = std::chrono::seconds(30);
/// When the session ends, the peers have so long to read answers that are under way.
constexpr auto last_answers_timeout = std::chrono::seconds(2);
/// How long a source that asks how an aborted migration ended may keep its connection.
constexpr auto last_question_timeout = std::chrono::seconds(30);
/// The journal of a guest that is just leaving is released within milliseconds.
constexpr int journal_tries_max = 50;
/// Commands and peers connected at the same time.
constexpr std::size_t connections_max = 64;

/// Only root and our own user may use the control socket; its mode says the same.
bool allowed(int socket) {
    ucred peer{};
    socklen_t length = sizeof peer;
    if (getsockopt(socket, SOL_SOCKET, SO_PEERCRED, &peer, &length) < 0) return false;
    return peer.uid == 0 || peer.uid == geteuid();
}

}  // namespace

Session::Session(core::Loop& loop, SessionSettings options)
    : loop_(loop),
      options_(std::move(options)),
      paths_(options_.paths),
      name_(options_.guest),
      replication_tasks_(loop),
      quiet_(loop),
      over_(loop),
      handed_over_(loop),
      ownership_(loop, paths_, name_),
      tasks_(loop),
      incoming_tasks_(loop) {
    quiet_.set();
}

Session::~Session() = default;

Result<> Session::open_journal() {
    TRY(journal_, Journal::open(paths_.state(name_)));
    return {};
}

Task<Result<>> Session::wait_for_journal() {
    Result<> opened;
    for (int attempt = 0; attempt < journal_tries_max; ++attempt) {
        opened = open_journal();
        if (opened || opened.error().code != Errc::refused) co_return opened;
        (void)co_await core::sleep_for(loop_, limits::retry_pause_min * 2);
    }
    co_return opened;
}

Result<> Session::listen() {
    TRY_VOID(make_directory(paths_.run(name_)));
    TRY(listener_, core::listen_unix(paths_.control_socket(name_), 0600));
    tasks_.spawn(accept_connections());
    return {};
}

/// Checks the journal and the images' names: may a QEMU be started for this guest?
Result<> Session::check_may_run() {
    auto const& last = journal_->last();
    auto const* left = last.source();
    using Record = SourceEntry::Record;
    if (left != nullptr && left->record == Record::committed) {
        return fail(Errc::refused,
                    "a migration of {} to {} (migration_id {}) is in doubt: the guest may run "
                    "there; ask that host, then `sidecar resolve`",
                    name_, left->peer, last.migration_id);
    }
    if (last.moved_away() && !options_.run.new_guest) {
        return fail(Errc::refused,
                    "{} moved to {} in migration {}, and its images here are IMAGE.moved-{}: start "
                    "it there, or bring it back with `sidecar migrate`. If the name is for another "
                    "guest now: `sidecar run --new-guest`",
                    name_, left->peer, last.migration_id, last.migration_id);
    }
    if (last.source_unfinished())
        TRY_VOID(restore_recorded_images(paths_, name_, last.migration_id));
    return check_no_stale_image(paths_, options_.run.qemu);
}

Task<Result<>> Session::run(std::stop_token terminate) {
    CO_TRY_VOID(open_journal());
    CO_TRY_VOID(check_may_run());
    CO_TRY_VOID(co_await ownership_.claim({.fenced = options_.fenced || options_.run.new_guest,
                                           .addresses = options_.run.addresses}));
    CO_TRY(auto guest, co_await Guest::launch(loop_, paths_, name_, options_.run));
    stay_with(std::move(guest));
    if (journal_->last().moved_away()) {  // --new-guest: the record is another guest's
        if (auto const recorded = journal_->record({}); !recorded)
            core::log::warning("guest={} {}", name_, recorded.error().sentence());
    }
    ReplicationSource::forget_record(paths_, name_);  // of an earlier QEMU
    CO_TRY_VOID(listen());
    co_return co_await stay(terminate);
}

Task<Result<>> Session::attach(std::stop_token terminate) {
    CO_TRY_VOID(co_await wait_for_journal());
    auto const last = journal_->last();
    bool const unfinished = last.source_unfinished();
    if (DestinationMigration::owned_unfinished(paths_, name_, last)) {
        co_return co_await take_over_incoming(last.migration_id, terminate);
    }
    auto guest = co_await Guest::attach(loop_, paths_, name_, options_.attach);
    // A migration that was left unfinished decides by its own records.
    auto const claimed = guest && !unfinished ? co_await claim_joined() : Result<>{};
    if (!claimed) {
        co_await (*guest)->close();
        co_return claimed;
    }
    if (guest) {
        stay_with(std::move(*guest));
    } else if (unfinished && guest.error().code == Errc::closed) {
        // QEMU has ended too; the migration in the journal must still be finished with
        // the other host.
        core::log::warning("guest={} {}", name_, guest.error().sentence());
        guest_ = std::make_unique<Guest>(loop_, paths_, name_, Guest::Prepared{});
    } else {
        co_return std::unexpected(guest.error());
    }
    auto listening = listen();
    if (listening && unfinished) {
        auto const record = MigrationRecord::read(paths_, name_);
        auto const settings = record ? MigrateOptions::from_json((*record)["options"])
                                     : std::unexpected(record.error());
        if (settings) {
            core::log::warning(
                "guest={} migration_id={} going on with a migration that was left in `{}`", name_,
                last.migration_id, last.record_name());
            source_ =
                std::make_shared<SourceMigration>(*guest_, *journal_, *settings, last.migration_id);
            tasks_.spawn(run_migration(*source_, nullptr, true));
        } else {
            listening = std::unexpected(settings.error());
        }
    }
    if (guest_->client) thaw_what_is_left();
    if (listening && !unfinished && guest_->client) co_await take_over_replication();
    if (!listening) leave("it could not begin");
    auto const stayed = co_await stay(terminate);
    co_return listening ? stayed : listening;
}

/// The guest came in and is owned here, but its sidecar was killed before it recorded the end. What
/// remains to be done needs no source.
Task<Result<>> Session::take_over_incoming(std::string migration_id, std::stop_token terminate) {
    core::log::warning(
        "guest={} migration_id={} ending a migration into this host that was left in `owner`",
        name_, migration_id);
    destination_ = std::make_unique<DestinationMigration>(loop_, paths_, name_, migration_id,
                                                          *journal_, options_.serve);
    incoming_tasks_.spawn(run_incoming());
    auto const listening = listen();
    if (!listening) leave("it could not begin");
    auto const stayed = co_await stay(terminate);
    co_return listening ? stayed : listening;
}

Task<Result<>> Session::incoming(std::stop_token terminate) {
    auto begun = co_await wait_for_journal();
    if (begun) begun = listen();
    std::string const word = begun ? "1" : begun.error().sentence();
    if (options_.ready_fd >= 0) {
        [[maybe_unused]] auto written = ::write(options_.ready_fd, word.data(), word.size());
        ::close(options_.ready_fd);
    }
    if (!begun) co_return begun;
    auto wait_for_peer = [](Session& session) -> Task<void> {
        auto const slept =
            co_await core::sleep_for(session.loop_, first_peer_timeout, session.stop_.get_token());
        bool const nobody =
            !session.destination_ && !session.replication_target_ && !session.guest_;
        if (slept && nobody) session.leave("no source came");
    };
    tasks_.spawn(wait_for_peer(*this));
    co_return co_await stay(terminate);
}

void Session::stay_with(std::unique_ptr<Guest> guest) {
    guest_ = std::move(guest);
    tasks_.spawn(guest_->watch(stop_.get_token()));
    tasks_.spawn(watch_qemu());
    tasks_.spawn(ownership_.keep_published(stop_.get_token()));
    core::log::info("guest={} qemu={} state=attached", name_, guest_->process.pid());
}

/// Waits for the end, then shuts down in order: no new connections, last answers, tasks.
Task<Result<>> Session::stay(std::stop_token terminate) {
    core::notify_ready();
    auto const waited = co_await over_.wait(Deadline::never(terminate));
    leaving_ = true;
    if (!waited)
        core::log::info("guest={} told to end; QEMU goes on: `sidecar attach {}` joins it again",
                        name_, name_);
    listener_.reset();
    ::unlink(paths_.control_socket(name_).c_str());
    auto const patience = Deadline::after(last_answers_timeout);
    (void)co_await quiet_.wait(patience);
    auto const last = connections_;  // each may end meanwhile
    for (auto const& connection : last) co_await connection->flush(patience);
    stop_.request_stop();
    for (auto const& connection : connections_) connection->close();
    co_await stop_replication();
    co_await stop_incoming();
    co_await tasks_.join();
    source_.reset();
    if (guest_) co_await guest_->close();
    if (guest_ && (moved_away_ || !guest_->process.running())) guest_->forget();
    if (!guest_ && !DestinationMigration::anything_left(paths_, name_)) {
        std::error_code ignored;
        std::filesystem::remove_all(paths_.run(name_), ignored);
    }
    co_return Result<>{};
}

void Session::leave(std::string why) {
    core::log::info("guest={} state=leaving reason=\"{}\"", name_, why);
    leaving_ = true;
    over_.set();
}

Task<void> Session::watch_qemu() {
    auto const ended =
        co_await core::wait_exit(loop_, guest_->process, Deadline::never(stop_.get_token()));
    if (!ended && ended.error().code == Errc::cancelled) co_return;
    // A migration under way handles the end of QEMU itself and must still report: it ends first.
    if (source_) (void)co_await source_->decided().wait(Deadline::never(stop_.get_token()));
    if (handing_over_) (void)co_await handed_over_.wait(Deadline::never(stop_.get_token()));
    auto const words = qmp::last_words(paths_.run(name_) + "/qemu.log");
    if (!leaving_)
        leave(words.empty() ? "QEMU has ended" : "QEMU has ended; its last words: " + words);
}

Task<void> Session::accept_connections() {
    for (;;) {
        auto const accepted =
            co_await loop_.accept(listener_.get(), Deadline::never(stop_.get_token()));
        if (!accepted && accepted.error().code == Errc::cancelled) co_return;
        if (!accepted) {  // out of descriptors, or the listener was closed
            if (leaving_) co_return;
            (void)co_await core::sleep_for(loop_, limits::retry_pause_min, stop_.get_token());
            continue;
        }
        core::Fd socket(*accepted);
        if (connections_.size() >= connections_max || !allowed(socket.get())) continue;
        tasks_.spawn(converse(std::move(socket)));
    }
}

Task<void> Session::converse(core::Fd socket) {
    auto messages =
        std::make_unique<Messages>(core::plain_stream(loop_, std::move(socket), "local process"));
    auto connection =
        std::make_shared<Connection>(loop_, std::move(messages), *this, protocol::Role::command);
    connections_.push_back(connection);
    co_await connection->run(stop_.get_token());
    connections_.remove(connection);
    auto const who = connection->other();
    if (who == protocol::Role::replication_source && replication_target_) {
        co_await replication_target_->end();
        replication_target_.reset();
        leave("the round of the replication is over");
    }
    if (who != protocol::Role::source || !destination_) co_return;
    destination_->peer_detached();
    if (destination_->untouched()) leave("the source asked for nothing");
}

Task<Result<protocol::Packed>> Session::handle(Connection& from, protocol::Call call) {
    ++answering_;
    quiet_.reset();
    auto result = co_await answer(from, std::move(call));
    if (--answering_ == 0) quiet_.set();
    co_return result;
}

Task<Result<protocol::Packed>> Session::answer(Connection& from, protocol::Call call) {
    switch (from.other()) {
        case protocol::Role::replication_source: {
            if (!replication_target_) co_return fail(Errc::closed, "the round is over");
            CO_TRY(auto request, protocol::parse<protocol::FromReplicationSource>(std::move(call)));
            co_return co_await replication_target_->handle(std::move(request));
        }
        case protocol::Role::source: {
            if (!destination_) {
                co_return fail(Errc::closed, "no migration into this host is under way");
            }
            CO_TRY(auto request, protocol::parse<protocol::FromSource>(std::move(call)));
            co_return co_await destination_->handle(std::move(request));
        }
        case protocol::Role::command: {
            if (leaving_) co_return fail(Errc::closed, "the guest's sidecar is just ending");
            CO_TRY(auto request, protocol::parse<protocol::FromCommand>(std::move(call)));
            co_return co_await std::visit(
                [this, &from](auto& one) { return protocol::packed(on(from, std::move(one))); },
                request);
        }
        case protocol::Role::vtep_source:
        case protocol::Role::destination:
        case protocol::Role::sidecar:
            break;
    }
    co_return fail(Errc::protocol, "`{}` may not be asked here", protocol::name(call.verb));
}

Result<> Session::check_under_way() const {
    if (source_ && source_->under_way()) return {};
    return fail(Errc::refused, "no migration of {} is under way", name_);
}

Task<Result<protocol::SetAnswer>> Session::on(Connection&, protocol::Set set) {
    CO_TRY_VOID(check_under_way());
    co_return source_->set(set.changes);
}

Task<Result<protocol::Nothing>> Session::on(Connection&, protocol::Cancel) {
    CO_TRY_VOID(check_under_way());
    CO_TRY_VOID(source_->cancel());
    co_return protocol::Nothing{};
}

Task<Result<protocol::Nothing>> Session::on(Connection&, protocol::Resolve resolve) {
    if (!source_ || !source_->under_way()) {
        co_return fail(Errc::refused, "no migration of {} is in doubt", name_);
    }
    bool const to_source = resolve.to == protocol::Owner::source;
    auto const id = journal_->last().migration_id;
    if (to_source) CO_TRY_VOID(co_await ownership_.check_kept(id));
    if (!source_) co_return fail(Errc::refused, "no migration of {} is in doubt", name_);
    CO_TRY_VOID(source_->resolve(to_source ? machine::Side::source : machine::Side::destination));
    if (to_source) ownership_.kept(id);
    co_return protocol::Nothing{};
}

Task<Result<protocol::Nothing>> Session::on(Connection& from, protocol::Peer peer) {
    switch (peer.role) {
        case protocol::Role::source:
            CO_TRY_VOID(accept_migration(from, peer));
            break;
        case protocol::Role::replication_source:
            CO_TRY_VOID(accept_replication(from, peer.migration_id));
            break;
        case protocol::Role::command:
        case protocol::Role::vtep_source:
        case protocol::Role::destination:
        case protocol::Role::sidecar:
            co_return fail(Errc::protocol, "a {} asks no guest's sidecar",
                           protocol::name(peer.role));
    }
    co_return protocol::Nothing{};
}

Result<> Session::accept_migration(Connection& from, protocol::Peer const& peer) {
    if (replication_target_) return fail(Errc::closed, "a round of a replication is just ending");
    if (destination_ && destination_->migration_id() != peer.migration_id) {
        if (!guest_) destination_->abandon();
        if (!guest_)
            return fail(Errc::closed, "another migration of {} into this host is just ending",
                        name_);
        return fail(Errc::refused, "a guest named {} runs here already", name_);
    }
    if (!destination_) {
        if (guest_) return fail(Errc::refused, "a guest named {} runs here already", name_);
        auto const& last = journal_->last();
        if (last.must_be_ended_first() && last.migration_id != peer.migration_id) {
            return fail(
                Errc::refused,
                "an earlier migration of {} (migration_id {}) is not ended on this host: its "
                "record is `{}`",
                name_, last.migration_id, last.record_name());
        }
        destination_ = std::make_unique<DestinationMigration>(
            loop_, paths_, name_, peer.migration_id, *journal_, options_.serve);
        incoming_tasks_.spawn(run_incoming());
    }
    from.accept(protocol::Role::source);
    destination_->peer_attached();
    core::log::info("guest={} migration_id={} peer={} state=attached", name_, peer.migration_id,
                    peer.from);
    return {};
}

Task<void> Session::run_incoming() {
    core::TaskGroup driver(loop_);
    driver.spawn(destination_->run(incoming_stop_.get_token()));
    auto const finished =
        co_await destination_->finished().wait(Deadline::never(incoming_stop_.get_token()));
    if (finished && destination_->owns_guest()) {
        note_arrival();
        if (auto guest = destination_->take_guest()) stay_with(std::move(guest));
        if (!guest_) leave("QEMU of the moved guest has ended");
    } else if (finished) {
        // The source may be asking now how it ended; it hangs up when it knows.
        (void)co_await destination_->no_peer().wait(
            Deadline::after(last_question_timeout, incoming_stop_.get_token()));
        leave("the incoming migration was given up");
    }
    co_await driver.join();
}

Task<void> Session::stop_incoming() {
    incoming_stop_.request_stop();
    co_await incoming_tasks_.join();
    destination_.reset();
}

SourceMigration::ProgressSink Session::progress_to(Connection& from) {
    std::weak_ptr<Connection> listener;
    for (auto const& connection : connections_) {
        if (connection.get() == &from) listener = connection;
    }
    return [this, listener](Json line) {
        if (progress_in_flight_ > 0)
            return;  // a slow reader misses lines, but never delays the migration
        ++progress_in_flight_;
        tasks_.spawn(send_progress(listener, std::move(line)));
    };
}

/// A migration that this sidecar found unfinished, and continues by itself. The caller gets its
/// progress and its outcome.
Task<Result<protocol::Document>> Session::follow(Connection& from) {
    if (!source_ || !source_->under_way()) {
        co_return fail(Errc::refused,
                       "no migration of {} was left unfinished: leave --resume out to begin one",
                       name_);
    }
    auto const followed = source_;
    followed->follow(progress_to(from));
    CO_TRY_VOID(co_await followed->decided().wait(Deadline::never(stop_.get_token())));
    co_return protocol::Document{followed->report()};
}

Task<Result<protocol::Document>> Session::on(Connection& from, protocol::Migrate migrate) {
    auto const& settings = migrate.options;
    if (settings.resume) co_return co_await follow(from);
    if (!guest_ || migrating_) {
        co_return fail(Errc::refused, "another migration of {} is under way", name_);
    }
    if (replication_) {
        co_return fail(Errc::refused,
                       "{} is being replicated: end that first with `sidecar replicate {} --stop`",
                       name_, name_);
    }
    if (!guest_->client) co_return fail(Errc::refused, "QEMU of {} has ended", name_);
    migrating_ = true;  // from here on other commands are refused
    auto const ready = co_await be_ready_to_migrate();
    if (!ready) {
        migrating_ = false;
        co_return std::unexpected(ready.error());
    }
    auto const migration =
        std::make_shared<SourceMigration>(*guest_, *journal_, settings, new_migration_id());
    if (settings.check_only) {
        auto checked = co_await migration->check_only();
        migrating_ = false;
        if (!checked) co_return std::unexpected(std::move(checked.error()));
        co_return protocol::Document{std::move(*checked)};
    }
    source_ = migration;
    tasks_.spawn(run_migration(*migration, progress_to(from), false));
    CO_TRY_VOID(co_await migration->decided().wait(Deadline::never(stop_.get_token())));
    co_return protocol::Document{migration->report()};
}

Task<Result<>> Session::be_ready_to_migrate() {
    if (!guest_->client->open()) {
        CO_TRY_VOID(co_await guest_->reconnect(Deadline::after(limits::qmp_timeout)));
    }
    // An earlier incoming migration's announcements and late answers end now.
    co_await stop_incoming();
    incoming_stop_ = std::stop_source();
    co_return Result<>{};
}

Task<void> Session::send_progress(std::weak_ptr<Connection> to, Json line) {
    if (auto const connection = to.lock()) {
        (void)co_await connection->notify(protocol::Progress{std::move(line)},
                                          Deadline::after(limits::qmp_timeout, stop_.get_token()));
    }
    --progress_in_flight_;
}

Task<void> Session::run_migration(SourceMigration& migration, SourceMigration::ProgressSink sink,
                                  bool recovered) {
    migrating_ = true;
    ownership_.hold();
    last_report_ = recovered ? co_await migration.recover(sink) : co_await migration.run(sink);
    migrating_ = false;
    ownership_.release();
    core::log::info("guest={} outcome={} {}", name_, last_report_["outcome"].text_or(""),
                    last_report_["error"].text_or(""));
    if (migration.outcome() != machine::Outcome::moved) {
        if (!guest_->client) leave("QEMU had ended before");
        co_return;
    }
    moved_away_ = true;
    // Removed before the answer: its reader may ask this host for a new sidecar of the same
    // guest at once.
    ::unlink(paths_.control_socket(name_).c_str());
    leave("the guest has moved");
}

Task<Result<protocol::Document>> Session::on(Connection&, protocol::Status) {
    auto now = Json::object({{"guest", name_}});
    if (guest_) {
        auto qemu = Result<qmp::Status>(fail(Errc::closed, "QEMU has ended"));
        if (guest_->client)
            qemu =
                co_await qmp::query_status(*guest_->client, Deadline::after(limits::qmp_timeout));
        guest_->take_in_addresses();
        Json interfaces = Json::array();
        for (auto const& nic : guest_->nics) interfaces.add(nic->interface.to_json());
        now.set("qemu_pid", static_cast<std::int64_t>(guest_->process.pid()));
        now.set("status", qemu ? qemu->status : "unknown: " + qemu.error().sentence());
        now.set("interfaces", interfaces);
    } else {
        auto const copy = destination_ ? Json() : copy_status();
        now.set("status", copy.is_null() ? "incoming" : "copy");
        if (!copy.is_null()) now.set("copy", copy);
    }
    if (replication_) now.set("replicate", replication_->status());
    if (source_ && source_->under_way()) {
        now.set("migration", source_->status());
    } else if (destination_ && !guest_) {
        now.set("migration", destination_->status());
    }
    if (!last_report_.is_null()) now.set("last_report", last_report_);
    co_return protocol::Document{now};
}

}  // namespace sidecar
