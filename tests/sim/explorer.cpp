// The search: a table of packed states, breadth first, then depth first over the healthy steps.
#include "tests/sim/explorer.hpp"

#include <algorithm>
#include <limits>

namespace sim {

namespace {

constexpr std::uint32_t no_state = std::numeric_limits<std::uint32_t>::max();

std::uint64_t hash(Packed const& packed) {
    std::uint64_t value = 0x9E3779B97F4A7C15U;
    for (std::uint64_t word : packed) {
        value = (value ^ word) * 0xFF51AFD7ED558CCDU;
        value ^= value >> 32U;
    }
    return value;
}

/// Every state found, in the order found, each with the state that it was first reached from.
class Table {
public:
    Table() : slots_(std::size_t{1} << 16U) {}

    struct Found {
        std::uint32_t index;
        bool fresh;
    };

    /// Prefetches the slots that insert or find will read for each of `all`. The table is far
    /// larger than any cache, so the cache misses overlap instead of following each other.
    void fetch(std::vector<Packed> const& all) const {
        for (Packed const& packed : all) __builtin_prefetch(&slots_[hash(packed) & mask()]);
        for (Packed const& packed : all) {
            Slot const& slot = slots_[hash(packed) & mask()];
            if (slot.index != no_state) __builtin_prefetch(&states_[slot.index]);
        }
    }

    /// Finds `packed`, or adds it with `parent`.
    Found insert(Packed const& packed, std::uint32_t parent) {
        if (states_.size() * 2 > slots_.size()) {
            grow();
        }
        Slot& slot = slots_[slot_of(packed)];
        if (slot.index != no_state) {
            return {.index = slot.index, .fresh = false};
        }
        auto const index = static_cast<std::uint32_t>(states_.size());
        slot = {.tag = tag(hash(packed)), .index = index};
        states_.push_back(packed);
        parents_.push_back(parent);
        return {.index = index, .fresh = true};
    }
    /// The index of a known state; no_state for any other.
    [[nodiscard]] std::uint32_t find(Packed const& packed) const {
        return slots_[slot_of(packed)].index;
    }

    [[nodiscard]] std::size_t size() const { return states_.size(); }
    [[nodiscard]] Packed const& state(std::uint32_t index) const { return states_[index]; }
    [[nodiscard]] std::uint32_t parent(std::uint32_t index) const { return parents_[index]; }

private:
    /// Most other states differ in the tag, so that they need not be read.
    struct Slot {
        std::uint32_t tag = 0;
        std::uint32_t index = no_state;
    };
    /// The upper half of a hash: the lower half chooses the slot.
    static std::uint32_t tag(std::uint64_t hash) { return static_cast<std::uint32_t>(hash >> 32U); }
    [[nodiscard]] std::size_t mask() const { return slots_.size() - 1; }

    /// The slot of `packed`, or the slot where it would be put.
    [[nodiscard]] std::size_t slot_of(Packed const& packed) const {
        std::uint64_t const value = hash(packed);
        std::size_t at = value & mask();
        while (slots_[at].index != no_state &&
               (slots_[at].tag != tag(value) || states_[slots_[at].index] != packed)) {
            at = (at + 1) & mask();
        }
        return at;
    }
    void grow() {
        slots_.assign(slots_.size() * 2, {});
        for (std::uint32_t index = 0; index < states_.size(); ++index) {
            slots_[slot_of(states_[index])] = {.tag = tag(hash(states_[index])), .index = index};
        }
    }

    std::vector<Slot> slots_;
    std::vector<Packed> states_;
    std::vector<std::uint32_t> parents_;
};

class Explorer {
public:
    Explorer(Mutation mutation, Check check, Start start)
        : mutation_(mutation), check_(check), start_(start) {}

    Report run() {
        search();
        if (report_.violation.empty() && report_.complete && check_ == Check::all) {
            check_ends_come();
        }
        report_.states = table_.size();
        return report_;
    }

private:
    void search() {
        (void)table_.insert(pack(initial(start_)), no_state);
        for (std::uint32_t index = 0; index < table_.size(); ++index) {
            if (table_.size() > states_max || !expand(index)) {
                return;
            }
        }
        report_.complete = true;
    }

    /// Adds the successors of one state. Returns false on a violation.
    bool expand(std::uint32_t index) {
        Node const node = unpack(table_.state(index));
        steps_.clear();
        transitions(node, mutation_, steps_);
        note(node);
        pack_steps();
        bool at_end = true;
        for (std::size_t at = 0; at < steps_.size(); ++at) {
            Transition const& step = steps_[at];
            at_end = at_end && step.nature == Nature::fault;
            Table::Found const found = table_.insert(packed_[at], index);
            if (std::string const broken = broken_after(node, step.next, found.fresh);
                !broken.empty()) {
                violate(broken, index, &step);
                return false;
            }
        }
        if (check_ != Check::one_guest) {
            if (auto const broken = paused_without_sidecar(node, steps_); !broken.empty()) {
                violate(broken, index, nullptr);
                return false;
            }
        }
        return !at_end || check_ != Check::all || accept_end(node, index);
    }

