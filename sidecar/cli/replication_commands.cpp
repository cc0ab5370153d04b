// `sidecar replicate`, and what `sidecar status` shows of replications. It talks to the guest's
// sidecar. At a destination between two rounds there is no sidecar: it then reads the record.
#include <cstdio>
#include <filesystem>

#include "sidecar/cli/commands.hpp"
#include "sidecar/cli/progress.hpp"
#include "sidecar/replication/replica_record.hpp"

namespace sidecar {

using core::Deadline;
using core::Json;
using core::Task;

namespace {

/// "point 3: 0 s old, 24 MiB copied, filesystem-consistent"
std::string point_text(Json const& point) {
    return fmt::format(
        "{}: {} s old, {} copied, {}", point["number"].integer_or(0), point["age_s"].integer_or(0),
        human_bytes(point["copied_bytes"].integer_or(0)), Consistency::from_json(point).text());
}

/// An interrupted `--once` leaves no unfinished replication.
Task<void> stop_when_interrupted(core::Loop& loop, Options options, core::Event& interrupted,
                                 std::stop_token token) {
    if (!co_await interrupted.wait(Deadline::never(token))) co_return;
    auto const answer = co_await ask_sidecar(loop, options, protocol::ReplicateStop{},
                                             Deadline::after(limits::prepare_timeout * 2));
    if (!answer) fmt::print(stderr, "{}\n", answer.error().sentence());
}

void tell_once(Options const& options, protocol::ReplicateAnswer const& answer) {
    auto const& settings = options.replicate;
    fmt::print("{} at {}: point {}\n", options.guest, settings.destination,
               point_text(answer.point));
    if (settings.hand_over) {
        fmt::print("it is handed over, and has ended here: `sidecar failover {}` there starts it\n",
                   options.guest);
    }
}

}  // namespace

Task<int> replicate_command(core::Loop& loop, Options options, core::Event& interrupted) {
    if (options.replicate_stop) {
        auto const answer =
            co_await ask_sidecar(loop, options, protocol::ReplicateStop{options.replicate_forget},
                                 Deadline::after(limits::prepare_timeout * 2));
        if (!answer) co_return complain(answer.error());
        fmt::print("the replication of {} has ended; its copy {}\n", options.guest,
                   options.replicate_forget ? "is removed" : "stays");
        co_return 0;
    }
    auto settings = options.replicate;
    auto const credentials =
        core::TlsCredentials::load(settings.tls, core::TlsCredentials::Side::client);
    if (!credentials) co_return complain(credentials.error());
    auto const address = core::split_host_port(settings.destination, default_port);
    if (!address) co_return complain(address.error());
    std::error_code error;
    if (!settings.tls.path.empty())
        settings.tls.path = std::filesystem::absolute(settings.tls.path, error).string();
    core::TaskGroup scope(loop);
    std::stop_source done;
    scope.spawn(stop_when_interrupted(loop, options, interrupted, done.get_token()));
    auto const answer = co_await ask_sidecar(
        loop, options, protocol::Replicate{settings},
        settings.once ? Deadline::never() : Deadline::after(limits::fold_timeout));
    done.request_stop();
    co_await scope.join();
    if (!answer) co_return complain(answer.error());
    if (settings.once) {
        tell_once(options, *answer);
    } else {
        fmt::print(
            "{} is being replicated to {} every {} s; `sidecar status {}` shows its points\n",
            options.guest, settings.destination, settings.every_s, options.guest);
        fmt::print("its points are {}\n", answer->points_are);
    }
    co_return 0;
}

Json copy_status(Paths const& paths, std::string const& guest) {
    if (!check_guest_name(guest)) return {};
    auto const record = ReplicaRecord::read(paths, guest);
    if (!record || !*record) return {};
    return Json::object({{"guest", guest}, {"status", "copy"}, {"copy", (*record)->status()}});
}

void show_replication(Json const& status) {
    auto const replication = status["replicate"];
    if (replication.is_object()) {
        fmt::print("    replication to {} every {} s: {}\n", replication["destination"].text_or(""),
                   replication["every_s"].integer_or(0), replication["doing"].text_or(""));
        if (replication.has("last_point"))
            fmt::print("    last point {}\n", point_text(replication["last_point"]));
        if (replication["may_be_frozen"].boolean_or(false)) {
            fmt::print(
                "    the guest's file systems may still be frozen: its agent has not "
                "answered the thaw\n");
        }
        if (replication.has("last_error")) {
            fmt::print("    {} rounds failed, the last: {}\n",
                       replication["failed_rounds"].integer_or(0),
                       replication["last_error"].text_or(""));
        }
    }
    auto const copy = status["copy"];
    if (!copy.is_object()) return;
    if (copy.has("failed_over_at")) fmt::print("    was failed over to this host\n");
    if (copy.has("handed_over")) fmt::print("    was handed over to this host by its source\n");
    auto const points = copy["points"].elements();
    if (points.empty()) fmt::print("    copy: no point is complete yet\n");
    for (auto const& point : points) fmt::print("    copy: point {}\n", point_text(point));
    if (copy["round_under_way"].boolean_or(false)) fmt::print("    a round is under way\n");
}

}  // namespace sidecar
