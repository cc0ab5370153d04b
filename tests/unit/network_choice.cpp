// Which mover an interface gets by what both hosts say of its bridge, and how moves are spaced
// where EVPN moves it.
#include <catch2/catch.hpp>

#include "sidecar/cli/options.hpp"
#include "sidecar/host/mac_moves.hpp"
#include "sidecar/migration/network_choice.hpp"

namespace network_choice_cases {

using namespace sidecar;
using netmove::Address;
using netmove::GuestInterface;
using netmove::VxlanEnd;

namespace {

/// In one VXLAN on both hosts; whether EVPN controls it here, and has the guest there.
GuestInterface stretched(bool here, bool there) {
    GuestInterface out;
    out.bridge = "br0";
    out.mac = netmove::MacAddress::parse("52:54:00:12:34:56").value();
    VxlanEnd end{42, Address::parse("10.1.0.1").value(), false};
    end.evpn = here;
    out.vxlan_source = end;
    end.local = Address::parse("10.1.0.2").value();
    end.evpn = there;
    out.vxlan_destination = end;
    return out;
}

std::string refusal(NetworkChoice choice, GuestInterface interface) {
    auto const chosen = choose_mover(choice, interface);
    REQUIRE_FALSE(chosen);
    CHECK(chosen.error().code == core::Errc::refused);
    CHECK_FALSE(interface.evpn);
    return chosen.error().sentence();
}

bool contains(std::string const& text, std::string const& part) {
    return text.find(part) != std::string::npos;
}

}  // namespace

TEST_CASE("--network=auto chooses evpn only where both hosts show it") {
    for (bool const here : {false, true}) {
        for (bool const there : {false, true}) {
            auto interface = stretched(here, there);
            REQUIRE(choose_mover(NetworkChoice::automatic, interface));
            CHECK(interface.evpn == (here && there));
            CHECK(interface.vxlan_source);
            auto const said = choice_in_vxlan(NetworkChoice::automatic, interface);
            CHECK(contains(said, here && there ? "moved by evpn" : "moved by vxlan"));
            if (!here) CHECK(contains(said, "of this host"));
            if (here && !there) CHECK(contains(said, "no routing daemon of the destination"));
        }
    }
    GuestInterface plain;
    plain.bridge = "br0";
    REQUIRE(choose_mover(NetworkChoice::automatic, plain));
    CHECK_FALSE(plain.evpn);
}

TEST_CASE("a mover that the operator chose moves the interface, or says why it cannot") {
    auto interface = stretched(true, true);
    REQUIRE(choose_mover(NetworkChoice::evpn, interface));
    CHECK(interface.evpn);
    REQUIRE(choose_mover(NetworkChoice::vxlan, interface));
    CHECK_FALSE(interface.evpn);
    CHECK(contains(choice_in_vxlan(NetworkChoice::vxlan, interface), "--network=vxlan says so"));
    REQUIRE(choose_mover(NetworkChoice::bridge, interface));
    CHECK_FALSE(interface.vxlan_source);
    CHECK(contains(refusal(NetworkChoice::evpn, stretched(true, false)),
                   "no routing daemon of the destination"));
    CHECK(contains(refusal(NetworkChoice::evpn, stretched(false, true)), "of this host"));
    auto one_end = stretched(true, true);
    one_end.vxlan_destination.reset();
    CHECK(contains(refusal(NetworkChoice::evpn, one_end), "no VXLAN device on the destination"));
    CHECK(contains(refusal(NetworkChoice::vxlan, one_end), "--network=vxlan"));
    one_end.vxlan_source.reset();
    CHECK(contains(refusal(NetworkChoice::evpn, one_end), "no VXLAN device on this host"));
    GuestInterface elsewhere;  // in no bridge: other movers' or nobody's
    CHECK(choose_mover(NetworkChoice::evpn, elsewhere));
    CHECK_FALSE(elsewhere.evpn);
}

TEST_CASE("a choice of a network has one name on the command line and in messages") {
    for (auto const choice : {NetworkChoice::automatic, NetworkChoice::bridge, NetworkChoice::vxlan,
                              NetworkChoice::evpn, NetworkChoice::anchor}) {
        CHECK(network_choice_from(name(choice)) == choice);
    }
    CHECK(name(NetworkChoice::evpn) == "evpn");
    CHECK_FALSE(network_choice_from("bgp"));
}

TEST_CASE("in an EVPN fabric a migration that could be a fifth move is refused") {
    std::int64_t const now = 1'800'000'000'000;
    std::vector<std::int64_t> moves;
    CHECK(why_evpn_must_wait(moves, now).empty());
    moves = {now - 100'000, now - 90'000};  // there and back: once more, and undone, are four
    CHECK(why_evpn_must_wait(moves, now).empty());
    moves.push_back(now - 80'000);
    auto const why = why_evpn_must_wait(moves, now);
    CHECK(contains(why, "moved 3 times within 180 s"));
    CHECK(contains(why, "wait 81 s"));  // until the first of them is older than 180 s
    CHECK_FALSE(why_evpn_must_wait(moves, now + 79'999).empty());
    CHECK(why_evpn_must_wait(moves, now + 80'000).empty());
    moves.push_back(now - 70'000);
    moves.push_back(now - 60'000);
    CHECK(contains(why_evpn_must_wait(moves, now), "wait 101 s"));  // until three of them are
    CHECK(why_evpn_must_wait(moves, now + 100'000).empty());
    CHECK(why_evpn_must_wait(moves, now - 200'000).empty());  // the clock was set back
}

TEST_CASE("when a guest moved is known on its next host, whatever its clock says") {
    std::int64_t const here = 1'800'000'000'000;
    std::int64_t const there = 1'700'000'000'000;
    std::vector<std::int64_t> const moves{here - 500'000, here - 90'000, here - 10};
    auto const ago = ms_ago(moves, here);
    CHECK(ago == std::vector<std::int64_t>{90'000, 10});
    CHECK(at_times(ago, there) == std::vector<std::int64_t>{there - 90'000, there - 10});
}

}  // namespace network_choice_cases
