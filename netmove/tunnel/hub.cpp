#include "netmove/tunnel/hub.hpp"

#include <poll.h>

#include "core/log.hpp"

namespace netmove::tunnel {

using core::Clock;
using core::Deadline;
using core::Errc;
using core::fail;
using core::Result;
using core::Task;

Result<std::unique_ptr<Hub>> Hub::open(core::Loop& loop, HubOptions options) {
    TRY(auto dtls, DtlsContext::create());
    TRY(auto socket, Socket::open(options));
    return std::make_unique<SocketHub>(loop, std::move(socket), std::move(dtls));
}

SocketHub::SocketHub(core::Loop& loop, Socket socket, std::unique_ptr<DtlsContext> dtls)
    : parts_(loop, std::move(socket), std::move(dtls)), tasks_(loop) {
    tasks_.spawn(receive(stop_.get_token()));
    tasks_.spawn(send_waiting(stop_.get_token()));
}

SocketHub::~SocketHub() { assert(ends_.empty()); }

Result<Tunnel*> SocketHub::add(Key key, Role role, std::optional<Endpoint> peer) {
    auto const id = key.id;
    if (ends_.contains(id)) {
        return fail(Errc::refused, "there is a tunnel {:016x} on this host already", id);
    }
    if (ends_.size() >= tunnels_max) {
        return fail(Errc::refused, "this host has {} tunnels already, and no more are allowed",
                    tunnels_max);
    }
    if (role == Role::connects && !peer) {
        return fail(Errc::invalid, "the tunnel {:016x} has no endpoint to connect to", id);
    }
    TRY_VOID(Key::from_json(key.to_json()));  // checks it
    auto& end = ends_[id];
    end = std::make_unique<End>(parts_, std::move(key), role, peer);
    end->start();
    return end.get();
}

Task<void> SocketHub::remove(std::uint64_t id) {
    auto node = ends_.extract(id);
    if (node.empty()) co_return;
    co_await node.mapped()->stop();
}

Task<void> SocketHub::close() {
    while (!ends_.empty()) co_await remove(ends_.begin()->first);
    stop_.request_stop();
    co_await tasks_.join();
}

Task<void> SocketHub::receive(std::stop_token stop) {
    while (!stop.stop_requested()) {
        auto const ready =
            co_await parts_.loop.poll(parts_.socket.fd(), POLLIN, Deadline::never(stop));
        if (stop.stop_requested()) break;
        if (!ready) {
            core::log::error("the tunnels' socket cannot be read: {}", ready.error().sentence());
            break;
        }
        for (bool more = true; more && !stop.stop_requested();) {
            auto const now = Clock::now();
            for (auto const& arrival : parts_.socket.receive(more)) take(arrival, now);
            if (more) co_await parts_.loop.next_turn();
        }
    }
}

void SocketHub::take(Arrival const& arrival, Clock::time_point now) {
    for (auto rest = arrival.bytes; !rest.empty();) {
        auto const bytes = rest.first(std::min(arrival.segment, rest.size()));
        rest = rest.subspan(bytes.size());
        auto const datagram = parse_datagram(bytes);
        auto const found = datagram ? ends_.find(datagram->id) : ends_.end();
        if (found == ends_.end()) {
            ++strangers_;
        } else {
            found->second->arrived(*datagram, arrival.path, now);
        }
    }
}

/// Sends what the socket had no room for, once it has.
Task<void> SocketHub::send_waiting(std::stop_token stop) {
    auto const deadline = Deadline::never(stop);
    while (!stop.stop_requested()) {
        if (!parts_.outgoing.blocked()) {
            parts_.blocked.reset();
            parts_.writable.set();
            (void)co_await parts_.blocked.wait(deadline);
            continue;
        }
        (void)co_await parts_.loop.poll(parts_.socket.fd(), POLLOUT, deadline);
        parts_.outgoing.retry();
        // Of which tunnel it was is not known here; its next datagram will show it again.
        (void)parts_.outgoing.take_too_long();
    }
}

}  // namespace netmove::tunnel
