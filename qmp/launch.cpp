#include "qmp/launch.hpp"

#include <fcntl.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "core/stream.hpp"
#include "qmp/limits.hpp"

namespace qmp {

namespace {

std::string how_it_ended(int status) {
    if (WIFSIGNALED(status)) return fmt::format("killed by signal {}", WTERMSIG(status));
    return fmt::format("exit status {}", WEXITSTATUS(status));
}

// Kills and reaps a QEMU that did not start. Its log stays, for the error.
Task<Result<int>> put_down(Loop& loop, core::Process const& process) {
    (void)process.signal(SIGKILL);  // fails only when it is gone, which is what we want
    co_return co_await core::wait_exit(loop, process, Deadline::after(exit_timeout));
}

// Why there is no QEMU, from how its monitor failed, its exit and its last words.
Task<core::Error> explain(Loop& loop, core::Process const& process, core::Error error,
                          std::string program, std::string log_file) {
    if (error.code != Errc::closed) {
        (void)co_await put_down(loop, process);
        co_return std::move(error.while_doing(fmt::format("starting {}", program)));
    }
    // Its monitor is gone, so it is ending: the exit status says more than the lost connection.
    auto const status = co_await core::wait_exit(loop, process, Deadline::after(exit_timeout));
    auto said = last_words(log_file);
    said = said.empty() ? "; it said nothing" : ": " + said;
    if (status) {
        co_return core::fail(Errc::closed, "{} ended before its guest could run ({}){}", program,
                             how_it_ended(*status), said)
            .error();
    }
    (void)co_await put_down(loop, process);
    co_return core::fail(Errc::closed,
                         "{} closed its monitor ({}), did not end in {} s, and was killed{}",
                         program, error.what, exit_timeout.count(), said)
        .error();
}

Result<core::Fd> open_log(std::string const& path) {
    core::Fd file(::open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_APPEND | O_CLOEXEC, 0600));
    if (!file) return core::fail_errno(errno, "cannot write QEMU's log {}", path);
    return file;
}

}  // namespace

Task<Result<Launched>> launch(Loop& loop, LaunchRequest request, Deadline deadline) {
    auto const program = request.command_line.program();
    auto other =
        co_await core::connect_unix(loop, request.qmp_socket, deadline.sooner(greeting_timeout));
    if (other || other.error().code == Errc::timed_out) {
        co_return core::fail(Errc::refused, "a QEMU runs already on {}: is this guest running?",
                             request.qmp_socket);
    }
    if (other.error().code == Errc::cancelled) co_return std::unexpected(std::move(other.error()));
    CO_TRY(auto log, open_log(request.log_file));
    // The socket accepts connections from here on, so there is nothing to wait for. QEMU calls
    // listen(2) again, which makes it the peer that later connections see.
    CO_TRY(auto listener, core::listen_unix(request.qmp_socket, 0600));

    core::SpawnOptions options;
    options.descriptors = request.descriptors;
    options.descriptors.emplace_back(listener.get(), qmp_fd_in_qemu);
    options.stdin_fd = request.inherit_stdio ? STDIN_FILENO : -1;
    options.stdout_fd = request.inherit_stdio ? -1 : log.get();
    options.stderr_fd = log.get();
    options.new_session = true;
    options.working_directory = request.working_directory;
    auto process = core::spawn(request.command_line.argv(), options);
    listener.reset();  // from here on it lives and dies with QEMU
    log.reset();
    if (!process) {
        ::unlink(request.qmp_socket.c_str());
        co_return std::unexpected(std::move(process.error()));
    }
    auto client = co_await Client::connect_starting(loop, request.qmp_socket, deadline);
    if (!client) {
        auto error =
            co_await explain(loop, *process, std::move(client.error()), program, request.log_file);
        ::unlink(request.qmp_socket.c_str());
        co_return std::unexpected(std::move(error));
    }
    co_return Launched{std::move(*process), std::move(*client)};
}

std::string how_qemu_ended(int status, std::string const& log_file) {
    std::string text = "QEMU has ended";
    if (WIFSIGNALED(status)) text += fmt::format(" ({})", how_it_ended(status));
    if (auto const words = last_words(log_file); !words.empty())
        text += "; its last output: " + words;
    return text;
}

std::string last_words(std::string const& file) {
    core::Fd const log(::open(file.c_str(), O_RDONLY | O_CLOEXEC));
    struct stat status{};
    if (!log || fstat(log.get(), &status) < 0) return {};
    std::string text(last_words_bytes_max, '\0');
    off_t const start = std::max<off_t>(0, status.st_size - static_cast<off_t>(text.size()));
    ssize_t const got = ::pread(log.get(), text.data(), text.size(), start);
    text.resize(static_cast<std::size_t>(std::max<ssize_t>(0, got)));
    std::vector<std::string> lines;
    for (std::size_t at = 0; at < text.size();) {
        auto const end = std::min(text.find('\n', at), text.size());
        if (end > at) lines.push_back(text.substr(at, end - at));
        at = end + 1;
    }
    auto const skip = lines.size() - std::min(lines.size(), last_words_lines_max);
    std::string joined;
    for (auto line = lines.begin() + static_cast<std::ptrdiff_t>(skip); line != lines.end();
         ++line) {
        if (!joined.empty()) joined += " / ";
        for (char const c : *line) joined += c >= ' ' && c != 127 ? c : ' ';
    }
    return joined;
}

}  // namespace qmp
