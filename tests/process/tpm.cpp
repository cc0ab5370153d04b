// Guests with a TPM: swtpm is started at the destination, the TPM's state moves with the RAM, and a
// move that fails leaves nothing of it there. A secret in the TPM's NVRAM is written before the
// guest starts, and read after it has ended.
#include "tests/process/move_lab.hpp"
#include "tests/support/qmp_probe.hpp"
#include "tests/support/swtpm.hpp"

namespace tpm_cases {

using namespace move_lab;

namespace {

std::string const secret = "the key of the guest's disk";
constexpr auto tpm_ends_limit = 20s;

struct TpmLab : MoveLab {
    explicit TpmLab(std::string qemu = storage_lab::oldest_qemu(), Argv const& allowed = {})
        : MoveLab(Empty()) {
        a.qemu = std::move(qemu);
        for (auto* const host : {&a, &b}) start_serve(*host, allowed);
        lab::write_tpm_secret(state, secret);
    }
    /// `swtpm`: options of the guest's swtpm; `environment`: of its sidecar.
    void start(std::string const& device = "tpm-crb", Argv const& more = {},
               std::vector<std::string> const& environment = {}, Argv const& swtpm = {}) {
        tpm.emplace(
            lab::start_swtpm("swtpm", state, socket, lab::Place{a.netns, {}}, "2.0", swtpm));
        auto options = lab::tpm_options(socket, device);
        options.insert(options.end(), {"-qmp", "unix:" + a.directory + "/qmp,server=on,wait=off"});
        options.insert(options.end(), more.begin(), more.end());
        a.start_guest(options, environment);
    }
    static void move(MoveHost const& from, MoveHost const& to) {
        auto const moved = from.migrate(to, {"--network", "anchor"});
        INFO(moved.out << moved.err);
        REQUIRE(moved.exit_status == 0);
        CHECK(contains(to.sidecar({"status", "web1"}).out, "running"));
    }
    /// The directory that the destination's sidecar makes.
    [[nodiscard]] static std::string made_state(MoveHost const& host) {
        return host.directory + "/state/web1/tpm";
    }
    [[nodiscard]] static std::vector<lab::Seen> swtpms(MoveHost const& host) {
        auto all = lab::processes_in(host.netns);
        std::erase_if(all, [](auto const& seen) {
            return seen.argv.empty() || !contains(seen.argv[0], "swtpm");
        });
        return all;
    }
    static void wait_no_swtpm(MoveHost const& host) {
        lab::wait_until("the end of swtpm", tpm_ends_limit, [&] { return swtpms(host).empty(); });
    }
    /// "tpm2-00.permall tpm2-00.permall.moved-ID"; the migration's ID is not named.
    [[nodiscard]] static std::string files_in(MoveHost const& host, std::string const& directory) {
        return host.in("printf %s \"$(ls " + directory +
                       " 2>/dev/null | sed 's/\\.moved-.*/.moved-ID/' | sort -u | xargs)\"");
    }
    /// The guest's QEMU ends, and the secret is read.
    [[nodiscard]] static std::string secret_left_on(MoveHost const& host,
                                                    std::string const& where) {
        host.kill_qemu();
        wait_no_swtpm(host);
        return lab::read_tpm_secret(where, secret.size());
    }

