// The mobile node's machine: first what an event means, then the parts that events share.
#include "netmove/mobile_ipv6/registration.hpp"

#include <algorithm>
#include <utility>

#include "netmove/mobile_ipv6/sequence.hpp"

namespace netmove::mobile_ipv6::registration {

namespace {

using Kind = Outcome::Kind;

constexpr TimePoint never = TimePoint::max();

struct Builder {
    State state;
    TimePoint now;
    std::vector<Action> actions;

    void tell(Outcome outcome) {
        if (outcome == state.outcome) return;
        state.outcome = outcome;
        actions.emplace_back(Tell{std::move(outcome)});
    }
    void tell(Kind kind) { tell(Outcome{.kind = kind}); }
    [[nodiscard]] bool sends() const {
        return state.right == Right::held || state.right == Right::provisional;
    }
    void wait_until(TimePoint at) {
        state.phase = Phase::waiting;
        // Before COMMIT a destination does not try again.
        state.due = state.right == Right::held ? at : never;
    }
};

// ---- sending ------------------------------------------------------------------------------------

/// How long the last update waits for its answer.
Interval interval_after(State const& state) {
    if (state.updates > fast_updates_max) return retransmit_slow;
    auto const first = state.round_trip ? state.round_trip->timeout()
                       : state.detects  ? first_interval_detection
                                        : first_interval;
    auto const most = std::max(first, retransmit_max);
    auto const doubled = first * (std::int64_t{1} << (state.updates - 1));
    return std::min(doubled, most);
}

/// One update. A destination before COMMIT has only so many.
void send(Builder& builder) {
    auto& state = builder.state;
    if (state.right == Right::provisional) {
        if (state.provisional_left == 0) {
            builder.tell(Kind::unreachable);
            builder.wait_until(never);
            return;
        }
        --state.provisional_left;
    }
    ++state.sequence;
    ++state.updates;
    state.sent[state.sequence % state.sent.size()] = builder.now;
    state.due = builder.now + interval_after(state);
    builder.actions.emplace_back(SendUpdate{update_of(state)});
}

/// Updates of the same content follow, until one of them is answered.
void begin_updates(Builder& builder, bool measures = false) {
    auto& state = builder.state;
    state.phase = Phase::updating;
    state.first = static_cast<std::uint16_t>(state.sequence + 1);
    state.updates = 0;
    state.resynchronised = false;
    state.detects = builder.now >= state.bound_until;
    state.measures = measures;
    send(builder);
}

/// An answer may come to each of the last updates that have this content.
bool is_outstanding(State const& state, std::uint16_t sequence) {
    auto const behind = static_cast<std::uint16_t>(state.sequence - sequence);
    auto const sent = static_cast<std::uint16_t>(state.sequence - state.first + 1);
    return behind < std::min<std::size_t>(sent, state.sent.size());
}

// ---- answers ------------------------------------------------------------------------------------

/// Half of the lifetime, so that a home agent that does not answer has the other half to return.
TimePoint refresh_at(BindingAcknowledgement const& answer, TimePoint sent) {
    auto after = std::chrono::duration_cast<Interval>(answer.lifetime) / 2;
    if (answer.refresh_advice) after = std::min<Interval>(after, *answer.refresh_advice);
    if (answer.nat && answer.nat->refresh_s != 0xffff'ffff) {
        // The update is the keepalive too: the NAT must not forget the way back.
        auto const keepalive = std::chrono::seconds(answer.nat->refresh_s);
        after = std::min(after, keepalive.count() == 0 ? nat_refresh_default : keepalive);
    }
    return sent + std::max(after, refresh_min);
}

/// True: the round trip must be measured by another update, because a detection was in this one.
bool take_round_trip(Builder& builder, TimePoint sent) {
    auto& state = builder.state;
    auto const measured = std::chrono::duration_cast<Interval>(builder.now - sent);
    bool const suspect = state.detects || (measured >= detection_suspected && !state.measures);
    if (!suspect) {
        state.round_trip = RoundTrip::with(state.round_trip, measured);
        return false;
    }
    return state.right == Right::held;
}

void refused(Builder& builder, Outcome outcome) {
    builder.tell(std::move(outcome));
    builder.wait_until(builder.now + refused_retry);
}

void deregistered(Builder& builder) {
    auto& state = builder.state;
    state.phase = Phase::settled;
    state.bound_until = {};
    state.due = never;
    builder.tell(Kind::at_home);
    builder.actions.emplace_back(AnnounceHome{});
}

void accepted(Builder& builder, BindingAcknowledgement const& answer) {
    auto& state = builder.state;
    if (state.target == Target::no_binding) {
        deregistered(builder);
        return;
    }
    if (answer.lifetime.count() == 0) {  // Accepted, and not bound: no home agent may say so.
        refused(builder, {.kind = Kind::refused, .status = answer.status});
        return;
    }
    auto const sent = state.sent[answer.sequence % state.sent.size()];
    bool const measure = take_round_trip(builder, sent);
    state.phase = Phase::settled;
    state.bound_until = sent + std::chrono::duration_cast<Interval>(answer.lifetime);
    state.due = refresh_at(answer, sent);
    bool const here_first = state.outcome.kind != Kind::registered;
    builder.tell({.kind = Kind::registered,
                  .status = std::nullopt,
                  .lifetime = answer.lifetime,
                  .ipv4_home = answer.ipv4_home,
                  .nat = answer.nat});
    if (here_first && state.node.key_management_mobility && !answer.key_management_mobility) {
        builder.actions.emplace_back(RenewKeys{});
    }
    if (measure) begin_updates(builder, true);
}

/// Status 135: the home agent's last number is `newest`.
void out_of_window(Builder& builder, std::uint16_t newest) {
    auto& state = builder.state;
    // An update of ours overtook another one of ours, or the answer is an old one.
    if (!is_newer(newest, state.sequence)) return;
    if (state.right == Right::provisional) {
        // The source's, after a rollback? Then it must not be surpassed. COMMIT would say that it
        // is not.
        state.sequence = newest;
        builder.tell(Kind::superseded);
        builder.wait_until(never);
        return;
    }
    state.sequence = newest;
    if (state.resynchronised) {
        refused(builder, {.kind = Kind::refused, .status = BindingStatus::sequence_out_of_window});
        return;
    }
    begin_updates(builder);
    state.resynchronised = true;
}

void answered(Builder& builder, BindingAcknowledgement const& answer) {
    auto& state = builder.state;
    // A destination that has used its numbers still takes a late answer.
    bool const waits = state.phase == Phase::updating ||
                       (state.phase == Phase::waiting && state.outcome.kind == Kind::unreachable);
    if (!builder.sends() || !waits) return;
    if (answer.status == BindingStatus::sequence_out_of_window) {
        out_of_window(builder, answer.sequence);
        return;
    }
    if (!is_outstanding(state, answer.sequence)) return;
    if (is_accepted(answer.status)) {
        accepted(builder, answer);
    } else if (state.target == Target::no_binding &&
               answer.status == BindingStatus::not_home_agent) {
        deregistered(builder);  // There was no binding (RFC 6275 10.3.2).
    } else {
        refused(builder, {.kind = Kind::refused, .status = answer.status});
    }
}

/// A message that answers no update: the binding is renewed, but not at any pace.
void prompted(Builder& builder, bool binding_lost = false) {
    auto& state = builder.state;
    bool const renews = state.right == Right::held && state.phase == Phase::settled &&
                        state.target == Target::binding;
    if (!renews || builder.now < state.prompted + refresh_min) return;
    state.prompted = builder.now;
    if (binding_lost) state.bound_until = {};
    begin_updates(builder);
}

void error_arrived(Builder& builder, BindingError const& error) {
    auto& state = builder.state;
    if (error.status == 1 && error.home_address == state.node.home) {
        prompted(builder, true);
    } else if (error.status == 2 && builder.sends() && state.phase == Phase::updating) {
        refused(builder, {.kind = Kind::unsupported});
    }
}

// ---- events -------------------------------------------------------------------------------------

void handle(Builder& builder, Begin const& event) {
    auto& state = builder.state;
    if (state.right != Right::none) return;
    state.node = event.node;
    state.place = event.place;
    state.sequence = event.sequence;
    state.updates_max = event.updates_max;
    state.right = Right::held;
    if (event.place.at_home) {
        state.target = Target::no_binding;
        state.phase = Phase::settled;
        builder.tell(Kind::at_home);
        return;
    }
    builder.tell(Kind::pending);
    begin_updates(builder);
}

void handle(Builder& builder, Refresh const&) {
    auto const& state = builder.state;
    if (state.right != Right::held || state.target != Target::binding) return;
    // An attempt that has become slow begins anew: the home agent may be back.
    bool const quick = state.phase == Phase::updating && state.updates <= fast_updates_max;
    if (!quick) begin_updates(builder);
}

void handle(Builder& builder, GiveAway const&) {
    auto& state = builder.state;
    if (state.right != Right::held) return;
    state.right = Right::given;
    state.phase = Phase::idle;
    state.due = never;
    auto const left =
        std::chrono::duration_cast<std::chrono::milliseconds>(state.bound_until - builder.now);
    builder.actions.emplace_back(Give{{.node = state.node,
                                       .sequence = state.sequence,
                                       .updates_max = state.updates_max,
                                       .bound_for = std::max(left, left.zero()),
                                       .round_trip = state.round_trip}});
}

void handle(Builder& builder, TakeOver const& event) {
    auto& state = builder.state;
    if (state.right != Right::none) return;
    auto const& record = event.record;
    state.node = record.node;
    state.place = event.place;
    state.sequence = record.sequence;
    state.round_trip = record.round_trip;
    state.bound_until = builder.now + record.bound_for;
    state.updates_max = record.updates_max;
    state.right = Right::provisional;
    state.provisional_left = std::min(record.updates_max, provisional_updates_max);
    builder.tell(Kind::pending);
    if (event.place.at_home) {
        state.target = Target::no_binding;
        builder.wait_until(never);
        return;
    }
    begin_updates(builder);
}

void handle(Builder& builder, Committed const&) {
    auto& state = builder.state;
    if (state.right == Right::given) {
        state.right = Right::ended;
        builder.tell(Kind::moved);
    }
    if (state.right != Right::provisional) return;
    state.right = Right::held;
    bool const refresh_is_due = state.phase == Phase::settled && state.due == never;
    if (state.phase == Phase::waiting || refresh_is_due) {
        begin_updates(builder);
    } else if (state.phase == Phase::updating) {
        state.updates = 1;  // The intervals begin anew; the answers to what was sent still count.
    }
}

void handle(Builder& builder, RolledBack const&) {
    auto& state = builder.state;
    if (state.right == Right::provisional) {
        state.right = Right::ended;
        state.phase = Phase::idle;
        state.due = never;
        builder.tell(Kind::moved);
    }
    if (state.right != Right::given) return;
    state.right = Right::held;
    state.sequence = static_cast<std::uint16_t>(state.sequence + state.updates_max);
    builder.tell(Kind::pending);
    begin_updates(builder);
}

void handle(Builder& builder, Arrived const& event) {
    auto const& message = event.message;
    if (auto const* answer = std::get_if<BindingAcknowledgement>(&message)) {
        answered(builder, *answer);
    } else if (auto const* error = std::get_if<BindingError>(&message)) {
        error_arrived(builder, *error);
    } else if (std::holds_alternative<BindingRefreshRequest>(message)) {
        prompted(builder);
    }
}

void handle(Builder& builder, Due const&) {
    auto& state = builder.state;
    if (builder.now < state.due) return;
    switch (state.phase) {
        case Phase::updating:
            if (state.updates == fast_updates_max) builder.tell(Kind::unreachable);
            send(builder);
            break;
        case Phase::settled:
        case Phase::waiting:
            state.due = never;
            if (state.right == Right::held) begin_updates(builder);  // Else after COMMIT.
            break;
        case Phase::idle:
            break;
    }
}

}  // namespace

Step step(State const& state, Event const& event, TimePoint now) {
    Builder builder{state, now, {}};
    std::visit([&builder](auto const& one) { handle(builder, one); }, event);
    return {std::move(builder.state), std::move(builder.actions)};
}

}  // namespace netmove::mobile_ipv6::registration
