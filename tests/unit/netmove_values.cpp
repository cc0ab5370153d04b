// Addresses, the guest's interface and its VXLAN as JSON, and MoverSet's "all or none".
#include <catch2/catch.hpp>

#include "core/loop.hpp"
#include "netmove/mover.hpp"
#include "netmove/port_settings.hpp"
#include "netmove/tap.hpp"
#include "netmove/vxlan_mover.hpp"

namespace netmove_values_cases {

namespace {

using namespace netmove;

GuestInterface example() {
    GuestInterface out;
    out.netdev = "net0";
    out.tap = "tap7";
    out.bridge = "br0";
    out.network = "ipv4";
    out.mac = MacAddress::parse("52:54:00:12:34:56").value();
    out.mtu = 9000;
    out.queues = 4;
    out.router = true;
    out.addresses = {{Address::parse("192.0.2.10").value(), 0},
                     {Address::parse("2001:db8::10").value(), 30}};
    return out;
}

/// Logs each call, and fails where the test asks it to.
struct Recorder final : Mover {
    Recorder(std::string name, std::vector<std::string>& log, std::string fails = "")
        : name_(std::move(name)), log_(log), fails_(std::move(fails)) {}
    core::Result<> say(std::string const& what) {
        log_.push_back(name_ + " " + what);
        if (what == fails_) return core::fail(core::Errc::refused, "{} refused", name_);
        return {};
    }
    std::string_view name() const override { return name_; }
    std::vector<std::string> moves() const override { return {name_ + "'s address"}; }
    core::Task<core::Result<>> prepare(core::Deadline) override { co_return say("prepare"); }
    void update(GuestInterface const&) override {}
    core::Result<> fire() override { return say("fire"); }
    core::Task<core::Result<>> settle(core::Deadline) override { co_return say("settle"); }
    core::Result<> rollback() override { return say("rollback"); }

