#include "sidecar/daemon/host_lease.hpp"

#include "core/log.hpp"
#include "core/stream.hpp"
#include "sidecar/host/host_identity.hpp"
#include "sidecar/registry/registry.hpp"

namespace sidecar {

using core::Deadline;
using core::Task;

namespace {

/// The address of `serve`, if it listens on one only.
std::string address_of(ServeOptions const& serve) {
    auto const listen = core::split_host_port(serve.listen, default_port);
    bool const any =
        !listen || listen->first.empty() || listen->first == "::" || listen->first == "0.0.0.0";
    return any ? "" : serve.listen;
}

}  // namespace

Task<void> hold_host_lease(core::Loop& loop, SessionSettings settings, std::stop_token token) {
    auto const host = host_identity(settings.paths);  // made now, so that a check creates nothing
    if (!host) core::log::warning("serve: {}", host.error().sentence());
    if (!host || settings.paths.registry.empty()) co_return;
    auto const opened = registry::open_registry(loop, settings.paths.registry);
    if (!opened) {
        core::log::error("serve: {}", opened.error().sentence());
        co_return;
    }
    co_await (*opened)->hold_host({host->id, host->name, address_of(settings.serve)},
                                  Deadline::never(std::move(token)));
}

}  // namespace sidecar
