#include "sidecar/migration/destination_network.hpp"

#include "core/log.hpp"
#include "sidecar/guest/destination_launch.hpp"
#include "sidecar/host/limits.hpp"
#include "sidecar/host/mac_moves.hpp"

namespace sidecar {

using core::Deadline;
using core::Result;
using core::Task;

Task<Result<>> DestinationNetwork::prepare() {
    CO_TRY_VOID(frames_.prepare(*context_.guest));
    co_return co_await movers_.prepare(Deadline::after(limits::prepare_timeout));
}

Result<> DestinationNetwork::find() {
    auto const& described = context_.description.interfaces;
    if (described.empty()) return {};
    auto& guest = *context_.guest;
    TRY(auto netlink, netmove::Netlink::open());
    guest.netlink = std::make_unique<netmove::Netlink>(std::move(netlink));
    TRY(auto taps, netmove::Tap::duplicate_from(guest.process.pid()));
    for (std::size_t index = 0; index < taps.size() && index < described.size(); ++index) {
        auto interface = described[index];
        interface.tap = taps[index].name();
        TRY_VOID(add_nic(guest, std::move(interface), std::move(taps[index]), movers_));
    }
    return frames_.find(guest);
}

Result<> DestinationNetwork::fire(protocol::Fire const& fire) {
    auto const& sent = fire.interfaces;
    auto& nics = context_.guest->nics;
    for (std::size_t nic = 0; nic < nics.size(); ++nic) {
        auto& interface = nics[nic]->interface;
        if (nic < sent.size()) {
            interface.addresses = sent[nic].addresses;
            interface.router = sent[nic].router;
        }
        movers_.update(nic, interface);
    }
    frames_.close();
    if (movers_.fired().empty()) {
        if (fire.moved_ms_ago) journal_.set_moves(at_times(*fire.moved_ms_ago, wall_ms()));
        journal_.note_move(wall_ms());
    }
    return movers_.fire();
}

Result<protocol::ReturnFramesAnswer> DestinationNetwork::return_frames(
    protocol::ReturnFrames request) {
    if (request.last && !movers_.fired().empty()) journal_.note_move(wall_ms());
    if (request.last) TRY_VOID(movers_.rollback());
    return frames_.give_back(request.last);
}

Task<void> DestinationNetwork::deliver_frames() {
    co_await frames_.deliver_frames(Deadline::after(limits::frames_patience));
    // Whatever comes next, no gate stays closed.
    tasks_.spawn(frames_.open_when_quiet(context_.stop.get_token()));
}

Result<> DestinationNetwork::announce() {
    // Usually fired already, at the source's STOP. After a restart, or if that request was lost,
    // fired now at the latest.
    TRY_VOID(movers_.fire());
    tasks_.spawn(settle());
    return {};
}

Task<void> DestinationNetwork::settle() {
    auto const settled = co_await movers_.settle(
        Deadline::after(limits::prepare_timeout, context_.stop.get_token()));
    if (!settled)
        core::log::warning("guest={} announcing again failed: {}", context_.name,
                           settled.error().sentence());
}

Task<void> DestinationNetwork::roll_back(bool wait_for_source) {
    // QEMU here would end before the source could ask for the frames that arrived.
    if (wait_for_source) {
        co_await frames_.given_back(Deadline::after(limits::give_back_patience));
    }
    auto const rolled_back = movers_.rollback();
    if (!rolled_back) {
        core::log::warning("guest={} {}", context_.name, rolled_back.error().sentence());
    }
}

void DestinationNetwork::forget() {
    movers_ = netmove::MoverSet();
    frames_.remove();
}

void DestinationNetwork::drop() {
    forget();
    tracking_.undo();
}

}  // namespace sidecar
