#include "sidecar/migration/data_port.hpp"

#include "core/resolve.hpp"
#include "sidecar/host/limits.hpp"

namespace sidecar {

using core::Errc;
using core::fail;
using core::Result;
using core::Task;

Task<Result<>> check_data_port(SourceContext context, protocol::DataPort there) {
    if (there.port == 0) co_return Result<>{};
    auto const connected = co_await core::connect_tcp(context.guest.loop, context.peer.host(),
                                                      std::to_string(there.port),
                                                      context.within(limits::data_port_timeout));
    if (connected) co_return Result<>{};
    if (connected.error().code == Errc::cancelled) co_return std::unexpected(connected.error());
    co_return fail(Errc::refused,
                   "port {} of {} cannot be reached from here: {}. Its QEMU receives disks and RAM "
                   "on {}: open TCP {} there (`serve --data-ports` says which)",
                   there.port, context.options.destination, connected.error().sentence(),
                   there.range.first == 0 ? "ports that the kernel chooses" : "two of these ports",
                   there.range.first == 0 ? "1024-65535" : there.range.text());
}

std::string data_port_line(protocol::DataPort const& there, std::string const& destination) {
    if (there.port == 0) return {};
    return fmt::format("port {} of {}: reached; disks and RAM take {}", there.port, destination,
                       there.range.first == 0 ? "ports that its kernel chooses"
                                              : "two of TCP " + there.range.text());
}

}  // namespace sidecar
