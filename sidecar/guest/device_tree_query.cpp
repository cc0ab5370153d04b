// What QEMU is asked for a DeviceTree: seven queries, of which only HMP's info qtree takes QEMU
// more than a part of a millisecond.
#include <fmt/ranges.h>

#include <algorithm>
#include <array>

#include "core/log.hpp"
#include "qmp/launch_policy.hpp"
#include "qmp/vm.hpp"
#include "sidecar/guest/device_tree.hpp"

namespace sidecar {

using core::Deadline;
using core::Errc;
using core::fail;
using core::Json;
using core::Result;
using core::Task;

namespace {

using Kind = MachinePart::Kind;

/// Null if QEMU refuses it: not each machine has processors that can be plugged in.
Task<Result<Json>> answer_to(qmp::Client& client, std::string command, Deadline deadline) {
    auto answer = co_await client.execute(std::move(command), {}, std::move(deadline));
    if (!answer && answer.error().code == Errc::qemu_refused) co_return Json();
    co_return answer;
}

/// "socket 0 core 2"; what is 0 is left out, because versions differ in whether they name it.
std::string processor_place(Json const& properties) {
    std::string place;
    for (auto const& [key, value] : properties.members()) {
        if (key == "node-id" || value.integer_or(0) == 0) continue;
        place += fmt::format("{}{} {}", place.empty() ? "" : " ", key, value.integer_or(0));
    }
    return place.empty() ? "0" : place;
}

Task<Result<>> add_processors(qmp::Client& client, std::vector<MachinePart>& parts,
                              Deadline deadline) {
    CO_TRY(auto const listed,
           co_await answer_to(client, "query-hotpluggable-cpus", std::move(deadline)));
    for (auto const& slot : listed.elements()) {
        auto const place = processor_place(slot["props"]);
        parts.push_back(
            {Kind::processor,
             place,
             place,
             {{"model", slot["type"].text_or("")},
              {"state", slot["qom-path"].is_null() ? "not plugged in" : "plugged in"}}});
    }
    co_return Result<>{};
}

/// One that is plugged in has the same size in QEMU's command line.
Task<Result<>> add_memory(qmp::Client& client, std::vector<MachinePart>& parts, Deadline deadline) {
    auto const bytes = [](Json const& value) { return std::to_string(value.integer_or(0)); };
    CO_TRY(auto const summary, co_await answer_to(client, "query-memory-size-summary", deadline));
    if (summary.has("base-memory"))
        parts.push_back({Kind::ram, "", "", {{"bytes", bytes(summary["base-memory"])}}});
    CO_TRY(auto const backends, co_await answer_to(client, "query-memdev", deadline));
    for (auto const& one : backends.elements()) {
        auto const id = one["id"].text_or("");
        if (!id.empty())
            parts.push_back({Kind::memory_backend, id, id, {{"bytes", bytes(one["size"])}}});
    }
    CO_TRY(auto const modules, co_await answer_to(client, "query-memory-devices", deadline));
    for (auto const& one : modules.elements()) {
        auto const kind = one["type"].text_or("");
        auto const data = one["data"];
        if (kind != "dimm" && kind != "nvdimm")
            continue;  // others are of the size that they grow to
        auto const slot = std::to_string(data["slot"].integer_or(-1));
        parts.push_back({Kind::memory_module,
                         slot,
                         fmt::format("{} (slot {})", data["id"].text_or(kind), slot),
                         {{"kind", kind},
                          {"bytes", bytes(data["size"])},
                          {"address", bytes(data["addr"])},
                          {"node", bytes(data["node"])}}});
    }
    co_return Result<>{};
}

/// Its bus has no part of the tree above it.
bool is_in_chipset(qmp::BusDevice const& device) {
    constexpr auto buses =
        std::to_array<std::string_view>({"ISA", "System", "i2c-bus", "virtio-mmio-bus"});
    return std::ranges::find(buses, device.bus_kind) != buses.end();
}

/// What -device and device_add have made on no bus, or inside the chipset: generators of ids,
/// memory, processors, serial ports. QEMU counts those without an id, so only how many there are of
/// a kind is compared.
Task<Result<>> add_off_bus_devices(qmp::Client& client, std::vector<qmp::BusDevice> on_buses,
                                   std::vector<MachinePart>& parts, Deadline deadline) {
    constexpr std::string_view child = "child<";
    std::map<std::string, unsigned> unnamed;
    for (bool const named : {true, false}) {
        std::string const path = named ? "/machine/peripheral" : "/machine/peripheral-anon";
        CO_TRY(auto const children, co_await qmp::qom_list(client, path, deadline));
        for (auto const& one : children) {
            if (!one.type.starts_with(child)) continue;
            auto const kind = one.type.substr(child.size(), one.type.size() - child.size() - 1);
            bool const on_bus = std::ranges::any_of(on_buses, [&](qmp::BusDevice const& device) {
                bool const chipset = is_in_chipset(device);
                return !chipset && (named ? device.id == one.name : device.kind == kind);
            });
            if (on_bus) continue;
            if (!named) ++unnamed[kind];
            if (named)
                parts.push_back({Kind::off_bus_device,
                                 one.name,
                                 fmt::format("{} ({})", one.name, kind),
                                 {{"kind", kind}}});
        }
    }
    for (auto const& [kind, count] : unnamed) {
        parts.push_back({Kind::off_bus_device,
                         "/" + kind,
                         kind + " without an id",
                         {{"a count of", std::to_string(count)}}});
    }
    co_return Result<>{};
}

}  // namespace

Task<Result<DeviceTree>> device_tree_of(qmp::Client& client, Deadline deadline) {
    DeviceTree tree;
    tree.qemu_version = client.version();
    CO_TRY(auto const type, co_await qmp::machine_type(client, deadline));
    tree.parts.push_back({Kind::machine, "", "", {{"type", type}}});
    CO_TRY_VOID(co_await add_memory(client, tree.parts, deadline));
    CO_TRY_VOID(co_await add_processors(client, tree.parts, deadline));
    auto devices = co_await qmp::info_qtree(client, deadline);
    if (!devices && devices.error().code != Errc::qemu_refused)
        co_return std::unexpected(std::move(devices.error()));
    if (devices && !devices->empty()) {
        auto parts = detail::parts_of_buses(*devices);
        tree.parts.insert(tree.parts.end(), parts.begin(), parts.end());
        CO_TRY_VOID(
            co_await add_off_bus_devices(client, std::move(*devices), tree.parts, deadline));
    }
    co_return tree;
}

Task<Result<>> check_device_tree(qmp::Client& client, std::string program,
                                 std::optional<DeviceTree> const& source, Deadline deadline) {
    if (!source) co_return Result<>{};
    CO_TRY(auto const here, co_await device_tree_of(client, std::move(deadline)));
    auto differences = tree_differences(*source, here);
    if (differences.empty()) co_return Result<>{};
    auto const count = differences.size();
    differences.resize(std::min(count, qmp::refusals_told));
    if (count > qmp::refusals_told)
        differences.push_back(fmt::format("and {} more", count - qmp::refusals_told));
    co_return fail(Errc::refused,
                   "QEMU on the destination ({}, {}) makes another machine of the guest's command "
                   "line than the guest has: {}; let both hosts have the same QEMU, or name "
                   "another there with `serve --qemu PROGRAM`",
                   program, client.version(), fmt::join(differences, "; "));
}

}  // namespace sidecar
