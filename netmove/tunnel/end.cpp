#include "netmove/tunnel/end.hpp"

#include <poll.h>

#include <algorithm>

#include "core/log.hpp"

namespace netmove::tunnel {

using core::Clock;
using core::Deadline;
using core::Errc;
using core::fail;
using core::Result;
using core::Task;

namespace {

// What incomplete frames take is looked at so often.
constexpr core::seconds expiry_interval{1};

}  // namespace

End::End(Parts& parts, Key key, Role role, std::optional<Endpoint> peer)
    : parts_(parts),
      key_(std::move(key)),
      peer_(parts, key_, role, peer, *this),
      packer_(parts.plain),
      tasks_(parts.loop),
      calls_(parts.loop),
      established_(parts.loop),
      flow_(parts.loop),
      wake_(parts.loop),
      testing_(parts.loop, 1),
      pong_(parts.loop) {
    set_datagram_max(datagram_min);
}

void End::start() { tasks_.spawn(maintain(stop_.get_token())); }

Task<void> End::stop() {
    stopping_ = true;
    stop_.request_stop();
    port_stop_.request_stop();
    established_.set();
    pong_.set();
    co_await tasks_.join();
    co_await calls_.close();
}

void End::arrived(Datagram const& datagram, Path const& from, Clock::time_point now) {
    if (stopping_) return;
    now_ = now;
    peer_.handle(datagram, from, now);
}

Task<Result<>> End::established(Deadline deadline) {
    core::CallGate::Hold const hold(calls_);
    while (!stopping_ && !peer_.established()) {
        auto const waited = co_await established_.wait(deadline);
        if (!waited && waited.error().code == Errc::timed_out) {
            co_return fail(Errc::timed_out, "the tunnel {:016x} is not established: {}", key_.id,
                           peer_.trouble());
        }
        CO_TRY_VOID(waited);
    }
    if (stopping_) co_return fail(Errc::cancelled, "the tunnel was removed");
    co_return Result<>{};
}

void End::changed() {
    if (peer_.established()) {
        established_.set();
    } else if (!stopping_) {
        established_.reset();
    }
    update_flow();
}

void End::update_flow() {
    if (flowing()) {
        flow_.set();
    } else {
        flow_.reset();
    }
}

void End::moved(bool test) {
    set_datagram_max(datagram_min);
    tested_ = 0;
    path_test_.reset();
    confirm_due_ = Clock::time_point::max();
    confirm_tries_ = 0;
    if (test) test_due_ = true;
    wake();
}

void End::peer_tested(std::size_t datagram_max) {
    set_datagram_max(datagram_max);
    tested_ = datagram_max;
    if (path_test_) {
        path_test_->datagram_max = datagram_max;
    } else {
        path_test_ = PathTest{{}, datagram_max};
    }
}

void End::set_datagram_max(std::size_t bytes) {
    datagram_max_ = bytes;
    packer_.set_room(bytes - datagram_overhead);
}

Result<> End::attach(Tap const& tap) {
    TRY(auto port, Port::duplicate(tap));
    port_stop_.request_stop();
    port_stop_ = std::stop_source();
    port_ = std::move(port);
    forwarding_ = forwarded_ = false;
    update_flow();
    for (int queue = 0; queue < port_->queues(); ++queue) {
        tasks_.spawn(read_queue(port_, queue, port_stop_.get_token()));
    }
    return {};
}

Result<> End::forward() {
    if (!port_) return fail(Errc::refused, "the tunnel {:016x} has no tap to forward", key_.id);
    port_->take_offloads();
    forwarding_ = forwarded_ = true;
    update_flow();
    return {};
}

void End::hold() {
    forwarding_ = false;
    update_flow();
}

Task<void> End::maintain(std::stop_token stop) {
    while (!stop.stop_requested()) {
        wake_.reset();
        auto const now = Clock::now();
        planned_ = std::min(peer_.step(now), confirm_path(now));
        reassembly_.expire(now);
        if (reassembly_.holds_memory()) planned_ = std::min(planned_, now + expiry_interval);
        if (test_due_ && peer_.established() && testing_.free() != 0) {
            test_due_ = false;
            tasks_.spawn(test_in_background(stop));
        }
        (void)co_await wake_.wait(Deadline(planned_, stop));  // stopped: the loop ends
    }
}

Task<void> End::read_queue(std::shared_ptr<Port> port, int queue, std::stop_token stop) {
    auto const deadline = Deadline::never(stop);
    while (!stop.stop_requested()) {
        if (!flowing()) {
            (void)co_await flow_.wait(deadline);
            continue;
        }
        if (parts_.outgoing.blocked()) {
            (void)co_await parts_.writable.wait(deadline);
            continue;
        }
        auto const ready = co_await parts_.loop.poll(port->descriptor(queue), POLLIN, deadline);
        if (stop.stop_requested()) break;
        if (!ready || (*ready & POLLIN) == 0) {
            core::log::warning("tunnel={:016x} the tap {} can no longer be read", key_.id,
                               port->name());
            break;
        }
        while (forward_batch(*port, queue)) co_await parts_.loop.next_turn();
    }
}

/// True if more may wait, and may be read.
bool End::forward_batch(Port& port, int queue) {
    if (!flowing() || parts_.outgoing.blocked() || &port != port_.get()) return false;
    auto const now = Clock::now();
    port.refresh(now);
    parts_.outgoing.begin(*peer_.path());
    bool empty = false;
    std::size_t frames = 0;
    std::size_t bytes = 0;
    while (!empty && frames < batch_frames_max && bytes < batch_bytes_max &&
           !parts_.outgoing.blocked()) {
        auto const frame = port.read(queue, parts_.frame, empty);
        if (!frame) continue;
        packer_.add(*frame, *this);
        ++frames;
        bytes += frame->ethernet.size();
    }
    packer_.finish(*this);
    parts_.outgoing.finish();
    counts_.frames_sent += frames;
    counts_.bytes_sent += bytes;
    if (frames != 0) note_traffic(now);
    if (parts_.outgoing.take_too_long()) moved(true);
    if (parts_.outgoing.blocked()) {
        parts_.writable.reset();
        parts_.blocked.set();
    }
    return !empty;
}

void End::note_traffic(Clock::time_point now) {
    peer_.note_sent(now);
    if (confirm_due_ == Clock::time_point::max()) confirm_due_ = now + confirm_interval;
    if (planned_ > now + silence_limit) wake();
}

void End::received(ByteView plain, std::uint64_t sender) {
    if (port_) port_->refresh(now_);
    bool const held = reassembly_.holds_memory();
    if (!reassembly_.read(plain, sender, now_, *this)) peer_.count_malformed();
    if (!held && reassembly_.holds_memory() && planned_ > now_ + expiry_interval) wake();
}

void End::frame(FrameView frame) {
    ++counts_.frames_received;
    counts_.bytes_received += frame.ethernet.size();
    bool const accepts = port_ && accept_.value_or(forwarded_);
    if (!accepts || !port_->write(frame)) ++counts_.not_written;
}

Statistics End::statistics() const {
    Statistics out = counts_;
    out.unauthenticated = peer_.unauthenticated();
    out.replayed = peer_.replayed();
    out.malformed = peer_.malformed();
    out.incomplete = reassembly_.incomplete();
    out.handshakes = peer_.handshakes();
    if (peer_.path() && peer_.handshakes() != 0) out.peer = peer_.path()->peer;
    out.path = path_test_;
    return out;
}

}  // namespace netmove::tunnel
