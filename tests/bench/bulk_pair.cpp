#include <fcntl.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <sstream>

#include "qmp/block.hpp"
#include "sidecar/host/keys.hpp"
#include "tests/bench/bulk.hpp"

namespace bench {

using core::Deadline;
using core::Json;

namespace {

/// The longest that one step may take: a copy on a slow disk, on a busy machine.
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
    // setpriv: the process ends when this one ends, in whatever way.
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

/// Runs a program to its end; returns its time and memory. No output.
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
    Copied copied;
    copied.seconds = seconds_since(begun);
    copied.rss_mib = static_cast<double>(usage.ru_maxrss) / 1024;
    return copied;
}

double seconds_of(int who) {
    rusage usage{};
    getrusage(who, &usage);
    auto const microseconds = (usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) * 1'000'000 +
                              usage.ru_utime.tv_usec + usage.ru_stime.tv_usec;
    return static_cast<double>(microseconds) / 1e6;
}

/// `stat`: of a process or of one of its threads.
double seconds_of(std::string const& stat) {
    // proc(5): fields 14 and 15. The second field is a name in brackets that may contain spaces.
    auto const text = lab::read_file(stat);
    std::istringstream fields(text.substr(text.rfind(')') + 1));
    std::string skipped;
    for (int field = 3; field < 14; ++field) fields >> skipped;
    double user = 0;
    double system = 0;
    fields >> user >> system;
    return (user + system) / static_cast<double>(sysconf(_SC_CLK_TCK));
}

double seconds_of(lab::Daemon const& daemon) {
    return seconds_of(fmt::format("/proc/{}/stat", daemon.pid()));
}

constexpr char const* key_epoch = "bench";

}  // namespace

Directory::Directory(std::string const& parent) {
    constexpr std::string_view begin = "sidecar-bulk-";
    for (auto const& entry : lab::fs::directory_iterator(parent)) {
        auto const name = entry.path().filename().string();
        if (!name.starts_with(begin)) continue;
        pid_t const owner = std::atoi(name.c_str() + begin.size());
        std::error_code ignored;  // another benchmark may remove it at the same time
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

double BulkPair::own_cpu_seconds() { return seconds_of(RUSAGE_SELF); }

double BulkPair::target_loop_seconds() const {
    return seconds_of(fmt::format("/proc/{0}/task/{0}/stat", to_->pid()));
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
    std::string creds;
    if (ends.encrypted) {
        target_address_.psk_username = sidecar::key_user;
        target_address_.psk_file = make_key();
        creds = sidecar::key_object(key_epoch);
    }
    lab::Visit const there(ends.to_netns);
    int const port = must(target_->open(ends.address, {}, creds, soon()));
    target_address_.host = ends.address;
    target_address_.port = std::to_string(port);
}

// As in a migration: the destination chooses the cipher, for every client.
std::string BulkPair::make_key() {
    auto const made = sidecar::write_key(directory_ + "/key", std::string(64, 'c'));
    if (!made) throw lab::Failure(made.error().sentence());
    must(sidecar::add_key_object(*source_, from_->pid(), directory_ + "/key", "client", key_epoch,
                                 soon()));
    must(sidecar::add_key_object(*destination_, to_->pid(), directory_ + "/key", "server",
                                 key_epoch, soon()));
    return sidecar::key_file(directory_ + "/key");
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
                    "--request-size=262144", export_source(), target_uri()});
}

Copied BulkPair::convert() {
    std::vector<std::string> argv{"qemu-img", "convert", "-n", "-W", "-m", "16"};
    auto options = fmt::format("driver=nbd,host=127.0.0.1,port={},export=d0", port());
    if (encrypted()) {
        auto const key = sidecar::key_object(key_epoch);
        argv.insert(
            argv.end(),
            {"--object", fmt::format("tls-creds-psk,id={},dir={}/key,endpoint=client,username={}",
                                     key, directory_, sidecar::key_user)});
        options += ",tls-creds=" + key;
    }
    argv.insert(argv.end(), {"-f", "raw", export_source(), "--target-image-opts", options});
    return measure(argv);
}

std::string BulkPair::target_uri() const {
    if (!encrypted()) return fmt::format("nbd://127.0.0.1:{}/d0", port());
    return fmt::format("nbds://{}@127.0.0.1:{}/d0?tls-psk-file={}", sidecar::key_user, port(),
                       target_address_.psk_file);
}

// The copy runs in QEMU itself, so its memory cannot be measured apart from the guest's.
Copied BulkPair::mirror() {
    auto events = source_->subscribe({"BLOCK_JOB_READY", "BLOCK_JOB_COMPLETED"});
    auto there = Json::object({{"driver", "nbd"},
                               {"node-name", "there"},
                               {"server", qmp::inet_address("127.0.0.1", port())},
                               {"export", "d0"}});
    if (encrypted()) there.set("tls-creds", sidecar::key_object(key_epoch));
    must(qmp::blockdev_add(*source_, there, soon()));
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
