// A registry in a real etcd: compare-and-swap, leases, watch, TLS; and what each of them does when
// etcd is killed, cut off and started again.
#include "tests/process/registry_lab.hpp"

#include "tests/support/certificates.hpp"

namespace registry_etcd_cases {

using namespace registry_lab;
using core::Errc;

namespace {

bool unreachable(core::Error const& error) {
    INFO(error.sentence());
    return sidecar::registry::is_passing(error);
}

/// What a watch has reported.
struct Seen {
    std::vector<std::optional<Entry>> entries;
    std::vector<std::string> errors;
    sidecar::registry::WatchEvents events{
        .changed = [this](std::optional<Entry> const& entry) { entries.push_back(entry); },
        .unreachable = [this](core::Error const& error) { errors.push_back(error.sentence()); }};
    [[nodiscard]] bool ends_in(std::uint64_t token) const {
        return !entries.empty() && entries.back() && entries.back()->token == token;
    }
};

/// Issues the server's certificate again, also for clients: etcd's gateway is a client of etcd,
/// with this certificate.
void allow_gateway(Directory const& certificates) {
    auto const info = certificates.path("gateway.info");
    lab::write_file(info,
                    "cn = etcd\nexpiration_days = 2\nsigning_key\ntls_www_server\ntls_www_client\n"
                    "ip_address = 127.0.0.1\n");
    lab::must_run({"certtool", "--generate-certificate", "--load-privkey",
                   certificates.path("tls/server-key.pem"), "--load-ca-certificate",
                   certificates.path("ours/ca-cert.pem"), "--load-ca-privkey",
                   certificates.path("ours/ca-key.pem"), "--template", info, "--outfile",
                   certificates.path("tls/server-cert.pem")});
}

}  // namespace

TEST_CASE("registry: etcd: an entry is replaced by the one who knows its token", "[registry]") {
    EtcdLab lab;
    auto const one = lab.open();
    auto const two = lab.open();
    auto& runner = lab.runner;
    CHECK_FALSE(runner.must(one->read("web1", soon())));
    auto const first = entry_of({"a"}, 1);
    CHECK(runner.must(one->commit(first, 0, soon())).done);
    CHECK(runner.must(two->read("web1", soon())) == first);
    CHECK(runner.must(one->commit(first, 0, soon())).done);  // again: an answer that was lost
    auto const late = runner.must(two->commit(entry_of({"b"}, 1), 0, soon()));
    CHECK_FALSE(late.done);
    CHECK(late.stored == first);
    CHECK(runner.must(two->commit(entry_of({"b"}, 2), 1, soon())).done);
    CHECK_FALSE(runner.must(one->commit(entry_of({"a"}, 2), 1, soon())).done);
    CHECK(runner.must(one->read("web1", soon())) == entry_of({"b"}, 2));
    CHECK_FALSE(runner.must(one->read("web2", soon())));
}

TEST_CASE("registry: etcd: of two claims at the same moment one wins", "[registry]") {
    EtcdLab lab;
    auto const one = lab.open();
    auto const two = lab.open();
    auto& runner = lab.runner;
    int won = 0;
    int lost = 0;
    auto const race = [](Registry& registry, std::string id, int& good, int& bad) -> Task<void> {
        for (std::uint64_t token = 1; token <= 20; ++token) {
            auto const done = co_await registry.commit(entry_of({id}, token), token - 1, soon());
            ++(done && done->done ? good : bad);
        }
    };
    {
        core::TaskGroup both(runner.loop());
        both.spawn(race(*one, "a", won, lost));
        both.spawn(race(*two, "b", won, lost));
        runner.loop().run(both.join());
    }
    CHECK(won == 20);
    CHECK(lost == 20);
    CHECK(runner.must(one->read("web1", soon()))->token == 20);
}

TEST_CASE("registry: etcd: killed, and started again with its data", "[registry]") {
    EtcdLab lab;
    auto const registry = lab.open();
    lab.runner.must(registry->commit(entry_of({"a"}, 1), 0, soon()));
    lab.etcd.kill();
    CHECK(unreachable(lab.runner.must_fail(registry->read("web1", soon()))));
    CHECK(unreachable(lab.runner.must_fail(registry->commit(entry_of({"b"}, 2), 1, soon()))));
    lab.etcd.start();
    CHECK(lab.runner.must(registry->read("web1", soon())) == entry_of({"a"}, 1));
    CHECK(lab.runner.must(registry->commit(entry_of({"b"}, 2), 1, soon())).done);
}

TEST_CASE("registry: etcd: a partition ends each request within its limit", "[registry]") {
    EtcdLab lab;
    auto const registry = lab.open();
    lab.runner.must(registry->commit(entry_of({"a"}, 1), 0, soon()));
    EtcdLab::cut();
    auto const begun = core::Clock::now();
    CHECK(unreachable(lab.runner.must_fail(registry->read("web1", soon()))));
    CHECK(core::Clock::now() - begun < 5s);
    EtcdLab::heal();
    CHECK(lab.runner.must(registry->read("web1", soon())) == entry_of({"a"}, 1));
}

TEST_CASE("registry: etcd: a request that is stopped ends at once", "[registry]") {
    EtcdLab lab;
    auto const registry = lab.open();
    EtcdLab::cut();
    std::stop_source stop;
    auto const cancel = [](core::Loop& loop, std::stop_source& source) -> Task<void> {
        (void)co_await core::sleep_for(loop, 100ms);
        source.request_stop();
    };
    core::TaskGroup both(lab.runner.loop());
    both.spawn(cancel(lab.runner.loop(), stop));
    auto const begun = core::Clock::now();
    auto const error =
        lab.runner.must_fail(registry->read("web1", Deadline::after(30s, stop.get_token())));
    CHECK(error.code == Errc::cancelled);
    CHECK(core::Clock::now() - begun < 1s);
    lab.runner.loop().run(both.join());
    EtcdLab::heal();
}

TEST_CASE("registry: etcd: the next server is asked when one is down", "[registry]") {
    EtcdLab lab;
    auto const registry = lab.open("etcd://127.0.0.1:2389,localhost:2379/other");
    CHECK(lab.runner.must(registry->commit(entry_of({"a"}, 1), 0, soon())).done);
    CHECK(lab.etcd.ctl({"get", "--keys-only", "--prefix", "/"}).find("/other/guests/web1") !=
          std::string::npos);
}

TEST_CASE("registry: etcd: foreign content is refused, and is no crash", "[registry]") {
    EtcdLab lab;
    auto const registry = lab.open();
    for (auto const* text : {"{", "[]", R"({"guest":"web2","token":1})", "\"x\""}) {
        INFO(text);
        (void)lab.etcd.ctl({"put", "/sidecar/guests/web1", text});
        CHECK(lab.runner.must_fail(registry->read("web1", soon())).code == Errc::protocol);
    }
}

TEST_CASE("registry: etcd: a watch goes on after etcd was killed and cut off", "[registry]") {
    EtcdLab lab;
    auto const watcher = lab.open();
    auto const writer = lab.open();
    auto& runner = lab.runner;
    Seen seen;
    Beside beside(runner);
    beside.spawn(watcher->watch("web1", seen.events, Deadline::never(beside.token())));
    run_until(runner, "the first report", [&] { return seen.entries.size() == 1; });
    CHECK_FALSE(seen.entries[0]);
    runner.must(writer->commit(entry_of({"a"}, 1), 0, soon()));
    run_until(runner, "a new entry", [&] { return seen.ends_in(1); });

    lab.etcd.kill();
    run_until(runner, "a lost server", [&] { return !seen.errors.empty(); });
    lab.etcd.start();
    runner.must(writer->commit(entry_of({"b"}, 2), 1, soon()));
    run_until(runner, "a change after the restart", [&] { return seen.ends_in(2); });

    EtcdLab::cut();
    run_until(runner, "a lost connection", [&] { return seen.errors.size() >= 2; });
    EtcdLab::heal();
    runner.must(writer->commit(entry_of({"a"}, 3), 2, soon()));
    run_until(runner, "a change after the partition", [&] { return seen.ends_in(3); });

    (void)lab.etcd.ctl({"del", "/sidecar/guests/web1"});
    run_until(runner, "the deletion", [&] { return !seen.entries.back(); });
    CHECK(seen.entries.size() == 5);  // each change once
}

TEST_CASE("registry: etcd: a host shows signs of life until it dies", "[registry]") {
    EtcdLab lab;
    auto const registry = lab.open();
    TestHost const host(lab.directory, "a", lab.etcd.url());
    auto const alive = [&] {
        auto const found = lab.runner.must(registry->read_host(host.id, soon()));
        return found && found->alive && found->host.id == host.id;
    };
    auto const serve = host.line({"serve", "--plaintext", "--listen", "127.0.0.1"});
    CHECK_FALSE(alive());
    lab::Daemon first("serve", serve, {}, lab.directory.text());
    run_until(lab.runner, "the host", alive);
    first.kill();
    CHECK(alive());  // its lease runs on
    run_until(lab.runner, "the end of the lease", [&] { return !alive(); });

    lab::Daemon second("serve", serve, {}, lab.directory.text());
    run_until(lab.runner, "the host again", alive);
    lab.etcd.kill();
    lab.etcd.start();
    run_until(lab.runner, "the host after a restart of etcd", alive);
    CHECK(second.end() == 0);
    CHECK_FALSE(alive());  // it has said goodbye
}

TEST_CASE("registry: etcd: TLS, with certificates on both sides", "[registry]") {
    Directory certificates;
    lab::Host server;
    server.name = "etcd";
    server.ip4 = "127.0.0.1";
    lab::CertificateAuthority const ours(certificates.path("ours"));
    lab::CertificateAuthority const other(certificates.path("other"));
    ours.issue(certificates.path("tls"), server);
    allow_gateway(certificates);
    other.issue(certificates.path("foreign"), server);
    EtcdLab lab({.tls_directory = certificates.path("tls")});
    auto const registry = lab.open();
    CHECK(lab.runner.must(registry->commit(entry_of({"a"}, 1), 0, soon())).done);
    auto const foreign = lab.open("etcds://127.0.0.1:2379?tls-dir=" + certificates.path("foreign"));
    auto const error = lab.runner.must_fail(foreign->read("web1", soon()));
    INFO(error.sentence());
    CHECK(error.code == Errc::refused);
    auto const plain = lab.open("etcd://127.0.0.1:2379");
    (void)lab.runner.must_fail(plain->read("web1", soon()));
}

}  // namespace registry_etcd_cases
