#include "sidecar/migration/destination_migration.hpp"

#include <algorithm>

#include "core/log.hpp"
#include "sidecar/guest/preflight.hpp"
#include "sidecar/host/keys.hpp"
#include "sidecar/host/test_hooks.hpp"
#include "sidecar/migration/action_result.hpp"
#include "sidecar/registry/ownership.hpp"

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
      hasher_turn_(loop, 1),
      frames_(loop),
      qmp_over_(loop) {}

DestinationMigration::~DestinationMigration() = default;

void DestinationMigration::post(Event event) {
    if (!events_.push(event))
        core::log::error("guest={} event queue full: {}", name_, describe(event));
}

Task<void> DestinationMigration::run(std::stop_token token) {
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
    for (auto* waiting : waiting_) {
        if (waiting->answered.is_set()) continue;
        waiting->answer = fail(Errc::closed, "the destination's sidecar is ending");
        waiting->answered.set();
    }
    watchers_stop_.request_stop();
    co_await callers_.close();
    co_await close_hasher();
    co_await watchers_.join();
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
        if (!failure_) failure_ = result.error();
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
        case Action::announce_network:
            return announce_network();
        case Action::destroy:
            return destroy();
        case Action::record_end:
            return record_end();
        case Action::finish:
            return finish();
        case Action::record_owner:
            return record_now(DestinationEntry::Record::owner);
        case Action::record_aborted:
            return record_now(DestinationEntry::Record::aborted);
        case Action::reply_prepared:
        case Action::reply_sealed:
        case Action::reply_ack:
        case Action::reply_aborted:
        case Action::reply_refused:
            break;  // reply() has answered
    }
    return nothing_to_do();
}

Task<Result<>> DestinationMigration::record_now(DestinationEntry::Record what) {
    co_return record(what);
}

Task<Result<>> DestinationMigration::nothing_to_do() { co_return Result<>{}; }

/// Answers every waiting request that is one of `verbs`. closed: no request waits.
Result<> DestinationMigration::answer(std::initializer_list<Verb> verbs,
                                      Result<protocol::Packed> const& result) {
    bool any = false;
    for (auto* waiting : waiting_) {
        if (waiting->answered.is_set() || std::ranges::find(verbs, waiting->verb) == verbs.end())
            continue;
        waiting->answer = result;
        waiting->answered.set();
        any = true;
    }
    if (!any) return fail(Errc::closed, "nobody waits for this answer");
    return {};
}

/// The ports and exports of what was prepared, for the source.
protocol::Endpoints DestinationMigration::endpoints() const {
    return {nbd_port_, ram_port_, export_names_, generation_};
}

/// The answer when OWNER is recorded.
protocol::Verdict DestinationMigration::owner_verdict() const {
    protocol::Verdict owner{
        protocol::Owner::destination, "", frames_.report(), tracking_.report(), {}};
    if (resumed_at_) {
        std::chrono::duration<double, std::milli> const since = core::Clock::now() - *resumed_at_;
        owner.resume_to_answer_ms = since.count();
    }
    return owner;
}

Result<> DestinationMigration::reply(Action action) {
    switch (action) {
        case Action::reply_prepared:
            return answer({Verb::prepare}, protocol::pack(endpoints()));
        case Action::reply_sealed:
            return answer({Verb::seal}, protocol::pack(protocol::Nothing{}));
        case Action::reply_ack:
            return answer({Verb::commit}, protocol::pack(owner_verdict()));
        case Action::reply_aborted: {
            protocol::Verdict aborted;
            aborted.owner = protocol::Owner::source;
            aborted.why = failure_ ? failure_->sentence() : "it had been given up";
            return answer({Verb::commit, Verb::abort}, protocol::pack(aborted));
        }
        case Action::reply_refused:
            return answer(
                {Verb::prepare, Verb::seal, Verb::abort},
                std::unexpected(
                    failure_ ? *failure_
                             : fail(Errc::refused, "the destination owns the guest").error()));
        case Action::prepare:
        case Action::seal:
        case Action::record_owner:
        case Action::start_guest:
        case Action::announce_network:
        case Action::record_aborted:
        case Action::destroy:
        case Action::record_end:
        case Action::finish:
            break;
    }
    return {};  // no reply: perform() runs it
}

