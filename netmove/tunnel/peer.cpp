#include "netmove/tunnel/peer.hpp"

#include <algorithm>
#include <array>
#include <cerrno>

#include "core/log.hpp"

namespace netmove::tunnel {

/// Sends each record at once, with the id before it.
class Peer::Sender final : public RecordSink {
public:
    Sender(Parts& parts, std::uint64_t id, Path const& path)
        : parts_(parts), id_(id), path_(path) {}
    void record(ByteView record) override {
        auto const front = id_bytes(id_);
        if (record.size() + front.size() > parts_.datagram.size()) return;
        std::ranges::copy(front, parts_.datagram.begin());
        std::ranges::copy(record, parts_.datagram.begin() + id_size);
        ByteView const all(parts_.datagram.data(), id_size + record.size());
        error_ = parts_.socket.send(path_, all, all.size());
    }
    [[nodiscard]] int error() const { return error_; }

private:
    Parts& parts_;
    std::uint64_t id_;
    Path const& path_;
    int error_ = 0;
};

namespace {

/// What a cookie is bound to.
std::string client_name(Key const& key, Path const& from) {
    return fmt::format("{:016x} {}", key.id, from.peer.text());
}

}  // namespace

Peer::Peer(Parts& parts, Key const& key, Role role, std::optional<Endpoint> endpoint,
           PeerOwner& owner)
    : parts_(parts), key_(key), role_(role), owner_(owner) {
    if (endpoint) given_ = path_ = Path{*endpoint, 0, {}, 0};
}

void Peer::handle(Datagram const& datagram, Path const& from, TimePoint now) {
    switch (datagram.kind) {
        case DatagramKind::application:
            handle_record(datagram, from, now);
            return;
        case DatagramKind::client_hello:
            handle_hello(datagram, from, now);
            return;
        case DatagramKind::handshake:
            handle_handshake(datagram, from, now);
            return;
        case DatagramKind::hint:
            handle_hint(from, now);
            return;
    }
}

void Peer::handle_record(Datagram const& datagram, Path const& from, TimePoint now) {
    auto const opens = [&](Session const* session) {
        return session != nullptr && session->dtls->finished() &&
               session->dtls->open(datagram.record) == DtlsSession::Opened::authentic;
    };
    if (opens(current_.get())) {
        authentic(*current_, from);
    } else if (opens(previous_.get())) {
        authentic(*previous_, from);
    } else if (role_ == Role::listens && candidate_ && opens(&*candidate_)) {
        promote(now);
        authentic(*current_, from);
    } else {
        refuse(datagram, from, now);
    }
}

void Peer::authentic(Session& session, Path const& from) {
    bool const was = established();
    first_unanswered_ = ping_due_ = never;
    pings_ = 0;
    silent_ = false;
    if (!was) owner_.changed();
    if (&session == current_.get() && session.dtls->is_newest()) {
        bool const elsewhere = !path_ || path_->peer != from.peer;
        if (elsewhere || (role_ == Role::listens && *path_ != from)) {
            path_ = from;
            // The end that connects leaves its own address to the route, which may change.
            if (role_ == Role::connects) path_->local.reset();
        }
        if (elsewhere) {
            core::log::info("tunnel={:016x} the other end is at {} now", key_.id, from.peer.text());
            owner_.moved(true);
        }
    }
    dispatch(session.dtls->plain(), session);
    session.dtls->release();
}

void Peer::dispatch(ByteView plain, Session const& session) {
    auto const ping = parse_ping(plain);
    if (!ping) {
        owner_.received(plain, session.number);
    } else if (ping->answer) {
        owner_.ponged(*ping);
    } else {
        if (ping->datagram_max >= datagram_min && ping->datagram_max <= datagram_limit) {
            owner_.peer_tested(ping->datagram_max);
        }
        answer(plain);
    }
}

/// A pong of the ping's length.
void Peer::answer(ByteView plain) {
    auto const ping = parse_ping(plain);
    auto const size = std::min(plain.size(), parts_.control.size());
    std::span<std::uint8_t> const room(parts_.control.data(), size);
    write_ping({true, ping->token, 0}, room);
    (void)send_control(room);
}

void Peer::refuse(Datagram const& datagram, Path const& from, TimePoint now) {
    if (current_ && current_->dtls->seen(datagram.sequence)) {
        ++replayed_;
    } else {
        ++unauthenticated_;
    }
    if (role_ != Role::listens || now < next_hint_) return;
    // Perhaps a peer whose session went with our process. The hint is shorter than what it answers.
    next_hint_ = now + hint_interval;
    auto const hint = hint_bytes(key_.id);
    (void)parts_.socket.send(from, hint, hint.size());
}

void Peer::handle_hint(Path const& from, TimePoint now) {
    if (role_ != Role::connects || !current_ || pings_ != 0 || now < next_hint_ ||
        from.peer != path_->peer) {
        return;
    }
    next_hint_ = now + hint_interval;
    ask(now);
    owner_.wake();
}

void Peer::handle_hello(Datagram const& datagram, Path const& from, TimePoint now) {
    if (role_ != Role::listens) return;
    if (candidate_ && std::ranges::equal(candidate_->client_random, datagram.client_random) &&
        candidate_->path.peer == from.peer) {
        drive_candidate(datagram.record, now);
        owner_.wake();
        return;
    }
    bool const may_replace = !candidate_ || candidate_->path.peer == from.peer ||
                             now - candidate_->since >= candidate_chance;
    if (!may_replace || now < next_candidate_) return;
    Sender sender(parts_, key_.id, from);
    auto made =
        DtlsSession::accept(*parts_.dtls, key_, client_name(key_, from), datagram.record, sender);
    if (!made) {
        core::log::warning("tunnel={:016x} {}", key_.id, made.error().sentence());
        return;
    }
    if (!*made) return;  // the cookie was sent
    next_candidate_ = now + candidate_interval;
    ++handshake_messages_;
    candidate_ = Session{std::move(*made), from, ++sessions_, now,
                         Bytes(datagram.client_random.begin(), datagram.client_random.end())};
    owner_.wake();
}

void Peer::handle_handshake(Datagram const& datagram, Path const& from, TimePoint now) {
    if (!candidate_ || candidate_->path.peer != from.peer) return;
    ++handshake_messages_;
    drive_candidate(datagram.record, now);
    owner_.wake();
}

void Peer::begin_handshake(TimePoint now) {
    // The place that it was learned at may have been lost: every second attempt goes where it is
    // said to be.
    auto const& to = attempts_++ % 2 == 0 ? path_ : given_;
    auto made = DtlsSession::connect(*parts_.dtls, key_);
    if (!made) {
        last_failure_ = made.error().sentence();
        next_attempt_ = now + retry_pause;
        return;
    }
    candidate_ = Session{std::move(*made), *to, ++sessions_, now, {}};
    drive_candidate({}, now);
}

void Peer::drive_candidate(ByteView record, TimePoint now) {
    Sender sender(parts_, key_.id, candidate_->path);
    auto& dtls = *candidate_->dtls;
    bool const was_finished = dtls.finished();
    auto const state = dtls.handshake(record, sender);
    last_sent_ = now;
    bool const too_old = now - candidate_->since >= handshake_timeout;
    if (state == DtlsSession::Handshake::failed ||
        (too_old && (state == DtlsSession::Handshake::under_way || was_finished))) {
        last_failure_ = dtls.failure();
        candidate_.reset();
        next_attempt_ = now + retry_pause;
    } else if (state == DtlsSession::Handshake::finished && role_ == Role::connects) {
        promote(now);
        ask(now, owner_.tested());  // makes the other end use the new session
    }
}

/// The candidate takes the place of the session in use.
void Peer::promote(TimePoint now) {
    previous_ = std::move(current_);
    previous_until_ = now + previous_time;
    path_ = candidate_->path;
    if (role_ == Role::connects) path_->local.reset();
    current_ = std::make_unique<Session>(std::move(*candidate_));
    candidate_.reset();
    ++handshakes_;
    handshake_messages_ = 0;
    last_failure_.clear();
    silent_ = false;
    pings_ = 0;
    ping_due_ = first_unanswered_ = never;
    core::log::info("tunnel={:016x} session {} with {}", key_.id, handshakes_, path_->peer.text());
    owner_.changed();
    bool const elsewhere = !previous_ || previous_->path.peer != path_->peer;
    if (elsewhere) owner_.moved(role_ == Role::connects);
    owner_.wake();
}

Peer::TimePoint Peer::step(TimePoint now) {
    if (previous_ && now >= previous_until_) previous_.reset();
    if (candidate_ && (now - candidate_->since >= handshake_timeout ||
                       (!candidate_->dtls->finished() &&
                        candidate_->dtls->retransmit_in() == core::milliseconds{0}))) {
        drive_candidate({}, now);
    }
    if (current_) check_alive(now);
    if (role_ == Role::connects && !candidate_ && now >= next_attempt_) {
        bool const worn = current_ && current_->dtls->records() >= records_per_key_max;
        if (!current_ || silent_ || worn) begin_handshake(now);
    }
    return next_due(now);
}

void Peer::check_alive(TimePoint now) {
    bool const unanswered = ping_due_ <= now;
    bool const quiet =
        pings_ == 0 && first_unanswered_ != never && now - first_unanswered_ >= silence_limit;
    bool const keepalive =
        role_ == Role::connects && pings_ == 0 && now - last_sent_ >= keepalive_interval;
    if (unanswered && pings_ >= pings_max && !silent_) {
        silent_ = true;
        core::log::info("tunnel={:016x} {} is silent", key_.id, path_->peer.text());
        owner_.changed();
    }
    // A silent peer that connects will be heard when it is back.
    if (silent_ && role_ == Role::listens) {
        ping_due_ = never;
    } else if (unanswered || quiet || keepalive) {
        ask(now);
    }
}

/// A ping of which the answer is awaited.
void Peer::ask(TimePoint now, std::size_t tested) {
    (void)send_ping(0, 0, tested);
    ++pings_;
    last_sent_ = now;
    ping_due_ = now + (silent_ ? silent_ping_interval : ping_interval);
}

Peer::TimePoint Peer::next_due(TimePoint now) const {
    auto next = std::min(previous_ ? previous_until_ : never, ping_due_);
    if (candidate_) {
        next = std::min(next, candidate_->since + handshake_timeout);
        if (!candidate_->dtls->finished()) {
            next = std::min(
                next, now + std::max(candidate_->dtls->retransmit_in(), flight_check_interval));
        }
    } else if (role_ == Role::connects && (!current_ || silent_)) {
        next = std::min(next, std::max(next_attempt_, now));
    }
    if (!current_ || pings_ != 0) return next;
    if (first_unanswered_ != never) next = std::min(next, first_unanswered_ + silence_limit);
    if (role_ == Role::connects) next = std::min(next, last_sent_ + keepalive_interval);
    return next;
}

bool Peer::seal(ByteView plain, RecordSink& sink) {
    return current_ != nullptr && current_->dtls->seal(plain, sink);
}

void Peer::note_sent(TimePoint now) {
    last_sent_ = now;
    if (first_unanswered_ == never) first_unanswered_ = now;
}

int Peer::send_ping(std::uint32_t token, std::size_t size, std::size_t tested) {
    auto const plain =
        std::clamp(size, datagram_overhead + ping_size, datagram_limit) - datagram_overhead;
    std::span<std::uint8_t> const room(parts_.control.data(), plain);
    write_ping({false, token, static_cast<std::uint16_t>(tested)}, room);
    return send_control(room);
}

int Peer::send_control(ByteView plain) {
    if (!current_ || !path_) return ENOTCONN;
    Sender sender(parts_, key_.id, *path_);
    (void)current_->dtls->seal(plain, sender);
    if (sender.error() == EINVAL || sender.error() == EADDRNOTAVAIL) {
        path_->local.reset();  // that address is no longer ours
    }
    return sender.error();
}

std::string Peer::trouble() const {
    auto const where = path_ ? path_->peer.text() : std::string("an endpoint not yet known");
    if (current_) return fmt::format("{} has become silent", where);
    if (!last_failure_.empty() && handshake_messages_ == 0) {
        return fmt::format("nothing was received from {} ({})", where, last_failure_);
    }
    if (handshake_messages_ != 0) {
        return fmt::format(
            "{} answered ({} messages), but the handshake did not finish: the secrets of the two "
            "ends differ, or datagrams get lost",
            candidate_ ? candidate_->path.peer.text() : where, handshake_messages_);
    }
    if (role_ == Role::listens) return "no datagram of the other end was received";
    return fmt::format("nothing was received from {}", where);
}

}  // namespace netmove::tunnel
