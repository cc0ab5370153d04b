// The base of the storage tests: a loop, a temporary directory, NBD servers, and QEMUs without a
// guest. Used by tests/process/storage_*.cpp. Everything ends with the object that made it.
#pragma once

#include <catch2/catch.hpp>

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "core/sync.hpp"
#include "qmp/client.hpp"
#include "storage/mirror.hpp"
#include "storage/nbd.hpp"
#include "storage/target.hpp"
#include "tests/support/command.hpp"

namespace storage_lab {

using core::Deadline;
using core::Result;
using core::Task;
using namespace std::chrono_literals;

/// The longest that one step of these tests may take; none needs a tenth of it on an idle machine.
inline constexpr auto limit = 60s;

/// A directory in memory, so that disks cost no writes; removed at the end.
class Directory {
public:
    Directory();
    ~Directory();
    Directory(Directory const&) = delete;
    [[nodiscard]] std::string path(std::string const& name) const { return path_ + "/" + name; }
    [[nodiscard]] std::string const& text() const { return path_; }

private:
    std::string path_;
};

/// A small file system at `path`: `options` as "size=3m". Unmounted with the object. The directory
/// may exist already.
class SmallDisk {
public:
    SmallDisk(std::string path, char const* options);
    ~SmallDisk();
    SmallDisk(SmallDisk const&) = delete;
    void resize(char const* options);
    [[nodiscard]] std::string const& path() const { return path_; }

private:
    std::string path_;
};

/// A test's loop; run() fails the test on an error.
class Runner {
public:
    Runner();
    core::Loop& loop() { return *loop_; }
    template <class T>
    T must(Task<Result<T>> task) {
        auto result = loop_->run(std::move(task));
        if (!result) FAIL(result.error().sentence());
        if constexpr (!std::is_void_v<T>) return std::move(*result);
    }
    template <class T>
    core::Error must_fail(Task<Result<T>> task) {
        auto result = loop_->run(std::move(task));
        REQUIRE_FALSE(result.has_value());
        return result.error();
    }

private:
    std::unique_ptr<core::Loop> loop_;
};

/// An NBD server on a unix socket in `directory`; ready when made.
class Server {
public:
    Server(Server&&) = default;
    Server& operator=(Server&&) = default;
    /// Sends SIGTERM first: a killed nbdkit leaves its eval plugin's files in /tmp.
    ~Server();
    static Server nbdkit(Directory const& directory, std::vector<std::string> arguments);
    /// nbdkit on a port of 127.0.0.1, as the mirror needs its destination. `wrapper` precedes it
    /// and must end in an exec of its arguments.
    static Server nbdkit_tcp(Directory const& directory, std::vector<std::string> arguments,
                             std::vector<std::string> const& wrapper = {});
    /// qemu-nbd --persistent --shared=0 with these arguments.
    static Server qemu_nbd(Directory const& directory, std::vector<std::string> arguments);
    [[nodiscard]] storage::NbdAddress address() const { return {socket_, "", "", "", ""}; }
    /// Only for a server made by nbdkit_tcp().
    [[nodiscard]] storage::Destination destination() const {
        return {"127.0.0.1", fmt::format("{}", port_), "", ""};
    }
    lab::Daemon& daemon() { return daemon_; }

private:
    Server(std::string socket, int port, lab::Daemon daemon)
        : socket_(std::move(socket)), port_(port), daemon_(std::move(daemon)) {}
    std::string socket_;
    int port_ = 0;
    lab::Daemon daemon_;
};

/// The QEMUs to test with, by name: "7.2" and, where it is installed, "10.0". Only one when
/// SIDECAR_TEST_QEMU names it (scripts/test without --all).
std::map<std::string, std::string> qemus();
/// The program of the oldest of them: for a case that is the same with each.
std::string oldest_qemu();

struct TestDisk {
    std::string path;
    std::string format;
    bool iothread = false;
    bool direct = false;  ///< cache.direct=on
};

/// A QEMU with disks drive0, drive1, ... (node names) on virtio devices, and no guest but the BIOS.
class TestQemu {
public:
    enum class Role { source, destination };
    TestQemu(Runner& runner, Directory const& directory, std::string const& binary, Role role,
             std::vector<TestDisk> const& disks, std::vector<std::string> extra = {});
    ~TestQemu();
    TestQemu(TestQemu const&) = delete;

    qmp::Client& client() { return *client_; }
    lab::Daemon& daemon() { return daemon_; }
    [[nodiscard]] static std::string node(std::size_t disk);
    /// One qemu-io command on a node, as "write -P 7 4096 4096"; it marks bitmaps as a guest's
    /// write does.
    Task<Result<>> io(std::size_t disk, std::string line);
    /// The same through the guest's device, whatever node is attached to it at that moment.
    Task<Result<>> device_io(std::size_t disk, std::string line);
    /// Waits until the BIOS has used disk 0: from then on its iothread owns it.
    void wait_for_bios();
    /// Sends `quit`, so that images are closed cleanly.
    void quit();
    /// Kills QEMU by SIGKILL, then starts another of the same kind.
    Task<Result<>> kill_and_start_another();

private:
    lab::Daemon launch();
    Task<Result<>> connect();
    Task<Result<>> qemu_io(std::string where, std::string line);

    Runner& runner_;
    std::function<lab::Daemon(std::string const& socket)> start_;
    std::string socket_;  ///< QEMU's QMP socket.
    Directory const& directory_;
    lab::Daemon daemon_;
    std::unique_ptr<qmp::Client> client_;
};

/// Writes like a guest: 4 KiB blocks here and there, each with another pattern, from start() until
/// stop() has ended.
class Writer {
public:
    Writer(core::Loop& loop, TestQemu& qemu, std::size_t disks, std::uint64_t disk_bytes)
        : loop_(loop), qemu_(qemu), disks_(disks), disk_bytes_(disk_bytes), scope_(loop) {}
    void start();
    /// The pause between two writes.
    void set_pause(core::milliseconds pause) { pause_ = pause; }
    /// When it returns, no write is in flight.
    Task<void> stop();
    /// Waits until `more` further blocks were written, or a write failed.
    Task<Result<>> wait_for(std::size_t more);
    [[nodiscard]] std::size_t blocks() const { return blocks_; }
    /// The error of a failed write: a guest must never see one.
    [[nodiscard]] std::optional<core::Error> const& error() const { return error_; }

private:
    static Task<void> write_blocks(Writer& self);
    core::Loop& loop_;
    TestQemu& qemu_;
    std::size_t disks_;
    std::uint64_t disk_bytes_;
    core::milliseconds pause_{1};
    std::uint64_t seed_ = 12345;
    std::size_t blocks_ = 0;
    std::optional<core::Error> error_;
    std::stop_source stop_;
    core::TaskGroup scope_;
};

/// Checks that nothing of ours is left in QEMU: no export, no bitmap, no NBD server.
void check_nothing_left(Runner& runner, TestQemu& qemu, Directory const& directory);

/// A raw image: `data` ranges hold bytes that no other image has; the rest are holes.
struct Range {
    std::uint64_t offset;
    std::uint64_t length;
};
void make_raw(std::string const& path, std::uint64_t size, std::vector<Range> const& data);
/// Converts a raw image to `format` in place.
void convert(std::string const& path, std::string const& format);
/// qemu-img compare, every byte.
bool same(std::string const& left, std::string const& left_format, std::string const& right,
          std::string const& right_format);

/// Writes a keys.psk in `directory`/NAME with one user, and returns the directory.
std::string make_psk(Directory const& directory, std::string const& name, std::string const& user,
                     char fill);

}  // namespace storage_lab
