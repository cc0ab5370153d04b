#include "sidecar/guest/software_tpm.hpp"

#include <fcntl.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <filesystem>

#include "core/log.hpp"
#include "core/stream.hpp"
#include "qmp/launch.hpp"
#include "sidecar/guest/tpm.hpp"
#include "sidecar/host/limits.hpp"
#include "storage/file_access.hpp"

namespace sidecar {

using core::Deadline;
using core::Errc;
using core::fail;
using core::fail_errno;
using core::Result;
using core::Task;

namespace {

constexpr int control_fd_in_swtpm = 3;
/// In its directory. swtpm removes it when it ends by itself.
constexpr char const* pid_file = "swtpm.pid";
/// `--print-capabilities` prints 400 bytes.
constexpr std::size_t capabilities_bytes_max = 1 << 16;

struct SwtpmSettings {
    std::string program;
    qmp::TpmVersion version;
    std::string user = {};  ///< QEMU's here: a name or UID:GID; empty: ours.
    std::string directory;  ///< Made if it is missing.
    std::string log_file;
};

std::string log_of(Paths const& paths, std::string const& guest) {
    return paths.run(guest) + "/swtpm.log";
}

Result<storage::UserIds> ids_of(std::string const& user) {
    if (user.empty()) return storage::UserIds{geteuid(), getegid()};
    storage::UserIds ids;
    if (sscanf(user.c_str(), "%u:%u", &ids.uid, &ids.gid) == 2) return ids;
    auto const named = storage::ids_of_user(user);
    if (named) return *named;
    return fail(Errc::refused, "the destination has no user {} in /etc/passwd", user);
}

/// It works in its directory, so that its user need not be able to pass those above.
Result<> make_state_directory(SwtpmSettings const& settings) {
    auto const& path = settings.directory;
    if (mkdir(path.c_str(), 0700) < 0 && errno != EEXIST)
        return fail_errno(errno, "cannot make the directory {}", path);
    TRY(auto const ids, ids_of(settings.user));
    if (lchown(path.c_str(), ids.uid, ids.gid) < 0)
        return fail_errno(errno, "cannot give {} to QEMU's user", path);
    return sync_directory(std::filesystem::path(path).parent_path().string());
}

std::vector<std::string> argv_of(SwtpmSettings const& settings) {
    std::vector<std::string> argv{
        settings.program,  "socket", "--tpmstate",
        "dir=.,mode=0600", "--ctrl", fmt::format("type=unixio,clientfd={}", control_fd_in_swtpm),
        "--terminate",     "--pid",  fmt::format("file={}", pid_file)};
    if (settings.version == qmp::TpmVersion::tpm_2_0) argv.push_back("--tpm2");
    // It takes a name, or the number of a user alone.
    if (!settings.user.empty())
        argv.insert(argv.end(), {"--runas", settings.user.substr(0, settings.user.find(':'))});
    return argv;
}

Result<SoftwareTpm> start(SwtpmSettings const& settings) {
    TRY_VOID(make_state_directory(settings));
    int ends[2];
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) < 0)
        return fail_errno(errno, "cannot make a pair of sockets");
    SoftwareTpm tpm;
    tpm.qemu_end.reset(ends[0]);
    core::Fd const control(ends[1]);
    core::Fd const log(
        open(settings.log_file.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_APPEND | O_CLOEXEC, 0600));
    if (!log) return fail_errno(errno, "cannot write {}", settings.log_file);
    core::SpawnOptions options;
    options.descriptors = {{control.get(), control_fd_in_swtpm}};
    options.stdout_fd = log.get();
    options.stderr_fd = log.get();
    options.new_session = true;  // it outlives us, as QEMU does
    options.working_directory = settings.directory;
    TRY(tpm.process, core::spawn(argv_of(settings), options));
    return tpm;
}

Task<Result<>> kill_and_wait(core::Loop& loop, core::Process const& process) {
    (void)process.signal(SIGKILL);  // closed: it has ended already
    CO_TRY_VOID(co_await core::wait_exit(loop, process, Deadline::after(limits::rollback_timeout)));
    co_return Result<>{};
}

/// CMD_INIT of its control channel: it makes a TPM, writes its state, and says whether it could.
Task<Result<>> initialize(core::Loop& loop, core::Fd control, Deadline deadline) {
    constexpr auto request = std::to_array<std::uint8_t>({0, 0, 0, 2, 0, 0, 0, 0});
    std::array<std::byte, 4> answer{};
    auto const stream = core::plain_stream(loop, std::move(control), "swtpm");
    CO_TRY_VOID(co_await stream->write_all(std::as_bytes(std::span(request)), deadline));
    CO_TRY_VOID(co_await core::read_exactly(*stream, answer, deadline));
    if (answer == std::array<std::byte, 4>{}) co_return Result<>{};
    co_return fail(Errc::refused, "it could not initialize a TPM (code {:02x}{:02x}{:02x}{:02x})",
                   std::to_integer<int>(answer[0]), std::to_integer<int>(answer[1]),
                   std::to_integer<int>(answer[2]), std::to_integer<int>(answer[3]));
}

