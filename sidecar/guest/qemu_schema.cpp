#include "sidecar/guest/qemu_schema.hpp"

#include <malloc.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zlib.h>

#include <algorithm>
#include <cerrno>
#include <filesystem>
#include <optional>

#include "core/log.hpp"
#include "core/tls.hpp"
#include "sidecar/host/limits.hpp"
#include "storage/file_hash.hpp"

namespace sidecar {

using core::Deadline;
using core::Errc;
using core::fail;
using core::Json;
using core::Result;
using core::Task;

namespace {

constexpr std::size_t digest_digits = 8;
/// The first descriptor after the monitor's socket; this QEMU has no taps.
constexpr int lifeline_fd_in_qemu = qmp::first_tap_fd_in_qemu;
/// Starting a QEMU without a guest and querying it: 0.2 s, or seconds on a full host.
constexpr std::chrono::seconds ask_timeout{10};
/// Size of a kept schema in bytes: QEMU 10.0's has 0.24 MB. And how many schemas are kept: one for
/// each build of QEMU that guests of this host still run.
constexpr std::size_t kept_bytes_max = std::size_t{16} * 1024 * 1024;
constexpr std::size_t kept_max = 8;

/// Shared by all guests of the host; no guest can have that name.
std::string directory_of(Paths const& paths) { return paths.state_directory + "/.qemu-schemas"; }

/// Tells a file that was cut or damaged.
std::string digest_of(std::string_view text) {
    return fmt::format("{:08x}",
                       crc32_z(0, reinterpret_cast<Bytef const*>(text.data()), text.size()));
}

/// The binary that a process runs, even if its file has been replaced since.
std::string binary_of(pid_t pid) { return fmt::format("/proc/{}/exe", pid); }

/// Where the schema of that binary is kept.
Result<std::string> kept_path(Paths const& paths, pid_t pid) {
    TRY(auto const file, storage::identity_of(binary_of(pid)));
    return fmt::format("{}/{:x}-{}-{}-{}-{}.json", directory_of(paths), file.device, file.inode,
                       file.bytes, file.mtime_ns, file.ctime_ns);
}

/// The schema text that is kept there. Nothing if there is none, if it is not what was written, or
/// if another user could have written it.
std::optional<std::string> read_kept(std::string const& path) {
    struct stat about{};
    if (lstat(path.c_str(), &about) < 0 || !S_ISREG(about.st_mode) || about.st_uid != geteuid() ||
        (about.st_mode & (S_IWGRP | S_IWOTH)) != 0) {
        return {};
    }
    auto text = read_file(path, kept_bytes_max);
    if (!text || text->size() <= digest_digits) return {};
    auto body = text->substr(digest_digits + 1);
    if (text->substr(0, digest_digits) != digest_of(body)) return {};
    return body;
}

void forget_oldest(std::string const& directory) {
    std::vector<std::pair<std::filesystem::file_time_type, std::filesystem::path>> kept;
    std::error_code error;
    std::filesystem::directory_iterator entry(directory, error);
    for (; !error && entry != std::filesystem::directory_iterator(); entry.increment(error)) {
        kept.emplace_back(entry->last_write_time(error), entry->path());
    }
    if (kept.size() < kept_max) return;
    std::ranges::sort(kept);
    kept.resize(kept.size() - kept_max + 1);
    for (auto const& one : kept) std::filesystem::remove(one.second, error);
}

Result<> keep(Paths const& paths, std::string const& path, std::string const& body) {
    TRY_VOID(make_directory(directory_of(paths)));
    forget_oldest(directory_of(paths));
    return write_durably(path, digest_of(body) + "\n" + body);
}

/// We run it with our privileges, so only root or we may be able to change it.
Result<> check_trusted(std::string const& binary) {
    struct stat about{};
    if (stat(binary.c_str(), &about) < 0) return core::fail_errno(errno, "cannot stat {}", binary);
    if ((about.st_uid != 0 && about.st_uid != geteuid()) ||
        (about.st_mode & (S_IWGRP | S_IWOTH)) != 0) {
        return fail(Errc::refused, "other users may write {}", binary);
    }
    return {};
}

Task<Result<Json>> ask(qmp::Client& client, Deadline deadline) {
    return client.execute("query-qmp-schema", {}, std::move(deadline));
}

/// A process of that binary without a machine or a guest. `lifeline`: its end of a socket
/// pair, on which it waits for a migration. It ends when the other end closes, at the latest
/// with our process.
Result<qmp::CommandLine> line_of(std::string const& binary) {
    // The accelerator makes no difference to the schema; a binary may support only one of them.
    TRY(auto const given,
        qmp::CommandLine::parse({binary, "-machine", "none,accel=tcg:kvm", "-nodefaults",
                                 "-no-user-config", "-display", "none", "-S"}));
    TRY(auto const line, given.for_launch({qmp::qmp_fd_in_qemu, {}}));
    auto argv = line.argv();
    argv.insert(argv.end(), {"-incoming", fmt::format("fd:{}", lifeline_fd_in_qemu)});
    return qmp::CommandLine::parse(argv);
}

Task<Result<Json>> ask_in(core::Loop& loop, std::string binary, std::string directory,
                          Deadline deadline) {
    int ends[2];
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) < 0) {
        co_return core::fail_errno(errno, "cannot make a socket pair");
    }
    core::Fd const lifeline(ends[0]);
    core::Fd const theirs(ends[1]);
    CO_TRY(auto line, line_of(binary));
    qmp::LaunchRequest request{.command_line = std::move(line),
                               .descriptors = {{theirs.get(), lifeline_fd_in_qemu}},
                               .qmp_socket = directory + "/qmp.sock",
                               .log_file = directory + "/qemu.log"};
    CO_TRY(auto launched, co_await qmp::launch(loop, std::move(request), deadline));
    auto answer = co_await ask(*launched.client, deadline);
    co_await launched.client->close();
    (void)launched.process.signal(SIGKILL);  // fails only if it has ended
    (void)co_await core::wait_exit(loop, launched.process, Deadline::after(limits::qmp_timeout));
    co_return answer;
}

