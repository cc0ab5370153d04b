// What a destination lets a guest of another host use: paths that lead out of the allowed
// directories, and a real `serve` that a real source asks to run what it does not allow.
#include <signal.h>

#include "core/stream.hpp"
#include "sidecar/guest/allowed_files.hpp"
#include "tests/process/netmove_lab.hpp"
#include "tests/process/storage_lab.hpp"
#include "tests/support/lab.hpp"

namespace destination_allows_cases {

namespace {

using namespace std::chrono_literals;
using lab::Argv;
using qmp::FileAccess;
namespace fs = lab::fs;

bool contains(std::string const& text, std::string const& part) {
    return text.find(part) != std::string::npos;
}

/// A directory that guests may use, and one beside it.
struct TwoDirectories {
    TwoDirectories() {
        for (auto const* name : {"allowed", "allowed/sub", "allowed/state", "outside", "run"})
            fs::create_directory(directory.path(name));
        for (auto const* name : {"outside/secret", "allowed/real", "allowed/d.qcow2",
                                 "allowed/old.log", "allowed/state/record"})
            lab::write_file(directory.path(name), "text");
        link("../outside/secret", "link");
        link("../outside", "dir");
        link("../outside/new", "dangling");
        link("real", "inside");
        link(directory.path("allowed/real"), "absolute");
        link("state", "records");
        link("/proc/self/root", "magic");
        paths = {directory.path("run"), directory.path("allowed/state")};
        policy.directories = {directory.path("allowed")};
    }
    void link(std::string const& to, std::string const& name) const {
        fs::create_symlink(to, directory.path("allowed/" + name));
    }
    /// Why that file in the allowed directory is refused; empty: it is not.
    [[nodiscard]] std::string why(FileAccess access, std::string const& name) const {
        auto const checked = sidecar::check_file_use(
            paths, policy, {"-x", directory.path("allowed/" + name), access});
        return checked ? "" : checked.error().sentence();
    }
    storage_lab::Directory directory;
    sidecar::Paths paths;
    qmp::LaunchPolicy policy;
};

/// A host without a network of its own; its guest is a QEMU without a guest but the BIOS.
class Hosts {
public:
    explicit Hosts(Argv const& hostile) {
        for (auto const* name : {"from", "to", "elsewhere"})
            fs::create_directory(directory.path(name));
        lab::write_file(directory.path("from/d0"), std::string(1 << 20, 'd'));
        Argv serve{"serve",     "--plaintext", "--listen",
                   "127.0.0.1", "--map-path",  directory.path("from") + "=" + directory.path("to")};
        auto const allowed = lab::allow_guests();
        serve.insert(serve.end(), allowed.begin(), allowed.end());
        serve_.emplace("serve", command(serve, "there"), lab::Place(), directory.text());
        Argv run{"run",
                 "web1",
                 "--",
                 storage_lab::oldest_qemu(),
                 "-M",
                 "pc,accel=tcg",
                 "-m",
                 "64",
                 "-nodefaults",
                 "-display",
                 "none",
                 "-drive",
                 "if=none,id=d0,format=raw,file=" + directory.path("from/d0"),
                 "-device",
                 "virtio-blk-pci,drive=d0"};
        run.insert(run.end(), hostile.begin(), hostile.end());
        run_.emplace("run", command(run, "here"), lab::Place(), directory.text());
        lab::wait_until("the guest to run", 30s, [&] {
            if (!run_->running()) throw lab::Failure("`run` ended: " + run_->err());
            return status("here") == "running" && lab::accepts("", "127.0.0.1", 4790);
        });
    }
    ~Hosts() {
        auto const manifest = core::Json::parse(lab::read_file(state("here") + "/web1/guest.json"));
        if (!manifest) return;
        auto const pid = static_cast<pid_t>((*manifest)["pid"].integer_or(0));
        auto const qemu = core::Process::open(pid);
        if (pid > 0 && qemu) (void)qemu->signal(SIGKILL);
    }
    [[nodiscard]] lab::Output migrate(Argv const& more) const {
        Argv words{"migrate",     "--with-storage",   "web1", "127.0.0.1",
                   "--plaintext", "--downtime-limit", "20000"};
        words.insert(words.end(), more.begin(), more.end());
        return lab::run(command(words, "here"));
    }
    [[nodiscard]] std::string status(std::string const& host) const {
        auto const said = lab::run(command({"status", "web1", "--json"}, host));
        auto const parsed = core::Json::parse(said.out);
        return parsed ? (*parsed)["status"].text_or("") : "";
    }
    [[nodiscard]] std::string state(std::string const& host) const {
        return directory.path(host + "-state");
    }
    [[nodiscard]] std::string serve_log() const { return serve_->err(); }