/// With a state of its own, which is removed.
Task<Result<>> try_out(core::Loop& loop, Paths const& paths, SwtpmSettings settings,
                       Deadline deadline) {
    auto place = paths.run_directory + "/.tpm-check-XXXXXX";
    if (mkdtemp(place.data()) == nullptr)
        co_return fail_errno(errno, "cannot make a directory in {}", paths.run_directory);
    settings.directory = place + "/tpm";
    settings.log_file = place + "/log";
    auto tpm = start(settings);
    auto tried = tpm ? co_await initialize(loop, std::move(tpm->qemu_end), deadline)
                     : std::unexpected(tpm.error());
    if (tpm) (void)co_await kill_and_wait(loop, tpm->process);
    auto const words = qmp::last_words(settings.log_file);
    std::error_code ignored;
    std::filesystem::remove_all(place, ignored);
    if (tried) co_return tried;
    co_return fail(Errc::refused,
                   "the guest has a TPM, and swtpm ({}) does not work on the destination: {}{}{}",
                   settings.program, tried.error().what, words.empty() ? "" : ": ", words);
}

Task<Result<>> check_program(core::Loop& loop, std::string program, qmp::TpmVersion version,
                             Deadline deadline) {
    auto const printed = co_await core::output_of(loop, {program, "socket", "--print-capabilities"},
                                                  capabilities_bytes_max, deadline);
    if (!printed) {
        co_return fail(Errc::refused,
                       "the guest has a TPM, and the destination cannot run swtpm ({}): {}; "
                       "install the package swtpm, or name the program with `serve --swtpm`",
                       program, printed.error().what);
    }
    auto const capabilities = core::Json::parse(*printed);
    if (!capabilities) co_return Result<>{};  // it is tried out
    bool says = false;
    for (auto const& feature : (*capabilities)["features"].elements()) {
        auto const text = feature.text_or("");
        if (text == fmt::format("tpm-{}", name(version))) co_return Result<>{};
        says = says || text.starts_with("tpm-1.2") || text.starts_with("tpm-2.0");
    }
    if (!says) co_return Result<>{};  // older than 0.7
    co_return fail(Errc::refused,
                   "the guest has a TPM {}, and swtpm ({}) on the destination has none of that "
                   "version: name another with `serve --swtpm`",
                   name(version), program);
}

SwtpmSettings settings_for(std::string program, Description const& description) {
    auto const line = qmp::CommandLine::parse(description.argv);
    return {std::move(program), description.tpm->version, line ? line->user() : "", "", ""};
}

/// The process that the file in its own directory names.
Result<core::Process> running_in(std::string const& directory) {
    TRY(auto const text, read_file(directory + "/" + pid_file, limits::manifest_bytes_max));
    TRY(auto process, core::Process::open(static_cast<pid_t>(std::atoi(text.c_str()))));
    // Another process may have got the number since.
    if (same_file(fmt::format("/proc/{}/cwd", process.pid()), directory)) return process;
    return fail(Errc::closed, "process {} works elsewhere", process.pid());
}

}  // namespace

Task<Result<>> check_software_tpm(core::Loop& loop, Paths const& paths, std::string program,
                                  Description const& description, bool leftover,
                                  Deadline deadline) {
    if (!description.tpm) co_return Result<>{};
    auto const directory = tpm_directory(paths, description.guest);
    if (auto const files = tpm_state_files(directory); !files.empty() && !leftover) {
        co_return fail(Errc::refused,
                       "{} on the destination is the state of the TPM of a guest of this name that "
                       "ran there: move it away",
                       files.front());
    }
    CO_TRY_VOID(co_await check_program(loop, program, description.tpm->version, deadline));
    co_return co_await try_out(loop, paths, settings_for(program, description), deadline);
}

Result<SoftwareTpm> start_software_tpm(Paths const& paths, std::string const& program,
                                       Description const& description) {
    auto settings = settings_for(program, description);
    settings.directory = tpm_directory(paths, description.guest);
    settings.log_file = log_of(paths, description.guest);
    auto started = start(settings);
    if (!started) started.error().while_doing("starting the guest's TPM");
    return started;
}

std::string last_words_of_tpm(Paths const& paths, std::string const& guest) {
    auto const words = qmp::last_words(log_of(paths, guest));
    return words.empty() ? "" : "; swtpm: " + words;
}

Task<Result<>> end_software_tpm(core::Loop& loop, Paths const& paths, std::string guest) {
    auto const process = running_in(tpm_directory(paths, guest));
    if (!process) co_return Result<>{};
    co_return co_await kill_and_wait(loop, *process);
}

void remove_tpm_state(Paths const& paths, std::string const& guest) {
    auto const directory = tpm_directory(paths, guest);
    std::error_code ignored;  // what stays is found by the next check
    for (auto const& file : tpm_state_files(directory)) std::filesystem::remove(file, ignored);
    for (auto const* const own : {pid_file, ".lock"})
        std::filesystem::remove(directory + "/" + own, ignored);
    std::filesystem::remove(directory, ignored);  // unless something was set aside there
}

void keep_tpm_state(Paths const& paths, std::string const& guest, std::string const& left_in) {
    auto const directory = tpm_directory(paths, guest);
    for (auto const& path : tpm_state_files(directory)) {
        core::Fd const file(open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW));
        if (!file || fsync(file.get()) < 0)
            core::log::warning("guest={} cannot sync {}: {}", guest, path, std::strerror(errno));
    }
    if (auto const synced = sync_directory(directory); !synced)
        core::log::warning("guest={} {}", guest, synced.error().sentence());
    if (left_in.empty()) return;
    std::error_code ignored;
    for (auto const& entry : std::filesystem::directory_iterator(directory, ignored)) {
        if (entry.path().string().ends_with(stale_tpm_state("", left_in)))
            std::filesystem::remove(entry.path(), ignored);
    }
}

}  // namespace sidecar