    std::string state = a.directory + "/tpm-of-web1";
    std::string socket = a.directory + "/swtpm.sock";
    std::optional<lab::Daemon> tpm;
};

}  // namespace

TEST_CASE("TPM: it moves there and back, and keeps its secret", "[migrate][tpm]") {
    for (auto const& [version, qemu] : storage_lab::qemus()) {
        INFO("QEMU " << version);
        TpmLab lab(qemu);
        lab.start(version == "7.2" ? "tpm-crb" : "tpm-tis");
        auto const checked = lab.a.migrate(lab.b, {"--network", "anchor", "--check"});
        INFO(checked.out << checked.err);
        CHECK(checked.exit_status == 0);
        CHECK(contains(checked.out, "TPM 2.0: swtpm runs at the destination"));
        CHECK_FALSE(lab::fs::exists(TpmLab::made_state(lab.b)));
        CHECK(TpmLab::swtpms(lab.b).empty());

        TpmLab::move(lab.a, lab.b);
        CHECK(lab.tpm->wait(tpm_ends_limit) == 0);
        CHECK(TpmLab::swtpms(lab.b).size() == 1);
        CHECK(TpmLab::files_in(lab.a, lab.state) == "tpm2-00.permall.moved-ID");
        CHECK(lab.b.in("stat -c %a " + TpmLab::made_state(lab.b)) == "700\n");
        CHECK(contains(lab.b.in("ss -xlH"), "qmp"));  // and no socket of swtpm
        CHECK_FALSE(contains(lab.b.in("ss -xlH"), "tpm"));

        TpmLab::move(lab.b, lab.a);
        TpmLab::wait_no_swtpm(lab.b);
        CHECK_FALSE(contains(TpmLab::files_in(lab.b, TpmLab::made_state(lab.b)), "permall "));
        CHECK(contains(TpmLab::files_in(lab.b, TpmLab::made_state(lab.b)),
                       "tpm2-00.permall.moved-ID"));

        INFO("there again: what it left there before is removed");
        TpmLab::move(lab.a, lab.b);
        CHECK_FALSE(contains(TpmLab::files_in(lab.b, TpmLab::made_state(lab.b)), "moved-ID"));
        CHECK(TpmLab::secret_left_on(lab.b, TpmLab::made_state(lab.b)) == secret);
    }
}

TEST_CASE("TPM: a guest with another user's QEMU has swtpm as that user", "[migrate][tpm]") {
    TpmLab lab;
    bool const is_old = storage_lab::qemus().contains("7.2");
    auto const as_nobody = is_old ? Argv{"-runas", "nobody"} : Argv{"-run-with", "user=nobody"};
    (void)lab.a.in("chmod 0711 " + lab.directory.text() + " " + lab.a.directory + " " +
                   lab.b.directory);
    lab.start("tpm-crb", as_nobody);
    (void)lab.a.in("chown nobody " + lab.a.disk);
    auto const nobody = lab.a.in("id -u nobody");
    for (auto const& [from, to] : {std::pair(&lab.a, &lab.b), std::pair(&lab.b, &lab.a)}) {
        TpmLab::move(*from, *to);
        auto const seen = TpmLab::swtpms(*to);
        REQUIRE(seen.size() == 1);
        CHECK(to->in(fmt::format("awk '/^Uid:/ {{print $3}}' /proc/{}/status", seen[0].pid)) ==
              nobody);
        auto const made = TpmLab::made_state(*to);
        CHECK(to->in("find " + made + " ! -user nobody") == "");
        CHECK(to->in("find " + made + " -name 'tpm2*' -perm /077") == "");
    }
    CHECK(TpmLab::secret_left_on(lab.a, TpmLab::made_state(lab.a)) == secret);
}

TEST_CASE("TPM: a move that fails after STOP leaves it to the source", "[migrate][tpm]") {
    TpmLab lab;
    lab.start("tpm-crb", {}, {"SIDECAR_TEST_STOP_AT=record_commit"});
    auto migration = lab.a.start_migration(lab.b, {"--network", "anchor"});
    auto const stopped = lab.a.wait_stopped(migration);
    lab.b.kill_qemu();
    lab.b.wait_given_up();
    REQUIRE(MoveHost::finish(migration, stopped) == 1);
    CHECK(contains(lab.a.sidecar({"status", "web1"}).out, "running"));
    CHECK(lab.tpm->running());
    TpmLab::wait_no_swtpm(lab.b);
    CHECK_FALSE(lab::fs::exists(TpmLab::made_state(lab.b)));
    INFO("the next migration is not undone");
    auto again = lab.a.start_migration(lab.b, {"--network", "anchor"});
    must(lab.a.wait_stopped(again).signal(SIGCONT));
    CHECK(again.wait(60s) == 0);
    CHECK(TpmLab::secret_left_on(lab.b, TpmLab::made_state(lab.b)) == secret);
}

TEST_CASE("TPM: a sidecar killed at the destination leaves no swtpm", "[migrate][tpm]") {
    for (std::string const hook : {"launch_qemu", "record_qemu"}) {
        INFO("killed at " << hook);
        TpmLab lab;
        lab.start();
        lab.b.serve_environment = {"SIDECAR_TEST_STOP_AT=" + hook};
        lab.start_serve(lab.b);
        auto migration = lab.a.start_migration(lab.b, {"--network", "anchor"});
        auto const stopped = lab.b.wait_stopped(migration);
        CHECK(TpmLab::swtpms(lab.b).size() == 1);
        lab.b.serve_environment.clear();
        lab.start_serve(lab.b);
        must(stopped.signal(SIGKILL));
        (void)migration.wait(60s);
        TpmLab::move(lab.a, lab.b);
        lab::wait_until("one swtpm alone", tpm_ends_limit,
                        [&] { return TpmLab::swtpms(lab.b).size() == 1; });
        CHECK(TpmLab::secret_left_on(lab.b, TpmLab::made_state(lab.b)) == secret);
    }
}

TEST_CASE("TPM: what the destination cannot run is refused in the check", "[migrate][tpm]") {
    TpmLab lab;
    lab.start();
    auto const with = [&](std::string const& swtpm) {
        lab.start_serve(lab.b, {"--swtpm", swtpm});
        return lab.refused({});
    };
    auto const script = [&](std::string const& name, std::string const& text) {
        auto const path = lab.directory.path(name);
        lab::write_file(path, "#!/bin/sh\n" + text + "\n");
        (void)lab.a.in("chmod +x " + path);
        return path;
    };
    auto const missing = with("/no/such/swtpm");
    CHECK(contains(missing, "the destination cannot run swtpm (/no/such/swtpm)"));
    CHECK(contains(missing, "install the package swtpm"));
    CHECK(contains(with(script("old", "echo '{\"features\":[\"tpm-1.2\"]}'")),
                   "has none of that version"));
    auto const broken = with(script(
        "broken", "case $2 in --print*) exec swtpm \"$@\" ;; esac; echo out of order >&2; exit 1"));
    CHECK(contains(broken, "does not work on the destination"));
    CHECK(contains(broken, "out of order"));

    lab.start_serve(lab.b);
    lab::fs::create_directories(TpmLab::made_state(lab.b));
    auto const other = TpmLab::made_state(lab.b) + "/tpm2-00.permall";
    lab::write_file(other, "of another guest");
    CHECK(contains(lab.refused({}), other + " on the destination is the state of the TPM"));
    CHECK(lab::read_file(other) == "of another guest");
    CHECK(TpmLab::swtpms(lab.b).empty());
    CHECK(lab.b.in("find " + lab.b.directory + "/run -name '.tpm-check*'") == "");

    auto const replicated =
        lab.a.sidecar({"replicate", "web1", lab.b.address, "--plaintext", "--once"});
    CHECK(replicated.exit_status != 0);
    CHECK(contains(replicated.err, "the guest has a TPM, whose state is in no recovery point"));
}

TEST_CASE("TPM: one with an encrypted state is refused by name", "[migrate][tpm]") {
    TpmLab lab;
    lab::fs::remove_all(lab.state);
    auto const key = lab.directory.path("key");
    lab::write_file(key, "0123456789abcdef0123456789abcdef");
    lab.start("tpm-crb", {}, {}, {"--key", "file=" + key + ",mode=aes-cbc,format=hex"});
    auto const refused = lab.refused({});
    CHECK(contains(refused, "encrypts its state (--key)"));
    CHECK(contains(refused, "cannot be moved"));
}

}  // namespace tpm_cases
