#include "sidecar/guest/libvirt_guest.hpp"

#include "sidecar/host/process_user.hpp"
#include "sidecar/libvirt/monitor.hpp"

namespace sidecar {

using core::Deadline;
using core::Errc;
using core::fail;
using core::Json;
using core::Result;
using core::Task;

namespace {

/// Of a process that is not root's; empty: it is.
Result<std::string> user_name_of(pid_t process) {
    TRY(auto const user, user_of(process));
    if (!is_other_user(user)) return "";
    if (auto name = storage::name_of_user(user.uid)) return std::move(*name);
    return fmt::format("{}:{}", user.uid, user.gid);
}

Result<LibvirtQemu> look_at(core::Process process, std::string const& uri,
                            libvirt::MonitorStarted const& started) {
    TRY(auto const argv, core::command_line(process.pid()));
    TRY(auto const line, qmp::CommandLine::parse(argv));
    TRY(auto const user, user_name_of(process.pid()));
    TRY(auto plain, line.without_libvirt(user));
    return LibvirtQemu{std::move(process),
                       line.qmp_socket(),
                       std::move(plain.line),
                       {uri, started.uuid, std::move(plain.lost)}};
}

}  // namespace

Json LibvirtGuest::to_json() const { return Json::object({{"uri", uri}, {"uuid", uuid}}); }

std::string libvirt_uri_of(AttachOptions const& options, Json const& manifest) {
    if (options.libvirt) return options.libvirt_uri;
    // Another socket is that of another QEMU.
    return options.qmp_socket.empty() ? manifest["libvirt"]["uri"].text_or("") : "";
}

Task<Result<LibvirtQemu>> join_libvirt(core::Loop& loop, Paths paths, std::string name,
                                       AttachOptions options, Json manifest, Deadline deadline) {
    auto const uri = libvirt_uri_of(options, manifest);
    auto const started = co_await libvirt::start_monitor(loop, paths, name, uri, deadline);
    if (!started) {
        // What an earlier sidecar has left unfinished does not need QEMU.
        if (manifest.has("pid")) {
            CO_TRY_VOID(core::Process::open(core::ProcessIdentity::from_json(manifest)));
        }
        co_return std::unexpected(started.error());
    }
    auto found = [&]() -> Result<LibvirtQemu> {
        TRY(auto process, core::Process::open(started->qemu));
        return look_at(std::move(process), uri, *started);
    }();
    if (!found || !found->qmp_socket.empty() || !options.qmp_socket.empty())
        libvirt::end_monitor(paths, name);
    if (!found) co_return found;
    if (!options.qmp_socket.empty()) found->qmp_socket = options.qmp_socket;
    if (found->qmp_socket.empty()) found->qmp_socket = libvirt::monitor_socket(paths, name);
    co_return found;
}

}  // namespace sidecar
