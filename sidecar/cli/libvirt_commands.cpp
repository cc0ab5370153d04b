#include "sidecar/cli/libvirt_commands.hpp"

#include <cstdio>

#include "core/process.hpp"
#include "core/stream.hpp"
#include "sidecar/guest/guest.hpp"
#include "sidecar/host/journal.hpp"
#include "sidecar/host/limits.hpp"

namespace sidecar {

using core::Deadline;
using core::Errc;
using core::fail;
using core::Result;
using core::Task;

namespace {

/// Whether a sidecar of the guest answers. One whose QEMU has just ended goes within a moment.
Task<bool> has_sidecar(core::Loop& loop, std::string control_socket) {
    auto const deadline = Deadline::after(limits::ending_sidecar_timeout);
    while (!deadline.passed()) {
        auto const socket = co_await core::connect_unix(loop, control_socket, deadline);
        if (!socket) co_return socket.error().code == Errc::timed_out;
        if (!co_await core::sleep_for(loop, limits::retry_pause_min)) break;
    }
    co_return true;
}

/// What this host has recorded of the guest's migrations.
Result<> check_records(Paths const& paths, std::string const& guest) {
    TRY(auto const last, Journal::peek(paths.state(guest)));
    if (last.moved_away()) {
        return fail(Errc::refused,
                    "{} moved to {} in migration {}: start it there, or bring it back with "
                    "`sidecar migrate`. If this is another guest of that name, remove {}",
                    guest, last.source()->peer, last.migration_id, paths.state(guest));
    }
    if (last.source() != nullptr && last.must_be_ended_first()) {
        return fail(Errc::refused,
                    "the migration {} of {} to {} has not ended, and the guest may run there: "
                    "`sidecar attach {}` finishes it",
                    last.migration_id, guest, last.source()->peer, guest);
    }
    TRY(auto const manifest, read_manifest(paths, guest));
    auto const qemu = core::Process::open(core::ProcessIdentity::from_json(manifest));
    if (!qemu) return {};
    return fail(Errc::refused, "{} runs under its sidecar on this host (QEMU is process {})", guest,
                qemu->pid());
}

Task<Result<>> check_start(core::Loop& loop, Paths paths, std::string guest) {
    // Others are not sidecar's guests.
    if (!check_guest_name(guest)) co_return Result<>{};
    CO_TRY_VOID(check_records(paths, guest));
    if (!co_await has_sidecar(loop, paths.control_socket(guest))) co_return Result<>{};
    co_return fail(Errc::refused, "{} has a sidecar on this host: `sidecar status {}`", guest,
                   guest);
}

}  // namespace

Task<int> libvirt_hook_command(core::Loop& loop, Options options) {
    auto const& words = options.libvirt_hook;
    bool const starts = words.size() >= 3 && words[1] == "prepare" && words[2] == "begin";
    if (!starts) co_return 0;
    auto const allowed = co_await check_start(loop, options.paths, words[0]);
    if (allowed) co_return 0;
    fmt::print(stderr, "sidecar: {}\n", allowed.error().sentence());
    co_return 1;
}

void LibvirtCommands::add_to(CLI::App& app, Options& options) {
    auto const hidden = [&](char const* name) {
        auto* const command = app.add_subcommand(name, "");
        command->add_option("GUEST", options.guest, "")->required();
        command->group("");
        return command;
    };
    monitor = hidden("libvirt-monitor");
    monitor->add_option("--libvirt-uri", options.libvirt_monitor.uri, "");
    monitor->add_option("--listener-fd", options.libvirt_monitor.listener_fd, "");
    monitor->add_option("--ready-fd", options.libvirt_monitor.ready_fd, "");
    definition = hidden("libvirt-definition");
    definition->add_option("--libvirt-uri", options.libvirt_definition.uri, "");
    definition->add_option("--uuid", options.libvirt_definition.uuid, "");
    definition->add_option("--xml", options.libvirt_definition.xml_file, "");
    hook = app.add_subcommand("libvirt-hook",
                              "Refuse libvirt a guest that moved away or that has a sidecar");
    hook->add_option("WORDS", options.libvirt_hook,
                     "What libvirt gives: DOMAIN OPERATION SUBOPERATION EXTRA");
}

}  // namespace sidecar
