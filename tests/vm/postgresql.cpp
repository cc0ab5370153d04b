// A Debian guest under systemd moves there and back while clients of its PostgreSQL work, over IPv4
// and IPv6. No connection is lost, every transaction that a client saw committed is in the database
// once, and the database and its file system are without fault afterwards.
#include <signal.h>

#include <algorithm>
#include <catch2/catch.hpp>
#include <cstdio>
#include <iostream>
#include <set>
#include <sstream>

#include "tests/support/debian_guest.hpp"
#include "tests/vm/expect.hpp"

using namespace lab;

namespace {

using std::chrono::microseconds;

constexpr int clients_of_a_family = 2;
/// Longer than two moves may take. SIGALRM ends pgbench before, as its own clock would.
constexpr auto bench_limit = std::chrono::seconds(3600);
/// After SIGALRM it ends its transactions and reports.
constexpr auto bench_end_limit = 60s;
/// Until clients that work report a second in which transactions were committed.
constexpr auto progress_limit = 60s;
/// The longest time without a transaction. A pause is shorter than the downtime limit (2 s). The
/// rest is TCP's next retransmission, and an emulated guest on a busy machine.
constexpr auto gap_limit = std::chrono::seconds(20);
/// pg_amcheck reads each table and index, and looks each row up.
constexpr auto amcheck_limit = 300s;

/// What pgbench saw from its begin to its end.
struct Benched {
    std::int64_t committed = 0;
    std::int64_t failed = -1;
    double tps = 0;
    std::vector<microseconds> ends;  ///< When each transaction was committed; in order.

    [[nodiscard]] microseconds longest_gap() const;
    /// Seconds of the clock, between the first transaction and the last, in which none ended.
    [[nodiscard]] std::int64_t idle_seconds() const;
};

microseconds Benched::longest_gap() const {
    microseconds longest{};
    for (std::size_t i = 1; i < ends.size(); ++i)
        longest = std::max(longest, ends[i] - ends[i - 1]);
    return longest;
}

std::int64_t Benched::idle_seconds() const {
    using std::chrono::floor;
    using std::chrono::seconds;
    if (ends.empty()) return 0;
    std::set<seconds> busy;
    for (auto const end : ends) busy.insert(floor<seconds>(end));
    auto const all = *busy.rbegin() - *busy.begin() + seconds(1);
    return all.count() - static_cast<std::int64_t>(busy.size());
}

/// The number after `label` in what pgbench reports.
double reported(std::string const& report, std::string const& label) {
    auto const at = report.find(label);
    if (at == std::string::npos) throw Failure("pgbench reports no `" + label + "`: " + report);
    return std::strtod(report.c_str() + at + label.size(), nullptr);
}

class PgBench {
public:
    PgBench(Lab const& lab, std::string const& address)
        : logs_(lab.directory() / ("pgbench-" + unique_suffix())),
          daemon_("pgbench-" + unique_suffix(), line(address), {lab.client_netns(), {}},
                  lab.directory()) {}

    /// Waits until its clients have committed transactions that they began after this call.
    void wait_for_progress();
    Benched finish();

private:
    void must_run();
    [[nodiscard]] Argv line(std::string const& address) const {
        fs::create_directories(logs_);
        return {DebianGuest::client("pgbench"),
                "--no-vacuum",
                "-h",
                address,
                "-U",
                "postgres",
                "--client",
                std::to_string(clients_of_a_family),
                "--time",
                std::to_string(bench_limit.count()),
                "--progress",
                "1",
                "--log",
                "--log-prefix=" + (logs_ / "log").string(),
                "bench"};
    }
    void read_logs(std::vector<microseconds>& ends) const;