Task<Result<Json>> ask_another_process(Guest const& guest, Deadline deadline) {
    auto const binary = binary_of(guest.process.pid());
    CO_TRY_VOID(check_trusted(binary));
    auto const directory = guest.paths.run(".schema-" + core::random_hex(4));
    CO_TRY_VOID(make_directory(directory));
    auto answer = co_await ask_in(guest.loop, binary, directory, std::move(deadline));
    std::error_code ignored;  // the run directory does not survive a boot
    std::filesystem::remove_all(directory, ignored);
    co_return answer;
}

/// Queries the schema, and keeps the answer if possible.
Task<Result<Json>> ask_and_keep(Guest& guest, bool guest_runs, Deadline deadline) {
    Result<Json> answer = fail(Errc::invalid, "not asked yet");
    if (guest_runs) {
        answer = co_await ask_another_process(guest, deadline.sooner(ask_timeout));
        if (!answer) {
            core::log::warning(
                "guest={} its own QEMU is asked for its schema, which delays the guest by 0.1 s: "
                "{}",
                guest.name, answer.error().sentence());
        }
    }
    if (!answer) answer = co_await ask(*guest.client, deadline);
    if (!answer) co_return answer;
    CO_TRY_VOID(qmp::Schema::parse(*answer));
    auto const path = kept_path(guest.paths, guest.process.pid());
    auto const kept =
        path ? keep(guest.paths, *path, answer->dump()) : Result<>(std::unexpected(path.error()));
    if (!kept) {
        core::log::warning("guest={} QEMU's schema is not kept: {}", guest.name,
                           kept.error().sentence());
    }
    co_return answer;
}

}  // namespace

Task<Result<qmp::Schema>> schema_of(Guest& guest, Deadline deadline) {
    auto const path = kept_path(guest.paths, guest.process.pid());
    if (auto const text = path ? read_kept(*path) : std::nullopt) {
        auto const known = Json::parse(*text);
        auto schema = known ? qmp::Schema::parse(*known) : std::unexpected(known.error());
        if (schema) co_return schema;
    }
    CO_TRY(auto const answer, co_await ask_and_keep(guest, true, std::move(deadline)));
    co_return qmp::Schema::parse(answer);
}

Task<void> keep_schema(Guest& guest, bool guest_runs, Deadline deadline) {
    auto const path = kept_path(guest.paths, guest.process.pid());
    if (path && access(path->c_str(), F_OK) == 0) co_return;
    {
        auto const asked = co_await ask_and_keep(guest, guest_runs, std::move(deadline));
        if (!asked) {
            core::log::warning("guest={} QEMU's schema: {}", guest.name, asked.error().sentence());
        }
    }
    // The schema was some MB of small objects, and the process mostly idles from here on.
    malloc_trim(0);
}

}  // namespace sidecar
