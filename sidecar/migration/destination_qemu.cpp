#include "sidecar/migration/destination_qemu.hpp"

#include <signal.h>

#include <cstdlib>

#include "core/log.hpp"
#include "qmp/migration.hpp"
#include "qmp/vm.hpp"
#include "sidecar/guest/destination_launch.hpp"
#include "sidecar/guest/preflight.hpp"
#include "sidecar/guest/qemu_schema.hpp"
#include "sidecar/guest/run_state.hpp"
#include "sidecar/host/keys.hpp"
#include "sidecar/host/limits.hpp"
#include "sidecar/migration/ram_stream.hpp"
#include "sidecar/migration/reconnect_monitor.hpp"

namespace sidecar {

using core::Deadline;
using core::Errc;
using core::fail;
using core::Json;
using core::Result;
using core::Task;
using machine::destination::Qemu;

namespace {

/// The end of an address on which QEMU listens: at the first free port of the range.
std::string ports_text(core::PortRange ports) {
    if (ports.first == ports.last) return std::to_string(ports.first);
    return fmt::format("{},to={}", ports.first, ports.last);
}

}  // namespace

Task<Result<>> DestinationQemu::start(netmove::MoverSet& movers) {
    auto& description = context_.description;
    context_.guest =
        std::make_unique<Guest>(context_.loop, context_.paths, context_.name, Guest::Prepared{});
    auto& guest = *context_.guest;
    if (!description.interfaces.empty()) {
        CO_TRY(auto netlink, netmove::Netlink::open());
        guest.netlink = std::make_unique<netmove::Netlink>(std::move(netlink));
        if (generation_ == 0) {
            CO_TRY(description.interfaces,
                   map_interfaces(*guest.netlink, context_.options.maps, description.interfaces));
        }
    }
    CO_TRY_VOID(co_await start_here(guest, context_.options.maps, description, true, movers));
    co_await keep_schema(guest, false, Deadline::after(limits::qmp_timeout));
    watch();
    co_return Result<>{};
}

Task<void> DestinationQemu::begin_again() {
    ++generation_;
    co_await close();  // the taps can be created again
    if (auto const& swtpm = context_.guest->swtpm) {  // its state is not used yet
        (void)swtpm.signal(SIGKILL);
        (void)co_await core::wait_exit(context_.loop, swtpm,
                                       Deadline::after(limits::rollback_timeout));
    }
    if (context_.key.empty()) context_.key = read_key(context_.key_directory());
    ram_begun_ = false;
    events_over_.reset();
}

Task<Result<>> DestinationQemu::join(std::string socket, core::ProcessIdentity prepared) {
    CO_TRY(auto process, core::Process::open(prepared));
    CO_TRY(auto argv, core::command_line(process.pid()));
    CO_TRY(auto line, qmp::CommandLine::parse(argv));
    CO_TRY(auto client, co_await qmp::Client::connect(context_.loop, socket,
                                                      Deadline::after(limits::qmp_timeout)));
    context_.guest =
        std::make_unique<Guest>(context_.loop, context_.paths, context_.name, Guest::Prepared{});
    context_.guest->process = std::move(process);
    context_.guest->client = std::move(client);
    context_.guest->command_line = std::move(line);
    context_.guest->working_directory = "/";
    co_return Result<>{};
}

Task<Result<Qemu>> DestinationQemu::state() {
    auto& client = *context_.guest->client;
    auto const deadline = Deadline::after(limits::qmp_timeout);
    CO_TRY(auto const migration, co_await qmp::query_migrate(client, deadline));
    ram_begun_ = !migration.status.empty() && migration.status != "setup";
    CO_TRY(auto const status, co_await qmp::query_status(client, deadline));
    if (status.running) co_return Qemu::running;
    co_return status.status == "inmigrate" ? Qemu::waiting : Qemu::loaded;
}

Task<Result<>> DestinationQemu::add_key() {
    if (context_.key.empty()) co_return Result<>{};
    auto const directory = context_.key_directory();
    CO_TRY_VOID(write_key(directory, context_.key));
    co_return co_await add_key_object(*context_.guest->client, context_.guest->process.pid(),
                                      directory, "server", context_.migration_id,
                                      Deadline::after(limits::prepare_timeout));
}

Task<Result<>> DestinationQemu::listen_for_ram() {
    auto const deadline = Deadline::after(limits::prepare_timeout);
    auto& client = *context_.guest->client;
    auto const credentials = context_.key.empty() ? "" : key_object(context_.migration_id);
    // Only `cont` activates the disks late. If the guest stays stopped, they must be active when it
    // moves on: QEMU 7.2 aborts at an inactive one.
    bool const late = context_.description.state == GuestState::running;
    CO_TRY_VOID(co_await qmp::migrate_set_capabilities(
        client, {{"events", true}, {"return-path", true}, {"late-block-activate", late}},
        deadline));
    CO_TRY_VOID(co_await qmp::migrate_set_parameters(
        client, Json::object({{"tls-creds", credentials}}), deadline));
    auto const ports = ports_text(context_.options.data_ports);
    auto listening = co_await qmp::migrate_incoming(client, "tcp:[::]:" + ports, deadline);
    if (!listening)
        CO_TRY_VOID(co_await qmp::migrate_incoming(client, "tcp:0.0.0.0:" + ports,
                                                   deadline));  // no IPv6 here
    CO_TRY(auto const address, co_await qmp::incoming_address(client, deadline));
    ram_port_ = std::atoi(address["port"].text_or("0").c_str());
    if (ram_port_ <= 0)
        co_return fail(Errc::protocol,
                       "QEMU does not report the port on which it waits for the RAM");
    co_return Result<>{};
}

Task<Result<>> DestinationQemu::run_guest() {
    auto const done =
        co_await ensure_running(*context_.guest->client, Deadline::after(limits::rollback_timeout));
    if (done && !resumed_at_) resumed_at_ = core::Clock::now();
    co_return done;
}

/// QEMU gave it the run state of the source when it had loaded it.
Task<Result<>> DestinationQemu::check_stopped() {
    CO_TRY(auto const status, co_await qmp::query_status(*context_.guest->client,
                                                         Deadline::after(limits::qmp_timeout)));
    if (!status.running && status.status != "inmigrate") {
        core::log::info("guest={} migration_id={} it stays stopped: QEMU says {}", context_.name,
                        context_.migration_id, status.status);
        co_return Result<>{};
    }
    co_return fail(Errc::protocol, "the guest was stopped at the source, and QEMU here says {}",
                   status.status);
}

Task<void> DestinationQemu::remove_streams(Deadline deadline) {
    co_await RamStream::reset_incoming(*context_.guest, deadline);
    (void)co_await qmp::object_del(*context_.guest->client, key_object(context_.migration_id),
                                   deadline);  // refused if the streams are plaintext
    remove_key(context_.key_directory());
}

Task<Result<>> DestinationQemu::kill() {
    if (!context_.guest) co_return Result<>{};
    // swtpm ends with QEMU, unless that had not begun to use it.
    for (auto const* const process : {&context_.guest->process, &context_.guest->swtpm}) {
        if (!*process) continue;
        (void)process->signal(SIGKILL);  // closed: it has ended already
        CO_TRY_VOID(co_await core::wait_exit(context_.loop, *process,
                                             Deadline::after(limits::rollback_timeout)));
    }
    co_return Result<>{};
}

Task<void> DestinationQemu::close() {
    if (!context_.guest) co_return;
    if (context_.guest->client) co_await context_.guest->client->close();
    context_.guest->nics.clear();
}

void DestinationQemu::watch() {
    watchers_.spawn(watch_monitor());
    watchers_.spawn(watch_process());
}

Task<void> DestinationQemu::watch_monitor() {
    auto const generation = generation_;
    auto& client = *context_.guest->client;
    auto const token = context_.stop.get_token();
    auto const subscribe = [&client] { return client.subscribe({"RESUME", "MIGRATION"}); };
    client.expect_reconnect(true);
    auto events = subscribe();
    for (;;) {
        auto const event = co_await events.next(Deadline::never(token));
        if (event) {
            if (event->name == "RESUME") resumed_at_ = event->received;
            if (event->name == "MIGRATION") hear_migration(event->data["status"].text_or(""));
            continue;
        }
        events_over_.set();
        if (event.error().code == Errc::cancelled || !co_await reconnect(generation)) break;
        events = subscribe();
        auto const missed =
            co_await qmp::query_migrate(client, Deadline::after(limits::qmp_timeout, token));
        if (missed) hear_migration(missed->status);
        if (!missed) client.cut(missed.error().what);
    }
    if (generation == generation_ && context_.guest && context_.guest->client)
        context_.guest->client->expect_reconnect(false);
}

void DestinationQemu::hear_migration(std::string const& status) {
    core::log::debug("guest={} migration_id={} incoming qemu migration={}", context_.name,
                     context_.migration_id, status);
    if (!status.empty() && status != "none" && status != "setup") ram_begun_ = true;
    if (status == "completed") callbacks_.loaded();
}

/// Returns false if this QEMU or the migration has ended.
Task<bool> DestinationQemu::reconnect(unsigned generation) {
    auto const lost_at = core::Clock::now();
    bool told = false;
    auto const wanted = [&] {
        return generation == generation_ && context_.guest && context_.guest->process.running();
    };
    auto const failed = [&](core::Error const& error) {
        if (told || core::Clock::now() - lost_at <= limits::qmp_silence_max) return;
        told = true;
        callbacks_.silent(error);
    };
    if (!wanted()) co_return false;
    bool const back = co_await reconnect_monitor(context_.loop, *context_.guest->client, wanted,
                                                 failed, context_.stop.get_token());
    if (!back) co_return false;
    core::log::warning("guest={} migration_id={} QEMU's monitor was lost, and is back",
                       context_.name, context_.migration_id);
    events_over_.reset();
    co_return true;
}

Task<void> DestinationQemu::watch_process() {
    auto const ended = co_await core::wait_exit(context_.loop, context_.guest->process,
                                                Deadline::never(context_.stop.get_token()));
    if (!ended && ended.error().code == Errc::cancelled) co_return;
    // Its last events must still be read: they show whether RAM had begun to arrive.
    auto const heard = co_await events_over_.wait(Deadline::after(limits::qmp_timeout));
    auto const words = qmp::last_words(context_.paths.run(context_.name) + "/qemu.log");
    auto const why = fail(Errc::closed, "QEMU on the destination has ended{}{}",
                          words.empty() ? "" : ": ", words);
    callbacks_.gone(heard && !ram_begun_ ? Qemu::waiting : Qemu::gone, why.error());
}

}  // namespace sidecar
