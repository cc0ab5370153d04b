// The requests of the source, in the order of a migration. Those that change the state are events
// of the machine, which decides the answer.
#include "sidecar/guest/device_states.hpp"
#include "sidecar/guest/preflight.hpp"
#include "sidecar/migration/destination_migration.hpp"
#include "sidecar/registry/ownership.hpp"

namespace sidecar {

using core::Deadline;
using core::Errc;
using core::fail;
using core::Json;
using core::Result;
using core::Task;
using machine::destination::Phase;
using protocol::Verb;

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

Task<Result<protocol::Packed>> DestinationMigration::ask_machine(Verb verb, Event request) {
    return requests_.ask(verb, [this, request] { post(request); });
}

Task<Result<protocol::Packed>> DestinationMigration::ask_to_prepare() {
    bool const stopped = description_.state != GuestState::running;
    return ask_machine(Verb::prepare, machine::destination::prepare_requested(stopped));
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
    CO_TRY(auto description, description_from(check.description));
    CO_TRY_VOID(co_await disk_command_.ask(description));
    CO_TRY(auto const leftovers, earlier_.leftovers());
    CO_TRY_VOID(co_await preflight(loop_, paths_, options_.maps, description, leftovers,
                                   Deadline::after(limits::check_timeout)));
    CO_TRY_VOID(co_await check_device_states(loop_, options_.maps, description,
                                             Deadline::after(limits::check_timeout)));
    CO_TRY(auto vxlan, vxlan_ends_here(options_.maps, description));
    CO_TRY_VOID(co_await registry::check_arrival(loop_, paths_, name_, description.owner));
    auto const host = host_identity(paths_);
    protocol::CheckAnswer answer{.vxlan = std::move(vxlan),
                                 .host = host.value_or(HostIdentity{}),
                                 .has_registry = !paths_.registry.empty()};
    CO_TRY_VOID(co_await anchors_.offer(description, check.probe, answer));
    CO_TRY(answer.data, survey_.offer_port());
    answer.warnings = co_await arrival_warnings(loop_, options_.maps, description,
                                                Deadline::after(limits::check_timeout));
    for (auto const& file : description.files)
        answer.missing_files.push_back(is_missing(options_.maps, file, leftovers.images));
    CO_TRY_VOID(co_await definition_.check(description, answer.warnings));
    co_return answer;
}

Task<Result<protocol::SurveyAnswer>> DestinationMigration::on(protocol::Survey survey) {
    co_return survey_.begin(survey);
}

Task<Result<protocol::HeardAnswer>> DestinationMigration::on(protocol::Heard) {
    co_return co_await survey_.heard();
}

Task<Result<protocol::FindSharedAnswer>> DestinationMigration::on(protocol::FindShared request) {
    co_return survey_.find_shared(request);
}

Task<Result<protocol::HashFileAnswer>> DestinationMigration::on(protocol::HashFile request) {
    return file_hashes_.hash(std::move(request));
}

Task<Result<protocol::Packed>> DestinationMigration::on(protocol::Prepare prepare) {
    CO_TRY(auto description, description_from(prepare.description));
    bool const plain_here = options_.tls.mode == core::TlsConfig::Mode::plaintext;
    if (prepare.key.empty() && !plain_here) {
        co_return fail(Errc::protocol, "the migration's key is missing");
    }
    survey_.end_offer();
    if (state_.phase == Phase::idle) {
        description_ = std::move(description);
        key_ = prepare.key;
        anchors_.take(std::move(prepare.tunnels), prepare.anchor_port);
    }
    co_return co_await ask_to_prepare();
}

Task<Result<protocol::SendFileAnswer>> DestinationMigration::on(protocol::SendFile piece) {
    if (state_.phase != Phase::idle && state_.phase != Phase::preparing) {
        co_return fail(Errc::refused, "no file is taken now: {}",
                       machine::destination::name(state_.phase));
    }
    co_return co_await files_.take(std::move(piece));
}

/// The source's connections were cut. While QEMU runs, nothing changes for the machine: the
/// exports stay open.
Task<Result<protocol::Packed>> DestinationMigration::on(protocol::Reexport) {
    if (machine::destination::offers_by_prepare(state_)) {
        co_return co_await ask_to_prepare();
    }
    if (!machine::destination::has_exports(state_)) {
        co_return fail(Errc::refused, "the disks cannot be offered again now: {}",
                       machine::destination::name(state_.phase));
    }
    CO_TRY_VOID(co_await disks_.reopen_exports());
    co_return protocol::pack(endpoints());
}

Result<> DestinationMigration::check_exported() const {
    if (machine::destination::has_exports(state_)) return {};
    return fail(Errc::refused, "the disks cannot be read now: {}",
                machine::destination::name(state_.phase));
}

Task<Result<protocol::HashAnswer>> DestinationMigration::on(protocol::Hash request) {
    return disks_.hash(std::move(request), [this] { return check_exported(); });
}

Task<Result<protocol::FireAnswer>> DestinationMigration::on(protocol::Fire fire) {
    auto const start = core::Clock::now();
    if (!machine::destination::may_fire(state_)) {
        co_return fail(Errc::refused, "the network cannot be moved here now: {}",
                       machine::destination::name(state_.phase));
    }
    downtime_limit_ = core::milliseconds(fire.downtime_limit_ms);
    if (!realtime_) {  // a repeated `fire` does not begin again
        realtime_.emplace();
        watchers_.spawn(limit_realtime());
    }
    CO_TRY_VOID(network_.fire(fire));
    auto const took =
        std::chrono::duration_cast<std::chrono::microseconds>(core::Clock::now() - start);
    co_return protocol::FireAnswer{static_cast<std::uint64_t>(took.count())};
}

Task<Result<protocol::FramesAnswer>> DestinationMigration::on(protocol::Frames frames) {
    co_return network_.take(frames);
}

/// The frames that arrived here for the guest go back to the source; with `last`, no more follow.
Task<Result<protocol::ReturnFramesAnswer>> DestinationMigration::on(
    protocol::ReturnFrames request) {
    if (!machine::destination::may_return_frames(state_)) {
        co_return fail(Errc::refused, "the destination owns the guest");
    }
    co_return network_.return_frames(request);
}

/// The tracked connections of the guest on the source's host.
Task<Result<protocol::TrackingReport>> DestinationMigration::on(protocol::Conntrack sent) {
    if (!machine::destination::may_take_connections(state_)) {
        co_return fail(Errc::refused, "no connections are taken here now: {}",
                       machine::destination::name(state_.phase));
    }
    co_return network_.take(sent);
}

Task<Result<protocol::Packed>> DestinationMigration::on(protocol::Seal) {
    return ask_machine(Verb::seal, machine::destination::event(Event::Kind::seal_requested));
}

Task<Result<protocol::Packed>> DestinationMigration::on(protocol::Commit commit) {
    network_.expect(std::move(commit.frames));
    return ask_machine(Verb::commit, machine::destination::event(Event::Kind::commit_received));
}

Task<Result<protocol::Packed>> DestinationMigration::on(protocol::Abort) {
    files_.give_up();
    return ask_machine(Verb::abort, machine::destination::event(Event::Kind::abort_requested));
}

}  // namespace sidecar
