// What a client sees of a guest while it is moved: numbered datagrams in each direction and family,
// a telephone call, a TCP session, and bulk streams. Used by the benchmarks of handovers and of
// moves across subnets. Invariant: the figures come from the client, not from our own report.
#pragma once

#include <array>
#include <list>
#include <string>
#include <vector>

#include "tests/bench/bench.hpp"
#include "tests/bench/flood.hpp"
#include "tests/bench/handover_move.hpp"

namespace bench {

inline constexpr std::array families = {"ipv4", "ipv6"};
inline constexpr std::array ways = {"there", "back"};
/// The members of `network.frames` in a report.
inline constexpr std::array frame_counts = {"caught", "recovered", "replayed",
                                            "waited", "dropped",   "lost"};
inline constexpr std::array counts = {"sent", "lost", "duplicated", "reordered"};

/// A client's view, over all probes of one kind of move.
struct Sight {
    struct Family {
        std::array<std::array<double, counts.size()>, ways.size()> counted{};
        std::array<double, ways.size()> gap_ms{};
        double added_ms = 0;
        double tcp_ended = 0;
        double tcp_stall_ms = 0;
        double bulk_megabytes = 0;  ///< Bytes that came back on the bulk streams, if there are any.
    };
    std::array<Family, families.size()> families{};
    TcpSeen wire;  ///< Of all sessions, on the client's wire.
    std::vector<double> downtimes;
    /// From STOP until the network leads to the destination.
    std::vector<double> network_moved;
    /// The frames in the migrations' reports; the other figures do not use them.
    std::array<double, frame_counts.size()> frames{};

    void add(Moved const& moved);
    void add(std::vector<core::Json> const& udp, std::vector<core::Json> const& tcp);
};

/// The rate and size of the fast stream, the guest's addresses that it is sent to, and whether each
/// of them also gets a bulk TCP stream.
struct Load {
    std::string period_ms;
    std::vector<std::string> addresses;
    bool bulk = false;
};

/// Both probes together: the fast stream of datagrams, and a telephone call with a TCP session; and
/// the bulk streams.
class Client {
public:
    Client(lab::Lab const& net, Load const& load);
    /// Adds the results to `sight`, and prints the times of losses on stderr.
    void finish(char const* who, std::vector<Standstill> const& moves, Sight& sight);

private:
    Probe fast_;
    Probe call_;
    Capture wire_;
    std::list<Flood> bulk_;
    std::uint64_t drops_before_;
};

/// One row for each figure, of ours, of the peer and of the floor.
void add_rows(Result& result, std::string const& name, Sight const& ours, Sight const& theirs,
              Sight const& control);

}  // namespace bench
