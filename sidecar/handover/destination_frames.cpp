#include <algorithm>
#include <iterator>

#include "core/log.hpp"
#include "sidecar/handover/frames.hpp"
#include "sidecar/host/limits.hpp"

namespace sidecar {

using core::Deadline;
using core::Errc;
using core::fail;
using core::Result;
using core::Task;

Result<> DestinationFrames::add(Guest& guest, std::optional<netmove::Gate> gate,
                                std::size_t index) {
    auto const& tap = guest.nics[index]->tap;
    TRY(auto injector, netmove::Injector::open(*guest.netlink, tap.name()));
    auto const& interface = guest.nics[index]->interface;
    nics_.push_back({std::move(injector),
                     &tap,
                     guest.netlink.get(),
                     std::move(gate),
                     {},
                     0,
                     0,
                     interface.evpn || interface.routed});
    return {};
}

Result<> DestinationFrames::prepare(Guest& guest) {
    nics_.clear();
    closed_ = false;
    for (std::size_t index = 0; index < guest.nics.size(); ++index) {
        auto gate = netmove::Gate::install(*guest.netlink, guest.nics[index]->tap);
        if (!gate) {
            core::log::warning("guest={} frames may overtake each other at the move: {}",
                               guest.name, gate.error().sentence());
        }
        TRY_VOID(add(guest, gate ? std::optional(std::move(*gate)) : std::nullopt, index));
    }
    return {};
}

Result<> DestinationFrames::find(Guest& guest) {
    nics_.clear();
    for (std::size_t index = 0; index < guest.nics.size(); ++index) {
        TRY(auto gate, netmove::Gate::find(*guest.netlink, guest.nics[index]->tap));
        TRY_VOID(add(guest, std::move(gate), index));
    }
    return {};
}

void DestinationFrames::close() {
    fired_ = true;
    if (std::exchange(closed_, true)) return;
    for (auto& nic : nics_) {
        if (!nic.gate) continue;
        auto const closed = nic.gate->close();
        if (!closed) core::log::warning("{}", closed.error().sentence());
    }
}

Result<protocol::FramesAnswer> DestinationFrames::take(protocol::Frames const& sent) {
    if (sent.nic >= nics_.size()) {
        return fail(Errc::protocol, "the source sent frames of NIC {}, which does not exist",
                    sent.nic);
    }
    auto& nic = nics_[sent.nic];
    if (sent.first > nic.taken) {
        return fail(Errc::protocol,
                    "the source sent frames from number {} on, but only {} arrived before",
                    sent.first, nic.taken);
    }
    TRY(auto frames, netmove::from_wire(sent.bytes));
    auto const known = std::min(nic.taken - sent.first, frames.size());
    auto const news = std::span(frames).subspan(known);
    for (auto const& frame : news) nic.bytes += frame.size();
    if (nic.bytes > netmove::caught_bytes_max) {
        return fail(Errc::protocol, "the source sent more than {} bytes of frames",
                    netmove::caught_bytes_max);
    }
    nic.taken += news.size();
    if (let_in_) {
        followed_ = true;
        late_ += news.size();
        put(nic, news);
    } else {
        std::move(news.begin(), news.end(), std::back_inserter(nic.frames));
    }
    came_.set();
    return protocol::FramesAnswer{nic.taken};
}

bool DestinationFrames::complete() const {
    for (std::size_t index = 0; index < expected_.size() && index < nics_.size(); ++index) {
        if (expected_[index] > nics_[index].taken) return false;
    }
    return true;
}

void DestinationFrames::put(Nic& nic, std::span<netmove::CaughtFrame const> frames) {
    for (auto const& frame : frames) {
        auto const put = nic.injector.put(frame);
        if (!put) core::log::debug("{}", put.error().sentence());
        ++(put && *put ? replayed_ : lost_);
    }
}

Task<void> DestinationFrames::deliver_frames(Deadline deadline) {
    if (let_in_) co_return;
    while (!complete()) {
        came_.reset();
        if (!co_await came_.wait(deadline)) break;
    }
    let_in_ = true;
    for (auto& nic : nics_) {
        // (The ring keeps its length: the kernel would empty the gate to change it.)
        put(nic, nic.frames);
        nic.frames.clear();
        nic.waits = nic.gate && nic.network_follows_later;
        if (!nic.waits) open(nic);
    }
}

void DestinationFrames::open(Nic& nic) {
    nic.waits = false;
    if (!nic.gate) return;
    auto const before = nic.netlink->link(nic.tap->name());
    if (auto const waiting = nic.gate->count()) {
        waited_ += waiting->waiting;
        lost_ += waiting->dropped;
    }
    auto const opened = nic.gate->open();
    if (!opened) core::log::error("{}", opened.error().sentence());
    auto const after = nic.netlink->link(nic.tap->name());
    if (before && after) lost_ += after->dropped - before->dropped;
}

Task<void> DestinationFrames::open_when_quiet(std::stop_token stop) {
    auto const patience = Deadline::after(limits::gate_patience, std::move(stop));
    auto const waits = [](Nic const& nic) { return nic.waits; };
    if (std::ranges::none_of(nics_, waits)) co_return;
    for (bool quiet = false; !quiet && !patience.passed();) {
        came_.reset();
        auto const limit = followed_ ? patience.sooner(limits::late_silence) : patience;
        quiet = !co_await came_.wait(limit);
    }
    for (auto& nic : nics_) {
        if (nic.waits) open(nic);
    }
}

Task<void> DestinationFrames::given_back(Deadline deadline) {
    if (fired_ && !let_in_) (void)co_await given_back_.wait(deadline);
}

Result<protocol::ReturnFramesAnswer> DestinationFrames::give_back(bool last) {
    protocol::ReturnFramesAnswer answer;
    std::size_t room = limits::frames_given_back_bytes_max;
    for (std::size_t index = 0; index < nics_.size(); ++index) {
        auto& nic = nics_[index];
        if (nic.gate && closed_) TRY_VOID(nic.gate->open());
        TRY(auto caught, netmove::catch_frames(*nic.tap, netmove::caught_bytes_max - nic.bytes));
        for (auto& frame : caught.frames) {
            if (netmove::Gate::is_own(frame)) continue;
            nic.bytes += frame.size();
            nic.frames.push_back(std::move(frame));
        }
        auto const batch = room == 0 ? 0 : netmove::frames_within(nic.frames, room);
        auto const now = std::span(nic.frames).first(batch);
        auto const wire = netmove::to_wire(now);
        room -= std::min(room, wire.size());
        if (!now.empty()) {
            answer.parts.push_back({index, wire.size()});
            answer.bytes.insert(answer.bytes.end(), wire.begin(), wire.end());
        }
        for (auto const& frame : now) nic.bytes -= frame.size();
        nic.frames.erase(nic.frames.begin(),
                         nic.frames.begin() + static_cast<std::ptrdiff_t>(batch));
        answer.more = answer.more || !nic.frames.empty();
    }
    closed_ = false;
    if (last && !answer.more) given_back_.set();
    return answer;
}

void DestinationFrames::remove() {
    for (auto& nic : nics_) {
        auto const removed = netmove::Gate::remove(*nic.netlink, nic.tap->name());
        if (!removed) core::log::debug("{}", removed.error().sentence());
    }
    nics_.clear();
}

protocol::FramesReport DestinationFrames::report() const {
    return {replayed_, waited_, late_, lost_};
}

}  // namespace sidecar
