// The guest's name at a real name server: both families change together and only from what was
// read before; a key that may not change them is refused with a sentence; what is lost on the way
// is found out. dig(1) and nsupdate(1) are the independent witnesses.
#include <signal.h>

#include <ctime>

#include "netmove/dns/primary.hpp"
#include "tests/process/dns_lab.hpp"

namespace dns_cases {

namespace {

using namespace dns_lab;
using netmove::dns::Primary;
using netmove::dns::Records;
using storage_lab::Runner;

/// A resolv.conf that no test reads: every server is named.
constexpr char const* no_resolvers = "/nonexistent";

struct Asked {
    std::string key = "mover";
    char secret = 'm';
    std::string algorithm = "hmac-sha256";
    std::string name = guest_name;
    std::string server = "[::1]";
    std::chrono::seconds limit = 20s;
};

class Scene {
public:
    explicit Scene(std::chrono::seconds clock_offset = 0s) : server(clock_offset) {}

    core::Result<Primary> find(Asked const& asked = {}) {
        auto key =
            netmove::dns::read_tsig_key(server.key_file(asked.key, asked.secret, asked.algorithm));
        REQUIRE(key);
        return runner.loop().run(Primary::find(
            runner.loop(), netmove::dns::absolute_name(asked.name).value(), asked.server,
            std::move(*key), no_resolvers, core::Deadline::after(asked.limit)));
    }
    Primary must_find(Asked const& asked = {}) {
        auto found = find(asked);
        if (!found) FAIL(found.error().sentence());
        return std::move(*found);
    }
    Records read(Primary const& primary) {
        return runner.must(primary.read(core::Deadline::after(10s)));
    }
    Primary::Updated update(Primary const& primary, Records const& before, Records const& after) {
        return runner.must(primary.update(before, after, core::Deadline::after(20s)));
    }
    /// Everything that `--check` does, up to the first error; its sentence.
    std::string refusal(Asked const& asked, core::Errc code = core::Errc::refused) {
        auto const before = server.serial();
        auto found = find(asked);
        core::Result<> tried;
        if (!found) tried = std::unexpected(found.error());
        if (found) tried = try_key(*found);
        REQUIRE_FALSE(tried);
        CHECK(tried.error().code == code);
        CHECK(server.serial() == before);
        CHECK_FALSE(contains(tried.error().sentence(), secret(asked.secret)));
        return tried.error().sentence();
    }
    core::Result<> try_key(Primary const& primary) {
        return runner.loop().run(try_key_task(primary));
    }

