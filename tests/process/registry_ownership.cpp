// Who owns a guest, over a real etcd: a move with etcd killed or cut off in each of its phases, and
// a host that returns late.
#include "tests/process/registry_lab.hpp"

namespace registry_ownership_cases {

using namespace registry_lab;
using core::Errc;
using sidecar::registry::check_arrival;
using sidecar::registry::Claim;
using sidecar::registry::Ownership;

namespace {

bool says(std::string const& text, std::string const& part) {
    return text.find(part) != std::string::npos;
}

enum class Fault { none, killed, cut };
/// The phases of a move in which the registry is used.
enum class Phase { check, before_ram, source_records, destination_records };

char const* name(Phase phase) {
    constexpr char const* names[] = {"check", "before RAM", "source records",
                                     "destination records"};
    return names[static_cast<int>(phase)];
}

/// Two hosts and their etcd. Guest web1 was started on host a.
struct Moved : EtcdLab {
    Moved() : a(directory, "a", etcd.url()), b(directory, "b", etcd.url()) {
        runner.must(at_a.claim({.addresses = {"10.0.0.10"}}));
    }
    void begin(Fault fault) {
        if (fault == Fault::killed) etcd.kill();
        if (fault == Fault::cut) cut();
    }
    void end(Fault fault) {
        if (fault == Fault::killed) etcd.start();
        if (fault == Fault::cut) heal();
    }
    Entry stored() { return *runner.must(registry->read("web1", soon())); }
    std::string departs() {
        return runner.loop().run(
            at_a.departed({{b.id, "hostb", "10.0.0.2:4790"}, "m1", State::here, {"10.0.0.10"}}));
    }