    fs::path logs_;
    Daemon daemon_;
};

void PgBench::must_run() {
    if (auto const ended = daemon_.wait(0ms))
        throw Failure(fmt::format("pgbench ended with {}: {}", *ended, daemon_.err()));
}

/// It reports "progress: 7.0 s, 31.0 tps, ..." each second. The next report may be of a second that
/// has begun before.
void PgBench::wait_for_progress() {
    auto const reports = [this] {
        std::vector<std::string> found;
        std::istringstream lines(daemon_.err());
        for (std::string line; std::getline(lines, line) && !lines.eof();)
            if (line.starts_with("progress: ")) found.push_back(line);
        return found;
    };
    auto const before = reports().size();
    wait_until("transactions of pgbench", progress_limit, [&] {
        must_run();
        auto const now = reports();
        return now.size() > before + 1 && !now.back().contains(" s, 0.0 tps");
    });
}

Benched PgBench::finish() {
    must_run();
    daemon_.signal(SIGALRM);
    auto const status = daemon_.wait(bench_end_limit);
    INFO(daemon_.err() << daemon_.out());
    REQUIRE(status == 0);
    Benched seen;
    auto const report = daemon_.out();
    seen.committed =
        static_cast<std::int64_t>(reported(report, "number of transactions actually processed: "));
    seen.failed = static_cast<std::int64_t>(reported(report, "number of failed transactions: "));
    seen.tps = reported(report, "tps = ");
    read_logs(seen.ends);
    CHECK(seen.failed == 0);
    CHECK(static_cast<std::int64_t>(seen.ends.size()) == seen.committed);
    return seen;
}

/// A line for each transaction: client, number, latency, script, and when it ended in s and us.
void PgBench::read_logs(std::vector<microseconds>& ends) const {
    for (auto const& entry : fs::directory_iterator(logs_)) {
        std::istringstream lines(read_file(entry.path()));
        std::int64_t client = 0, number = 0, latency = 0, script = 0, s = 0, us = 0;
        while (lines >> client >> number >> latency >> script >> s >> us)
            ends.push_back(std::chrono::seconds(s) + microseconds(us));
    }
    std::ranges::sort(ends);
}

std::int64_t rows_of_history(DebianGuest const& guest) {
    return std::stoll(guest.sql("SELECT count(*) FROM pgbench_history"));
}

/// Moves the guest from that host. Returns what the report says of the pause.
double move_busy_guest(Scene& scene, Host const& from) {
    auto const moved = scene.migrate(from);
    INFO(moved.text());
    REQUIRE(moved.exit_status == 0);
    CHECK(moved.report["outcome"].text_or("") == "moved");
    CHECK(moved.report["warnings"].size() == 0);
    CHECK(scene.guest().runs_on(scene.net().other(from)));
    // None need arrive in the pause, if the guest itself is slow.
    auto const frames = moved.report["network"]["frames"];
    CHECK(frames["replayed"].integer_or(-1) == frames["caught"].integer_or(-2));
    CHECK(frames["dropped"].integer_or(-1) == 0);
    CHECK(frames["lost"].integer_or(-1) == 0);
    expect::nothing_left_after_move(scene, from, scene.net().other(from));
    return moved.report["downtime_ms"].number_or(-1);
}

/// Each committed transaction is there once: pgbench adds the same amount to an account, a teller
/// and a branch, and a row to the history.
void check_balances(DebianGuest const& guest, std::int64_t committed) {
    auto const sum = [&](std::string const& column, std::string const& table) {
        return guest.sql(fmt::format("SELECT sum({}) FROM pgbench_{}", column, table));
    };
    CHECK(rows_of_history(guest) == committed);
    auto const deltas = sum("delta", "history");
    CHECK(sum("abalance", "accounts") == deltas);
    CHECK(sum("tbalance", "tellers") == deltas);
    CHECK(sum("bbalance", "branches") == deltas);
}

void check_tables(Scene& scene) {
    auto const done = run({DebianGuest::client("pg_amcheck"), "-h", guest_ip6, "-U", "postgres",
                           "--heapallindexed", "--parent-check", "bench"},
                          {scene.net().client_netns(), {}}, amcheck_limit);
    INFO(done.out << done.err);
    CHECK(done.exit_status == 0);
}

void report_figures(std::string const& what, std::vector<double> const& downtimes,
                    std::vector<Benched> const& seen) {
    std::cout << what << ": downtime there " << downtimes.at(0) << " ms, back " << downtimes.at(1)
              << " ms";
    for (auto const& one : seen) {
        auto const gap = std::chrono::duration_cast<Milliseconds>(one.longest_gap());
        std::cout << "; " << one.committed << " transactions, " << one.tps
                  << " a second, longest gap " << gap.count() << " ms, " << one.idle_seconds()
                  << " seconds without one";
    }
    std::cout << std::endl;
}

/// ctest runs each case in a process of its own, and takes this exit status as skipped.
[[noreturn]] void skip(std::string const& why) {
    std::fprintf(stderr, "skipped: %s\n", why.c_str());
    std::exit(77);
}

void bench_there_and_back(std::string const& qemu, std::string const& format) {
    if (auto const why = DebianGuest::why_missing(); !why.empty()) skip(why);
    Scene scene({.guest = DebianGuest::options(qemu, format), .start_guest = false});
    DebianGuest guest(scene);
    guest.start(scene.a());
    std::vector<double> downtimes;
    std::string consoles;
    std::vector<Benched> seen;
    {
        PgBench four(scene.net(), guest_ip4);
        PgBench six(scene.net(), guest_ip6);
        auto const both_work = [&] {
            four.wait_for_progress();
            six.wait_for_progress();
        };
        both_work();
        for (auto const* from : {&scene.a(), &scene.b()}) {
            INFO("from " << from->name);
            downtimes.push_back(move_busy_guest(scene, *from));
            both_work();
            consoles += guest.console(*from);
        }
        seen = {four.finish(), six.finish()};
    }
    report_figures(fmt::format("QEMU {}, {}", qemu, format), downtimes, seen);
    for (auto const& one : seen) CHECK(one.longest_gap() < gap_limit);
    check_balances(guest, seen[0].committed + seen[1].committed);
    check_tables(scene);
    CHECK(guest.system_state() == "running");

    guest.power_off(scene.a());
    consoles += guest.console(scene.a());
    INFO(consoles);
    CHECK(kernel_faults(consoles) == "");
    CHECK(consoles.contains("debian-guest: pg_checksums ended with 0: "));
    guest.check_file_system(scene.a());
}

}  // namespace

TEST_CASE("PostgreSQL: a Debian guest moves there and back under pgbench: QEMU 7.2, raw",
          "[vm][postgresql]") {
    bench_there_and_back("7.2", "raw");
}
TEST_CASE("PostgreSQL: a Debian guest moves there and back under pgbench: QEMU 10.0, qcow2",
          "[vm][postgresql]") {
    bench_there_and_back("10.0", "qcow2");
}