    std::string name_;
    std::vector<std::string>& log_;
    std::string fails_;
};

using Log = std::vector<std::string>;

}  // namespace

TEST_CASE("MAC addresses are read and written", "[netmove]") {
    CHECK(MacAddress::parse("52:54:00:AB:cd:0e")->text() == "52:54:00:ab:cd:0e");
    for (auto const* bad : {"", "52:54:00:ab:cd", "52:54:00:ab:cd:0e:1", "52-54-00-ab-cd-0e",
                            "5254:00:ab:cd:0e:1", "52:54:00:ab:cd:0g", "52:54:00:ab:cd:0 "}) {
        CHECK_FALSE(MacAddress::parse(bad));
    }
    CHECK_FALSE(MacAddress::parse("01:00:5e:00:00:01")->is_unicast());
    CHECK_FALSE(MacAddress{}.is_unicast());
    CHECK(MacAddress::parse("52:54:00:ab:cd:0e")->is_unicast());
}

TEST_CASE("IP addresses are read and written in one form", "[netmove]") {
    CHECK(Address::parse("2001:DB8:0:0:0:0:0:1")->text() == "2001:db8::1");
    CHECK(Address::parse("192.0.2.1")->is_ipv4());
    for (auto const* bad : {"", "192.0.2", "192.0.2.1/24", "fe80::1%eth0", " ::1", "1:2:3"}) {
        CHECK_FALSE(Address::parse(bad));
    }
    CHECK_FALSE(Address::parse(std::string_view("::1\0x", 5)));
    for (auto const* host :
         {"192.0.2.1", "169.254.1.1", "10.0.0.1", "fe80::1", "2001:db8::1", "fd00::1"}) {
        CHECK(Address::parse(host)->is_host());
    }
    for (auto const* none : {"0.0.0.0", "0.1.2.3", "127.0.0.1", "224.0.0.1", "255.255.255.255",
                             "240.0.0.1", "::", "::1", "ff02::1", "::ffff:192.0.2.1"}) {
        CHECK_FALSE(Address::parse(none)->is_host());
    }
    CHECK(Address::parse("fe80::1")->is_link_local());
    CHECK(Address::parse("febf::1")->is_link_local());
    CHECK_FALSE(Address::parse("fec0::1")->is_link_local());
    CHECK(Address::parse("192.0.2.1").value() != Address::parse("::c000:201").value());
}

TEST_CASE("interface names are those Linux takes", "[netmove]") {
    for (auto const* good : {"tap0", "a", "br-lan.30", "abcdefghijklmno"}) {
        CHECK(check_interface_name(good));
    }
    for (auto const* bad :
         {"", ".", "..", "abcdefghijklmnop", "a/b", "a b", "a:1", "tap%d", "\x7f"}) {
        CHECK_FALSE(check_interface_name(bad));
    }
}

TEST_CASE("a guest's interface survives the peer channel", "[netmove]") {
    auto const sent = example();
    auto const text = sent.to_json().dump();
    auto const got = GuestInterface::from_json(core::Json::parse(text).value());
    REQUIRE(got);
    CHECK(got->to_json().dump() == text);
    CHECK(got->addresses == sent.addresses);
    CHECK(got->mac == sent.mac);
    CHECK(got->mtu == 9000);
    CHECK(got->queues == 4);
    CHECK(got->router);
}

TEST_CASE("what a peer says of an interface is checked", "[netmove]") {
    auto const refused = [](char const* member, core::Json value) {
        auto json = example().to_json();
        json.set(member, std::move(value));
        auto const got = GuestInterface::from_json(json);
        if (got) return false;
        INFO(got.error().sentence());
        CHECK(got.error().code == core::Errc::protocol);
        CHECK(got.error().sentence().find(member) != std::string::npos);
        return true;
    };
    using core::Json;
    CHECK(refused("tap", ""));
    CHECK(refused("tap", "../../etc/passwd"));
    CHECK(refused("tap", 7));
    CHECK(refused("bridge", "a b"));
    CHECK(refused("netdev", std::string(200, 'x')));
    CHECK(refused("netdev", "net0\nevil"));
    CHECK(refused("mac", "ff:ff:ff:ff:ff:ff"));
    CHECK(refused("mac", Json()));
    CHECK(refused("mtu", 0));
    CHECK(refused("mtu", 100000));
    CHECK(refused("mtu", std::int64_t{1} << 40));
    CHECK(refused("queues", 257));
    CHECK(refused("queues", -1));
    CHECK(refused("network", "ipx"));
    CHECK(refused("routed", 1));
    CHECK(refused("routed", true));  // in a bridge as well
    CHECK(refused("renewals", -1));
    CHECK(refused("renewals", 60'001));
    CHECK(refused("renewals", "1"));
    CHECK(refused("vnet_hdr", "yes"));
    CHECK(refused("router", Json()));
    CHECK(refused("evpn", "yes"));
    CHECK(refused("addresses", "192.0.2.1"));
    auto const one = [](char const* address, int vlan) {
        return Json::array({Json::object({{"address", address}, {"vlan", vlan}})});
    };
    CHECK(refused("addresses", one("224.0.0.1", 0)));
    CHECK(refused("addresses", one("192.0.2.1/24", 0)));
    CHECK(refused("addresses", one("192.0.2.1", 4095)));
    CHECK(refused("addresses", Json::array({Json("192.0.2.1")})));
    Json many = Json::array();
    for (int i = 0; i <= 128; ++i) many.add(one("192.0.2.1", 0).elements()[0]);
    CHECK(refused("addresses", many));
    CHECK_FALSE(GuestInterface::from_json(Json()));
    CHECK_FALSE(GuestInterface::from_json(Json::array()));

    auto json = example().to_json();
    json.set("bridge", "");
    CHECK(GuestInterface::from_json(json));
}

TEST_CASE("that an interface is routed travels with it, and how new its routes are", "[netmove]") {
    auto routed = example();
    routed.bridge = "";
    routed.routed = true;
    routed.renewals = 41;
    auto const back = GuestInterface::from_json(routed.to_json());
    REQUIRE(back);
    CHECK(back->routed);
    CHECK(back->renewals == 41);
    CHECK_FALSE(GuestInterface::from_json(example().to_json())->routed);
}

TEST_CASE("the ends of a VXLAN travel with the interface, or are refused", "[netmove]") {
    auto stretched = example();
    stretched.vxlan_source = {42, Address::parse("192.0.2.1").value(), false};
    stretched.vxlan_destination = {42, std::nullopt, true};
    stretched.vxlan_source->evpn = stretched.evpn = true;
    auto const back = GuestInterface::from_json(stretched.to_json());
    REQUIRE(back);
    CHECK(back->vxlan_source->vni == 42);
    CHECK(back->vxlan_source->local == Address::parse("192.0.2.1").value());
    CHECK_FALSE(back->vxlan_source->learning);
    CHECK_FALSE(back->vxlan_destination->local);
    CHECK(back->vxlan_destination->learning);
    CHECK(back->evpn);
    CHECK(back->vxlan_source->evpn);
    CHECK_FALSE(back->vxlan_destination->evpn);
    CHECK_FALSE(GuestInterface::from_json(example().to_json())->vxlan_source);
    for (auto const& [key, value] : {std::pair<char const*, core::Json>{"vni", 1 << 24},
                                     {"vni", -1},
                                     {"vni", "42"},
                                     {"local", "224.0.0.1"},
                                     {"local", "nowhere"},
                                     {"learning", 1},
                                     {"evpn", 1}}) {
        INFO(key << " " << value.dump());
        auto json = stretched.to_json();
        auto end = stretched.vxlan_source->to_json();
        end.set(key, value);
        json.set("vxlan_source", end);
        CHECK_FALSE(GuestInterface::from_json(json));
    }
}

TEST_CASE("a move that is sent to a VTEP is valid, or refused", "[netmove]") {
    VxlanMove const move{MacAddress::parse("52:54:00:12:34:56").value(), 42,
                         Address::parse("192.0.2.1").value(), Address::parse("192.0.2.2").value(),
                         1400};
    auto const back = VxlanMove::from_json(move.to_json());
    REQUIRE(back);
    CHECK(back->mac == move.mac);
    CHECK(back->vni == 42);
    CHECK(back->from == move.from);
    CHECK(back->to == move.to);
    CHECK(back->mtu == 1400);
    for (auto const& [key, value] : {std::pair<char const*, core::Json>{"mac", "ff:ff:ff:ff:ff:ff"},
                                     {"mac", "00:00:00:00:00:00"},
                                     {"vni", 1 << 24},
                                     {"from", "192.0.2.2"},
                                     {"to", "2001:db8::1"},
                                     {"to", "255.255.255.255"},
                                     {"to", 7},
                                     {"mtu", 67},
                                     {"mtu", 1 << 20}}) {
        INFO(key << " " << value.dump());
        auto json = move.to_json();
        json.set(key, value);
        CHECK_FALSE(VxlanMove::from_json(json));
    }
}

TEST_CASE("the ends of a VXLAN must be of one network", "[netmove]") {
    auto both = example();
    CHECK(check_vxlan_ends(both));
    VxlanEnd const one{42, Address::parse("192.0.2.1").value(), false};
    auto other = one;
    other.local = Address::parse("192.0.2.2").value();
    both.vxlan_source = one;
    both.vxlan_destination = other;
    CHECK(check_vxlan_ends(both));
    SECTION("of different VNIs") { both.vxlan_destination->vni = 43; }
    SECTION("with one address") { both.vxlan_destination->local = one.local; }
    SECTION("of different families") {
        both.vxlan_destination->local = Address::parse("2001:db8::1").value();
    }
    SECTION("one without an address") { both.vxlan_source->local.reset(); }
    SECTION("only one") { both.vxlan_destination.reset(); }
    SECTION("only the other") { both.vxlan_source.reset(); }
    CHECK_FALSE(check_vxlan_ends(both));
    if (both.vxlan_source) both.vxlan_source->learning = true;
    if (both.vxlan_destination) both.vxlan_destination->learning = true;
    bool const both_there = both.vxlan_source && both.vxlan_destination;
    bool const of_one = both_there && both.vxlan_source->vni == both.vxlan_destination->vni;
    CHECK(check_vxlan_ends(both).has_value() == (!both_there || of_one));
}

TEST_CASE("a set of movers fires all or none", "[netmove]") {
    Log log;
    auto loop = core::Loop::create().value();
    MoverSet plan;
    plan.add(std::make_unique<Recorder>("a", log));
    plan.add(std::make_unique<Recorder>("b", log, "fire"));
    plan.add(std::make_unique<Recorder>("c", log));
    auto const fired = plan.fire();
    REQUIRE_FALSE(fired);
    CHECK(fired.error().sentence() == "b refused");
    // b too: it may have done half of its work. c was never called.
    CHECK(log == Log{"a fire", "b fire", "b rollback", "a rollback"});
    CHECK(plan.fired().empty());
    CHECK_FALSE(plan.fired_at());
}

TEST_CASE("a set of movers prepares all or none", "[netmove]") {
    Log log;
    auto loop = core::Loop::create().value();
    MoverSet plan;
    plan.add(std::make_unique<Recorder>("a", log));
    plan.add(std::make_unique<Recorder>("b", log, "prepare"));
    auto const prepared = loop->run(plan.prepare(core::Deadline::after(core::seconds(1))));
    REQUIRE_FALSE(prepared);
    CHECK(prepared.error().sentence() == "b refused");
    CHECK(log == Log{"a prepare", "b prepare", "a rollback"});
}

TEST_CASE("a set of movers settles and rolls back all, even if some fail", "[netmove]") {
    Log log;
    auto loop = core::Loop::create().value();
    MoverSet plan;
    plan.add(std::make_unique<Recorder>("a", log, "settle"));
    plan.add(std::make_unique<Recorder>("b", log, "rollback"));
    REQUIRE(plan.fire());
    REQUIRE(plan.fired().size() == 2);
    CHECK(plan.fired()[1].mover == "b");
    CHECK(plan.fired()[1].moved == Log{"b's address"});
    CHECK(plan.fired_at() >= plan.fired()[1].at);
    log.clear();
    CHECK_FALSE(loop->run(plan.settle(core::Deadline::after(core::seconds(1)))));
    auto const back = plan.rollback();
    CHECK(back.error().sentence() == "b refused");
    CHECK(log == Log{"a settle", "b settle", "b rollback", "a rollback"});
    CHECK(plan.fired().empty());
}

TEST_CASE("port settings: read back as they were sent, and checked", "[netmove]") {
    PortSettings const settings{{"isolated", "learning"}, true, {{20, 20, true, true}, {30, 40}}};
    auto const back = PortSettings::from_json(settings.to_json());
    REQUIRE(back);
    CHECK(*back == settings);
    CHECK(settings.vlans_text() == "VLANs 20, 30-40");
    CHECK_FALSE(settings.in_default_vlan());
    CHECK(PortSettings{{}, true, {{1, 1, true, true}}}.in_default_vlan());
    CHECK(PortSettings{{}, true, {{7, 7, true, true}}}.vlans_text() == "VLAN 7");
    CHECK(PortSettings{{}, true, {}}.vlans_text() == "no VLAN");
    CHECK(PortSettings{}.in_default_vlan());
    for (auto const& vlan : {PortVlan{0, 1}, {9, 8}, {8, 9, true}, {8, 4095}}) {
        INFO(vlan.first << " to " << vlan.last);
        CHECK_FALSE(PortSettings::from_json(PortSettings{{}, true, {vlan}}.to_json()));
    }
    CHECK_FALSE(PortSettings::from_json(PortSettings{{"state"}}.to_json()));
    CHECK_FALSE(PortSettings::from_json(core::Json::object()));
}

}  // namespace netmove_values_cases
