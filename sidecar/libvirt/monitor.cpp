#include "sidecar/libvirt/monitor.hpp"

#include <fcntl.h>
#include <signal.h>
#include <unistd.h>

#include <cerrno>

#include "core/json.hpp"
#include "core/process.hpp"
#include "core/stream.hpp"
#include "sidecar/host/limits.hpp"

namespace sidecar::libvirt {

using core::Deadline;
using core::Errc;
using core::fail;
using core::Json;
using core::Result;
using core::Task;

namespace {

constexpr int listener_in_child = 3;
constexpr int ready_in_child = 4;

/// The process, and where libvirt is.
std::string record_path(Paths const& paths, std::string const& guest) {
    return paths.run(guest) + "/libvirt-monitor.json";
}

Result<Json> read_record(Paths const& paths, std::string const& guest) {
    TRY(auto const text, read_file(record_path(paths, guest), limits::manifest_bytes_max));
    return Json::parse(text);
}

/// `ready`: the writing end of a pipe; none if no one waits for it.
Result<> spawn_monitor(Paths const& paths, std::string const& guest, std::string const& uri,
                       core::Fd const& ready) {
    TRY(auto const listener, core::listen_unix(monitor_socket(paths, guest), 0600));
    core::SpawnOptions options;
    options.descriptors = {{listener.get(), listener_in_child}};
    options.new_session = true;  // it outlives the sidecar, as QEMU does
    std::vector<std::string> argv{own_program(),
                                  "libvirt-monitor",
                                  guest,
                                  "--libvirt-uri",
                                  uri,
                                  "--listener-fd",
                                  std::to_string(listener_in_child)};
    if (ready) {
        options.descriptors.emplace_back(ready.get(), ready_in_child);
        argv.insert(argv.end(), {"--ready-fd", std::to_string(ready_in_child)});
    }
    TRY(auto const process, core::spawn(argv, options));
    TRY(auto const identity, process.identity());
    auto record = Json::object({{"uri", uri}});
    identity.add_to(record);
    return write_replacing(record_path(paths, guest), record.dump_pretty() + "\n");
}

}  // namespace

std::string monitor_socket(Paths const& paths, std::string const& guest) {
    return paths.run(guest) + "/libvirt-qmp.sock";
}

Task<Result<MonitorStarted>> start_monitor(core::Loop& loop, Paths paths, std::string guest,
                                           std::string uri, Deadline deadline) {
    CO_TRY_VOID(make_directory(paths.run(guest)));
    end_monitor(paths, guest);
    int ends[2];
    if (pipe2(ends, O_CLOEXEC) < 0) co_return core::fail_errno(errno, "cannot make a pipe");
    core::Fd const reader(ends[0]);
    core::Fd writer(ends[1]);
    CO_TRY_VOID(spawn_monitor(paths, guest, uri, writer));
    writer.reset();
    CO_TRY(auto const text,
           co_await core::read_to_end(loop, reader.get(), limits::manifest_bytes_max, deadline));
    CO_TRY(auto const word, Json::parse(text.empty() ? "{}" : text));
    if (word.has("error")) co_return fail(Errc::refused, "{}", word["error"].text_or(""));
    MonitorStarted started;
    CO_TRY(auto const pid, word.integer("pid"));
    CO_TRY(started.uuid, word.text("uuid"));
    started.qemu = static_cast<pid_t>(pid);
    co_return started;
}

Result<> ensure_monitor(Paths const& paths, std::string const& guest) {
    auto const record = read_record(paths, guest);
    if (!record) return {};  // QEMU has a monitor of ours
    auto const process = core::Process::open(core::ProcessIdentity::from_json(*record));
    if (process) return {};
    TRY(auto const uri, record->text("uri"));
    return spawn_monitor(paths, guest, uri, core::Fd());
}

void end_monitor(Paths const& paths, std::string const& guest) {
    auto const record = read_record(paths, guest);
    if (!record) return;
    auto const process = core::Process::open(core::ProcessIdentity::from_json(*record));
    if (process) (void)process->signal(SIGTERM);  // it keeps nothing
    ::unlink(record_path(paths, guest).c_str());
}

}  // namespace sidecar::libvirt
