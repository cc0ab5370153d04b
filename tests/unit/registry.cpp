// What a registry answers, and its URL: taken apart and checked.
#include <catch2/catch.hpp>

#include "sidecar/guest/description.hpp"
#include "sidecar/registry/entry.hpp"
#include "sidecar/registry/etcd_wire.hpp"
#include "sidecar/registry/limits.hpp"
#include "sidecar/registry/registry_url.hpp"

namespace registry_cases {

using core::Json;
using sidecar::registry::Entry;
using sidecar::registry::RegistryUrl;
namespace etcd = sidecar::registry::etcd;
namespace limits = sidecar::registry::limits;

namespace {

Json parsed(char const* text) {
    auto json = Json::parse(text);
    REQUIRE(json);
    return *json;
}

Entry entry() {
    return {.guest = "web1",
            .host = {"0123456789abcdef", "hostb", "10.0.0.2:4790"},
            .anchor = sidecar::registry::Host{"", "home", ""},
            .token = 7,
            .migration_id = "m1",
            .state = sidecar::registry::State::handed_over,
            .addresses = {"10.0.0.10", "2001:db8::10"},
            .changed_ms = 1'796'000'000'000};
}

}  // namespace

TEST_CASE("registry: an entry is read back unchanged") {
    auto const again = Entry::from_json(parsed(entry().to_json().dump().c_str()));
    REQUIRE(again);
    CHECK(*again == entry());
}

TEST_CASE("registry: an entry with a member that is none of ours is refused") {
    std::string const long_text(limits::text_bytes_max + 1, 'x');
    Json many = Json::array();
    for (std::size_t i = 0; i <= limits::addresses_max; ++i) many.add("10.0.0.1");
    std::pair<char const*, Json> const members[] = {{"guest", "../etc"},
                                                    {"guest", 1},
                                                    {"host", Json()},
                                                    {"token", 0},
                                                    {"token", -1},
                                                    {"token", std::int64_t{limits::token_max} + 1},
                                                    {"token", "7"},
                                                    {"state", "there"},
                                                    {"migration_id", long_text},
                                                    {"anchor", "home"},
                                                    {"addresses", many},
                                                    {"addresses", Json::array({"a\nb"})},
                                                    {"changed_ms", "x"},
                                                    {"host", Json::object({{"name", "a\x1b[2J"}})}};
    for (auto const& [name, value] : members) {
        auto json = entry().to_json();
        json.set(name, value);
        INFO(json.dump());
        CHECK_FALSE(Entry::from_json(json));
    }
}

TEST_CASE("registry: a description carries its owner, and no other guest's") {
    sidecar::Description made;
    made.guest = "web1";
    made.migration_id = "m1";
    made.argv = {"qemu-system-x86_64"};
    made.owner = entry();
    auto json = made.to_json();
    auto const again = sidecar::Description::from_json(json);
    REQUIRE(again);
    CHECK(again->owner == made.owner);
    auto other = entry();
    other.guest = "web2";
    json.set("owner", other.to_json());
    CHECK_FALSE(sidecar::Description::from_json(json));
}

TEST_CASE("registry: URLs") {
    auto const file = RegistryUrl::parse("file:/srv/registry");
    REQUIRE(file);
    CHECK(file->kind == RegistryUrl::Kind::file);
    CHECK(file->directory == "/srv/registry");
    auto const etcd = RegistryUrl::parse("etcd://10.0.0.5,[2001:db8::5]:23790/site/one/");
    REQUIRE(etcd);
    CHECK(etcd->kind == RegistryUrl::Kind::etcd);
    CHECK(etcd->endpoints == std::vector<std::pair<std::string, std::string>>{
                                 {"10.0.0.5", "2379"}, {"2001:db8::5", "23790"}});
    CHECK(etcd->prefix == "/site/one");
    CHECK(etcd->tls_directory.empty());
    auto const tls = RegistryUrl::parse("etcds://etcd.example?tls-dir=/etc/sidecar");
    REQUIRE(tls);
    CHECK(tls->prefix == "/sidecar");
    CHECK(tls->tls_directory == "/etc/sidecar");
    for (auto const* text :
         {"", "file:", "file:relative", "etcd://", "etcd:///x", "etcds://host",
          "etcd://host?tls-dir=/x", "etcds://host?tls-dir=", "etcds://host?tls-dir=x",
          "http://host", "etcd://host:port:port", "/srv/registry"}) {
        INFO(text);
        auto const wrong = RegistryUrl::parse(text);
        CHECK_FALSE(wrong);
        if (!wrong) CHECK(wrong.error().code == core::Errc::invalid);
    }
}

TEST_CASE("registry: etcd's numbers are strings, and absent when zero") {
    auto const range =
        etcd::parse_range(parsed(R"({"header":{"revision":"12"},"kvs":[{"key":"aw==","value":"dg==",
                   "mod_revision":"7"}],"count":"1"})"));
    REQUIRE(range);
    CHECK(range->revision == 12);
    REQUIRE(range->found);
    CHECK(range->found->key == "k");
    CHECK(range->found->value == "v");
    CHECK(range->found->mod_revision == 7);
    auto const none = etcd::parse_range(parsed(R"({"header":{"revision":"12"}})"));
    REQUIRE(none);
    CHECK_FALSE(none->found);
    for (auto const* text :
         {"{}", "[]", R"({"header":{"revision":"-1"}})", R"({"header":{"revision":"1x"}})",
          R"({"header":{"revision":"99999999999999999999"}})",
          R"({"header":{"revision":"1"},"kvs":[{"key":"*"}]})",
          R"({"error":"etcdserver: no leader","code":14})"}) {
        INFO(text);
        CHECK_FALSE(etcd::parse_range(parsed(text)));
    }
}

TEST_CASE("registry: etcd's answers to a transaction, a watch and a lease") {
    auto const done =
        etcd::parse_txn(parsed(R"({"header":{"revision":"2"},"succeeded":true,"responses":[{}]})"));
    REQUIRE(done);
    CHECK(done->succeeded);
    auto const lost = etcd::parse_txn(parsed(
        R"({"header":{"revision":"2"},
            "responses":[{"response_range":{"kvs":[{"value":"dg=="}]}}]})"));
    REQUIRE(lost);
    CHECK_FALSE(lost->succeeded);
    REQUIRE(lost->found);
    CHECK(lost->found->value == "v");
    auto const watch = etcd::parse_watch(parsed(
        R"({"result":{"header":{"revision":"3"},"events":[{"kv":{"value":"dg=="}},
            {"type":"DELETE","kv":{"key":"aw=="}}]}})"));
    REQUIRE(watch);
    REQUIRE(watch->events.size() == 2);
    CHECK_FALSE(watch->events[0].deleted);
    CHECK(watch->events[1].deleted);
    CHECK(etcd::parse_watch(parsed(R"({"result":{"canceled":true}})"))->cancelled);
    CHECK_FALSE(etcd::parse_watch(parsed(R"({"error":{"message":"no leader"}})")));
    CHECK_FALSE(etcd::parse_watch(parsed(R"({"result":{"events":[{"type":"MOVE"}]}})")));
    auto const kept = etcd::parse_keepalive(parsed(R"({"result":{"ID":"5"}})"));
    REQUIRE(kept);
    CHECK(kept->ttl_s == 0);
    CHECK(etcd::parse_grant(parsed(R"({"ID":"5","TTL":"15"})"))->ttl_s == 15);
    CHECK_FALSE(etcd::parse_grant(parsed(R"({"TTL":"15"})")));
}

}  // namespace registry_cases
