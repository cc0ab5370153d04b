// The part of the handover benchmark about bulk TCP: a stream through the guest's echo in each
// family, as fast as the guest takes it, while the guest moves. Every byte is compared.
#include <algorithm>
#include <array>
#include <cstdio>
#include <sstream>

#include "tests/bench/bench.hpp"
#include "tests/bench/flood.hpp"
#include "tests/bench/handover_move.hpp"

namespace bench {

namespace {

constexpr std::array families = {"ipv4", "ipv6"};
constexpr std::array addresses = {lab::guest_ip4, lab::guest_ip6};
/// The rate of a stream is measured over this time before STOP...
constexpr double before_ms = 1000;
/// ...and is regained when a window of this length carries `share` of it.
constexpr double window_ms = 50;
constexpr double share = 0.9;
/// If streams stood still for this long before STOP, their rate after RESUME cannot be compared.
/// Such a session is reported and counted; its segments and timeouts count like all others'.
constexpr double silence_max_ms = 400;

struct Seen {
    struct Stream {
        std::vector<double> before;  ///< MB/s.
        std::vector<double> regained_ms;  ///< After RESUME.
    };
    std::array<Stream, families.size()> streams;
    TcpSeen wire;
    std::uint64_t kernel_timeouts = 0;  ///< At the client.
    std::size_t stood_still = 0;  ///< Sessions that did before STOP, and are not in `streams`.
};

/// Retransmission timeouts of the client's kernel: TcpExt TCPTimeouts of /proc/net/netstat, which
/// has a line of names before each line of numbers.
std::uint64_t kernel_timeouts(lab::Lab const& net) {
    std::istringstream text(lab::must_run({"cat", "/proc/net/netstat"}, {net.client_netns(), {}}));
    std::string names;
    std::string numbers;
    while (std::getline(text, names) && std::getline(text, numbers)) {
        std::istringstream name_words(names);
        std::istringstream number_words(numbers);
        std::string name;
        std::string number;
        while (name_words >> name && number_words >> number) {
            if (name == "TCPTimeouts") return std::stoull(number);
        }
    }
    throw lab::Failure("the kernel does not count TCPTimeouts");
}

/// Both streams, and a capture of them at the client.
class Client {
public:
    explicit Client(lab::Lab const& net)
        : net_(net),
          ipv4_(net, addresses[0]),
          ipv6_(net, addresses[1]),
          // Ignores the late packets of earlier sessions.
          wire_(net.client_netns(), "up0", "inout",
                {"tcp", "port", ipv4_.local_port(), "or", "tcp", "port", ipv6_.local_port()},
                net.directory() / ("bulk-" + lab::unique_suffix() + ".pcap")),
          timeouts_before_(kernel_timeouts(net)) {
        pass(handover_settle);
    }
    void finish(char const* who, Moved const& move, Seen& seen) {
        ipv4_.finish();
        ipv6_.finish();
        auto const packets = wire_.finish();
        auto const timeouts = kernel_timeouts(net_) - timeouts_before_;
        if (stood_still(who, move)) {
            ++seen.stood_still;
        } else {
            note_streams(who, move, seen);
        }
        auto const more = read_tcp(packets);
        fmt::print(
            stderr,
            "    {}: {} segments, {} sent again, {} of them 190 ms later or more; {} resets\n", who,
            more.segments, more.resent, more.late, more.resets);
        fmt::print(stderr, "    {}: {} timeouts of the client's kernel\n", who, timeouts);
        seen.kernel_timeouts += timeouts;
        seen.wire.segments += more.segments;
        seen.wire.resent += more.resent;
        seen.wire.late += more.late;
        seen.wire.resets += more.resets;
    }

private:
    /// Reports it, and whether each stream came back after RESUME.
    bool stood_still(char const* who, Moved const& move) const {
        std::array const silences_ms{ipv4_.longest_silence_ms(move.at.stopped_ms),
                                     ipv6_.longest_silence_ms(move.at.stopped_ms)};
        if (std::ranges::max(silences_ms) <= silence_max_ms) return false;
        std::size_t family = 0;
        for (auto const* flood : {&ipv4_, &ipv6_}) {
            fmt::print(stderr,
                       "    {} {}: nothing for {:.0f} ms before STOP, {:.1f} MB/s behind RESUME: "
                       "not compared\n",
                       who, families[family], silences_ms[family],
                       flood->bytes_per_second(move.at.resumed_ms, before_ms) / 1e6);
            ++family;
        }
        return true;
    }
    void note_streams(char const* who, Moved const& move, Seen& seen) const {
        std::size_t family = 0;
        for (auto const* flood : {&ipv4_, &ipv6_}) {
            auto& stream = seen.streams[family];
            auto const before = flood->bytes_per_second(move.at.stopped_ms - before_ms, before_ms);
            stream.before.push_back(before / 1e6);
            stream.regained_ms.push_back(
                flood->reached_after_ms(move.at.resumed_ms, share * before, window_ms));
            fmt::print(stderr, "    {} {}: {:.1f} MB/s before, 90 % of it {:.0f} ms after RESUME\n",
                       who, families[family], stream.before.back(), stream.regained_ms.back());
            ++family;
        }
    }

    lab::Lab const& net_;
    Flood ipv4_;
    Flood ipv6_;
    Capture wire_;
    std::uint64_t timeouts_before_;
};

}  // namespace

std::vector<Row> handover_bulk(std::string const& qemu, int moves) {
    Seen theirs;
    Seen ours;
    for (int i = 0; i < moves; ++i) {
        Pair const pair(handover_guest(qemu), false, {"-S", "-incoming", "defer"});
        Client client(pair.net);
        auto const moved = move_with_qemu(pair);
        client.finish("QEMU's", moved, theirs);
    }
    {
        lab::Scene scene({.guest = handover_guest(qemu)});
        for (int i = 0; i < moves; ++i) {
            Client client(scene.net());
            auto const moved = move_with_sidecar(scene, i % 2 == 0 ? scene.a() : scene.b());
            client.finish("ours", moved, ours);
        }
        scene.guest().must_be_whole();
    }
    std::vector<Row> rows;
    for (std::size_t f = 0; f < families.size(); ++f) {
        auto const situation = fmt::format("{} bulk {}", qemu, families[f]);
        auto const& own = ours.streams[f];
        auto const& other = theirs.streams[f];
        rows.push_back({situation, "before", "MB/s", own.before, other.before, {}});
        rows.push_back({situation, "90 % after", "ms", own.regained_ms, other.regained_ms, {}});
    }
    auto const add = [&](char const* metric, std::uint64_t TcpSeen::* count) {
        rows.push_back({qemu + " bulk",
                        metric,
                        "segments",
                        {static_cast<double>(ours.wire.*count)},
                        {static_cast<double>(theirs.wire.*count)},
                        {}});
    };
    add("segments", &TcpSeen::segments);
    add("resets", &TcpSeen::resets);
    add("resent", &TcpSeen::resent);
    add("resent late", &TcpSeen::late);
    rows.push_back({qemu + " bulk",
                    "timeouts",
                    "",
                    {static_cast<double>(ours.kernel_timeouts)},
                    {static_cast<double>(theirs.kernel_timeouts)},
                    {}});
    rows.push_back({qemu + " bulk",
                    "stood still",
                    "sessions",
                    {static_cast<double>(ours.stood_still)},
                    {static_cast<double>(theirs.stood_still)},
                    {}});
    return rows;
}

}  // namespace bench
