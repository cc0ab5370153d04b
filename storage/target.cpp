#include "storage/target.hpp"

#include <sys/socket.h>

#include "core/log.hpp"
#include "core/stream.hpp"
#include "qmp/block.hpp"
#include "qmp/vm.hpp"
#include "storage/exports.hpp"
#include "storage/limits.hpp"
#include "storage/when_all.hpp"

namespace storage {

using core::Deadline;
using core::Errc;
using core::Result;
using core::Task;

namespace {

constexpr char const* listener_name = "sidecar-nbd";

std::string export_id(std::size_t disk) { return fmt::format("{}target-{}", name_prefix, disk); }

// Flushes a node without going through an export: QEMU has no QMP command for it.
Task<Result<>> flush_node(qmp::Client& client, std::string node, Deadline deadline) {
    auto const line = fmt::format("qemu-io {} flush", node);
    CO_TRY(auto const said,
           co_await client.execute("human-monitor-command",
                                   core::Json::object({{"command-line", line}}), deadline));
    // qemu-io reports by text: nothing is the only good news.
    auto const text = said.text_or("");
    if (text.empty()) co_return Result<>{};
    co_return core::fail(Errc::qemu_refused, "QEMU could not flush {}: {}", node, text);
}

}  // namespace

Target::Target(core::Loop& loop, qmp::Client& client, std::vector<TargetDisk> disks)
    : loop_(loop), client_(client), disks_(std::move(disks)) {}

Task<Result<int>> Target::open(std::string host, core::PortRange ports, std::string tls_creds,
                               Deadline deadline) {
    auto opened = co_await start(std::move(host), ports, std::move(tls_creds), deadline);
    if (!opened) {
        (void)co_await drop(Deadline::after(limits::qmp_command));  // the first error counts
        opened.error().while_doing("offering the disks of the destination");
    }
    co_return opened;
}

Task<Result<int>> Target::start(std::string host, core::PortRange ports, std::string tls_creds,
                                Deadline deadline) {
    CO_TRY(listener_, core::listen_tcp(host, ports));
    CO_TRY(int const port, core::local_port(listener_.get()));
    CO_TRY_VOID(co_await qmp::getfd(client_, listener_name, listener_.get(), deadline));
    auto const limit = static_cast<std::uint32_t>(
        disks_.size() * (limits::connections_max + limits::hash_connections) + disks_.size());
    auto const started = co_await qmp::nbd_server_start(
        client_, {qmp::fd_address(listener_name), tls_creds, limit}, deadline);
    if (!started) {
        (void)co_await qmp::closefd(client_, listener_name, deadline);
        co_return std::unexpected(started.error());
    }
    server_started_ = true;
    CO_TRY_VOID(co_await add_exports(deadline));
    co_return port;
}

Task<Result<>> Target::add_exports(Deadline deadline) {
    for (std::size_t i = 0; i < disks_.size(); ++i) {
        qmp::NbdExport nbd_export;
        nbd_export.id = export_id(i);
        nbd_export.node = disks_[i].node;
        nbd_export.name = disks_[i].export_name;
        nbd_export.writable = true;
        CO_TRY_VOID(co_await qmp::block_export_add(client_, nbd_export, deadline));
    }
    co_return Result<>{};
}

Task<Result<>> Target::reexport(Deadline deadline) {
    if (sealed_ || !server_started_) {
        co_return core::fail(Errc::refused,
                             "the disks of the destination are not offered any more");
    }
    CO_TRY_VOID(co_await remove_exports(deadline));
    co_return co_await add_exports(deadline);
}

Task<Result<>> Target::seal(Deadline deadline) {
    if (sealed_) co_return Result<>{};
    std::vector<Task<Result<>>> flushes;
    for (auto const& disk : disks_) flushes.push_back(flush_node(client_, disk.node, deadline));
    CO_TRY_VOID(co_await when_all(loop_, std::move(flushes)));
    CO_TRY_VOID(co_await remove_exports(deadline));
    // The socket is QEMU's and ours: shut down, it takes no more connections, without a command.
    if (listener_) ::shutdown(listener_.get(), SHUT_RDWR);
    sealed_ = true;
    co_return Result<>{};
}

Task<Result<>> Target::stop_server(Deadline deadline) {
    if (!server_started_) co_return Result<>{};
    CO_TRY_VOID(co_await qmp::nbd_server_stop(client_, deadline));
    server_started_ = false;
    listener_.reset();
    co_return Result<>{};
}

Task<Result<>> Target::drop(Deadline deadline) {
    auto removed = co_await remove_exports(deadline);
    if (removed) removed = co_await stop_server(deadline);
    if (!removed && removed.error().code == Errc::closed) co_return Result<>{};  // QEMU is gone
    if (removed) sealed_ = true;
    co_return removed;
}

Task<Result<>> Target::remove_exports(Deadline deadline) {
    if (!server_started_) co_return Result<>{};
    // All there may be, not those that we remember: a renewal that was given up on the way may have
    // made some.
    std::vector<std::string> ids;
    for (std::size_t i = 0; i < disks_.size(); ++i) ids.push_back(export_id(i));
    co_return co_await delete_exports(loop_, client_, std::move(ids), deadline);
}

}  // namespace storage