Task<Result<protocol::Packed>> DestinationMigration::ask_machine(Verb verb, Event event) {
    // The machine answers only the last request. Otherwise, after an `abort` during a `seal`, the
    // `seal` and its connection would wait forever.
    for (auto* earlier : waiting_) {
        if (earlier->answered.is_set() || earlier->verb == verb) continue;
        earlier->answer = fail(Errc::cancelled, "the source asked `{}` while this was under way",
                               protocol::name(verb));
        earlier->answered.set();
    }
    Waiting waiting(loop_, verb);
    waiting_.push_back(&waiting);
    post(event);
    // The source has its own, shorter limit. This one only ends a request that was forgotten.
    auto const waited =
        co_await waiting.answered.wait(Deadline::after(limits::prepare_timeout * 2));
    waiting_.remove(&waiting);
    if (!waited) co_return std::unexpected(waited.error());
    co_return waiting.answer;
}

Task<Result<protocol::Packed>> DestinationMigration::handle(protocol::FromSource request) {
    core::CallGate::Hold const inside(callers_);
    if (callers_.closed()) co_return fail(Errc::closed, "the destination's sidecar is ending");
    // The remains of an earlier migration are known before anything is compared.
    CO_TRY_VOID(co_await looked_.wait(Deadline::after(limits::prepare_timeout)));
    // A sidecar that does not know what is here must not answer, least of all COMMIT.
    if (!found_) co_return std::unexpected(found_.error());
    co_return co_await std::visit(
        [this](auto& one) { return protocol::packed(on(std::move(one))); }, request);
}

Result<Description> DestinationMigration::description_from(Json const& json) const {
    TRY(auto description, Description::from_json(json));
    if (description.guest != name_ || description.migration_id != migration_id_) {
        return fail(Errc::protocol,
                    "the description is of another guest or migration than the hello");
    }
    return description;
}

Task<Result<protocol::CheckAnswer>> DestinationMigration::on(protocol::Check check) {
    CO_TRY(auto const description, description_from(check.description));
    CO_TRY(auto leftovers, images_from_json(earlier_["images"]));
    CO_TRY_VOID(co_await preflight(loop_, paths_, options_.maps, description, std::move(leftovers),
                                   Deadline::after(limits::check_timeout)));
    CO_TRY(auto vxlan, vxlan_ends_here(options_.maps, description));
    CO_TRY_VOID(co_await registry::check_arrival(loop_, paths_, name_, description.owner));
    auto const host = host_identity(paths_);
    co_return protocol::CheckAnswer{std::move(vxlan), host.value_or(HostIdentity{}),
                                    !paths_.registry.empty()};
}

Task<Result<protocol::Packed>> DestinationMigration::on(protocol::Prepare prepare) {
    CO_TRY(auto description, description_from(prepare.description));
    bool const plain_here = options_.tls.mode == core::TlsConfig::Mode::plaintext;
    if (prepare.key.empty() && !plain_here) {
        co_return fail(Errc::protocol, "the migration's key is missing");
    }
    if (state_.phase == Phase::idle) {
        description_ = std::move(description);
        key_ = prepare.key;
    }
    co_return co_await ask_machine(Verb::prepare,
                                   machine::destination::event(Event::Kind::prepare_requested));
}

Task<Result<protocol::FramesAnswer>> DestinationMigration::on(protocol::Frames frames) {
    co_return frames_.take(frames);
}

Task<Result<protocol::Packed>> DestinationMigration::on(protocol::Seal) {
    return ask_machine(Verb::seal, machine::destination::event(Event::Kind::seal_requested));
}

Task<Result<protocol::Packed>> DestinationMigration::on(protocol::Commit commit) {
    frames_.expect(std::move(commit.frames));
    return ask_machine(Verb::commit, machine::destination::event(Event::Kind::commit_received));
}

Task<Result<protocol::Packed>> DestinationMigration::on(protocol::Abort) {
    return ask_machine(Verb::abort, machine::destination::event(Event::Kind::abort_requested));
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
    return disks && !ram_begun_;
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
    if (!failure_) {
        failure_ =
            fail(Errc::timed_out, "the source was silent for {} s", patience.count()).error();
    }
    post(machine::destination::event(Event::Kind::peer_silent_too_long));
}

Json DestinationMigration::status() const {
    return Json::object({{"phase", std::string("incoming ") +
                                       std::string(machine::destination::name(state_.phase))},
                         {"migration_id", migration_id_},
                         {"state", machine::destination::describe(state_)}});
}

}  // namespace sidecar
