// Connection tracking that moves with the guest, between two hosts with a stateful filter and NAT.
// Each session stops at the second host at first, as it would without this feature. It continues
// once the first host's entry is restored there.
#include <cstring>

#include "tests/process/conntrack_lab.hpp"

namespace conntrack_cases {

namespace {

using namespace conntrack_lab;

constexpr auto soon_enough = 5s;  // TCP retransmits dropped segments at growing intervals
constexpr auto dead_after = 700ms;

/// The entries of one host, encoded for the peer and decoded again.
std::vector<ConntrackEntry> travelled(std::vector<ConntrackEntry> const& entries) {
    std::vector<ConntrackEntry> out;
    for (auto const& entry : entries) {
        auto const text = entry.to_json().dump();
        CHECK(text.size() <= conntrack_entry_bytes_max);
        auto const json = must(core::Json::parse(text));
        out.push_back(must(ConntrackEntry::from_json(json, guest_addresses())));
        CHECK(out.back() == entry);
    }
    return out;
}

void lives_only_where_restored(Hosts& hosts, Session& session) {
    REQUIRE(session.passes());
    auto there = hosts.tracking(hosts.a());
    auto here = hosts.tracking(hosts.b());
    auto const entries = travelled(hosts.entries(there));
    REQUIRE(entries.size() == 1);
    hosts.turn_to("b");
    CHECK_FALSE(session.passes(dead_after));  // the failure that restoring repairs

    auto const restored = here.restore(entries, {});
    CHECK(restored.made == 1);
    CHECK(restored.failed.empty());
    CHECK(session.passes(soon_enough));

    CHECK(must(here.undo()) == 1);
    CHECK(must(here.count()) == 0);
    CHECK(must(here.undo()) == 0);
    CHECK_FALSE(session.passes(dead_after));
}

/// An entry that belongs to no real connection; each number gives a different one.
ConntrackEntry made_up(unsigned number) {
    ConntrackEntry entry;
    entry.key.source = ip(fmt::format("10.99.{}.{}", number >> 8 & 0xff, number & 0xff));
    entry.key.destination = ip(guest_ip4);
    entry.key.protocol = 6;
    entry.key.source_port = static_cast<std::uint16_t>(10'000 + (number >> 16));
    entry.key.destination_port = port;
    entry.reply_source = entry.key.destination;
    entry.reply_destination = entry.key.source;
    entry.reply_source_port = entry.key.destination_port;
    entry.reply_destination_port = entry.key.source_port;
    entry.status = 0x0e;  // answered, assured, confirmed
    entry.state = 3;  // established
    entry.timeout_s = 1000;
    return entry;
}

std::vector<ConntrackEntry> made_up_entries(unsigned count) {
    std::vector<ConntrackEntry> out;
    for (unsigned number = 0; number < count; ++number) out.push_back(made_up(number));
    return out;
}

std::string nat_chains(std::string const& in, std::string const& out) {
    return fmt::format(
        "table ip nat {{\n chain in {{\n type nat hook prerouting priority dstnat\n{}\n}}\n"
        "chain out {{\n type nat hook postrouting priority srcnat\n{}\n}}\n}}\n",
        in, out);
}

double ms_since(std::chrono::steady_clock::time_point start) {
    return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start)
        .count();
}

}  // namespace

TEST_CASE("conntrack: a TCP session lives where its entry was restored, and only there",
          "[netmove][conntrack]") {
    Hosts hosts;
    auto const to_guest = GENERATE(true, false);
    auto const ipv4 = GENERATE(true, false);
    INFO((to_guest ? "to" : "from") << " the guest over IPv" << (ipv4 ? 4 : 6));
    auto session = to_guest ? tcp_to_guest(hosts, ipv4 ? guest_ip4 : guest_ip6)
                            : tcp_from_guest(hosts, ipv4 ? client_ip4 : client_ip6);
    lives_only_where_restored(hosts, session);
}

TEST_CASE("conntrack: the guest's answers over UDP pass where they are known",
          "[netmove][conntrack]") {
    Hosts hosts;
    auto const to = GENERATE(guest_ip4, guest_ip6);
    auto session = udp_to_guest(hosts, to);
    auto there = hosts.tracking(hosts.a());
    auto here = hosts.tracking(hosts.b());
    auto const entries = travelled(hosts.entries(there));
    REQUIRE(entries.size() == 1);
    hosts.turn_to("b");
    CHECK_FALSE(session.passes(dead_after));
    CHECK(here.restore(entries, {}).made == 1);
    CHECK(session.passes());
}

TEST_CASE("conntrack: translated sessions stay translated", "[netmove][conntrack]") {
    Hosts hosts;
    bool const incoming = GENERATE(true, false);
    INFO((incoming ? "to the guest" : "from the guest"));
    hosts.add_rules(
        hosts.a(),
        nat_chains(fmt::format("ip daddr {} dnat to {}", service_ip4, guest_ip4),
                   fmt::format("oifname client ip saddr {} snat to {}", guest_ip4, service_ip4)));
    sh(fmt::format("ip addr add {}/32 dev lo", service_ip4));
    // The kernel translates only where NAT chains exist, even empty ones.
    hosts.add_rules(hosts.b(), nat_chains("", ""));
    auto session = incoming ? tcp_to_guest(hosts, service_ip4) : tcp_from_guest(hosts);
    REQUIRE(session.passes());
    auto there = hosts.tracking(hosts.a());
    auto here = hosts.tracking(hosts.b());
    auto entries = travelled(hosts.entries(there));
    REQUIRE(entries.size() == 1);
    CHECK(entries[0].source_translated() == !incoming);
    CHECK(entries[0].destination_translated() == incoming);
    hosts.turn_to("b");

    // An entry translated to an address that only the source host has is reported, not restored.
    entries[0].translated_to_host = true;
    auto const refused = here.restore(entries, {});
    CHECK(refused.made == 0);
    REQUIRE(refused.failed.size() == 1);
    CHECK(contains(refused.failed.begin()->second, "an address of the source host"));
    CHECK_FALSE(session.passes(dead_after));

    hosts.b().enter();
    sh(fmt::format("ip addr add {}/32 dev lo", service_ip4));
    CHECK(here.restore(entries, std::vector{ip(service_ip4)}).made == 1);
    CHECK(session.passes(soon_enough));
    auto const now = hosts.entries(here);
    REQUIRE(now.size() == 1);
    CHECK(now[0].reply_source == entries[0].reply_source);
    CHECK(now[0].reply_destination == entries[0].reply_destination);
}

TEST_CASE("conntrack: only the guest's entries, with all their attributes",
          "[netmove][conntrack]") {
    Hosts hosts;
    auto tracking = hosts.tracking(hosts.a());
    CHECK(must(tracking.count()) == 0);
    // A rule that uses labels makes the kernel keep labels.
    hosts.add_rules(hosts.a(),
                    "table ip labels {\n chain in {\n type filter hook prerouting priority 0\n"
                    "ct label set 5\n}\n}\n");
    auto whole = made_up(1);
    whole.mark = 0xdeadbeef;
    whole.labels.assign(16, 0);
    whole.labels[0] = 1U << 5;
    whole.labels[15] = 1U << 7;
    whole.key.zone = 7;
    whole.tcp_scale = {7, 9};
    whole.tcp_flags = {0x03, 0x03};
    auto one_way = made_up(1);
    one_way.key.zone = 8;
    one_way.key.zone_of = ConntrackKey::ZoneOf::original;
    auto ping = made_up(2);
    ping.key.protocol = 1;
    ping.key.icmp_type = 8;
    ping.key.source_port = ping.key.destination_port = 77;
    ping.reply_source_port = ping.reply_destination_port = 77;
    ping.state = 0;
    auto foreign = made_up(3);
    foreign.key.destination = foreign.reply_source = ip("10.88.0.11");
    CHECK(tracking.restore(std::vector{whole, one_way, ping, foreign}, {}).made == 4);
    CHECK(must(tracking.count()) == 4);

    auto found = hosts.entries(tracking);
    REQUIRE(found.size() == 3);
    for (auto const* wanted : {&whole, &one_way, &ping}) {
        auto const same = std::ranges::find(found, wanted->key, &ConntrackEntry::key);
        REQUIRE(same != found.end());
        auto now = *same;
        CHECK(now.timeout_s <= wanted->timeout_s);
        // Restored TCP entries have IP_CT_TCP_FLAG_BE_LIBERAL: the kernel accepts any window.
        auto expected = *wanted;
        for (auto& flags : expected.tcp_flags) {
            if (wanted->key.protocol == 6) flags = flags | 0x08;
        }
        CHECK(now.same_but_for_time(expected));
    }
    CHECK(travelled(found).size() == 3);
    CHECK(must(tracking.remove(std::vector{whole.key, whole.key, foreign.key})) == 2);
    CHECK(must(tracking.undo()) == 2);
}

TEST_CASE("conntrack: an entry in conflict is replaced, and a missing helper is reported",
          "[netmove][conntrack]") {
    Hosts hosts;
    auto tracking = hosts.tracking(hosts.b());
    auto stale = made_up(1);
    stale.state = 7;  // TIME_WAIT
    auto stranger = made_up(4);
    CHECK(tracking.restore(std::vector{stale, stranger}, {}).made == 2);
    tracking.keep();
    auto fresh = made_up(1);
    auto other = made_up(2);
    other.helper = "nosuch";
    auto const restored = tracking.restore(std::vector{fresh, other}, {});
    CHECK(restored.made == 2);
    REQUIRE(restored.failed.size() == 1);
    CHECK(contains(restored.failed.begin()->second, "helper nosuch"));
    for (auto const& entry : hosts.entries(tracking)) {
        if (entry.key == fresh.key) CHECK(entry.state == fresh.state);
    }
    // An entry that ended at the source is removed; one that was never restored by us stays.
    tracking.forget_restored(std::vector{other.key, stranger.key});
    CHECK(must(tracking.count()) == 2);
    CHECK(must(tracking.undo()) == 1);
    auto const left = hosts.entries(tracking);
    REQUIRE(left.size() == 1);
    CHECK(left[0].key == stranger.key);
}

TEST_CASE("conntrack: the kernel reports what changes and what ends", "[netmove][conntrack]") {
    Hosts hosts;
    auto tracking = hosts.tracking(hosts.a());
    must(tracking.listen());
    tracking.forget();
    auto const before = must(tracking.changes(guest_addresses(), 100));
    CHECK(before.now.empty());
    CHECK_FALSE(before.incomplete);
    {
        auto session = tcp_to_guest(hosts);
        CHECK(session.passes());
        auto const now = must(tracking.changes(guest_addresses(), 100));
        REQUIRE(now.now.size() == 1);
        CHECK(now.now[0].key.destination == ip(guest_ip4));
        CHECK(now.now[0].state == 3);
        CHECK(must(tracking.changes(guest_addresses(), 100)).now.empty());
        CHECK(must(tracking.remove(std::vector{now.now[0].key})) == 1);
        auto const gone = must(tracking.changes(guest_addresses(), 100));
        CHECK(gone.gone == std::vector{now.now[0].key});
    }
    CHECK(must(tracking.changes(std::vector{ip("10.88.0.11")}, 100)).now.empty());
    SECTION("only so many at a time") {
        CHECK(tracking.restore(made_up_entries(10), {}).made == 10);
        CHECK(must(tracking.changes(guest_addresses(), 8)).now.size() == 8);
        CHECK(must(tracking.changes(guest_addresses(), 8)).now.size() == 2);
    }
    SECTION("a kernel that tells nothing is known to") {
        hosts.a().enter();
        sh("sysctl -qw net.netfilter.nf_conntrack_events=0");
        tracking.forget();
        CHECK(must(tracking.changes(guest_addresses(), 100)).incomplete);
    }
}

TEST_CASE("conntrack: entries beyond the limit are counted", "[netmove][conntrack]") {
    Hosts hosts;
    auto tracking = hosts.tracking(hosts.a());
    constexpr unsigned more = 100;
    auto const count = static_cast<unsigned>(conntrack_entries_max) + more;
    CHECK(tracking.restore(made_up_entries(count), {}).made == count);
    auto const found = must(hosts.loop().run(
        tracking.dump(hosts.loop(), guest_addresses(), core::Deadline::after(30s))));
    CHECK(found.entries.size() == conntrack_entries_max);
    CHECK(found.beyond == more);
    CHECK(must(tracking.undo()) == count);
}

TEST_CASE("conntrack: what it costs", "[.conntrack-time]") {
    Hosts hosts;
    auto tracking = hosts.tracking(hosts.a());
    must(tracking.listen());
    for (unsigned const count : {0U, 1'000U, 10'000U}) {
        auto const entries = made_up_entries(count);
        tracking.forget();
        auto start = std::chrono::steady_clock::now();
        CHECK(tracking.restore(entries, {}).made == count);
        auto const restore_ms = ms_since(start);
        tracking.forget();
        start = std::chrono::steady_clock::now();
        auto const found = hosts.entries(tracking);
        auto const dump_ms = ms_since(start);
        CHECK(found.size() == count);
        start = std::chrono::steady_clock::now();
        std::size_t bytes = 0;
        for (auto const& entry : found) bytes += entry.to_json().dump().size();
        auto const json_ms = ms_since(start);
        start = std::chrono::steady_clock::now();
        (void)must(tracking.changes(guest_addresses(), 100));
        auto const nothing_ms = ms_since(start);
        auto extra = made_up_entries(10);
        for (auto& one : extra) one.key.source_port = one.reply_destination_port = 9;
        CHECK(tracking.restore(extra, {}).made == 10);
        start = std::chrono::steady_clock::now();
        CHECK(must(tracking.changes(guest_addresses(), 100)).now.size() == 10);
        auto const changes_ms = ms_since(start);
        start = std::chrono::steady_clock::now();
        (void)must(tracking.undo());
        fmt::print(
            "{:6} entries: dump {:.2f} ms, as JSON {:.2f} ms ({} bytes), restore {:.2f} ms, "
            "removed in {:.2f} ms; in the pause: nothing changed {:.3f} ms, 10 changed "
            "{:.3f} ms\n",
            count, dump_ms, json_ms, bytes, restore_ms, ms_since(start), nothing_ms, changes_ms);
    }
}

}  // namespace conntrack_cases
