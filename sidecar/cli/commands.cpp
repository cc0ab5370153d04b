#include "sidecar/cli/commands.hpp"

#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <filesystem>

#include "core/log.hpp"
#include "sidecar/anchor/ask_serve.hpp"
#include "sidecar/cli/progress.hpp"
#include "sidecar/handover/tracking.hpp"
#include "sidecar/host/journal.hpp"

namespace sidecar {

using core::Deadline;
using core::Errc;
using core::Error;
using core::fail;
using core::Json;
using core::Result;
using core::Task;

namespace {

/// A command's end of a control socket: shows the progress that arrives.
class Listener : public Handler {
public:
    explicit Listener(ProgressView* view) : view_(view) {}
    Task<Result<protocol::Packed>> handle(Connection&, protocol::Call call) override {
        if (call.verb == protocol::Verb::progress) {
            phase_ = call.arguments["phase"].text_or("");
            if (view_ != nullptr) view_->show(call.arguments);
        }
        co_return protocol::Packed{};
    }
    [[nodiscard]] std::string const& phase() const { return phase_; }

private:
    ProgressView* view_;
    std::string phase_;
};

template <class Request>
Task<Result<typename Request::Answer>> ask(core::Loop& loop, Options options, Request request) {
    return ask_sidecar(loop, std::move(options), std::move(request),
                       Deadline::after(limits::qmp_timeout * 2));
}

void tell_bases(Json const& report) {
    for (auto const& disk : report["disks"].elements()) {
        for (auto const& base : disk["bases"].elements()) {
            fmt::print("disk {} has the base {}, which is the same on both hosts: SHA-256 {}\n",
                       disk["name"].text_or(""), base["path"].text_or(""),
                       base["sha256"].text_or(""));
        }
        if (disk["bases"].size() == 0) continue;
        fmt::print("disk {}: {} of its base were not sent\n", disk["name"].text_or(""),
                   human_bytes(disk["base_bytes"].integer_or(0)));
    }
}

void tell_tracking(Json const& tracked) {
    if (auto const sent = tracked["sent"].integer_or(0); sent > 0) {
        fmt::print("{} of {} tracked connections (conntrack) are known there\n",
                   tracked["restored"].integer_or(0), sent);
    }
    for (auto const& line : tracking_complaints(tracked)) fmt::print("warning: {}\n", line);
}

void tell_dns(Json const& dns) {
    auto const list = [](Json const& records) {
        std::string text;
        for (auto const& address : records["addresses"].elements())
            text += (text.empty() ? "" : ", ") + address.text_or("");
        return text.empty() ? "no address" : text;
    };
    auto const outcome = dns["outcome"].text_or("");
    if (outcome != "changed" && outcome != "unchanged") return;  // else it is a warning
    fmt::print("{} has {} in the DNS{}\n", dns["name"].text_or(""), list(dns["after"]),
               outcome == "changed" ? ", instead of " + list(dns["before"]) : ", as before");
}

void tell(Json const& report) {
    auto const outcome = report["outcome"].text_or("");
    for (auto const& line : report["warnings"].elements())
        fmt::print(stderr, "warning: {}\n", line.text_or(""));
    if (outcome == "moved") {
        std::int64_t copied = 0;
        for (auto const& disk : report["disks"].elements())
            copied += disk["copied_bytes"].integer_or(0);
        auto const run_state = report["run_state"].text_or("running");
        bool const ran = run_state == "running";
        fmt::print("{} moved to {}: ", report["guest"].text_or(""),
                   report["destination"].text_or(""));
        if (ran) fmt::print("paused for {:.1f} ms", report["downtime_ms"].number_or(0));
        if (!ran) fmt::print("it stays stopped ({})", run_state);
        if (ran && report.has("stop_to_fire_ms"))
            fmt::print(", network moved {:.1f} ms after the stop",
                       report["stop_to_fire_ms"].number_or(0));
        fmt::print(", {} of disk and {} of RAM copied\n", human_bytes(copied),
                   human_bytes(report["ram"]["transferred_bytes"].integer_or(0)));
        tell_bases(report);
        for (auto const& file : report["files"].elements()) {
            fmt::print("{} was missing there: {} copied\n", file["path"].text_or(""),
                       human_bytes(file["bytes"].integer_or(0)));
        }
        tell_tracking(report["network"]["conntrack"]);
        tell_dns(report["dns"]);
        auto const verify = report["verify"];
        if (verify["identical"].boolean_or(false)) {
            fmt::print("verified: {} ({} bytes) of disk are identical on both hosts, XXH3 {}\n",
                       human_bytes(verify["bytes"].integer_or(0)), verify["bytes"].integer_or(0),
                       verify["hash"].text_or(""));
        }
        return;
    }
    fmt::print(stderr, "{}: {}{}\n", outcome == "cancelled" ? "cancelled" : "error",
               report["error"].text_or(
                   outcome == "cancelled" ? "as asked; the guest runs on the source" : outcome),
               outcome == "in_doubt" ? "; after the other host was fenced: `sidecar resolve`" : "");
}

/// The command ends, but the migration continues.
int leave(Options const& options, std::string const& phase) {
    auto const known = known_outcome(phase);
    fmt::print(stderr,
               "interrupted: {}; the sidecar continues the migration{}: `sidecar status {}`\n",
               known.where, phase.empty() ? "" : fmt::format(" ({})", phase), options.guest);
    return known.exit_status;
}

/// The sidecar's journal remains after it ends, and the sidecar writes nothing to it after its
/// connections have closed.
int tell_of_dead_sidecar(Options const& options) {
    auto const last = Journal::peek(options.paths.state(options.guest));
    auto const known = last ? known_outcome_of_dead(*last)
                            : KnownOutcome{"its journal cannot be read", machine::exit_in_doubt};
    fmt::print(stderr,
               "error: the sidecar of {} ended during the migration: {}; `sidecar attach {}` "
               "finishes or undoes the rest\n",
               options.guest, known.where, options.guest);
    return known.exit_status;
}

}  // namespace

Task<Result<std::unique_ptr<Connection>>> reach_sidecar(core::Loop& loop, Options const& options,
                                                        Handler& handler) {
    auto const path = options.paths.control_socket(options.guest);
    auto socket = co_await core::connect_unix(loop, path, Deadline::after(limits::connect_timeout));
    if (!socket) {
        auto const last = Journal::peek(options.paths.state(options.guest));
        std::string hint;
        if (!last) hint = "; " + last.error().sentence();
        if (last && last->moved_away()) {
            hint = fmt::format("; it moved to {} in migration {}", last->source()->peer,
                               last->migration_id);
        }
        co_return fail(
            Errc::refused,
            "no sidecar of a guest `{}` runs here ({}: {}){}; `sidecar status` lists those that do",
            options.guest, path, socket.error().what, hint);
    }
    auto messages =
        std::make_unique<Messages>(core::plain_stream(loop, std::move(*socket), options.guest));
    co_return std::make_unique<Connection>(loop, std::move(messages), handler,
                                           protocol::Role::sidecar);
}

int complain(Error const& error) {
    fmt::print(stderr, "error: {}\n", error.sentence());
    switch (error.code) {
        case Errc::invalid:
            return machine::exit_usage;
        case Errc::refused:
            return machine::exit_refused;
        case Errc::cancelled:
            return machine::exit_cancelled;
        case Errc::io:
        case Errc::closed:
        case Errc::timed_out:
        case Errc::protocol:
        case Errc::qemu_refused:
        case Errc::nbd:
        case Errc::netlink:
            return machine::exit_failed;
    }
    return machine::exit_failed;
}

Task<int> migrate_command(core::Loop& loop, Options options, Interrupts& interrupts) {
    auto const& wanted = options.migrate;
    // Checks the key here, as a usage error, before the sidecar would find the problem later.
    if (!wanted.resume) {
        auto const credentials =
            core::TlsCredentials::load(wanted.tls, core::TlsCredentials::Side::client);
        if (!credentials) {
            auto error = credentials.error();
            if (error.code == Errc::io) error.code = Errc::refused;  // nothing was touched
            co_return complain(error);
        }
        auto const address = core::split_host_port(wanted.destination, default_port);
        if (!address) co_return complain(address.error());
    }
    auto settings = options.migrate;
    std::error_code error;
    if (!settings.tls.path.empty())
        settings.tls.path = std::filesystem::absolute(settings.tls.path, error).string();
    ProgressView view(options.progress);
    Listener listener(&view);
    auto connection = co_await reach_sidecar(loop, options, listener);
    if (!connection) co_return complain(connection.error());
    core::TaskGroup scope(loop);
    std::stop_source stop;
    std::stop_source give_up;
    scope.spawn((*connection)->run({}));
    scope.spawn(cancel_when_interrupted(interrupts, **connection, view, give_up, stop.get_token()));
    auto const answer =
        co_await (*connection)
            ->request(protocol::Migrate{settings}, Deadline::never(give_up.get_token()));
    view.clear();
    stop.request_stop();
    (*connection)->close();
    co_await scope.join();
    if (!answer && give_up.stop_requested()) co_return leave(options, listener.phase());
    if (!answer && answer.error().code == Errc::closed) co_return tell_of_dead_sidecar(options);
    if (!answer) co_return complain(answer.error());
    auto const& report = answer->json;
    if (report.has("checked")) {
        for (auto const& line : report["checked"].elements())
            fmt::print("[ OK ] {}\n", line.text_or(""));
        co_return machine::exit_moved;
    }
    if (!options.report_file.empty()) {
        auto const written = write_durably(options.report_file, report.dump_pretty() + "\n", 0644);
        if (!written) fmt::print(stderr, "warning: {}\n", written.error().sentence());
    }
    if (options.json) {
        fmt::print("{}\n", report.dump());
    } else {
        tell(report);
    }
    co_return static_cast<int>(report["exit_status"].integer_or(machine::exit_failed));
}

Task<int> set_command(core::Loop& loop, Options options) {
    auto const answer = co_await ask(loop, options, protocol::Set{options.changes});
    if (!answer) co_return complain(answer.error());
    auto const rate = static_cast<std::int64_t>(answer->bandwidth);
    fmt::print("{}: bandwidth {}, downtime-limit {} ms, converge-limit {} s\n", options.guest,
               rate == 0 ? "unlimited" : human_bytes(rate) + "/s", answer->downtime_limit_ms,
               answer->converge_limit_s);
    co_return 0;
}

Task<int> cancel_command(core::Loop& loop, Options options) {
    auto const answer = co_await ask(loop, options, protocol::Cancel{});
    if (!answer) co_return complain(answer.error());
    fmt::print("the migration of {} is being cancelled; the guest stays on the source\n",
               options.guest);
    co_return 0;
}

Task<int> resolve_command(core::Loop& loop, Options options) {
    if (!options.fenced) {
        co_return complain(
            fail(Errc::invalid,
                 "only with --i-have-fenced: if the other host can still run the guest, two "
                 "copies would run")
                .error());
    }
    auto const answer = co_await ask(
        loop, options,
        protocol::Resolve{options.resolve_to == "source" ? protocol::Owner::source
                                                         : protocol::Owner::destination});
    if (!answer) co_return complain(answer.error());
    fmt::print("recorded: the {} owns {}\n", options.resolve_to, options.guest);
    co_return 0;
}

namespace {

void show_status(Json const& status) {
    fmt::print("{:<20} {:<12} pid {:<8}", status["guest"].text_or(""), status["status"].text_or(""),
               status["qemu_pid"].integer_or(0));
    if (status.has("migration")) {
        auto const migration = status["migration"];
        fmt::print("  {} {:.1f} %  to {}", migration["phase"].text_or(""),
                   migration["percent"].number_or(0), migration["destination"].text_or("here"));
    }
    fmt::print("\n");
    if (auto const waiting = status["migration"]["waiting"].text_or(""); !waiting.empty())
        fmt::print("    {}\n", waiting);
    if (status["anchored"].boolean_or(false)) {
        auto const guest = status["guest"].text_or("");
        bool const released = status["local"]["release"]["state"].text_or("") == "released";
        fmt::print("    its anchor {}: `sidecar anchor show {}`\n",
                   released ? "was released" : "is on another host", guest);
    }
    for (auto const& line : local_lines(status["local"])) fmt::print("      {}\n", line);
    show_replication(status);
    for (auto const& interface : status["interfaces"].elements()) {
        std::string addresses;
        for (auto const& address : interface["addresses"].elements()) {
            addresses +=
                " " + (address.is_string() ? address.text_or("") : address["address"].text_or(""));
        }
        fmt::print("    {} {} {}:{}\n", interface["tap"].text_or(""), interface["mac"].text_or(""),
                   interface["routed"].boolean_or(false)
                       ? "routed"
                       : "on " + interface["bridge"].text_or("no bridge"),
                   addresses);
    }
}

/// Adds what `serve` knows of the local addresses of guests whose anchor is on another host.
Task<void> add_local_addresses(core::Loop& loop, Paths paths, std::vector<Json>& all) {
    auto const anchored = [](Json const& one) { return one["anchored"].boolean_or(false); };
    if (std::ranges::none_of(all, anchored)) co_return;
    auto const listed = co_await ask_serve(loop, std::move(paths), protocol::AnchorList{},
                                           Deadline::after(limits::anchor_answer_timeout));
    if (!listed) co_return;  // `serve` is not running: `anchor show` says so
    for (auto& status : all) {
        for (auto const& one : listed->json["anchors"].elements()) {
            bool const its = one["end"].text_or("") == "far" &&
                             one["guest"].text_or("") == status["guest"].text_or("");
            if (its && one.has("local")) status.set("local", one["local"]);
        }
    }
}

}  // namespace

Task<int> status_command(core::Loop& loop, Options options) {
    std::vector<std::string> guests;
    if (!options.guest.empty()) guests.push_back(options.guest);
    std::error_code error;
    if (guests.empty()) {
        for (auto const& entry :
             std::filesystem::directory_iterator(options.paths.run_directory, error)) {
            if (entry.is_directory()) guests.push_back(entry.path().filename().string());
        }
        for (auto const& entry :
             std::filesystem::directory_iterator(options.paths.state_directory, error)) {
            auto const name = entry.path().filename().string();
            bool const known = std::ranges::find(guests, name) != guests.end();
            if (!known && !copy_status(options.paths, name).is_null()) guests.push_back(name);
        }
    }
    std::vector<Json> found;
    for (auto const& guest : guests) {
        auto one = options;
        one.guest = guest;
        auto told = co_await ask(loop, one, protocol::Status{});
        auto answer = told ? Result<Json>(told->json) : std::unexpected(told.error());
        if (!answer) {
            auto copy = copy_status(options.paths, guest);
            if (!copy.is_null()) answer = std::move(copy);
        }
        if (!answer && !options.guest.empty()) co_return complain(answer.error());
        found.push_back(answer ? *answer
                               : Json::object({{"guest", guest},
                                               {"status", "no sidecar"},
                                               {"error", answer.error().sentence()}}));
    }
    co_await add_local_addresses(loop, options.paths, found);
    Json all = Json::array();
    for (auto const& one : found) all.add(one);
    if (options.json) {
        fmt::print("{}\n", options.guest.empty() ? all.dump() : all.elements().front().dump());
        co_return 0;
    }
    if (guests.empty()) fmt::print("no guests on this host\n");
    for (auto const& status : all.elements()) show_status(status);
    co_return 0;
}

}  // namespace sidecar
