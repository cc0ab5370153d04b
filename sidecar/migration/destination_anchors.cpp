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

protocol::AnchorEnd anchor_end(netmove::GuestInterface const& interface,
                               std::vector<netmove::tunnel::Key> const& keys) {
    auto const& move = *interface.anchor;
    protocol::AnchorEnd end{interface.mac, move.from, "", interface.mtu, {}};
    for (auto const& key : keys) {
        if (key.id == move.to) end.key = key;
    }
    end.local = move.local;
    if (end.local) end.addresses = netmove::translatable(interface.addresses);
    end.home_bridge = move.home_bridge;
    end.home_port = interface.port;
    end.vxlan = move.vxlan;
    return end;
}

/// Of the interfaces whose bridges `serve` makes or names.
std::vector<protocol::AnchorEnd> anchor_ends(Description const& description,
                                             std::vector<netmove::tunnel::Key> const& keys) {
    std::vector<protocol::AnchorEnd> ends;
    for (auto const& interface : description.interfaces) {
        if (interface.has_anchors_bridge()) ends.push_back(anchor_end(interface, keys));
    }
    return ends;
}

}  // namespace

Task<Result<>> DestinationAnchors::offer(Description const& description,
                                         std::optional<netmove::tunnel::Key> probe,
                                         protocol::CheckAnswer& answer) {
    std::vector<protocol::AnchorEnd> ends;
    bool needs_serve = false;
    for (auto const& interface : description.interfaces) {
        needs_serve = needs_serve || interface.has_anchors_bridge();
        if (interface.anchor) ends.push_back(anchor_end(interface, {}));
    }
    if (ends.empty()) co_return Result<>{};
    auto const offer =
        co_await ask_serve(context_.loop, context_.paths,
                           protocol::AnchorOffer{context_.name, std::move(ends), std::move(probe)},
                           Deadline::after(limits::anchor_answer_timeout));
    // A guest that returns to its home network may find its stand-in here, but need not.
    if (!offer && !needs_serve) co_return Result<>{};
    CO_TRY_VOID(offer);
    answer.tunnel_port = offer->port;
    std::size_t next = 0;
    for (auto const& interface : description.interfaces) {
        bool const here = interface.anchor && next < offer->here.size() && offer->here[next];
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
        if (interface.has_anchors_bridge()) interface.bridge = answer.bridges[next++];
    }
    co_return Result<>{};
}

Task<void> DestinationAnchors::end() {
    bool returned = false;
    for (auto const& interface : context_.description.interfaces) {
        returned = returned || (interface.has_anchors_bridge() && interface.anchor->to == 0);
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