    /// Packs the targets of the steps, which are looked up next.
    void pack_steps() {
        packed_.clear();
        for (Transition const& step : steps_) packed_.push_back(pack(step.next));
        table_.fetch(packed_);
    }

    /// What is violated by the step to `after`, or by `after` itself if it is `fresh`.
    [[nodiscard]] std::string broken_after(Node const& before, Node const& after,
                                           bool fresh) const {
        if (check_ == Check::one_guest) {
            return fresh ? two_guests_in(after) : "";
        }
        std::string broken = broken_by_step(before, after);
        return broken.empty() && fresh ? broken_in(after) : broken;
    }

    /// Adds the state to the report.
    void note(Node const& node) {
        report_.transitions += steps_.size();
        report_.source_phases.insert(node.source.phase);
        report_.destination_phases.insert(node.destination.phase);
        for (Transition const& step : steps_) {
            Label const& label = step.label;
            report_.moves.at(static_cast<std::size_t>(label.move)) = true;
            if (label.move == Move::source_ends) {
                report_.source_actions.insert(static_cast<src::Action>(label.what));
            } else if (label.move == Move::destination_ends) {
                report_.destination_actions.insert(static_cast<dst::Action>(label.what));
            }
        }
    }

    bool accept_end(Node const& node, std::uint32_t index) {
        ++report_.endings;
        report_.moved += node.world.images == Images::moved ? 1U : 0U;
        std::string broken = broken_at_end(node);
        if (broken.empty()) {
            broken = broken_second_migration(node);
        }
        if (broken.empty()) {
            return true;
        }
        violate(broken, index, nullptr);
        return false;
    }

    /// Looks for a cycle of healthy steps. Together with the check of every end, this shows that
    /// once faults have ceased, every order of steps ends, and ends well.
    void check_ends_come() {
        enum Colour : std::uint8_t { fresh, open, closed };
        std::vector<Colour> colours(table_.size(), fresh);
        struct Frame {
            std::uint32_t index;
            bool entered;
        };
        std::vector<Frame> stack;
        for (std::uint32_t root = 0; root < table_.size(); ++root) {
            stack.push_back({.index = root, .entered = false});
            while (!stack.empty()) {
                Frame& frame = stack.back();
                std::uint32_t const index = frame.index;
                if (frame.entered || colours[index] == closed) {
                    colours[index] = closed;
                    stack.pop_back();
                    continue;
                }
                frame.entered = true;
                colours[index] = open;
                steps_.clear();
                transitions(unpack(table_.state(index)), mutation_, steps_);
                keep_healthy(steps_);
                pack_steps();
                for (std::size_t at = 0; at < steps_.size(); ++at) {
                    std::uint32_t const next = table_.find(packed_[at]);
                    if (colours[next] == open) {
                        violate("I3: a circle of steps without a fault", index, &steps_[at]);
                        return;
                    }
                    if (colours[next] == fresh) {
                        stack.push_back({.index = next, .entered = false});
                    }
                }
            }
        }
    }

    /// Records the violation and the shortest trace to it: to `index`, then `last` if there is one.
    void violate(std::string const& broken, std::uint32_t index, Transition const* last) {
        std::vector<std::uint32_t> path;
        for (std::uint32_t at = index; at != no_state; at = table_.parent(at)) {
            path.push_back(at);
        }
        std::reverse(path.begin(), path.end());
        std::string text = broken + "\n";
        for (std::size_t at = 0; at + 1 < path.size(); ++at) {
            text += step_between(at + 1, path[at], path[at + 1]);
        }
        report_.trace_length = path.size() - 1;
        if (last != nullptr) {
            ++report_.trace_length;
            text += line(report_.trace_length, *last);
        }
        text += describe(last != nullptr ? last->next : unpack(table_.state(index))) + "\n";
        report_.violation = text;
    }

    [[nodiscard]] std::string step_between(std::size_t number, std::uint32_t from,
                                           std::uint32_t to) const {
        std::vector<Transition> steps;
        transitions(unpack(table_.state(from)), mutation_, steps);
        for (Transition const& step : steps) {
            if (pack(step.next) == table_.state(to)) {
                return line(number, step);
            }
        }
        return "  ?\n";
    }

    static std::string line(std::size_t number, Transition const& step) {
        std::string_view const mark = step.nature == Nature::fault  ? " ! "
                                      : step.nature == Nature::heal ? " + "
                                                                    : "   ";
        return "  " + std::to_string(number) + std::string(mark) + describe(step.label) + "\n";
    }

    Mutation mutation_;
    Check check_;
    Start start_;
    Table table_;
    std::vector<Transition> steps_;
    std::vector<Packed> packed_;  ///< The target of each step.
    Report report_;
};

}  // namespace

void keep_healthy(std::vector<Transition>& list) {
    bool const heals = std::any_of(list.begin(), list.end(), [](Transition const& step) {
        return step.nature == Nature::heal;
    });
    Nature const wanted = heals ? Nature::heal : Nature::healthy;
    std::erase_if(list, [wanted](Transition const& step) { return step.nature != wanted; });
}

Report explore(Mutation mutation, Check check, Start start) {
    return Explorer(mutation, check, start).run();
}

}  // namespace sim
