#include "tests/process/storage_lab.hpp"

#include <fcntl.h>
#include <sys/mount.h>
#include <unistd.h>

#include <cstdlib>
#include <random>

#include "core/fd.hpp"
#include "core/stream.hpp"
#include "qmp/block.hpp"

namespace storage_lab {

namespace {

std::string environment(char const* name) {
    char const* value = std::getenv(name);
    return value == nullptr ? "" : value;
}

lab::Daemon start_qemu(Directory const& directory, std::string const& socket,
                       std::string const& binary, TestQemu::Role role,
                       std::vector<TestDisk> const& disks, std::vector<std::string> extra) {
    std::vector<std::string> argv{binary,
                                  "-M",
                                  "pc,accel=tcg",
                                  "-m",
                                  "128",
                                  "-nodefaults",
                                  "-display",
                                  "none",
                                  "-no-user-config",
                                  "-qmp",
                                  "unix:" + socket + ",server=on,wait=off"};
    bool const source = role == TestQemu::Role::source;
    if (!source) argv.insert(argv.end(), {"-S", "-incoming", "defer"});
    argv.insert(argv.end(), {"-object", "iothread,id=io0"});
    for (std::size_t i = 0; i < disks.size(); ++i) {
        auto const& disk = disks[i];
        auto const node = TestQemu::node(i);
        argv.insert(argv.end(),
                    {"-blockdev",
                     fmt::format("driver={},node-name={},discard=unmap,file.driver=file,"
                                 "file.filename={},file.discard=unmap,cache.direct={},"
                                 "file.cache.direct={}",
                                 disk.format, node, disk.path, disk.direct ? "on" : "off",
                                 disk.direct ? "on" : "off"),
                     "-device",
                     fmt::format("virtio-blk-pci,id=disk{},drive={},share-rw=on{}", i, node,
                                 disk.iothread ? ",iothread=io0" : "")});
    }
    argv.insert(argv.end(), extra.begin(), extra.end());
    lab::Daemon daemon("qemu-" + lab::unique_suffix(), argv, {}, directory.text());
    lab::wait_until("QEMU's monitor", 20s,
                    [&] { return !daemon.running() || lab::listens(daemon.pid(), socket); });
    if (!daemon.running()) throw lab::Failure("QEMU did not start: " + daemon.err());
    return daemon;
}

int free_port() {
    auto const listener = core::listen_tcp("127.0.0.1", "0");
    REQUIRE(listener);
    auto const port = core::local_port(listener->get());
    REQUIRE(port);
    return *port;
}

}  // namespace

Directory::Directory() {
    std::string path = "/dev/shm/sidecar-storage-XXXXXX";
    REQUIRE(mkdtemp(path.data()) != nullptr);
    path_ = path;
}

Directory::~Directory() {
    std::error_code ignored;
    lab::fs::remove_all(path_, ignored);
}

SmallDisk::SmallDisk(std::string path, char const* options) : path_(std::move(path)) {
    lab::fs::create_directory(path_);
    REQUIRE(mount("none", path_.c_str(), "tmpfs", 0, options) == 0);
}

SmallDisk::~SmallDisk() { (void)umount2(path_.c_str(), MNT_DETACH); }

void SmallDisk::resize(char const* options) {
    REQUIRE(mount("none", path_.c_str(), "tmpfs", MS_REMOUNT, options) == 0);
}

Runner::Runner() {
    auto loop = core::Loop::create();
    if (!loop) FAIL(loop.error().sentence());
    loop_ = std::move(*loop);
}

Server::~Server() {
    constexpr lab::Milliseconds patience = 2s;  // a process that hangs is killed after that
    try {
        if (!daemon_.running()) return;
        daemon_.signal(SIGTERM);
        (void)daemon_.wait(patience);
    } catch (lab::Failure const&) {  // it ended just now
    }
}

Server Server::nbdkit(Directory const& directory, std::vector<std::string> arguments) {
    auto const socket = directory.path("nbdkit-" + lab::unique_suffix());
    std::vector<std::string> argv{"nbdkit", "-f", "--exit-with-parent", "-U", socket};
    argv.insert(argv.end(), arguments.begin(), arguments.end());
    lab::Daemon daemon("nbdkit-" + lab::unique_suffix(), argv, {}, directory.text());
    lab::wait_until("nbdkit's socket", 20s,
                    [&] { return !daemon.running() || lab::accepts(socket); });
    if (!daemon.running()) throw lab::Failure("nbdkit did not start: " + daemon.err());
    return Server(socket, 0, std::move(daemon));
}

// The port was free a moment ago; if another process has taken it since, try another one.
Server Server::nbdkit_tcp(Directory const& directory, std::vector<std::string> arguments,
                          std::vector<std::string> const& wrapper) {
    constexpr int tries_max = 5;
    std::string said;
    for (int i = 0; i < tries_max; ++i) {
        auto const name = "nbdkit-" + lab::unique_suffix();
        int const port = free_port();
        std::vector<std::string> argv = wrapper;
        argv.insert(argv.end(), {"nbdkit", "-f", "--exit-with-parent", "-i", "127.0.0.1", "-p",
                                 fmt::format("{}", port)});
        argv.insert(argv.end(), arguments.begin(), arguments.end());
        lab::Daemon daemon(name, argv, {}, directory.text());
        lab::wait_until("nbdkit's port", 20s,
                        [&] { return !daemon.running() || lab::accepts("", "127.0.0.1", port); });
        if (daemon.running()) return Server("", port, std::move(daemon));
        said = daemon.err();
    }
    throw lab::Failure("nbdkit did not start: " + said);
}

Server Server::qemu_nbd(Directory const& directory, std::vector<std::string> arguments) {
    auto const socket = directory.path("qemu-nbd-" + lab::unique_suffix());
    std::vector<std::string> argv{"qemu-nbd", "--persistent", "--shared=0", "-k", socket};
    argv.insert(argv.end(), arguments.begin(), arguments.end());
    lab::Daemon daemon("qemu-nbd-" + lab::unique_suffix(), argv, {}, directory.text());
    lab::wait_until("qemu-nbd's socket", 20s,
                    [&] { return !daemon.running() || lab::accepts(socket); });
    if (!daemon.running()) throw lab::Failure("qemu-nbd did not start: " + daemon.err());
    return Server(socket, 0, std::move(daemon));
}

std::map<std::string, std::string> qemus() {
    std::map<std::string, std::string> found;
    auto const named72 = environment("SIDECAR_QEMU_7_2");
    found["7.2"] = named72.empty() ? "/usr/bin/qemu-system-x86_64" : named72;
    auto const named10 = environment("SIDECAR_QEMU_10_0");
    auto const beside = std::string(LAB_SOURCE_DIRECTORY) + "/.deps/bin/qemu-system-x86_64-10.0";
    auto const ten = named10.empty() ? beside : named10;
    if (access(ten.c_str(), X_OK) == 0) found["10.0"] = ten;
    auto const only = found.find(environment("SIDECAR_TEST_QEMU"));
    if (only != found.end()) return {*only};
    return found;
}

std::string oldest_qemu() {
    auto const all = qemus();
    auto const found = all.find("7.2");
    return found == all.end() ? all.begin()->second : found->second;
}

TestQemu::TestQemu(Runner& runner, Directory const& directory, std::string const& binary, Role role,
                   std::vector<TestDisk> const& disks, std::vector<std::string> extra)
    : runner_(runner),
      start_(
          [&directory, binary, role, disks, extra = std::move(extra)](std::string const& socket) {
              return start_qemu(directory, socket, binary, role, disks, extra);
          }),
      directory_(directory),
      daemon_(launch()) {
    runner_.must(connect());
}

lab::Daemon TestQemu::launch() {
    socket_ = directory_.path("qmp-" + lab::unique_suffix());
    return start_(socket_);
}

Task<Result<>> TestQemu::connect() {
    CO_TRY(client_, co_await qmp::Client::connect(runner_.loop(), socket_, Deadline::after(limit)));
    co_return Result<>{};
}

Task<Result<>> TestQemu::kill_and_start_another() {
    daemon_.kill();
    co_await client_->close();
    daemon_ = launch();
    co_return co_await connect();
}

TestQemu::~TestQemu() {
    daemon_.kill();
    runner_.loop().run(client_->close());
}

std::string TestQemu::node(std::size_t disk) { return fmt::format("drive{}", disk); }

Task<Result<>> TestQemu::io(std::size_t disk, std::string line) {
    return qemu_io(node(disk), std::move(line));
}

Task<Result<>> TestQemu::device_io(std::size_t disk, std::string line) {
    return qemu_io(fmt::format("-d /machine/peripheral/disk{}/virtio-backend", disk),
                   std::move(line));
}

Task<Result<>> TestQemu::qemu_io(std::string where, std::string line) {
    auto const command = fmt::format("qemu-io {} \"{}\"", where, line);
    CO_TRY(auto const said,
           co_await client_->execute("human-monitor-command",
                                     core::Json::object({{"command-line", command}}),
                                     Deadline::after(limit)));
    // qemu-io's results go to QEMU's stdout; this text is the reason for a failure.
    auto const text = said.text_or("");
    if (!text.empty()) co_return core::fail(core::Errc::io, "qemu-io {}: {}", line, text);
    co_return Result<>{};
}

void TestQemu::wait_for_bios() {
    lab::wait_until("the BIOS reads the disk", 30s, [&] {
        auto const stats = runner_.must(
            client_->execute("query-blockstats", core::Json::object(), Deadline::after(limit)));
        auto const first = stats.elements();
        return !first.empty() && first[0]["stats"]["rd_operations"].integer_or(0) > 0;
    });
}

void TestQemu::quit() {
    (void)runner_.loop().run(
        client_->execute("quit", core::Json::object(), Deadline::after(limit)));
    REQUIRE(daemon_.wait(20s) == 0);
}

void Writer::start() {
    stop_ = std::stop_source();
    scope_.spawn(write_blocks(*this));
}

Task<void> Writer::stop() {
    stop_.request_stop();
    co_await scope_.join();
}

Task<Result<>> Writer::wait_for(std::size_t more) {
    auto const enough = blocks_ + more;
    auto const deadline = Deadline::after(limit);
    while (blocks_ < enough && !error_) {
        if (deadline.passed()) {
            co_return core::fail(core::Errc::timed_out, "the guest cannot write");
        }
        CO_TRY_VOID(co_await core::sleep_for(loop_, 1ms));
    }
    co_return Result<>{};
}

Task<void> Writer::write_blocks(Writer& self) {
    while (!self.stop_.stop_requested() && !self.error_) {
        self.seed_ = self.seed_ * 6364136223846793005ULL + 1442695040888963407ULL;
        std::size_t const disk = (self.seed_ >> 20) % self.disks_;
        std::uint64_t const block = (self.seed_ >> 33) % (self.disk_bytes_ / 4096);
        auto written = co_await self.qemu_.io(
            disk, fmt::format("write -P {} {} 4096", 1 + (self.seed_ >> 40) % 255, block * 4096));
        if (!written) self.error_ = written.error();
        ++self.blocks_;
        (void)co_await core::sleep_for(self.loop_, self.pause_);
    }
}

void check_nothing_left(Runner& runner, TestQemu& qemu, Directory const& directory) {
    auto const left = runner.must(storage::leftovers(qemu.client(), Deadline::after(limit)));
    CHECK(left.empty());
    // There is no NBD server left either: one can be started.
    auto const address = qmp::unix_address(directory.path("probe"));
    runner.must(qmp::nbd_server_start(qemu.client(), {address, "", 0}, Deadline::after(limit)));
    runner.must(qmp::nbd_server_stop(qemu.client(), Deadline::after(limit)));
    CHECK_FALSE(lab::fs::exists(directory.path("nbd.sock")));
}

void make_raw(std::string const& path, std::uint64_t size, std::vector<Range> const& data) {
    core::Fd const file(open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600));
    REQUIRE(file);
    REQUIRE(ftruncate(file.get(), static_cast<off_t>(size)) == 0);
    std::mt19937_64 random(std::hash<std::string>{}(path));
    std::vector<std::uint64_t> words(8192);
    for (auto const& range : data) {
        for (std::uint64_t done = 0; done < range.length;) {
            for (auto& word : words) word = random();
            auto const length = std::min(range.length - done, words.size() * sizeof words[0]);
            REQUIRE(
                pwrite(file.get(), words.data(), length, static_cast<off_t>(range.offset + done)) ==
                static_cast<ssize_t>(length));
            done += length;
        }
    }
}

void convert(std::string const& path, std::string const& format) {
    if (format == "raw") return;
    lab::must_run({"qemu-img", "convert", "-f", "raw", "-O", format, path, path + ".new"});
    lab::fs::rename(path + ".new", path);
}

bool same(std::string const& left, std::string const& left_format, std::string const& right,
          std::string const& right_format) {
    auto const compared =
        lab::run({"qemu-img", "compare", "-f", left_format, "-F", right_format, left, right});
    INFO(compared.out << compared.err);
    CHECK(compared.exit_status == 0);
    return compared.exit_status == 0;
}

std::string make_psk(Directory const& directory, std::string const& name, std::string const& user,
                     char fill) {
    auto const path = directory.path(name);
    lab::fs::create_directory(path);
    lab::write_file(path + "/keys.psk", user + ":" + std::string(64, fill) + "\n");
    return path;
}

}  // namespace storage_lab
