#include "sidecar/migration/destination_anchors.hpp"

#include "core/log.hpp"
#include "netmove/local_address.hpp"
#include "sidecar/anchor/ask_serve.hpp"
#include "sidecar/host/limits.hpp"

namespace sidecar {

using core::Deadline;
using core::Errc;
using core::fail;
using core::Result;
using core::Task;

namespace {

std::vector<protocol::AnchorEnd> anchor_ends(Description const& description,
                                             std::vector<netmove::tunnel::Key> const& keys) {
    std::vector<protocol::AnchorEnd> ends;
    for (auto const& interface : description.interfaces) {
        if (!interface.anchor) continue;
        protocol::AnchorEnd end{interface.mac, interface.anchor->from, "", interface.mtu, {}};
        for (auto const& key : keys) {
            if (key.id == interface.anchor->to) end.key = key;
        }
        end.local = interface.anchor->local;
        if (end.local) end.addresses = netmove::translatable(interface.addresses);
        ends.push_back(std::move(end));
    }
    return ends;
}

}  // namespace

Task<Result<>> DestinationAnchors::offer(Description const& description,
                                         std::optional<netmove::tunnel::Key> probe,
                                         protocol::CheckAnswer& answer) {
    auto ends = anchor_ends(description, {});
    if (ends.empty()) co_return Result<>{};
    CO_TRY(
        auto const offer,
        co_await ask_serve(context_.loop, context_.paths,
                           protocol::AnchorOffer{context_.name, std::move(ends), std::move(probe)},
                           Deadline::after(limits::anchor_answer_timeout)));
    answer.tunnel_port = offer.port;
    std::size_t next = 0;
    for (auto const& interface : description.interfaces) {
        bool const here = interface.anchor && next < offer.here.size() && offer.here[next];
        answer.anchored_here.push_back(here);
        if (interface.anchor) ++next;
    }
    co_return Result<>{};
}

Task<Result<>> DestinationAnchors::receive() {
    auto ends = anchor_ends(context_.description, tunnels_);
    if (ends.empty()) co_return Result<>{};
    auto const count = ends.size();
    protocol::AnchorReceive request{context_.name, context_.migration_id, anchor_port_,
                                    std::move(ends)};
    CO_TRY(auto const answer, co_await ask_serve(context_.loop, context_.paths, std::move(request),
                                                 Deadline::after(limits::anchor_answer_timeout)));
    if (answer.bridges.size() != count) {
        co_return fail(Errc::protocol, "`serve` made {} far ends of {}", answer.bridges.size(),
                       count);
    }
    tunnel_port_ = answer.port;
    std::size_t next = 0;
    for (auto& interface : context_.description.interfaces) {
        if (interface.anchor) interface.bridge = answer.bridges[next++];
    }
    co_return Result<>{};
}

Task<void> DestinationAnchors::end() {
    bool returned = false;
    for (auto const& interface : context_.description.interfaces) {
        returned = returned || (interface.anchor && interface.anchor->to == 0);
    }
    if (!returned) co_return;
    auto const ended =
        co_await ask_serve(context_.loop, context_.paths, protocol::AnchorReturn{context_.name},
                           Deadline::after(limits::anchor_answer_timeout));
    if (!ended) {
        core::log::warning("guest={} its anchor is not ended: {}; `sidecar anchor release {}`",
                           context_.name, ended.error().sentence(), context_.name);
    }
}

Task<void> leave_anchors(DestinationContext context, Description description,
                         std::string migration_id) {
    if (anchor_ends(description, {}).empty()) co_return;
    auto const left = co_await ask_serve(context.loop, context.paths,
                                         protocol::AnchorLeave{context.name, migration_id},
                                         Deadline::after(limits::anchor_answer_timeout));
    if (!left) core::log::warning("guest={} {}", context.name, left.error().sentence());
}

}  // namespace sidecar
