// A model world for the exploration of Mobile IPv6's machines: the machines of a source and a
// destination, the home agent's binding cache, and a network that loses, delays, doubles and
// reorders their messages. Used by mobile_ipv6_exploration.cpp only.
//
// Invariant: the machines and the cache are the real ones. The world decides only what happens
// next. Time stands still: a timer may come at any moment, and bindings do not expire.
#pragma once

#include <array>
#include <string>
#include <vector>

#include "netmove/mobile_ipv6/binding_cache.hpp"
#include "netmove/mobile_ipv6/registration.hpp"

namespace mobile_world {

using namespace netmove::mobile_ipv6;
using netmove::Address;

enum class Host : std::uint8_t { source, destination };

/// Where the two hosts are.
enum class Scenario : std::uint8_t { abroad, leaves_home, returns_home };

/// A rule that is weaker than the real one. Each must be found.
enum class Weaker : std::uint8_t {
    none,
    rollback_takes_next_number,  ///< It does not skip those that the destination may use.
    /// It skips one too few, and the home agent takes the number that it has once more.
    rollback_skips_one_too_few,
    destination_has_no_limit,  ///< It sends on before COMMIT.
    destination_follows_135,  ///< It takes the number of a status 135 before COMMIT.
    source_goes_on,  ///< It sends and refreshes after it has handed over.
    rollback_at_home_is_silent,  ///< "There was no binding, so there is none."
    any_answer_counts,  ///< An answer need not name an outstanding update.
    no_retransmission,
    agent_takes_any_number,
    agent_forgets_at_restart,
    agent_forgets_at_release,
};

/// What may still go wrong.
struct Faults {
    unsigned losses = 1;
    unsigned doubles = 1;
    unsigned restarts = 1;  ///< Of the home agent.
    std::array<unsigned, 2> early_timers{1, 1};  ///< Of each host: before the answer had its time.
    unsigned moves = 1;  ///< STOPs; each may be rolled back.
};

struct Setting {
    Scenario scenario = Scenario::abroad;
    Weaker weaker = Weaker::none;
    /// A home agent that takes the number it has once more, from another place.
    bool agent_takes_equal_numbers = false;
    Faults faults{};
};

/// An update on its way.
struct Update {
    Host from{};
    SignallingPacket packet{};
    /// Which host's turn it was made in: 0, the source's first; then one more at each STOP and each
    /// rollback. An update of a later turn is the newer one, by intention.
    unsigned turn = 0;
};
struct Answer {
    Host to{};
    BindingAcknowledgement message{};
};

enum class Stage : std::uint8_t {
    before,  ///< The guest runs on the source.
    given,  ///< STOP: the source has handed over.
    taken,  ///< The destination has taken over.
    committed,
    rolled_back,
};

enum class Move : std::uint8_t {
    deliver_update,
    deliver_answer,
    double_update,
    double_answer,
    lose_update,
    lose_answer,
    detection_ends,
    agent_restarts,
    timer_of_source,
    timer_of_destination,
    give,
    take,
    commit,
    roll_back,
    destination_hears,  ///< Of COMMIT, or of the rollback.
};
struct Label {
    Move move{};
    unsigned char index = 0;  ///< Of the message.
};
std::string describe(Label label);

class World {
public:
    explicit World(Setting const& setting);

    /// Everything that can happen now.
    [[nodiscard]] std::vector<Label> labels() const;
    /// It happens. Fails never; what is broken by it is in `broken`.
    void happen(Label label);
    /// All that decides the future.
    [[nodiscard]] std::string key() const;
    /// Nothing more comes by itself: all messages have arrived and all timers have run.
    [[nodiscard]] bool quiet() const;
    /// What is wrong with the world in this state; empty: nothing.
    [[nodiscard]] std::string broken() const;
    /// A step to it was wrong, whatever the state is.
    [[nodiscard]] bool has_broken() const { return !broken_.empty(); }

    [[nodiscard]] Stage stage() const { return stage_; }
    [[nodiscard]] registration::Outcome::Kind outcome(Host host) const {
        return machine(host).outcome.kind;
    }

private:
    [[nodiscard]] registration::State const& machine(Host host) const {
        return machines_[static_cast<std::size_t>(host)];
    }
    registration::State& machine(Host host) { return machines_[static_cast<std::size_t>(host)]; }
    [[nodiscard]] registration::Place place(Host host) const;
    [[nodiscard]] bool may_fire(Host host) const;
    [[nodiscard]] std::string broken_at_end() const;
    [[nodiscard]] bool weaker(Weaker rule) const { return setting_.weaker == rule; }

    void happen_only(Label label);
    [[nodiscard]] bool is_stale(Answer const& answer) const;
    void step(Host host, registration::Event const& event);
    void deliver(Update const& update);
    void deliver(Answer const& answer);
    void agent_acts(std::vector<HomeAgentAction> const& actions);
    void restart_agent(bool forgets, int sequence_change = 0);
    void fire(Host host);
    void give();
    void take();
    void commit();
    void roll_back();
    void destination_hears();
    [[nodiscard]] Binding const* binding() const;

    Setting setting_;
    Faults left_;
    std::array<registration::State, 2> machines_{};
    std::array<unsigned, 2> turns_{};
    BindingCache agent_;
    bool detecting_ = false;
    bool agent_knows_update_ = false;  ///< And so answers a repetition of it.
    std::vector<Update> updates_{};
    std::vector<Answer> answers_{};
    registration::HandOver record_{};
    Stage stage_ = Stage::before;
    bool heard_ = true;
    unsigned turn_ = 0;
    unsigned accepted_turn_ = 0;
    std::string broken_{};
};

}  // namespace mobile_world