    TestHost a;
    TestHost b;
    std::unique_ptr<Registry> registry = open();
    Ownership at_a{runner.loop(), a.paths, "web1"};
    Ownership at_b{runner.loop(), b.paths, "web1"};
};

/// A move in which the fault lasts for that phase only. Afterwards the registry must be right.
void moves_with(Fault fault, Phase when) {
    INFO(name(when) << (fault == Fault::killed ? ": killed" : ": cut off"));
    Moved lab;
    auto& runner = lab.runner;
    auto const with_fault = [&](Phase now, auto const& step) {
        if (now == when) lab.begin(fault);
        step();
        if (now == when) lab.end(fault);
    };
    std::optional<Entry> owner;
    for (auto const phase : {Phase::check, Phase::before_ram}) {
        with_fault(phase, [&] {
            auto const warning = runner.must(lab.at_a.check_departure());
            CHECK(says(warning, "the guest moves without it") == (phase == when));
            owner = lab.at_a.known();
            runner.must(check_arrival(runner.loop(), lab.b.paths, "web1", owner));
        });
    }
    with_fault(Phase::source_records, [&] {
        auto const warning = lab.departs();
        CHECK(says(warning, "does not say yet") == (when == Phase::source_records));
    });
    with_fault(Phase::destination_records, [&] {
        lab.at_b.arrived(owner, "m1", {"10.0.0.10"});
        (void)runner.loop().run(lab.at_b.publish(Deadline::after(2s)));
    });
    {
        Beside beside(runner);
        beside.spawn(lab.at_b.keep_published(beside.token()));
        run_until(runner, "the registry", [&] { return lab.stored().belongs_to(lab.b.id); });
    }
    CHECK(lab.stored().token == 2);
    CHECK(lab.stored().migration_id == "m1");
    CHECK(lab.at_a.known()->belongs_to(lab.b.id));
    CHECK(lab.at_b.known()->token == 2);
}

}  // namespace

TEST_CASE("registry: a move ends in it, whatever happens to etcd in each phase", "[registry]") {
    for (auto const phase :
         {Phase::check, Phase::before_ram, Phase::source_records, Phase::destination_records}) {
        moves_with(Fault::killed, phase);
        moves_with(Fault::cut, phase);
    }
}

TEST_CASE("registry: the source's sidecar continues although the destination never writes",
          "[registry]") {
    Moved lab;
    CHECK(lab.departs().empty());
    CHECK(lab.departs().empty());  // again, after a restart of the sidecar
    CHECK(lab.stored().belongs_to(lab.b.id));
    CHECK(lab.stored().host.address == "10.0.0.2:4790");
    CHECK(lab.stored().token == 2);
}

TEST_CASE("registry: the destination's record stands although the source never writes",
          "[registry]") {
    Moved lab;
    lab.at_b.arrived(lab.at_a.known(), "m1", {});
    lab.runner.must(lab.at_b.publish(soon()));
    CHECK(lab.stored().belongs_to(lab.b.id));
    CHECK(lab.stored().token == 2);
    CHECK(lab.departs().empty());  // adds the address, and takes nothing away
    CHECK(lab.stored().host.address == "10.0.0.2:4790");
    CHECK(lab.stored().token == 2);
}

TEST_CASE("registry: a host that returns late cannot take the guest", "[registry]") {
    Moved lab;
    auto& runner = lab.runner;
    // Host a is lost. Its operator fences it, and the guest is failed over to host b.
    auto const refused = runner.must_fail(lab.at_b.claim({.addresses = {}, .migration_id = "r1"}));
    CHECK(refused.code == Errc::refused);
    runner.must(lab.at_b.claim({.fenced = true, .migration_id = "r1"}));
    CHECK(lab.stored().belongs_to(lab.b.id));
    CHECK(lab.stored().token == 2);

    // Host a returns. Its own record still says that it has the guest.
    CHECK(lab.at_a.known()->belongs_to(lab.a.id));
    for (auto const kind : {Claim::Kind::start, Claim::Kind::join}) {
        auto const error = runner.must_fail(lab.at_a.claim({.kind = kind}));
        INFO(error.sentence());
        CHECK(error.code == Errc::refused);
        CHECK(says(error.sentence(), "token 2"));
    }
    CHECK(runner.must_fail(lab.at_a.check_departure()).code == Errc::refused);
    // Nor can it give the guest to a third host, even if it cannot read the registry itself.
    TestHost const c(lab.directory, "c", lab.etcd.url());
    auto const third =
        runner.must_fail(check_arrival(runner.loop(), c.paths, "web1", lab.at_a.known()));
    CHECK(third.code == Errc::refused);
    // Its own attempts to write are refused too, and end.
    CHECK(runner.must_fail(lab.at_a.publish(soon())).code == Errc::refused);
    runner.loop().run(lab.at_a.keep_published({}));
    CHECK(lab.stored().belongs_to(lab.b.id));

    // Without the registry it may not start the guest either.
    EtcdLab::cut();
    CHECK(runner.must_fail(lab.at_a.claim({})).code == Errc::refused);
    EtcdLab::heal();
    // Only an operator's word gives it back, with a higher token.
    runner.must(lab.at_a.claim({.fenced = true}));
    CHECK(lab.stored().belongs_to(lab.a.id));
    CHECK(lab.stored().token == 3);
    CHECK(runner.must_fail(lab.at_b.check_departure()).code == Errc::refused);
}

TEST_CASE("registry: a guest in doubt is not resumed where the registry says it has left",
          "[registry]") {
    Moved lab;
    lab.runner.must(lab.at_a.check_kept("m1"));
    lab.at_b.arrived(lab.at_a.known(), "m1", {});
    lab.runner.must(lab.at_b.publish(soon()));
    CHECK(lab.runner.must_fail(lab.at_a.check_kept("m1")).code == Errc::refused);
}

TEST_CASE("registry: a source that keeps a guest in doubt has the higher token", "[registry]") {
    Moved lab;
    auto const before = lab.at_a.known();
    EtcdLab::cut();
    lab.runner.must(lab.at_a.check_kept("m1"));
    lab.at_a.kept("m1");
    lab.at_b.arrived(before, "m1-late", {});  // it had recorded OWNER, and is fenced
    EtcdLab::heal();
    lab.runner.must(lab.at_a.publish(soon()));
    CHECK(lab.runner.must_fail(lab.at_b.publish(soon())).code == Errc::refused);
    CHECK(lab.stored().belongs_to(lab.a.id));
    CHECK(lab.stored().token == 3);
}

TEST_CASE("registry: a guest that was handed over is started by its new host only", "[registry]") {
    Moved lab;
    auto& runner = lab.runner;
    auto const warning = runner.loop().run(
        lab.at_a.departed({{.id = "", .address = "10.0.0.2"}, "r1", State::handed_over, {}}));
    CHECK(warning.empty());
    CHECK(runner.must_fail(lab.at_a.claim({})).code == Errc::refused);
    TestHost const c(lab.directory, "c", lab.etcd.url());
    Ownership at_c(runner.loop(), c.paths, "web1");
    CHECK(runner.must_fail(at_c.claim({.migration_id = "r0"})).code == Errc::refused);
    runner.must(lab.at_b.claim({.migration_id = "r1"}));
    CHECK(lab.stored().belongs_to(lab.b.id));
    CHECK(lab.stored().state == State::here);
    CHECK(lab.stored().token == 3);
}

TEST_CASE("registry: without --registry nothing is refused, and the outcome is recorded",
          "[registry]") {
    Directory directory;
    Runner runner;
    TestHost const a(directory, "a", "");
    TestHost const b(directory, "b", "");
    Ownership at_a(runner.loop(), a.paths, "web1");
    Ownership at_b(runner.loop(), b.paths, "web1");
    runner.must(at_a.claim({}));
    CHECK(runner.must(at_a.check_departure()).empty());
    auto const owner = at_a.known();
    CHECK(runner.loop().run(at_a.departed({{b.id, "hostb", ""}, "m1", State::here, {}})).empty());
    at_b.arrived(owner, "m1", {});
    CHECK(at_a.known()->belongs_to(b.id));
    CHECK(at_b.known()->belongs_to(b.id));
    CHECK(at_a.known()->token == at_b.known()->token);
    runner.must(at_a.claim({}));  // the journal decides here, not the registry
}

}  // namespace registry_ownership_cases
