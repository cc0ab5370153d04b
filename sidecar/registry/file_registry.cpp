#include "sidecar/registry/file_registry.hpp"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>

#include "core/log.hpp"
#include "core/sync.hpp"
#include "sidecar/host/mac_moves.hpp"
#include "sidecar/host/paths.hpp"
#include "sidecar/registry/limits.hpp"

namespace sidecar::registry {

using core::Deadline;
using core::Errc;
using core::fail;
using core::fail_errno;
using core::Json;
using core::Result;
using core::Task;

namespace {

/// None: there is no such file.
Result<std::optional<Json>> read_json(std::string const& path) {
    auto text = read_file(path, limits::answer_bytes_max);
    if (!text && text.error().os == ENOENT) return std::optional<Json>();
    if (!text) return std::unexpected(std::move(text.error()));
    auto json = Json::parse(*text);
    if (!json) return fail(Errc::protocol, "{}: {}", path, json.error().sentence());
    return std::optional(std::move(*json));
}

}  // namespace

/// The lock belongs to the open file: it ends when the descriptor is closed, also when the process
/// dies.
Task<Result<core::Fd>> FileRegistry::lock(Deadline deadline) {
    CO_TRY_VOID(make_directory(directory_));
    auto const path = directory_ + "/.lock";
    core::Fd file(open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
    if (!file) co_return fail_errno(errno, "cannot open {}", path);
    struct flock whole{};
    whole.l_type = F_WRLCK;
    while (fcntl(file.get(), F_OFD_SETLK, &whole) < 0) {
        if (errno != EAGAIN && errno != EACCES) co_return fail_errno(errno, "cannot lock {}", path);
        if (deadline.passed()) co_return fail(Errc::timed_out, "another process holds {}", path);
        CO_TRY_VOID(co_await core::sleep_for(loop_, limits::lock_pause, deadline.token()));
    }
    co_return file;
}

Result<std::optional<Entry>> FileRegistry::read_now(std::string const& guest) const {
    TRY(auto const json, read_json(path(guest)));
    if (!json) return std::optional<Entry>();
    auto entry = Entry::from_json(*json);
    if (!entry) return fail(Errc::protocol, "{}: {}", path(guest), entry.error().sentence());
    return std::optional(std::move(*entry));
}

Result<> FileRegistry::replace(Entry const& entry) const {
    return write_durably(path(entry.guest), entry.to_json().dump_pretty() + "\n");
}

Task<Result<std::optional<Entry>>> FileRegistry::read(std::string guest, Deadline) {
    co_return read_now(guest);
}

Task<Result<Committed>> FileRegistry::commit(Entry entry, std::uint64_t expected,
                                             Deadline deadline) {
    CO_TRY(auto const held, co_await lock(deadline));
    CO_TRY(auto stored, read_now(entry.guest));
    if (stored == entry) co_return Committed{true, std::move(stored)};
    if ((stored ? stored->token : 0) != expected) co_return Committed{false, std::move(stored)};
    CO_TRY_VOID(replace(entry));
    co_return Committed{true, std::move(entry)};
}

Task<void> FileRegistry::watch(std::string guest, WatchEvents events, Deadline deadline) {
    std::optional<Result<std::optional<Entry>>> last;
    while (!deadline.stopped()) {
        auto now = read_now(guest);
        bool const same =
            last && last->has_value() == now.has_value() && (!now || last->value() == now.value());
        if (!same && now) events.changed(*now);
        if (!same && !now) events.unreachable(now.error());
        last = std::move(now);
        if (!co_await core::sleep_for(loop_, limits::file_watch_interval, deadline.token()))
            co_return;
    }
}

Result<> FileRegistry::sign_of_life(Host const& host) const {
    TRY_VOID(make_directory(directory_ + "/hosts"));
    auto json = to_json(host);
    json.set("alive_until_ms", wall_ms() + std::chrono::milliseconds(limits::host_lease).count());
    return write_replacing(host_path(host.id), json.dump_pretty() + "\n");
}

Task<void> FileRegistry::hold_host(Host host, Deadline deadline) {
    bool good = true;
    while (!deadline.stopped()) {
        auto const shown = sign_of_life(host);
        if (!shown && good) core::log::warning("registry={} {}", text(), shown.error().sentence());
        if (shown && !good) core::log::info("registry={} state=back", text());
        good = shown.has_value();
        (void)co_await core::sleep_for(loop_, limits::host_lease_interval, deadline.token());
    }
    unlink(host_path(host.id).c_str());
}

Task<Result<std::optional<HostLease>>> FileRegistry::read_host(std::string id, Deadline) {
    std::optional<HostLease> none;
    if (!check_guest_name(id)) co_return none;  // it becomes part of a path
    CO_TRY(auto const json, read_json(host_path(id)));
    if (!json) co_return none;
    CO_TRY(auto host, host_from_json(*json));
    bool const alive = (*json)["alive_until_ms"].integer_or(0) > wall_ms();
    co_return std::optional(HostLease{std::move(host), alive});
}

}  // namespace sidecar::registry
