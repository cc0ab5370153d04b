#include <fcntl.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <sstream>

#include "qmp/block.hpp"
#include "tests/bench/bulk.hpp"

namespace bench {

using core::Deadline;
using core::Json;

namespace {

/// Longest that one step may take: a copy on a slow disk, on a busy machine.
constexpr auto step_limit = std::chrono::minutes(5);

Deadline soon() { return Deadline::after(step_limit); }

lab::Daemon start_qemu(std::string const& qemu, lab::fs::path const& directory,
                       std::string const& side, lab::fs::path const& image,
                       std::string const& netns) {
    auto const binary =
        std::string(std::getenv("SIDECAR_DEPS") != nullptr ? std::getenv("SIDECAR_DEPS")
                                                           : LAB_SOURCE_DIRECTORY "/.deps") +
        "/bin/qemu-system-x86_64-" + qemu;
    auto const socket = directory / (side + ".qmp");
    lab::fs::remove(socket);
    // With setpriv it goes when we go, however that is.
    lab::Daemon daemon(
        side,
        {"setpriv", "--pdeathsig", "KILL", binary, "-M", "none", "-S", "-nodefaults",
         "-no-user-config", "-display", "none", "-qmp",
         fmt::format("unix:{},server=on,wait=off", socket.string()), "-blockdev",
         fmt::format("driver=raw,node-name=d0,discard=unmap,file.driver=file,file.filename={},"
                     "file.discard=unmap",
                     image.string())},
        {netns, {}}, directory);
    lab::wait_until("QEMU's monitor", lab::command_limit,
                    [&] { return !daemon.running() || lab::listens(daemon.pid(), socket); });
    if (!daemon.running()) throw lab::Failure("QEMU did not start: " + daemon.err());
    return daemon;
}

double seconds_since(core::Clock::time_point begun) {
    return std::chrono::duration<double>(core::Clock::now() - begun).count();
}

/// A program to its end, with its time and memory. No output.
Copied measure(std::vector<std::string> const& argv) {
    std::vector<char*> words;
    for (auto const& word : argv) words.push_back(const_cast<char*>(word.c_str()));
    words.push_back(nullptr);
    auto const begun = core::Clock::now();
    pid_t const pid = fork();
    if (pid < 0) throw lab::Failure("cannot fork");
    if (pid == 0) {
        int const null = open("/dev/null", O_RDWR);
        if (null >= 0) {
            (void)dup2(null, 0);
            (void)dup2(null, 1);
        }
        execvp(words[0], words.data());
        _exit(127);
    }
    int status = 0;
    rusage usage{};
    if (wait4(pid, &status, 0, &usage) != pid || status != 0) {
        throw lab::Failure(argv[0] + " failed");
    }
    return {seconds_since(begun), 0, static_cast<double>(usage.ru_maxrss) / 1024};
}

double seconds_of(int who) {
    rusage usage{};
    getrusage(who, &usage);
    auto const microseconds = (usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) * 1'000'000 +
                              usage.ru_utime.tv_usec + usage.ru_stime.tv_usec;
    return static_cast<double>(microseconds) / 1e6;
}

double seconds_of(lab::Daemon const& daemon) {
    // proc(5): fields 14 and 15, the second being a name in brackets that may hold spaces.
    auto const text = lab::read_file(fmt::format("/proc/{}/stat", daemon.pid()));
    std::istringstream fields(text.substr(text.rfind(')') + 1));
    std::string skipped;
    for (int field = 3; field < 14; ++field) fields >> skipped;
    double user = 0;
    double system = 0;
    fields >> user >> system;
    return (user + system) / static_cast<double>(sysconf(_SC_CLK_TCK));
}

}  // namespace

Directory::Directory(std::string const& parent) {
    constexpr std::string_view begin = "sidecar-bulk-";
    for (auto const& entry : lab::fs::directory_iterator(parent)) {
        auto const name = entry.path().filename().string();
        if (!name.starts_with(begin)) continue;
        pid_t const owner = std::atoi(name.c_str() + begin.size());
        std::error_code ignored;  // another benchmark may remove it as well
        if (owner > 0 && ::kill(owner, 0) != 0 && errno == ESRCH) {
            lab::fs::remove_all(entry.path(), ignored);
        }
    }
    auto name = fmt::format("{}/{}{}-XXXXXX", parent, begin, getpid());
    if (mkdtemp(name.data()) == nullptr) throw lab::Failure("cannot make " + name);
    path = name;
}

double BulkPair::cpu_seconds() const {
    return seconds_of(*from_) + seconds_of(*to_) + seconds_of(RUSAGE_SELF) +
           seconds_of(RUSAGE_CHILDREN);
}

BulkPair::BulkPair(core::Loop& loop, std::string const& qemu, lab::fs::path const& directory,
                   std::uint64_t bytes, Ends const& ends)
    : loop_(loop), directory_(directory), bytes_(bytes) {
    auto const image = directory / "target.raw";
    lab::fs::remove(image);
    lab::write_file(image, "");
    lab::fs::resize_file(image, bytes);
    from_.emplace(start_qemu(qemu, directory, "source", source_image(directory), ends.from_netns));
    to_.emplace(start_qemu(qemu, directory, "target", image, ends.to_netns));
    try {
        connect(ends);
    } catch (lab::Failure const& failure) {
        end();
        throw lab::Failure(failure.what() + ("\n" + from_->err() + to_->err()));
    }
}

void BulkPair::connect(Ends const& ends) {
    source_ = must(qmp::Client::connect(loop_, directory_ + "/source.qmp", soon()));
    destination_ = must(qmp::Client::connect(loop_, directory_ + "/target.qmp", soon()));
    target_.emplace(loop_, *destination_, std::vector<storage::TargetDisk>{{"d0", "d0"}});
    lab::Visit const there(ends.to_netns);
    port_ = must(target_->open(ends.address, "", soon()));
}

void BulkPair::end() {
    from_->kill();
    to_->kill();
    for (auto* client : {source_.get(), destination_.get()}) {
        if (client != nullptr) loop_.run(client->close());
    }
}

void BulkPair::compare() {
    must(target_->seal(soon()));
    from_->end();
    to_->end();
    lab::must_run({"cmp", source_image(directory_), directory_ + "/target.raw"}, {}, step_limit);
}

std::string BulkPair::export_source() {
    auto const socket = directory_ + "/source.nbd";
    lab::fs::remove(socket);
    must(qmp::nbd_server_start(*source_, {qmp::unix_address(socket), "", 0}, soon()));
    qmp::NbdExport disk;
    disk.id = disk.node = disk.name = "d0";
    must(qmp::block_export_add(*source_, disk, soon()));
    return "nbd+unix:///d0?socket=" + socket;
}

Copied BulkPair::nbdcopy() {
    return measure({"nbdcopy", "--flush", "--connections=4", "--requests=64",
                    "--request-size=262144", export_source(),
                    fmt::format("nbd://127.0.0.1:{}/d0", port_)});
}

Copied BulkPair::convert() {
    return measure({"qemu-img", "convert", "-n", "-W", "-m", "16", "-f", "raw", "-O", "raw",
                    export_source(), fmt::format("nbd://127.0.0.1:{}/d0", port_)});
}

// In QEMU itself: what it needs in memory is not told apart from the guest's.
Copied BulkPair::mirror() {
    auto events = source_->subscribe({"BLOCK_JOB_READY", "BLOCK_JOB_COMPLETED"});
    must(qmp::blockdev_add(
        *source_,
        Json::object({{"driver", "nbd"},
                      {"node-name", "there"},
                      {"server", qmp::inet_address("127.0.0.1", std::to_string(port_))},
                      {"export", "d0"}}),
        soon()));
    auto const begun = core::Clock::now();
    must(source_->execute(
        "blockdev-mirror",
        Json::object({{"job-id", "m"}, {"device", "d0"}, {"target", "there"}, {"sync", "full"}}),
        soon()));
    auto const event = must(events.next(soon()));
    if (event.name != "BLOCK_JOB_READY") throw lab::Failure("QEMU's mirror ended early");
    Copied const copied{seconds_since(begun)};
    must(source_->execute("block-job-cancel", Json::object({{"device", "m"}}), soon()));
    (void)must(events.next(soon()));
    return copied;
}

}  // namespace bench
