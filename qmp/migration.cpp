#include "qmp/migration.hpp"

#include <algorithm>

#include "qmp/command.hpp"
#include "qmp/limits.hpp"
#include "qmp/vm.hpp"

namespace qmp {

namespace {

bool is_over(std::string_view status) {
    return status.empty() || status == "none" || status == "cancelled" || status == "failed" ||
           status == "completed";
}

/// For commands to a migration that goes on meanwhile: refused is no failure; the next
/// query-migrate shows the state.
Result<> unless_refused(Result<> done) {
    if (!done && done.error().code == Errc::qemu_refused) return {};
    return done;
}

Task<Result<>> tear_down(Client& client, Deadline deadline) {
    auto const migration = Json::object({{"type", "migration"}});
    co_return unless_refused(co_await yank(client, {migration}, std::move(deadline)));
}

/// A migrate-continue for this state wakes what waits in it.
Task<Result<>> wake_cancelling(Client& client, Deadline deadline) {
    co_return unless_refused(co_await migrate_continue(client, "cancelling", std::move(deadline)));
}

}  // namespace

Task<Result<MigrationInfo>> query_migrate(Client& client, Deadline deadline) {
    CO_TRY(auto const reply, co_await client.execute("query-migrate", {}, deadline));
    MigrationInfo info;
    info.status = reply["status"].text_or("");
    info.error = reply["error-desc"].text_or("");
    for (auto const& reason : reply["blocked-reasons"].elements()) {
        info.blocked_reasons.push_back(reason.text_or(""));
    }
    auto const ram = reply["ram"];
    info.ram_total_bytes = count_of(ram["total"]);
    info.ram_transferred_bytes = count_of(ram["transferred"]);
    info.ram_remaining_bytes = count_of(ram["remaining"]);
    info.ram_dirty_sync_count = count_of(ram["dirty-sync-count"]);
    info.ram_dirty_pages_per_second = count_of(ram["dirty-pages-rate"]);
    info.ram_page_bytes = count_of(ram["page-size"]);
    info.ram_mbit_per_second = ram["mbps"].number_or(0);
    info.cpu_throttle_percent =
        static_cast<int>(std::min<std::uint64_t>(100, count_of(reply["cpu-throttle-percentage"])));
    info.total_ms = count_of(reply["total-time"]);
    info.setup_ms = count_of(reply["setup-time"]);
    info.downtime_ms = count_of(reply["downtime"]);
    info.expected_downtime_ms = count_of(reply["expected-downtime"]);
    co_return info;
}

Task<Result<>> migrate_set_capabilities(Client& client, std::vector<Capability> capabilities,
                                        Deadline deadline) {
    auto list = Json::array();
    for (auto const& [name, on] : capabilities) {
        list.add(Json::object({{"capability", name}, {"state", on}}));
    }
    return run(client, "migrate-set-capabilities", Json::object({{"capabilities", list}}),
               std::move(deadline));
}

Task<Result<std::vector<Capability>>> query_migrate_capabilities(Client& client,
                                                                 Deadline deadline) {
    CO_TRY(auto const reply, co_await client.execute("query-migrate-capabilities", {}, deadline));
    std::vector<Capability> capabilities;
    for (auto const& entry : reply.elements()) {
        CO_TRY(auto name, entry.text("capability"));
        CO_TRY(bool const on, entry.boolean("state"));
        capabilities.emplace_back(std::move(name), on);
    }
    co_return capabilities;
}

Task<Result<>> migrate_set_parameters(Client& client, Json parameters, Deadline deadline) {
    return run(client, "migrate-set-parameters", std::move(parameters), std::move(deadline));
}
Task<Result<Json>> query_migrate_parameters(Client& client, Deadline deadline) {
    return client.execute("query-migrate-parameters", {}, std::move(deadline));
}

Task<Result<>> migrate(Client& client, std::string uri, Deadline deadline) {
    return run(client, "migrate", Json::object({{"uri", uri}}), std::move(deadline));
}
Task<Result<>> migrate_incoming(Client& client, std::string uri, Deadline deadline) {
    return run(client, "migrate-incoming", Json::object({{"uri", uri}}), std::move(deadline));
}
Task<Result<>> migrate_continue(Client& client, std::string state, Deadline deadline) {
    return run(client, "migrate-continue", Json::object({{"state", state}}), std::move(deadline));
}
Task<Result<>> migrate_cancel(Client& client, Deadline deadline) {
    return run(client, "migrate_cancel", {}, std::move(deadline));
}

Task<Result<std::string>> cancel_migration(Client& client, Deadline deadline) {
    auto events = client.subscribe({"MIGRATION", "RESUME"});
    bool torn_down = false;
    bool asked = false;
    while (true) {
        CO_TRY(auto const info, co_await query_migrate(client, deadline));
        if (is_over(info.status)) {
            // Told before the guest goes on, or is parked.
            CO_TRY(auto const machine, co_await query_status(client, deadline));
            if (machine.status != "finish-migrate") {
                co_return info.status.empty() ? "none" : info.status;
            }
        } else if (asked) {
            if (info.status == "cancelling") {
                CO_TRY_VOID(co_await wake_cancelling(client, deadline));
            }
        } else if (info.status == "device" && !torn_down) {
            CO_TRY_VOID(co_await tear_down(client, deadline));
            torn_down = true;
        } else if (info.status != "setup") {
            CO_TRY_VOID(co_await migrate_cancel(client, deadline));
            asked = true;
        }
        // Events bring us on; the pause is for the one that does not come.
        auto event = co_await events.next(deadline.sooner(cancel_patience));
        while (event && (asked || torn_down) && !is_over(event->data["status"].text_or(""))) {
            event = co_await events.next(deadline.sooner(cancel_patience));
        }
        if (!event && (event.error().code != Errc::timed_out || deadline.passed())) {
            co_return std::unexpected(
                std::move(event.error()).while_doing("waiting for the migration to be cancelled"));
        }
    }
}

Task<Result<Json>> incoming_address(Client& client, Deadline deadline) {
    CO_TRY(auto const reply, co_await client.execute("query-migrate", {}, deadline));
    auto const addresses = reply["socket-address"].elements();
    co_return addresses.empty() ? Json() : addresses.front();
}

Task<Result<>> yank(Client& client, std::vector<Json> instances, Deadline deadline) {
    auto list = Json::array();
    for (auto& instance : instances) list.add(std::move(instance));
    return run(client, "yank", Json::object({{"instances", list}}), std::move(deadline));
}

}  // namespace qmp
