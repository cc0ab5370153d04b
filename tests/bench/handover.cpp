// handover: what a client of a guest sees of its move, next to QEMU's own way and to no move at
// all. `sidecar probe` is the client, and the guest's witness its echo. The sender of each
// direction numbers its datagrams, so that the direction of each loss is known. The figures come
// from the client, not from our own report.
#include <array>
#include <cstdio>
#include <ranges>

#include "tests/bench/client_view.hpp"

namespace bench {

namespace {

using lab::Milliseconds;
using namespace std::chrono_literals;

constexpr int moves_full = 20;
constexpr int moves_quick = 2;
/// A stream of this rate may have 5,000,000 probes: 250 s.
constexpr int moves_at_20_khz = 10;
constexpr auto control_limit = 200s;
/// Each costs the start of a QEMU, and the recovery after a killed one.
constexpr int rollbacks_max = 10;
/// Each costs the start of two QEMUs for the peer; medians of this many are stable.
constexpr int silence_moves_max = 8;
Load const one_khz{"1", {lab::guest_ip4, lab::guest_ip6}};
Load const mixed{"1", {lab::guest_ip4, lab::guest_ip6}, true};
Load const twenty_khz{"0.05", {lab::guest_ip4}};

/// Moves one guest there and back, then leaves the same guest alone for the same time.
std::pair<Sight, Sight> ours_and_control(std::string const& qemu, Load const& load, int moves) {
    lab::Scene scene({.guest = handover_guest(qemu)});
    Sight ours;
    Sight control;
    std::vector<Standstill> made;
    auto const began = core::Clock::now();
    {
        Client client(scene.net(), load);
        pass(handover_settle);
        for (int i = 0; i < moves; ++i) {
            lab::Host const& from = i % 2 == 0 ? scene.a() : scene.b();
            auto const moved = move_with_sidecar(scene, from);
            ours.add(moved);
            made.push_back(moved.at);
        }
        client.finish("ours", made, ours);
    }
    auto const took = std::chrono::duration_cast<Milliseconds>(core::Clock::now() - began);
    scene.guest().must_be_alive();
    lab::Host const& home = moves % 2 == 0 ? scene.a() : scene.b();
    auto const full = tap_drops(scene.guest(), home);
    Client client(scene.net(), load);
    pass(std::min<Milliseconds>(took, control_limit));
    fmt::print(stderr, "  control: frames that found the tap full: {} before, {} after\n", full,
               tap_drops(scene.guest(), home));
    client.finish("control", {}, control);
    scene.guest().must_be_whole();
    return {ours, control};
}

/// QEMU's own way, one direction each time: its management would start afresh too.
void peer(std::string const& qemu, Load const& load, Sight& sight) {
    Pair const pair(handover_guest(qemu), false, {"-S", "-incoming", "defer"});
    Client client(pair.net, load);
    pass(handover_settle);
    auto const moved = move_with_qemu(pair);
    sight.add(moved);
    client.finish("QEMU's", {moved.at}, sight);
}

void compare(Result& result, std::string const& name, std::string const& qemu, Load const& load,
             int moves) {
    Sight theirs;
    for (int i = 0; i < moves; ++i) peer(qemu, load, theirs);
    auto const [ours, control] = ours_and_control(qemu, load, moves);
    add_rows(result, name, ours, theirs, control);
}

/// Moves in which the destination's QEMU is killed after STOP, so that the guest continues on the
/// source. There is no peer: no other tool undoes a move at that moment.
void rolled_back(Result& result, std::string const& qemu, int moves) {
    // QEMU's names for this program's `stopped` and `switching`.
    std::array<std::pair<char const*, char const*>, 2> constexpr moments{
        {{"stopped", "pre-switchover"}, {"switching", "device"}}};
    for (auto const& [phase, status] : moments) {
        lab::Scene scene({.guest = handover_guest(qemu)});
        Sight ours;
        std::vector<Standstill> made;
        Client client(scene.net(), one_khz);
        pass(handover_settle);
        for (int i = 0; i < moves; ++i) {
            auto const undone = undo_with_sidecar(scene, status);
            ours.add(undone);
            made.push_back(undone.at);
        }
        client.finish("undone", made, ours);
        scene.guest().must_be_whole();
        auto const first = static_cast<std::ptrdiff_t>(result.rows.size());
        add_rows(result, fmt::format("{} undone, {}", qemu, phase), ours, {}, {});
        for (auto& row : std::ranges::subrange(result.rows.begin() + first, result.rows.end())) {
            row.peer.clear();
            row.floor.clear();
            if (row.metric == "network moved") row.metric = "network back";
        }
    }
}

}  // namespace

Result handover(Options const& options) {
    Result result{1, {}};
    std::vector<std::string> const qemus =
        options.quick ? std::vector<std::string>{"10.0"} : std::vector<std::string>{"7.2", "10.0"};
    int const moves = options.runs(moves_full, moves_quick);
    for (auto const& qemu : qemus) {
        if (options.wants(qemu + " 1 kHz")) compare(result, qemu, qemu, one_khz, moves);
        if (options.wants(qemu + " mixed")) {
            compare(result, qemu + " mixed", qemu, mixed, moves);
        }
        if (options.wants(qemu + " 20 kHz")) {
            compare(result, qemu + " 20k", qemu, twenty_khz, std::min(moves, moves_at_20_khz));
        }
        if (options.wants(qemu + " rollback")) {
            rolled_back(result, qemu, std::min(moves, rollbacks_max));
        }
        if (options.wants(qemu + " bulk")) {
            auto const bulk = handover_bulk(qemu, moves);
            result.rows.insert(result.rows.end(), bulk.begin(), bulk.end());
        }
        if (options.wants(qemu + " silence")) {
            auto const silence = handover_silence(qemu, std::min(moves, silence_moves_max));
            result.rows.insert(result.rows.end(), silence.begin(), silence.end());
        }
        if (options.wants(qemu + " call")) {
            auto const call = handover_call(qemu, moves);
            result.rows.insert(result.rows.end(), call.begin(), call.end());
        }
    }
    return result;
}

}  // namespace bench
