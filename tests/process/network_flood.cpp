// Two networks side by side, flooded with frames of every kind from every side. Each frame that
// comes out is checked: none has the other network's protocol, and none of the network's own is
// missing. On two wires and on one.
#include <cstdlib>

#include "tests/process/network_lab.hpp"

namespace network_flood_cases {

using namespace network_lab;

namespace {

/// The frames that one tap received, by kind.
struct Count {
    std::size_t of[4] = {};
    std::size_t& operator[](Kind kind) { return of[static_cast<std::size_t>(kind)]; }
};

struct Watched {
    explicit Watched(Tap tap_) : tap(std::move(tap_)) {}
    Tap tap;
    Count count;
};

/// IPv4 on the host with IPv6 for guests, as in the README: two networks, two guests in each.
struct Bench {
    explicit Bench(bool one_wire) : shared(one_wire) {
        if (shared) {
            wires.emplace_back(host.wire("wire"));
            make("v4", "--ipv4", "--native", {"--shared-uplink", "wire"});
            make("v6", "--ipv6", "--parallel", {"--shared-uplink", "wire"});
        } else {
            wires.emplace_back(host.wire("wire4"));
            wires.emplace_back(host.wire("wire6"));
            make("v4", "--ipv4", "--native", {"--uplink", "wire4"});
            make("v6", "--ipv6", "--parallel", {"--uplink", "wire6"});
        }
        for (auto const* name : {"a4", "b4"}) guests4.emplace_back(host.guest(name, "v4"));
        for (auto const* name : {"a6", "b6"}) guests6.emplace_back(host.guest(name, "v6"));
        REQUIRE(soon([&] {
            return std::ranges::all_of(must(host.netlink.links()), [](Link const& link) {
                return !link.port || link.port->forwarding();
            });
        }));
    }
    void make(char const* name, char const* protocol, char const* role,
              std::vector<std::string> const& more) const {
        std::vector<std::string> words{"create", name, protocol, role};
        words.insert(words.end(), more.begin(), more.end());
        host.must_network(words);
    }

    /// Counts the frames received everywhere. Fails on a frame of the other network's kind.
    void look() {
        for (auto& guest : guests4) judge(guest, Protocol::ipv4);
        for (auto& guest : guests6) judge(guest, Protocol::ipv6);
        if (!shared) {
            judge(wires[0], Protocol::ipv4);
            judge(wires[1], Protocol::ipv6);
        } else {
            judge(wires[0], {});  // carries both
        }
    }
    static void judge(Watched& watched, std::optional<Protocol> protocol) {
        for (auto const& frame : received(watched.tap)) {
            auto const kind = kind_of(frame);
            ++watched.count[kind];
            bool const wrong = kind == Kind::other ||
                               (kind == Kind::ipv6 && protocol == Protocol::ipv4) ||
                               (kind == Kind::ipv4 && protocol == Protocol::ipv6);
            if (!wrong) continue;
            std::string bytes;
            for (std::size_t i = 0; i < std::min<std::size_t>(frame.size(), 60); ++i) {
                bytes += fmt::format("{:02x}", frame[i]);
            }
            FAIL("at " << watched.tap.name() << ": " << name(kind) << " " << bytes);
        }
    }
    void flood_from(Tap const& tap, Flood& flood, std::size_t count) {
        send(tap, flood.next(count), [this] { look(); });
    }
    /// Every tap of its network except the sender receives each frame; no tap of the other network
    /// receives any.
    void good_from(Watched& from, Protocol protocol, Flood& flood, std::size_t count) {
        auto const kind = protocol == Protocol::ipv4 ? Kind::ipv4 : Kind::ipv6;
        look();
        std::vector<std::pair<Watched*, std::size_t>> before;
        for (auto* watched : all()) before.emplace_back(watched, watched->count[kind]);
        send(from.tap, flood.good(protocol, count), [this] { look(); });
        for (auto const& [watched, had] : before) {
            INFO("from " << from.tap.name() << " to " << watched->tap.name());
            bool const wire = &wires.front() == watched || &wires.back() == watched;
            bool const same =
                in_network(watched, protocol) || (wire && (shared || watched == wire_of(protocol)));
            bool const gets = same && watched != &from;
            CHECK(watched->count[kind] - had == (gets ? count : 0));
        }
    }
    bool in_network(Watched const* watched, Protocol protocol) {
        auto const& guests = protocol == Protocol::ipv4 ? guests4 : guests6;
        return std::ranges::any_of(guests, [&](auto const& one) { return &one == watched; });
    }
    Watched* wire_of(Protocol protocol) {
        return protocol == Protocol::ipv4 ? &wires.front() : &wires.back();
    }
    std::vector<Watched*> all() {
        std::vector<Watched*> out;
        for (auto* list : {&wires, &guests4, &guests6}) {
            for (auto& one : *list) out.push_back(&one);
        }
        return out;
    }

    bool shared;
    NetworkHost host;
    std::vector<Watched> wires;
    std::vector<Watched> guests4;
    std::vector<Watched> guests6;
};

void run(bool one_wire, std::size_t rounds) {
    Bench bench(one_wire);
    Flood flood(one_wire ? 2 : 1);
    for (std::size_t round = 0; round < rounds; ++round) {
        for (auto* from : bench.all()) bench.flood_from(from->tap, flood, 700);
        for (auto const protocol : {Protocol::ipv4, Protocol::ipv6}) {
            auto& guests = protocol == Protocol::ipv4 ? bench.guests4 : bench.guests6;
            bench.good_from(guests[0], protocol, flood, 150);
            bench.good_from(*bench.wire_of(protocol), protocol, flood, 150);
        }
    }
    // The flood reached its own network; otherwise this test would show nothing.
    for (auto* watched : bench.all()) {
        INFO(watched->tap.name());
        CHECK(watched->count[Kind::announcement] > 0);
    }
    for (auto const* name : {"v4", "v6"}) {
        auto const shown = lab::parse_json(bench.host.must_network({"show", name, "--json"}));
        CHECK(shown["dropped_frames"].integer_or(0) > 1000);
        bench.host.must_network({"check", name});
    }
}

}  // namespace

TEST_CASE("network: on two wires, no frame of a flood of every kind crosses", "[network]") {
    run(false, 2);
}

TEST_CASE("network: on one wire, no frame of a flood of every kind crosses", "[network]") {
    run(true, 2);
}

TEST_CASE("network: the same for a minute", "[.][network-flood]") {
    auto const one_wire = GENERATE(false, true);
    auto const end = std::chrono::steady_clock::now() + 60s;
    std::size_t turns = 0;
    do {
        run(one_wire, 10);
        ++turns;
    } while (std::chrono::steady_clock::now() < end);
    WARN(turns << " turns of " << (one_wire ? "one wire" : "two wires"));
}

}  // namespace network_flood_cases
