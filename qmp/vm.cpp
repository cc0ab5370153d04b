#include "qmp/vm.hpp"

#include <cstdio>

#include "qmp/command.hpp"
#include "qmp/devices.hpp"

namespace qmp {

Task<Result<Status>> query_status(Client& client, Deadline deadline) {
    CO_TRY(auto const reply, co_await client.execute("query-status", {}, deadline));
    CO_TRY(auto const running, reply.boolean("running"));
    CO_TRY(auto status, reply.text("status"));
    co_return Status{running, std::move(status)};
}

Task<Result<>> cont(Client& client, Deadline deadline) {
    return run(client, "cont", {}, std::move(deadline));
}
Task<Result<>> stop(Client& client, Deadline deadline) {
    return run(client, "stop", {}, std::move(deadline));
}
Task<Result<>> quit(Client& client, Deadline deadline) {
    return run(client, "quit", {}, std::move(deadline));
}

Task<Result<std::string>> query_version(Client& client, Deadline deadline) {
    CO_TRY(auto const reply, co_await client.execute("query-version", {}, deadline));
    auto const number = reply["qemu"];
    auto const package = reply["package"].text_or("");
    co_return fmt::format("{}.{}.{}{}", number["major"].integer_or(0),
                          number["minor"].integer_or(0), number["micro"].integer_or(0),
                          package.empty() ? "" : fmt::format(" ({})", package));
}

Task<Result<std::string>> query_name(Client& client, Deadline deadline) {
    CO_TRY(auto const reply, co_await client.execute("query-name", {}, deadline));
    co_return reply["name"].text_or("");
}

Task<Result<std::string>> query_uuid(Client& client, Deadline deadline) {
    CO_TRY(auto const reply, co_await client.execute("query-uuid", {}, deadline));
    co_return reply.text("UUID");
}

Task<Result<std::vector<MachineType>>> query_machines(Client& client, Deadline deadline) {
    CO_TRY(auto const reply, co_await client.execute("query-machines", {}, deadline));
    std::vector<MachineType> machines;
    for (auto const& machine : reply.elements()) {
        CO_TRY(auto name, machine.text("name"));
        machines.push_back(
            {std::move(name), machine["alias"].text_or(""), machine["is-default"].boolean_or(false),
             machine["deprecated"].boolean_or(false), machine["cpu-max"].integer_or(0)});
    }
    co_return machines;
}

Task<Result<std::string>> machine_type(Client& client, Deadline deadline) {
    CO_TRY(auto const reply, co_await qom_get(client, "/machine", "type", deadline));
    auto type = reply.text_or("");
    constexpr std::string_view suffix = "-machine";
    if (!type.ends_with(suffix)) {
        co_return core::fail(Errc::protocol, "QEMU calls its machine type `{}`", quoted(type));
    }
    type.resize(type.size() - suffix.size());
    co_return type;
}

Task<Result<std::vector<Cpu>>> query_cpus_fast(Client& client, Deadline deadline) {
    CO_TRY(auto const reply, co_await client.execute("query-cpus-fast", {}, deadline));
    std::vector<Cpu> cpus;
    for (auto const& cpu : reply.elements()) {
        CO_TRY(auto const index, cpu.integer("cpu-index"));
        cpus.push_back({index, cpu["thread-id"].integer_or(0), cpu["qom-path"].text_or("")});
    }
    co_return cpus;
}

Task<Result<Json>> qom_get(Client& client, std::string path, std::string property,
                           Deadline deadline) {
    return client.execute("qom-get", Json::object({{"path", path}, {"property", property}}),
                          std::move(deadline));
}

Task<Result<>> qom_set(Client& client, std::string path, std::string property, Json value,
                       Deadline deadline) {
    return run(client, "qom-set",
               Json::object({{"path", path}, {"property", property}, {"value", std::move(value)}}),
               std::move(deadline));
}

Task<Result<std::vector<QomProperty>>> qom_list(Client& client, std::string path,
                                                Deadline deadline) {
    CO_TRY(auto const reply,
           co_await client.execute("qom-list", Json::object({{"path", path}}), deadline));
    std::vector<QomProperty> properties;
    for (auto const& property : reply.elements()) {
        properties.push_back({property["name"].text_or(""), property["type"].text_or("")});
    }
    co_return properties;
}

Task<Result<>> object_add(Client& client, Json properties, Deadline deadline) {
    return run(client, "object-add", std::move(properties), std::move(deadline));
}
Task<Result<>> object_del(Client& client, std::string id, Deadline deadline) {
    return run(client, "object-del", Json::object({{"id", id}}), std::move(deadline));
}

Task<Result<std::vector<std::string>>> query_virtio(Client& client, std::string kind,
                                                    Deadline deadline) {
    CO_TRY(auto const reply, co_await client.execute("x-query-virtio", {}, deadline));
    std::vector<std::string> paths;
    for (auto const& device : reply.elements()) {
        if (device["name"].text_or("") == kind) paths.push_back(device["path"].text_or(""));
    }
    co_return paths;
}

namespace {

/// One number of the guest's physical address space. `line`: HMP's xp.
Task<Result<unsigned>> read_physical(Client& client, std::string line, Deadline deadline) {
    CO_TRY(auto const text, co_await human_monitor_command(client, line, deadline));
    unsigned number = 0;
    if (std::sscanf(text.c_str(), "%*[0-9a-f]: 0x%x", &number) != 1) {
        co_return core::fail(Errc::protocol, "QEMU answered `{}` to {}", quoted(text), line);
    }
    co_return number;
}

}  // namespace

Task<Result<bool>> virtio_queue_waits(Client& client, std::string path, unsigned queue,
                                      Deadline deadline) {
    auto const which = Json::object({{"path", path}, {"queue", queue}});
    CO_TRY(auto const status,
           co_await client.execute("x-query-virtio-queue-status", which, deadline));
    CO_TRY(auto const looked_up_to, status.integer("shadow-avail-idx"));
    CO_TRY(auto const length, status.integer("vring-num"));
    CO_TRY(auto const used_at, status.integer("vring-used"));
    // struct virtq_used: flags and idx, an element of 8 bytes for each buffer, avail_event.
    CO_TRY(auto const avail_event,
           co_await read_physical(client, fmt::format("xp /1xh {:#x}", used_at + 4 + 8 * length),
                                  deadline));
    co_return used_at != 0 && avail_event == static_cast<unsigned>(looked_up_to);
}

Task<Result<std::optional<TpmVersion>>> tpm_version(Client& client, Deadline deadline) {
    CO_TRY(auto const reply, co_await client.execute("query-tpm", {}, deadline));
    auto const tpms = reply.elements();
    if (tpms.empty()) co_return std::nullopt;
    // A TPM 1.2 has no CRB interface.
    if (tpms.front()["model"].text_or("") != "tpm-tis") co_return TpmVersion::tpm_2_0;
    // TPM_INTF_CAPABILITY_0 of the TCG's PC Client TPM Interface Specification.
    CO_TRY(auto const capability, co_await read_physical(client, "xp /1xw 0xfed40014", deadline));
    auto const interface = capability >> 28 & 7;
    if (interface == 2) co_return TpmVersion::tpm_1_2;
    if (interface == 3) co_return TpmVersion::tpm_2_0;
    co_return core::fail(Errc::refused,
                         "the guest's TPM does not work: it says that it is of no version ({:#x})",
                         capability);
}

Task<Result<>> getfd(Client& client, std::string name, int fd, Deadline deadline) {
    auto arguments = Json::object({{"fdname", name}});
    CO_TRY_VOID(co_await client.execute_with_fd("getfd", std::move(arguments), fd, deadline));
    co_return Result<>{};
}
Task<Result<>> closefd(Client& client, std::string name, Deadline deadline) {
    return run(client, "closefd", Json::object({{"fdname", name}}), std::move(deadline));
}

Task<Result<std::vector<Job>>> query_jobs(Client& client, Deadline deadline) {
    CO_TRY(auto const reply, co_await client.execute("query-jobs", {}, deadline));
    std::vector<Job> jobs;
    for (auto const& job : reply.elements()) {
        jobs.push_back({job["id"].text_or(""), job["type"].text_or(""), job["status"].text_or("")});
    }
    co_return jobs;
}

}  // namespace qmp