    netmove_lab::Home home;
    netmove_lab::Space space;
    storage_lab::Directory directory;

private:
    [[nodiscard]] Argv command(Argv const& words, std::string const& host) const {
        Argv argv{lab::program("sidecar"), "--run-dir", directory.path(host + "-run"),
                  "--state-dir", state(host)};
        argv.insert(argv.end(), words.begin(), words.end());
        return argv;
    }
    std::optional<lab::Daemon> serve_;
    std::optional<lab::Daemon> run_;
};

std::size_t count(std::string const& text, std::string const& part) {
    std::size_t found = 0;
    for (auto at = text.find(part); at != std::string::npos; at = text.find(part, at + 1)) ++found;
    return found;
}

}  // namespace

TEST_CASE("destination allows: links and .. do not lead out of a directory", "[allow]") {
    TwoDirectories const here;
    for (auto const access : {FileAccess::read, FileAccess::image, FileAccess::create}) {
        for (auto const* const name :
             {"link", "dir/secret", "dir/new", "dangling", "absolute", "magic/etc/passwd"}) {
            INFO(name);
            CHECK(contains(here.why(access, name), "leads out of"));
        }
        CHECK(contains(here.why(access, "sub/../../outside/secret"), "is not in a directory"));
        CHECK(contains(here.why(access, "dir/../outside/secret"), "leads out of"));
        CHECK(here.why(access, "new").empty());
        CHECK(here.why(access, "missing/new").empty());
        CHECK(here.why(access, "sub/../new").empty());
    }
    CHECK(here.why(FileAccess::read, "real").empty());
    CHECK(here.why(FileAccess::read, "inside").empty());
    CHECK(here.why(FileAccess::read, "sub/../real").empty());
}

TEST_CASE("destination allows: sidecar's own files stay out of reach", "[allow]") {
    TwoDirectories const here;
    for (auto const access : {FileAccess::read, FileAccess::create, FileAccess::listen}) {
        for (auto const* const name :
             {"state/record", "state/new", "records/record", "records/new", "sub/../state/new"}) {
            INFO(name);
            CHECK(contains(here.why(access, name), "belongs to sidecar itself"));
        }
    }
}

TEST_CASE("destination allows: what is there is not overwritten", "[allow]") {
    TwoDirectories const here;
    CHECK(contains(here.why(FileAccess::create, "d.qcow2"), "would be overwritten"));
    CHECK(here.why(FileAccess::create, "old.log").empty());
    CHECK(here.why(FileAccess::create, "sub").empty());  // -mem-path
    CHECK(contains(here.why(FileAccess::listen, "d.qcow2"), "is not a socket"));
    auto const socket = here.directory.path("allowed/socket");
    {
        auto const listener = core::listen_unix(socket, 0600);
        REQUIRE(listener);
        CHECK(contains(here.why(FileAccess::listen, "socket"), "of a program that runs"));
        CHECK(contains(here.why(FileAccess::read, "socket"), "is not a file"));
    }
    if (fs::exists(socket)) CHECK(here.why(FileAccess::listen, "socket").empty());
}

TEST_CASE("destination allows: a file that --map-path names is allowed by itself", "[allow]") {
    TwoDirectories here;
    here.policy.directories = {here.directory.path("allowed/real")};
    CHECK(here.why(FileAccess::read, "real").empty());
    CHECK(contains(here.why(FileAccess::read, "d.qcow2"), "is not in a directory"));
}

TEST_CASE("destination allows: an image does not lead QEMU to other files", "[allow]") {
    TwoDirectories const here;
    auto const why = [&](qmp::ImageFormat format, std::string const& name) {
        auto const checked = sidecar::check_file_use(
            here.paths, here.policy,
            {"-x", here.directory.path("allowed/" + name), FileAccess::read, format});
        return checked ? "" : checked.error().sentence();
    };
    auto const overlay = [&](std::string const& name, std::string const& backing) {
        lab::must_run({"qemu-img", "create", "-q", "-u", "-f", "qcow2", "-F", "raw", "-b", backing,
                       here.directory.path("allowed/" + name), "1M"});
    };
    using enum qmp::ImageFormat;
    overlay("good", "real");
    overlay("good-above", "good");
    overlay("bad", "/etc/shadow");
    overlay("bad-above", "bad");
    overlay("bad-json", R"(json:{"driver":"file","filename":"/etc/shadow"})");
    overlay("bad-link", "link");
    overlay("loop", "loop");
    for (auto const format : {qcow2, probed}) {
        CHECK(why(format, "real").empty());
        CHECK(why(format, "good-above").empty());
        CHECK(contains(why(format, "bad"), "/etc/shadow is not in a directory"));
        CHECK(contains(why(format, "bad-above"), "/etc/shadow is not in a directory"));
        CHECK(contains(why(format, "bad-json"), "which is not a path"));
        CHECK(contains(why(format, "bad-link"), "leads out of"));
        CHECK(contains(why(format, "loop"), "too many backing files"));
    }
    CHECK(why(raw, "bad").empty());
    for (auto const* const format : {"vmdk", "qed"}) {
        lab::must_run({"qemu-img", "create", "-q", "-f", format,
                       here.directory.path(fmt::format("allowed/{}", format)), "1M"});
        CHECK(contains(why(probed, format), "of a format that names other files"));
        CHECK(why(raw, format).empty());
    }
    lab::must_run({"qemu-img", "create", "-q", "-f", "qcow2", "-o",
                   "data_file=" + here.directory.path("outside/data"),
                   here.directory.path("allowed/data"), "1M"});
    CHECK(contains(why(qcow2, "data"), "of a format that names other files"));
    lab::write_file(here.directory.path("allowed/text"), "# Disk DescriptorFile\nversion=1\n");
    CHECK(contains(why(probed, "text"), "of a format that names other files"));
}

TEST_CASE("destination allows: a hostile command line is refused, and nothing is left",
          "[allow][destination-files]") {
    storage_lab::Directory const elsewhere;
    auto const log = elsewhere.path("log");
    auto const file = "file,id=c0,path=" + elsewhere.path("c0");
    Hosts const hosts({"-D", log, "-chardev", file, "-object",
                       "rng-random,id=r0,filename=/dev/zero", "-device", "edu"});
    for (Argv const& more : {Argv{"--check"}, Argv{}}) {
        auto const refused = hosts.migrate(more);
        INFO(refused.out << refused.err);
        CHECK(refused.exit_status == 3);
        CHECK(contains(refused.err, "`-D " + log + "`: "));
        CHECK(contains(refused.err, "`-chardev " + file + "`: "));
        CHECK(contains(refused.err, "`/dev/zero` is not a source of random numbers"));
        CHECK(contains(refused.err, "`serve --allow-device edu`"));
        CHECK(fs::is_empty(hosts.directory.path("to")));
        CHECK_FALSE(fs::exists(hosts.state("there") + "/web1/guest.json"));
        CHECK_FALSE(fs::exists(hosts.state("there") + "/web1/incoming.json"));
    }
    CHECK(count(hosts.serve_log(), "guest=web1 refused: ") == 2);
    CHECK(hosts.status("here") == "running");
}

}  // namespace destination_allows_cases