    NameServer server;
    Runner runner;

private:
    static core::Task<core::Result<>> try_key_task(Primary const& primary) {
        auto const deadline = core::Deadline::after(10s);
        CO_TRY(auto before, co_await primary.read(deadline));
        co_return co_await primary.try_key(std::move(before), deadline);
    }
};

Records records(std::vector<std::string> const& addresses, std::uint32_t ttl = 77) {
    Records made;
    for (auto const& text : addresses) made.add(netmove::Address::parse(text).value());
    if (made.has(netmove::Address::Family::ipv4)) made.ttl_ipv4 = ttl;
    if (made.has(netmove::Address::Family::ipv6)) made.ttl_ipv6 = ttl;
    return made;
}

Records const old_records = records({"192.0.2.1", "2001:db8::1"});
Records const new_records = records({"198.51.100.7", "198.51.100.8", "2001:db8:7::7"});

/// The answers of the server to updates are lost on the way, over UDP.
constexpr char const* lose_answers = "udp sport 53 @th,80,8 & 0xf8 == 0xa8 counter drop";
constexpr char const* lose_updates = "udp dport 53 @th,80,8 & 0xf8 == 0x28 counter drop";

void filter(std::string const& rule) {
    sh("nft 'table inet line { chain arriving { type filter hook input priority 0; " + rule +
       "; }; }'");
}
int matched() {
    return std::stoi(sh("nft list table inet line | sed -n 's/.*packets \\([0-9]*\\).*/\\1/p'"));
}

void has_the_new_records(NameServer const& server) {
    CHECK(server.records(guest_name, "A") == "77 198.51.100.7\n77 198.51.100.8\n");
    CHECK(server.records(guest_name, "AAAA") == "77 2001:db8:7::7\n");
}

}  // namespace

TEST_CASE("dns: both families change in one serial, and keep their TTL", "[dns]") {
    Scene scene;
    auto const primary = scene.must_find();
    CHECK(primary.zone() == "example.org.");
    auto const before = scene.read(primary);
    CHECK(before == old_records);
    REQUIRE(scene.try_key(primary));
    CHECK(scene.server.serial() == first_serial);  // asking changes nothing
    auto const updated = scene.update(primary, before, new_records);
    CHECK(updated.outcome == Primary::Outcome::changed);
    CHECK(scene.server.serial() == first_serial + 1);
    has_the_new_records(scene.server);
    CHECK(scene.read(primary) == new_records);

    SECTION("a family can go and come back") {
        auto const only_ipv6 = records({"2001:db8:8::8"}, 60);
        (void)scene.update(primary, new_records, only_ipv6);
        CHECK(scene.server.records(guest_name, "A") == "");
        CHECK(scene.server.records(guest_name, "AAAA") == "60 2001:db8:8::8\n");
        REQUIRE(scene.try_key(primary));
        (void)scene.update(primary, only_ipv6, new_records);
        has_the_new_records(scene.server);
        CHECK(scene.server.serial() == first_serial + 3);
    }
    SECTION("repeated, it changes nothing") {
        auto const again = scene.update(primary, before, new_records);
        CHECK(again.outcome == Primary::Outcome::changed);
        CHECK(scene.server.serial() == first_serial + 1);
    }
    SECTION("a name without an address gets some") {
        auto const fresh = scene.must_find({.name = "web2.example.org"});
        CHECK(scene.read(fresh) == Records());
        REQUIRE(scene.try_key(fresh));
        (void)scene.update(fresh, {}, records({"192.0.2.9"}, 5));
        CHECK(scene.server.records("web2.example.org", "A") == "5 192.0.2.9\n");
    }
    SECTION("with the other algorithm, and by IPv4") {
        auto const other =
            scene.must_find({.key = "long", .algorithm = "hmac-sha512", .server = "127.0.0.1:53"});
        REQUIRE(scene.try_key(other));
        (void)scene.update(other, new_records, old_records);
        CHECK(scene.server.records(guest_name, "A") == "77 192.0.2.1\n");
    }
}

TEST_CASE("dns: the commands for nsupdate do the same by hand", "[dns]") {
    Scene scene;
    auto const primary = scene.must_find();
    auto const run = [&](std::string const& commands) {
        auto const file = scene.server.path("by-hand");
        lab::write_file(file, commands);
        return lab::run({"nsupdate", "-k", scene.server.key_file("mover"), file});
    };
    auto const other = records({"192.0.2.200"});
    auto const refused = run(primary.commands(other, new_records, true));
    CHECK(refused.exit_status == 2);
    CHECK(contains(refused.err, "RRSET"));
    CHECK(scene.server.serial() == first_serial);
    CHECK(run(primary.commands(old_records, new_records, true)).exit_status == 0);
    has_the_new_records(scene.server);
    CHECK(run(primary.commands(other, old_records, false)).exit_status == 0);
    CHECK(scene.server.records(guest_name, "A") == "77 192.0.2.1\n");
}

TEST_CASE("dns: a key that may not change the name is refused, each with its reason", "[dns]") {
    Scene scene;
    CHECK(
        contains(scene.refusal({.secret = 'x'}), "another secret for the TSIG key mover (BADSIG)"));
    CHECK(contains(scene.refusal({.key = "unknown"}),
                   "does not know the TSIG key unknown with hmac-sha256 (BADKEY)"));
    CHECK(contains(scene.refusal({.algorithm = "hmac-sha512"}), "with hmac-sha512 (BADKEY)"));
    CHECK(contains(scene.refusal({.key = "stranger"}),
                   "does not let the TSIG key stranger change A and AAAA of web1.example.org "
                   "(REFUSED)"));
    CHECK(contains(scene.refusal({.key = "narrow"}), "(REFUSED)"));
    CHECK(contains(scene.refusal({.name = "web1.example.net"}),
                   "has no zone of that name, or the TSIG key mover may not ask"));
    CHECK(contains(scene.refusal({.name = "www.example.org"}), "is an alias (CNAME)"));
}

TEST_CASE("dns: a server whose clock is wrong is refused with the difference", "[dns]") {
    Scene scene(1000s);
    auto const told = scene.refusal({});
    CAPTURE(told);
    // The server counts whole seconds.
    CHECK((contains(told, "is 1000 s ahead of this host's") ||
           contains(told, "is 1001 s ahead of this host's") ||
           contains(told, "is 999 s ahead of this host's")));
    CHECK(contains(told, "(BADTIME)"));
}

TEST_CASE("dns: a server that is silent or not there is waited for with a limit", "[dns]") {
    Scene scene;
    auto const refused = scene.find({.server = "127.0.0.1:54"});
    REQUIRE_FALSE(refused);
    CHECK(contains(refused.error().sentence(), "127.0.0.1 port 54: "));
    CHECK(contains(refused.error().sentence(), "Connection refused"));
    scene.server.pause();
    auto const begun = core::Clock::now();
    auto const silent = scene.find();
    auto const took = core::Clock::now() - begun;
    scene.server.daemon().signal(SIGCONT);
    REQUIRE_FALSE(silent);
    CHECK(silent.error().code == core::Errc::timed_out);
    CHECK(contains(silent.error().sentence(), "::1: it does not answer"));
    CHECK(took < 15s);
}

TEST_CASE("dns: a name that others changed meanwhile is left alone", "[dns]") {
    Scene scene;
    auto const primary = scene.must_find();
    auto const before = scene.read(primary);
    scene.server.change("update add web1.example.org 77 A 192.0.2.99");
    auto const updated = scene.update(primary, before, new_records);
    CHECK(updated.outcome == Primary::Outcome::changed_by_others);
    CHECK(updated.found == records({"192.0.2.1", "192.0.2.99", "2001:db8::1"}));
    CHECK(scene.server.records(guest_name, "A") == "77 192.0.2.1\n77 192.0.2.99\n");
    CHECK(scene.server.serial() == first_serial + 1);

    INFO("a family that was not there has come");
    auto const four = scene.must_find({.name = "four.example.org"});
    auto const ipv4 = scene.read(four);
    scene.server.change("update add four.example.org 30 AAAA 2001:db8::4");
    auto const left = scene.update(four, ipv4, new_records);
    CHECK(left.outcome == Primary::Outcome::changed_by_others);
    CHECK(scene.server.records("four.example.org", "A") == "30 192.0.2.4\n");
}

TEST_CASE("dns: an update whose answer is lost is recognised", "[dns]") {
    Scene scene;
    auto const primary = scene.must_find();
    filter(lose_answers);
    auto const updated = scene.update(primary, old_records, new_records);
    CHECK(matched() == 1);
    CHECK(updated.outcome == Primary::Outcome::changed);
    CHECK(scene.server.serial() == first_serial + 1);
    has_the_new_records(scene.server);
}

TEST_CASE("dns: an update that is lost is sent again, at last over TCP", "[dns]") {
    Scene scene;
    auto const primary = scene.must_find();
    filter(lose_updates);
    auto const updated = scene.update(primary, old_records, new_records);
    CHECK(matched() == 2);
    CHECK(updated.outcome == Primary::Outcome::changed);
    CHECK(scene.server.serial() == first_serial + 1);
    has_the_new_records(scene.server);
}

TEST_CASE("dns: without UDP everything goes over TCP", "[dns]") {
    Scene scene;
    filter("udp dport 53 counter drop");
    auto const primary = scene.must_find();
    CHECK(matched() > 0);
    auto const updated = scene.update(primary, old_records, new_records);
    CHECK(updated.outcome == Primary::Outcome::changed);
    sh("nft flush ruleset");
    has_the_new_records(scene.server);
}

TEST_CASE("dns: more addresses than a datagram holds are read and replaced over TCP", "[dns]") {
    Scene scene;
    auto const primary = scene.must_find({.name = "many.example.org"});
    filter("tcp dport 53 tcp flags syn counter");
    auto const before = scene.read(primary);
    CHECK(before.addresses.size() == 60);
    CHECK(matched() == 1);  // the answer was truncated
    REQUIRE(scene.runner.loop().run(primary.try_key(before, core::Deadline::after(10s))));
    CHECK(matched() == 2);  // the request is too long
    auto const updated = scene.update(primary, before, new_records);
    CHECK(updated.outcome == Primary::Outcome::changed);
    CHECK(scene.server.records("many.example.org", "AAAA") == "77 2001:db8:7::7\n");
}

TEST_CASE("dns: without --dns-server the zone's SOA record names it", "[dns]") {
    Scene scene;
    auto const resolvers = scene.server.path("resolv.conf");
    auto const find = [&](std::string const& name) {
        auto key = netmove::dns::read_tsig_key(scene.server.key_file("mover")).value();
        return scene.runner.loop().run(Primary::find(scene.runner.loop(), name, "", std::move(key),
                                                     resolvers, core::Deadline::after(10s)));
    };
    lab::write_file(resolvers, "# a comment\nsearch example.com\nnameserver 127.0.0.1\n");
    auto const found = find("web1.example.org.");
    if (!found) FAIL(found.error().sentence());
    CHECK(found->zone() == "example.org.");
    CHECK(found->server() == "localhost");  // its MNAME
    auto const unknown = find("web1.example.net.");
    REQUIRE_FALSE(unknown);
    CHECK(contains(unknown.error().sentence(), "knows no zone of web1.example.net (REFUSED)"));
}

}  // namespace dns_cases
