#include "sidecar/daemon/session.hpp"

#include <unistd.h>

#include <filesystem>

#include "core/log.hpp"
#include "core/notify.hpp"
#include "qmp/vm.hpp"
#include "sidecar/anchor/anchor_record.hpp"
#include "sidecar/migration/source_images.hpp"
#include "sidecar/replication/failover.hpp"
#include "sidecar/replication/replica_record.hpp"

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
/// The journal of a guest that is just leaving is released within milliseconds.
constexpr int journal_tries_max = 50;
/// Commands and peers connected at the same time.
constexpr std::size_t connections_max = 64;

}  // namespace

Session::Session(core::Loop& loop, SessionSettings options)
    : loop_(loop),
      options_(std::move(options)),
      paths_(options_.paths),
      name_(options_.guest),
      ownership_(loop, paths_, name_),
      context_{loop,  options_,   paths_,
               name_, journal_,   guest_,
               stop_, ownership_, [this](std::string why) { leave(std::move(why)); }},
      incoming_(context_, [this](std::unique_ptr<Guest> guest) { stay_with(std::move(guest)); }),
      migration_(context_, incoming_),
      replication_(context_),
      quiet_(loop),
      over_(loop),
      tasks_(loop) {
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
    auto opened = open_journal();
    if (!opened && opened.error().code == Errc::refused) {
        // The sidecar of a guest that has just moved away holds it for a moment more.
        auto const last = Journal::peek(paths_.state(name_));
        if (last && last->moved_away()) opened = co_await wait_for_journal();
    }
    CO_TRY_VOID(std::move(opened));
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
        incoming_.take_over(last.migration_id);
        co_return co_await stay_if(listen(), terminate);
    }
    CO_TRY_VOID(co_await attach_guest(unfinished));
    auto begun = listen();
    if (begun && unfinished) begun = migration_.recover();
    if (guest_->client) replication_.thaw_what_is_left();
    if (begun && !unfinished && guest_->client) co_await replication_.take_over();
    co_return co_await stay_if(std::move(begun), terminate);
}

Task<Result<>> Session::claim_joined() {
    return ownership_.claim({.kind = registry::Claim::Kind::join,
                             .fenced = options_.fenced,
                             .addresses = options_.attach.addresses});
}

/// Without a QEMU only if it has ended and a migration is `unfinished`: the migration must still be
/// finished with the other host.
Task<Result<>> Session::attach_guest(bool unfinished) {
    auto guest = co_await Guest::attach(loop_, paths_, name_, options_.attach);
    // A migration that was left unfinished decides by its own records.
    auto const claimed = guest && !unfinished ? co_await claim_joined() : Result<>{};
    if (!claimed) {
        co_await (*guest)->close();
        co_return claimed;
    }
    if (guest) {
        stay_with(std::move(*guest));
        co_return Result<>{};
    }
    if (!unfinished || guest.error().code != Errc::closed) {
        co_return std::unexpected(guest.error());
    }
    core::log::warning("guest={} {}", name_, guest.error().sentence());
    guest_ = std::make_unique<Guest>(loop_, paths_, name_, Guest::Prepared{});
    co_return Result<>{};
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
    tasks_.spawn(wait_for_first_peer());
    co_return co_await stay(terminate);
}

Task<void> Session::wait_for_first_peer() {
    auto const slept = co_await core::sleep_for(loop_, first_peer_timeout, stop_.get_token());
    if (slept && !incoming_.busy() && !guest_) leave("no source came");
}

