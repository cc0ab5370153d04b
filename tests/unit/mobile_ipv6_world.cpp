#include "tests/unit/mobile_ipv6_world.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "tests/support/mobile_ipv6_bytes.hpp"

namespace mobile_world {

namespace {

using mobile::ip;
using registration::Outcome;
using registration::Phase;
using registration::Right;
using registration::Target;

constexpr unsigned destination_updates = 2;  ///< What a destination may send before COMMIT.
constexpr std::size_t in_flight_max = 4;  ///< No timer comes early while so many are under way.

TimePoint const now = TimePoint{} + std::chrono::hours(1);
WallTime const wall = WallTime{} + std::chrono::hours(500'000);
Address const home_address = ip("2001:db8:1::100");
Address const agent_address = ip("2001:db8:1::1");
std::array<Address, 2> const hosts{ip("2001:db8:2::1"), ip("2001:db8:3::1")};

BindingCache make_agent() {
    return BindingCache({.agent = agent_address,
                         .home_prefix = ip("2001:db8:1::"),
                         .permissions = {{.home = home_address}}});
}

std::size_t index(Host host) { return static_cast<std::size_t>(host); }

template <class T>
T taken(std::vector<T>& list, std::size_t at) {
    T one = std::move(list.at(at));
    list.erase(list.begin() + static_cast<std::ptrdiff_t>(at));
    return one;
}

BindingUpdate& update_in(SignallingPacket& packet) {
    return std::get<BindingUpdate>(packet.message);
}

template <class... Values>
void put(std::string& key, Values... values) {
    ((key += static_cast<char>(values), key += static_cast<char>(static_cast<int>(values) >> 8)),
     ...);
}

}  // namespace

World::World(Setting const& setting)
    : setting_(setting), left_(setting.faults), agent_(make_agent()) {
    unsigned numbers = destination_updates;
    if (weaker(Weaker::rollback_takes_next_number)) numbers = 0;
    if (weaker(Weaker::rollback_skips_one_too_few)) numbers = destination_updates - 1;
    step(Host::source,
         registration::Begin{
             {.home = home_address, .agent = agent_address}, place(Host::source), 10, numbers});
}

registration::Place World::place(Host host) const {
    bool const home = setting_.scenario ==
                      (host == Host::source ? Scenario::leaves_home : Scenario::returns_home);
    return {.address = hosts[index(host)], .at_home = home};
}

Binding const* World::binding() const {
    auto const all = agent_.all();
    return all.empty() ? nullptr : all.front();
}

// ---- what can happen ----------------------------------------------------------------------------

/// A timer may come before the answer has had its time, and does come when nothing is under way.
bool World::may_fire(Host host) const {
    auto const& state = machine(host);
    bool const set = state.due != TimePoint::max() && state.phase != Phase::settled;
    if (!set || weaker(Weaker::no_retransmission)) return false;
    auto const in_flight = updates_.size() + answers_.size();
    if (in_flight == 0 && !detecting_) return true;
    return left_.early_timers[index(host)] > 0 && in_flight < in_flight_max;
}

std::vector<Label> World::labels() const {
    std::vector<Label> labels;
    auto const add = [&labels](bool possible, Move move, std::size_t at = 0) {
        if (possible) labels.push_back({move, static_cast<unsigned char>(at)});
    };
    for (std::size_t at = 0; at < updates_.size(); ++at) {
        add(true, Move::deliver_update, at);
        add(left_.doubles > 0, Move::double_update, at);
        add(left_.losses > 0, Move::lose_update, at);
    }
    for (std::size_t at = 0; at < answers_.size(); ++at) {
        add(true, Move::deliver_answer, at);
        add(left_.doubles > 0, Move::double_answer, at);
        add(left_.losses > 0, Move::lose_answer, at);
    }
    add(detecting_, Move::detection_ends);
    add(left_.restarts > 0, Move::agent_restarts);
    add(may_fire(Host::source), Move::timer_of_source);
    add(may_fire(Host::destination), Move::timer_of_destination);
    bool const stopped = stage_ == Stage::given || stage_ == Stage::taken;
    add(!stopped && stage_ != Stage::committed && left_.moves > 0, Move::give);
    add(stage_ == Stage::given, Move::take);
    add(stage_ == Stage::taken, Move::commit);
    add(stopped, Move::roll_back);
    add(!heard_, Move::destination_hears);
    return labels;
}

/// An answer that can never count, because numbers only grow: it need not be explored.
bool World::is_stale(Answer const& answer) const {
    auto const& state = machine(answer.to);
    auto const number = answer.message.sequence;
    if (answer.message.status == BindingStatus::sequence_out_of_window) {
        return !is_newer(number, state.sequence);
    }
    bool const over = state.phase == Phase::settled || state.phase == Phase::idle;
    return over || is_newer(state.first, number);
}

void World::happen(Label label) {
    happen_only(label);
    if (weaker(Weaker::any_answer_counts)) return;
    std::erase_if(answers_, [this](auto const& answer) { return is_stale(answer); });
}

void World::happen_only(Label label) {
    switch (label.move) {
        case Move::deliver_update:
            deliver(taken(updates_, label.index));
            break;
        case Move::deliver_answer:
            deliver(taken(answers_, label.index));
            break;
        case Move::double_update:
            --left_.doubles;
            deliver(Update(updates_.at(label.index)));
            break;
        case Move::double_answer:
            --left_.doubles;
            deliver(Answer(answers_.at(label.index)));
            break;
        case Move::lose_update:
            --left_.losses;
            taken(updates_, label.index);
            break;
        case Move::lose_answer:
            --left_.losses;
            taken(answers_, label.index);
            break;
        case Move::detection_ends:
            detecting_ = false;
            agent_acts(agent_.detected(home_address, false, now));
            break;
        case Move::agent_restarts:
            --left_.restarts;
            restart_agent(weaker(Weaker::agent_forgets_at_restart));
            break;
        case Move::timer_of_source:
            fire(Host::source);
            break;
        case Move::timer_of_destination:
            fire(Host::destination);
            break;
        case Move::give:
            give();
            break;
        case Move::take:
            take();
            break;
        case Move::commit:
            commit();
            break;
        case Move::roll_back:
            roll_back();
            break;
        case Move::destination_hears:
            destination_hears();
            break;
    }
}

// ---- the hosts ----------------------------------------------------------------------------------

void World::step(Host host, registration::Event const& event) {
    auto& state = machine(host);
    bool const due = std::holds_alternative<registration::Due>(event);
    auto next = registration::step(state, event, due ? state.due : now);
    state = std::move(next.state);
    for (auto& action : next.actions) {
        if (auto* const send = std::get_if<registration::SendUpdate>(&action)) {
            updates_.push_back({host, std::move(send->packet), turns_[index(host)]});
        } else if (auto* const give = std::get_if<registration::Give>(&action)) {
            record_ = std::move(give->record);
        }
    }
    if (weaker(Weaker::destination_has_no_limit)) {
        machine(Host::destination).provisional_left = destination_updates;
    }
}

void World::fire(Host host) {
    auto& early = left_.early_timers[index(host)];
    if (!updates_.empty() || !answers_.empty() || detecting_) --early;
    step(host, registration::Due{});
}

void World::give() {
    --left_.moves;
    auto const before = machine(Host::source);
    step(Host::source, registration::GiveAway{});
    if (weaker(Weaker::source_goes_on)) machine(Host::source) = before;
    stage_ = Stage::given;
    machine(Host::destination) = {};  // That of an earlier move has gone.
    heard_ = true;
}

void World::take() {
    turns_[index(Host::destination)] = ++turn_;
    record_.updates_max = destination_updates;
    step(Host::destination, registration::TakeOver{record_, place(Host::destination)});
    stage_ = Stage::taken;
}

void World::commit() {
    step(Host::source, registration::Committed{});
    stage_ = Stage::committed;
    heard_ = false;
}

void World::roll_back() {
    heard_ = stage_ == Stage::given;
    stage_ = Stage::rolled_back;
    turns_[index(Host::source)] = ++turn_;
    auto& source = machine(Host::source);
    if (weaker(Weaker::rollback_at_home_is_silent) && source.target == Target::no_binding) {
        source.right = Right::held;
        source.phase = Phase::settled;
        return;
    }
    step(Host::source, registration::RolledBack{});
}

void World::destination_hears() {
    heard_ = true;
    if (stage_ == Stage::committed) {
        step(Host::destination, registration::Committed{});
    } else {
        step(Host::destination, registration::RolledBack{});
    }
}

void World::deliver(Answer const& answer) {
    auto message = answer.message;
    auto& state = machine(answer.to);
    if (weaker(Weaker::any_answer_counts) && is_accepted(message.status)) {
        message.sequence = state.sequence;
    }
    step(answer.to, registration::Arrived{message});
    if (weaker(Weaker::destination_follows_135) && state.right == Right::provisional &&
        state.outcome.kind == Outcome::Kind::superseded) {
        step(answer.to, registration::Committed{});
        state.right = Right::provisional;
    }
}

// ---- the home agent -----------------------------------------------------------------------------

void World::deliver(Update const& update) {
    auto packet = update.packet;
    auto const sequence = update_in(packet).sequence;
    auto const* before = binding();
    bool const bound = before != nullptr && before->state == BindingState::bound;
    bool const equal =
        setting_.agent_takes_equal_numbers || weaker(Weaker::rollback_skips_one_too_few);
    if (bound && weaker(Weaker::agent_takes_any_number)) {
        restart_agent(false, static_cast<std::uint16_t>(sequence - 1) - before->sequence);
    } else if (bound && equal && before->sequence == sequence &&
               before->care_of.address != packet.source) {
        restart_agent(false, -1);
    }
    before = binding();
    bool const had = before != nullptr;
    auto const had_sequence = had ? before->sequence : std::uint16_t{0};
    auto const actions =
        agent_.handle(packet, {.from = {packet.source, 0}, .authenticated = true}, now);
    auto const* const after = binding();
    if (after != nullptr && (!had || after->sequence != had_sequence)) {
        agent_knows_update_ = had || after->state != BindingState::released;
        if (update.turn < accepted_turn_) {
            broken_ = "an old update was taken after a newer one";
        }
        accepted_turn_ = std::max(accepted_turn_, update.turn);
    }
    agent_acts(actions);
    if (weaker(Weaker::agent_forgets_at_release) && after != nullptr &&
        after->state == BindingState::released) {
        restart_agent(true);
    }
}

void World::agent_acts(std::vector<HomeAgentAction> const& actions) {
    for (auto const& action : actions) {
        if (std::holds_alternative<StartDetection>(action)) detecting_ = true;
        auto const* const send = std::get_if<Send>(&action);
        if (send == nullptr) continue;
        auto const to = send->packet.destination == hosts[0] ? Host::source : Host::destination;
        answers_.push_back({to, std::get<BindingAcknowledgement>(send->packet.message)});
    }
}

/// Its detections end with it. `sequence_change`: for rules that ignore numbers.
void World::restart_agent(bool forgets, int sequence_change) {
    auto json = agent_.to_json(now, wall);
    agent_ = make_agent();
    detecting_ = false;
    agent_knows_update_ = false;
    if (forgets) return;
    for (auto record : json["bindings"].elements()) {
        auto const changed = record["sequence"].integer_or(0) + sequence_change;
        record.set("sequence", changed & 0xffff);
    }
    if (!agent_.restore(json, now, wall)) broken_ = "the bindings were not restored";
}

// ---- what must hold -----------------------------------------------------------------------------

std::string World::broken() const {
    if (!broken_.empty()) return broken_;
    if (weaker(Weaker::none) && machine(Host::source).right == Right::held &&
        machine(Host::destination).right == Right::held) {
        return "both hosts may send";
    }
    if (auto const* const bound = agent_.find(home_address)) {
        auto const& at = bound->care_of.address;
        if (at != hosts[0] && at != hosts[1]) return "bound at a place that no host named";
    }
    return quiet() ? broken_at_end() : std::string();
}

bool World::quiet() const {
    if (!updates_.empty() || !answers_.empty() || detecting_) return false;
    if (may_fire(Host::source) || may_fire(Host::destination)) return false;
    return heard_ || stage_ == Stage::rolled_back;
}

std::string World::broken_at_end() const {
    if (stage_ == Stage::given || stage_ == Stage::taken) return {};  // not decided
    auto const guest = stage_ == Stage::committed ? Host::destination : Host::source;
    bool const home = place(guest).at_home;
    auto const* const bound = agent_.find(home_address);
    auto const wanted = home ? Outcome::Kind::at_home : Outcome::Kind::registered;
    if (outcome(guest) != wanted) {
        return fmt::format("the guest's host ends as \"{}\"", name(outcome(guest)));
    }
    if (home && bound != nullptr) return "bound, and the guest is at home";
    if (!home && bound == nullptr) return "the guest is not bound";
    if (!home && bound->care_of.address != hosts[index(guest)]) {
        return "the binding is not where the guest is";
    }
    if (stage_ == Stage::before) return {};
    auto const other = outcome(guest == Host::source ? Host::destination : Host::source);
    // A destination that has not heard of the rollback has stopped by itself.
    bool const stated =
        other == Outcome::Kind::moved ||
        (!heard_ && (other == Outcome::Kind::registered || other == Outcome::Kind::unreachable ||
                     other == Outcome::Kind::superseded || place(Host::destination).at_home));
    bool const never_took = machine(Host::destination).right == Right::none;
    if (stated || (guest == Host::source && never_took)) return {};
    if (weaker(Weaker::source_goes_on)) return {};  // its machine does not end at all
    return fmt::format("the other host ends as \"{}\"", name(other));
}

// ---- states -------------------------------------------------------------------------------------

std::string World::key() const {
    std::string key;
    for (auto const& state : machines_) {
        put(key, state.right, state.phase, state.target, state.outcome.kind,
            state.outcome.status.value_or(BindingStatus::accepted), state.sequence, state.first,
            state.provisional_left, state.resynchronised, state.detects, state.measures,
            state.round_trip.has_value(), state.due == TimePoint::max());
    }
    if (auto const* const entry = binding()) {
        put(key, 1, entry->state, entry->sequence, entry->care_of.address == hosts[0]);
    }
    put(key, detecting_, agent_knows_update_, stage_, heard_, turn_, accepted_turn_, turns_[0],
        turns_[1], left_.losses, left_.doubles, left_.restarts, left_.early_timers[0],
        left_.early_timers[1], left_.moves);
    if (stage_ == Stage::given) put(key, record_.sequence, record_.bound_for.count() > 0);
    std::vector<std::string> messages;
    for (auto const& update : updates_) {
        auto const& message = std::get<BindingUpdate>(update.packet.message);
        put(messages.emplace_back(), 1, update.from, update.turn, message.sequence);
    }
    for (auto const& answer : answers_) {
        put(messages.emplace_back(), 2, answer.to, answer.message.status, answer.message.sequence,
            answer.message.lifetime.count() > 0);
    }
    std::ranges::sort(messages);
    for (auto const& message : messages) key += message;
    return key;
}

std::string describe(Label label) {
    constexpr std::array<char const*, 15> names{"an update arrives",
                                                "an answer arrives",
                                                "an update arrives, doubled",
                                                "an answer arrives, doubled",
                                                "an update is lost",
                                                "an answer is lost",
                                                "the detection ends",
                                                "the home agent restarts",
                                                "the source's timer",
                                                "the destination's timer",
                                                "STOP: the source gives",
                                                "the destination takes over",
                                                "COMMIT",
                                                "rollback",
                                                "the destination hears of it"};
    return fmt::format("{} ({})", names.at(static_cast<std::size_t>(label.move)), label.index);
}

}  // namespace mobile_world
