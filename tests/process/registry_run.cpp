// `sidecar run` and `sidecar locate` over a registry: the real program, QEMUs without a guest, a
// real etcd.
#include <signal.h>

#include "tests/process/registry_lab.hpp"

namespace registry_run_cases {

using namespace registry_lab;

namespace {

/// `sidecar run web1` on a host, with QEMU; both end with the object.
class Running {
public:
    Running(TestHost const& host, Directory const& directory, Argv const& more = {})
        : host_(host), daemon_("run", line(host, more), {}, directory.text()) {
        lab::wait_until("QEMU beside its sidecar", 60s, [&] {
            if (daemon_.wait(0ms)) throw lab::Failure(daemon_.err());
            return lab::fs::exists(host.paths.control_socket("web1"));
        });
    }
    ~Running() {
        auto const manifest =
            lab::parse_json(lab::read_file(host_.paths.state("web1") + "/guest.json"));
        kill(static_cast<pid_t>(manifest["pid"].integer_or(-1)), SIGKILL);
        (void)daemon_.wait(20s);
    }
    Running(Running const&) = delete;
    static Argv line(TestHost const& host, Argv const& more) {
        auto argv = host.line({"run", "web1"});
        argv.insert(argv.end(), more.begin(), more.end());
        argv.insert(argv.end(),
                    {"--", "qemu-system-x86_64", "-M", "none", "-nodefaults", "-display", "none"});
        return argv;
    }
    static lab::Output refused(TestHost const& host) { return lab::run(line(host, {})); }

private:
    TestHost const& host_;
    lab::Daemon daemon_;
};

void check_refused(TestHost const& host, std::string const& why) {
    auto const done = Running::refused(host);
    INFO(done.err);
    CHECK(done.exit_status == 3);
    CHECK(done.err.find(why) != std::string::npos);
}

/// The guest runs on host a; host a is lost; host b takes over; host a returns.
void late_host_is_refused(Directory const& directory, std::string const& url) {
    TestHost const a(directory, "a", url);
    TestHost const b(directory, "b", url);
    {
        Running const guest(a, directory);
        CHECK(b.locate()["host"]["id"].text_or("") == a.id);
        CHECK(b.locate()["token"].integer_or(0) == 1);
        check_refused(b, "web1 belongs to");
    }
    {
        Running const again(a, directory);
    }
    CHECK(b.locate()["token"].integer_or(0) == 1);  // the owner is the same
    {
        Running const guest(b, directory, {"--i-have-fenced"});
    }
    CHECK(a.locate()["host"]["id"].text_or("") == b.id);
    CHECK(a.locate()["token"].integer_or(0) == 2);
    check_refused(a, "web1 belongs to");
    Running const guest(b, directory);
    CHECK(a.locate()["token"].integer_or(0) == 2);
}

}  // namespace

TEST_CASE("registry: run: a host that returns late is refused, by files", "[registry]") {
    Directory const directory;
    late_host_is_refused(directory, "file:" + directory.path("shared"));
}

TEST_CASE("registry: run: a host that returns late is refused, by etcd", "[registry]") {
    EtcdLab const lab;
    late_host_is_refused(lab.directory, lab.etcd.url());
}

TEST_CASE("registry: run: without etcd a guest starts only by an operator's word", "[registry]") {
    EtcdLab lab;
    TestHost const a(lab.directory, "a", lab.etcd.url());
    lab.etcd.kill();
    check_refused(a, "cannot be read");
    auto const unknown = lab::run(a.line({"locate", "web1"}));
    CHECK(unknown.exit_status == 1);
    Running const guest(a, lab.directory, {"--i-have-fenced"});
    auto const local = lab::run(a.line({"locate", "web1"}));
    CHECK(local.exit_status == 1);
    INFO(local.out << local.err);
    CHECK(local.out.find("web1 is on") == 0);
    CHECK(local.out.find("from file:") != std::string::npos);
    lab.etcd.start();
    lab::wait_until("the registry, written by the guest's sidecar", 60s,
                    [&] { return a.locate()["host"]["id"].text_or("") == a.id; });
}

TEST_CASE("registry: locate: statuses, --watch and --repair", "[registry]") {
    EtcdLab lab;
    TestHost const a(lab.directory, "a", lab.etcd.url());
    auto const none = lab::run(a.line({"locate", "web1"}));
    CHECK(none.exit_status == 3);
    CHECK(none.err.find("there is no entry of web1") != std::string::npos);
    CHECK(lab::run(a.line({"locate", "--repair", "web1"})).exit_status == 3);
    CHECK(lab::run(a.line({"locate", "--registry", "nfs:/x", "web1"})).exit_status == 2);

    lab::Daemon watch("watch", a.line({"locate", "--watch", "--json", "web1"}), {},
                      lab.directory.text());
    auto const lines = [&] {
        auto const text = watch.out();
        return std::count(text.begin(), text.end(), '\n');
    };
    lab::wait_until("the first line", 30s, [&] { return lines() == 1; });
    {
        Running const guest(a, lab.directory);
    }
    lab::wait_until("the entry", 30s, [&] { return lines() == 2; });
    auto const text = watch.out();
    auto const entry = lab::parse_json(text.substr(text.find('\n') + 1));
    CHECK(entry["host"]["id"].text_or("") == a.id);
    CHECK(watch.end() == 0);

    (void)lab.etcd.ctl({"del", "/sidecar/guests/web1"});
    CHECK(lab::run(a.line({"locate", "web1"})).exit_status == 3);
    CHECK(lab::run(a.line({"locate", "--repair", "web1"})).exit_status == 0);
    CHECK(a.locate()["token"].integer_or(0) == 1);
}

TEST_CASE("registry: locate: without --registry it is this host's record", "[registry]") {
    Directory const directory;
    TestHost const a(directory, "a", "");
    TestHost const b(directory, "b", "");
    CHECK(lab::run(a.line({"locate", "web1"})).exit_status == 3);
    {
        Running const guest(a, directory);
    }
    {
        Running const guest(b, directory);
    }  // nothing is refused
    CHECK(a.locate()["host"]["id"].text_or("") == a.id);
    CHECK(b.locate()["host"]["id"].text_or("") == b.id);
}

}  // namespace registry_run_cases