/// Only a refusal ends the failover. The name's server may have been lost with the old host, and
/// the guest is wanted here all the same; then it is asked again once the guest runs.
Task<Result<>> Session::check_dns(DnsUpdate& dns) {
    auto checked =
        co_await dns.check(Deadline::after(limits::dns_check_timeout, stop_.get_token()));
    if (checked) {
        for (auto const& line : dns.lines()) core::log::info("guest={} {}", name_, line);
        co_return Result<>{};
    }
    if (checked.error().code == Errc::refused || checked.error().code == Errc::invalid) {
        co_return fail(Errc::refused, "{}", checked.error().sentence());
    }
    core::log::warning("guest={} {}", name_, checked.error().sentence());
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
    DnsUpdate dns(loop_, options_.dns, name_);
    if (copy && *copy) CO_TRY_VOID(co_await check_dns(dns));  // without one it is refused below
    CO_TRY_VOID(co_await ask_replica_to_leave());
    CO_TRY_VOID(co_await wait_for_released_journal());
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
    tasks_.spawn(dns.run(Deadline::after(limits::dns_update_timeout, stop_.get_token())));
    co_return co_await stay_if(listen(), terminate);
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

/// The sidecar of the copy may be starting or ending a QEMU for its round.
Task<Result<>> Session::wait_for_released_journal() {
    auto const until = Deadline::after(limits::prepare_timeout);
    auto opened = co_await wait_for_journal();
    while (!opened && opened.error().code == Errc::refused && !until.passed()) {
        opened = co_await wait_for_journal();
    }
    co_return opened;
}

Task<void> Session::settle_network() {
    auto const settled =
        co_await announcing_.settle(Deadline::after(limits::prepare_timeout, stop_.get_token()));
    if (!settled) {
        core::log::warning("guest={} announcing again failed: {}", name_,
                           settled.error().sentence());
    }
}

void Session::stay_with(std::unique_ptr<Guest> guest) {
    guest_ = std::move(guest);
    tasks_.spawn(guest_->watch(stop_.get_token()));
    tasks_.spawn(watch_qemu());
    tasks_.spawn(ownership_.keep_published(stop_.get_token()));
    core::log::info("guest={} qemu={} state=attached", name_, guest_->process.pid());
}

/// stay(), also if the session could not begin: then it ends at once, in order.
Task<Result<>> Session::stay_if(Result<> begun, std::stop_token terminate) {
    if (!begun) leave("it could not begin");
    auto const stayed = co_await stay(terminate);
    co_return begun ? stayed : begun;
}

/// Waits for the end, then shuts down in order: no new connections, last answers, tasks.
Task<Result<>> Session::stay(std::stop_token terminate) {
    core::notify_ready();
    auto const waited = co_await over_.wait(Deadline::never(terminate));
    leaving_ = true;
    if (!waited)
        core::log::info(
            "guest={} asked to end; QEMU continues: `sidecar attach {}` attaches to it again",
            name_, name_);
    listener_.reset();
    ::unlink(paths_.control_socket(name_).c_str());
    auto const patience = Deadline::after(last_answers_timeout);
    (void)co_await quiet_.wait(patience);
    auto const last = connections_;  // each may end meanwhile
    for (auto const& connection : last) co_await connection->flush(patience);
    stop_.request_stop();
    for (auto const& connection : connections_) connection->close();
    co_await replication_.stop();
    co_await incoming_.end_migration();
    co_await tasks_.join();
    co_await migration_.end();
    co_await replication_.join();
    bool const moved_away = migration_.moved_away() || replication_.moved_away();
    if (guest_) co_await guest_->close();
    if (guest_ && (moved_away || !guest_->process.running())) guest_->forget();
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
    co_await migration_.wait_decided(Deadline::never(stop_.get_token()));
    co_await replication_.wait_handed_over(Deadline::never(stop_.get_token()));
    if (!leaving_) leave(qmp::how_qemu_ended(ended.value_or(0), paths_.run(name_) + "/qemu.log"));
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
        if (connections_.size() >= connections_max || !is_from_our_user(socket.get())) continue;
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
    co_await incoming_.detached(connection->other());
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
        case protocol::Role::replication_source:
            co_return co_await incoming_.answer_replication_source(std::move(call));
        case protocol::Role::source:
            co_return co_await incoming_.answer_source(std::move(call));
        case protocol::Role::command: {
            if (leaving_) co_return fail(Errc::closed, "the guest's sidecar is ending");
            CO_TRY(auto request, protocol::parse<protocol::FromCommand>(std::move(call)));
            co_return co_await std::visit(
                [this, &from](auto& one) { return protocol::packed(on(from, std::move(one))); },
                request);
        }
        case protocol::Role::vtep_source:
        case protocol::Role::anchor_source:
        case protocol::Role::local:
        case protocol::Role::destination:
        case protocol::Role::sidecar:
            break;
    }
    co_return fail(Errc::protocol, "`{}` may not be asked here", protocol::name(call.verb));
}

Task<Result<protocol::Nothing>> Session::on(Connection& from, protocol::Peer peer) {
    CO_TRY_VOID(incoming_.accept(from, peer));
    co_return protocol::Nothing{};
}

Task<Result<protocol::Nothing>> Session::on(Connection&, protocol::Release) {
    CO_TRY_VOID(incoming_.release());
    leave("a failover of the guest begins");
    co_return protocol::Nothing{};
}

std::weak_ptr<Connection> Session::shared(Connection& one) const {
    for (auto const& connection : connections_) {
        if (connection.get() == &one) return connection;
    }
    return {};
}

Result<> Session::check_qemu() const {
    if (guest_ && guest_->client) return {};
    return fail(Errc::refused, "QEMU of {} has ended", name_);
}

Task<Result<protocol::Document>> Session::on(Connection& from, protocol::Migrate migrate) {
    if (migrate.options.resume) co_return co_await migration_.follow(shared(from));
    if (!guest_) co_return fail(Errc::refused, "another migration of {} is under way", name_);
    CO_TRY_VOID(co_await migration_.wait_not_busy());
    if (!guest_) co_return fail(Errc::refused, "the guest {} has left this host", name_);
    if (replication_.active()) {
        co_return fail(Errc::refused,
                       "{} is being replicated: end that first with `sidecar replicate {} --stop`",
                       name_, name_);
    }
    CO_TRY_VOID(check_qemu());
    co_return co_await migration_.migrate(std::move(migrate.options), shared(from));
}

Task<Result<protocol::SetAnswer>> Session::on(Connection&, protocol::Set set) {
    co_return migration_.set(set.changes);
}

Task<Result<protocol::Nothing>> Session::on(Connection&, protocol::Cancel) {
    CO_TRY_VOID(migration_.cancel());
    co_return protocol::Nothing{};
}

Task<Result<protocol::Nothing>> Session::on(Connection&, protocol::Resolve resolve) {
    CO_TRY_VOID(co_await migration_.resolve(resolve.to));
    co_return protocol::Nothing{};
}

Task<Result<protocol::ReplicateAnswer>> Session::on(Connection&, protocol::Replicate replicate) {
    CO_TRY_VOID(check_qemu());
    if (migration_.busy()) co_return fail(Errc::refused, "a migration of {} is under way", name_);
    co_return co_await replication_.begin(std::move(replicate.settings));
}

Task<Result<protocol::Nothing>> Session::on(Connection&, protocol::ReplicateStop stop) {
    CO_TRY_VOID(co_await replication_.end(stop.forget));
    co_return protocol::Nothing{};
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
        incoming_.add_copy_status(now);
    }
    auto const fars = far_records(paths_, name_);
    if (fars && !fars->empty()) now.set("anchored", true);
    replication_.add_status(now);
    auto const coming = guest_ ? Json() : incoming_.migration_status();
    if (!coming.is_null()) now.set("migration", coming);
    migration_.add_status(now);
    co_return protocol::Document{now};
}

}  // namespace sidecar
