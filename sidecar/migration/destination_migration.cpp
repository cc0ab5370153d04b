#include "sidecar/migration/destination_migration.hpp"

#include <algorithm>

#include "core/log.hpp"
#include "sidecar/host/test_hooks.hpp"
#include "sidecar/migration/action_result.hpp"

namespace sidecar {

using core::Deadline;
using core::Errc;
using core::fail;
using core::Json;
using core::Result;
using core::Task;
using machine::ActionResult;
using machine::destination::Action;
using machine::destination::Event;
using machine::destination::Phase;
using protocol::Verb;

namespace {

constexpr std::size_t events_max = 256;

bool is_record(Action action) {
    return action == Action::record_owner || action == Action::record_aborted ||
           action == Action::record_end;
}

bool is_reply(Action action) {
    return action == Action::reply_prepared || action == Action::reply_sealed ||
           action == Action::reply_ack || action == Action::reply_aborted ||
           action == Action::reply_refused;
}

}  // namespace

DestinationMigration::DestinationMigration(core::Loop& loop, Paths paths, std::string guest,
                                           std::string migration_id, Journal& journal,
                                           ServeOptions options)
    : loop_(loop),
      paths_(std::move(paths)),
      name_(std::move(guest)),
      migration_id_(std::move(migration_id)),
      journal_(journal),
      options_(std::move(options)),
      events_(loop, events_max),
      looked_(loop),
      finished_(loop),
      no_peer_(loop),
      actions_(loop),
      watchers_(loop),
      callers_(loop),
      context_{loop_,        paths_, name_,  migration_id_, options_,
               description_, key_,   guest_, watchers_stop_},
      requests_(loop),
      earlier_(context_, journal_),
      anchors_(context_),
      survey_(context_),
      definition_(context_),
      file_hashes_(context_),
      disks_(context_),
      files_(context_),
      disk_command_(context_),
      network_(context_, journal_),
      qemu_(context_, {[this] { post(machine::destination::event(Event::Kind::qemu_loaded)); },
                       [this](core::Error why) {
                           note_failure(std::move(why));
                           post(machine::destination::event(Event::Kind::qemu_silent_too_long));
                       },
                       [this](machine::destination::Qemu last, core::Error why) {
                           note_failure(std::move(why));
                           post(machine::destination::qemu_gone(last));
                       }}) {}

DestinationMigration::~DestinationMigration() = default;

void DestinationMigration::post(Event event) {
    if (!events_.push(event))
        core::log::error("guest={} event queue full: {}", name_, describe(event));
}

void DestinationMigration::note_failure(core::Error error) {
    if (!failure_) failure_ = std::move(error);
}

Task<void> DestinationMigration::run(std::stop_token token) {
    ending_ = token;
    found_ = co_await find_after_restart();
    if (!found_)
        core::log::error("guest={} migration_id={} {}", name_, migration_id_,
                         found_.error().sentence());
    looked_.set();
    for (;;) {
        auto const event = co_await events_.pop(Deadline::never(token));
        if (!event) break;
        auto const before = state_.phase;
        auto step = machine::destination::step(state_, *event);
        state_ = step.state;
        core::log::debug("guest={} migration_id={} event=\"{}\" state=\"{}\"", name_, migration_id_,
                         describe(*event), describe(state_));
        if (state_.phase != before) {
            core::log::info("guest={} migration_id={} incoming phase={}", name_, migration_id_,
                            machine::destination::name(state_.phase));
        }
        for (auto const action : step.actions) actions_.spawn(run_action(action));
        if (state_.phase == Phase::done) finished_.set();
    }
    co_await actions_.join();
    requests_.end();
    watchers_stop_.request_stop();
    co_await callers_.close();
    co_await disks_.end();
    co_await watchers_.join();
    co_await file_hashes_.join();
    co_await network_.join();
    co_await qemu_.join();
}

Task<void> DestinationMigration::run_action(Action action) {
    core::log::debug("guest={} migration_id={} incoming action={}", name_, migration_id_,
                     machine::destination::name(action));
    stop_for_test(machine::destination::name(action));
    auto result = is_reply(action) ? reply(action) : co_await perform(action);
    if (!result && !is_reply(action)) {
        result.error().while_doing(
            fmt::format("{} at the destination", machine::destination::name(action)));
        core::log::warning("guest={} migration_id={} {}", name_, migration_id_,
                           result.error().sentence());
        note_failure(result.error());
        // Wait before the machine may ask for it again.
        int const doublings = std::min(failures_in_a_row_[action]++, 6);
        (void)co_await core::sleep_for(
            loop_, std::min(limits::retry_pause_min * (1 << doublings), limits::retry_pause_max));
    } else {
        failures_in_a_row_.erase(action);
    }
    post(machine::destination::action_ended(action, action_result_of(result, is_record(action))));
}

Task<Result<>> DestinationMigration::perform(Action action) {
    switch (action) {
        case Action::prepare:
            return prepare();
        case Action::seal:
            return seal();
        case Action::start_guest:
            return start_guest();
        case Action::leave_stopped:
            return leave_stopped();
        case Action::announce_network:
            return announce_network();
        case Action::destroy:
            return destroy();
        case Action::record_end:
            return record_end();
        case Action::finish:
            return finish();
        case Action::record_owner:
            return record(DestinationEntry::Record::owner);
        case Action::record_aborted:
            return record(DestinationEntry::Record::aborted);
        case Action::reply_prepared:
        case Action::reply_sealed:
        case Action::reply_ack:
        case Action::reply_aborted:
        case Action::reply_refused:
            break;  // reply() has answered
    }
    return nothing_to_do();
}

/// The ports and exports of what was prepared, for the source.
protocol::Endpoints DestinationMigration::endpoints() const {
    return {disks_.nbd_port(),  qemu_.ram_port(),       disks_.export_names(),
            qemu_.generation(), anchors_.tunnel_port(), disks_.zero_bytes()};
}

/// The answer when OWNER is recorded.
protocol::Verdict DestinationMigration::owner_verdict() const {
    protocol::Verdict owner{
        protocol::Owner::destination, "", network_.frames_report(), network_.tracking_report(), {}};
    if (auto const resumed_at = qemu_.resumed_at()) {
        std::chrono::duration<double, std::milli> const since = core::Clock::now() - *resumed_at;
        owner.resume_to_answer_ms = since.count();
    }
    return owner;
}

Result<> DestinationMigration::reply(Action action) {
    switch (action) {
        case Action::reply_prepared:
            return requests_.answer({Verb::prepare}, protocol::pack(endpoints()));
        case Action::reply_sealed:
            return requests_.answer({Verb::seal}, protocol::pack(protocol::Nothing{}));
        case Action::reply_ack:
            return requests_.answer({Verb::commit}, protocol::pack(owner_verdict()));
        case Action::reply_aborted: {
            protocol::Verdict aborted;
            aborted.owner = protocol::Owner::source;
            aborted.why = failure_ ? failure_->sentence() : std::string(protocol::given_up_earlier);
            return requests_.answer({Verb::commit, Verb::abort}, protocol::pack(aborted));
        }
        case Action::reply_refused:
            return requests_.answer(
                {Verb::prepare, Verb::seal, Verb::abort},
                std::unexpected(
                    failure_ ? *failure_
                             : fail(Errc::refused, "the destination owns the guest").error()));
        case Action::prepare:
        case Action::seal:
        case Action::record_owner:
        case Action::start_guest:
        case Action::leave_stopped:
        case Action::announce_network:
        case Action::record_aborted:
        case Action::destroy:
        case Action::record_end:
        case Action::finish:
            break;
    }
    return {};  // no reply: perform() runs it
}

void DestinationMigration::peer_attached() {
    ++silence_generation_;
    no_peer_.reset();
    if (peers_++ == 0) post(machine::destination::event(Event::Kind::peer_back));
}

void DestinationMigration::peer_detached() {
    if (--peers_ > 0) return;
    no_peer_.set();
    if (callers_.closed()) return;  // run() has ended
    post(machine::destination::event(Event::Kind::peer_lost));
    watchers_.spawn(wait_for_source(++silence_generation_));
}

bool DestinationMigration::untouched() const {
    return peers_ == 0 && state_ == machine::destination::State{};
}

bool DestinationMigration::only_copying() const {
    bool const disks = state_.phase == Phase::prepared || state_.phase == Phase::qemu_lost;
    return disks && !qemu_.ram_begun();
}

void DestinationMigration::abandon() {
    if (peers_ > 0 || !only_copying()) return;
    failure_ = fail(Errc::timed_out, "the source began another migration").error();
    post(machine::destination::event(Event::Kind::peer_silent_too_long));
}

Task<void> DestinationMigration::wait_for_source(std::size_t generation) {
    auto patience = limits::destination_patience;
    if (only_copying()) patience = limits::destination_patience_copying;
    if (!co_await core::sleep_for(loop_, patience, watchers_stop_.get_token())) co_return;
    if (generation != silence_generation_) co_return;  // the peer came back meanwhile
    note_failure(fail(Errc::timed_out, "the source was silent for {} s", patience.count()).error());
    post(machine::destination::event(Event::Kind::peer_silent_too_long));
}

/// If the source dies after `fire`, the guest is stopped there and we would wait
/// with realtime priority.
Task<void> DestinationMigration::limit_realtime() {
    (void)co_await core::sleep_for(loop_, downtime_limit_, watchers_stop_.get_token());
    realtime_.reset();
}

Json DestinationMigration::status() const {
    return Json::object({{"phase", std::string("incoming ") +
                                       std::string(machine::destination::name(state_.phase))},
                         {"migration_id", migration_id_},
                         {"state", machine::destination::describe(state_)}});
}

}  // namespace sidecar
