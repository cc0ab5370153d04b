// `sidecar network`: makes, shows, checks and removes networks of one protocol
// (netmove/network.hpp) and keeps their definitions in the state directory, one file each. It
// contacts no sidecar.
#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <filesystem>

#include "core/fd.hpp"
#include "sidecar/cli/commands.hpp"
#include "sidecar/host/limits.hpp"

namespace sidecar {

using core::Errc;
using core::fail;
using core::Json;
using core::Result;
using netmove::Netlink;
using netmove::NetworkDefinition;
using netmove::NetworkRecord;

namespace {

/// The records of this host, and the lock under which networks are changed.
class Store {
public:
    explicit Store(Paths const& paths) : directory_(paths.networks()) {}

    /// Held until the process ends: two commands at the same time would undo each other's work.
    Result<> lock() {
        TRY_VOID(make_directory(directory_));
        auto const path = directory_ + "/.lock";
        lock_.reset(open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
        if (!lock_ || flock(lock_.get(), LOCK_EX | LOCK_NB) < 0) {
            if (errno == EWOULDBLOCK) {
                return fail(Errc::refused, "another `sidecar network` is running: try again");
            }
            return core::fail_errno(errno, "cannot lock {}", path);
        }
        return {};
    }

    [[nodiscard]] Result<std::vector<NetworkRecord>> all() const {
        std::vector<NetworkRecord> records;
        std::error_code error;
        std::filesystem::directory_iterator const entries(directory_, error);
        if (error == std::errc::no_such_file_or_directory) return records;
        if (error) return core::fail_errno(error.value(), "cannot list {}", directory_);
        for (auto const& entry : entries) {
            if (entry.path().extension() != ".json") continue;
            TRY(auto record, read(entry.path().string()));
            records.push_back(std::move(record));
        }
        std::ranges::sort(records, {}, [](auto const& one) { return one.definition.name; });
        return records;
    }
    Result<> write(NetworkRecord const& record) const {
        return write_durably(path_of(record.definition.name), record.to_json().dump_pretty());
    }
    Result<> forget(std::string const& network) const {
        auto const path = path_of(network);
        if (unlink(path.c_str()) == 0 || errno == ENOENT) return {};
        return core::fail_errno(errno, "cannot remove {}", path);
    }

private:
    [[nodiscard]] std::string path_of(std::string const& network) const {
        return directory_ + "/" + network + ".json";
    }
    static Result<NetworkRecord> read(std::string const& path) {
        auto const in_file = [&path](auto result) {
            if (!result) (void)result.error().while_doing("reading " + path);
            return result;
        };
        TRY(auto const text, read_file(path, limits::manifest_bytes_max));
        TRY(auto const json, in_file(Json::parse(text)));
        return in_file(NetworkRecord::from_json(json));
    }

    std::string directory_;
    core::Fd lock_;
};

std::vector<NetworkRecord>::const_iterator named(std::vector<NetworkRecord> const& records,
                                                 std::string const& network) {
    return std::ranges::find(records, network,
                             [](auto const& one) -> auto& { return one.definition.name; });
}

std::unexpected<core::Error> unknown(std::string const& network) {
    return fail(Errc::refused,
                "there is no network {} on this host: `sidecar network list` shows them", network);
}

std::string role(NetworkDefinition const& definition) {
    return fmt::format("{} {}", definition.native ? "native" : "parallel",
                       name(definition.protocol));
}

std::string wire(NetworkDefinition const& definition) {
    if (definition.uplink.empty()) return "none";
    return definition.uplink + (definition.shared_uplink ? " (shared)" : "");
}

// ---- create -------------------------------------------------------------------------------------

Result<> check_same(NetworkDefinition const& before, NetworkDefinition const& now) {
    if (before == now) return {};
    return fail(Errc::refused,
                "there is another network {} already: {}, uplink {}. Remove it "
                "first (`sidecar network delete {}`), or give the new one another name",
                before.name, role(before), wire(before), before.name);
}

/// The record to use: that of an earlier `create`, or a new one. It is durable before
/// anything is created.
Result<NetworkRecord> recorded(Store& store, Netlink& netlink, NetworkOptions const& options) {
    TRY(auto const records, store.all());
    auto const at = named(records, options.name);
    if (at == records.end() && !options.definition) {
        return fail(Errc::refused,
                    "no network {} was defined before: define it (--ipv4 or --ipv6, --native or "
                    "--parallel)",
                    options.name);
    }
    if (at != records.end() && options.definition) {
        TRY_VOID(check_same(at->definition, *options.definition));
    }
    if (at != records.end()) {
        TRY_VOID(netmove::check_possible(netlink, *at, records));
        return *at;
    }
    TRY(auto record, netmove::record_for(netlink, *options.definition, records));
    TRY_VOID(netmove::check_possible(netlink, record, records));
    TRY_VOID(store.write(record));
    return record;
}

Result<> make(Store& store, Netlink& netlink, NetworkRecord& record) {
    TRY_VOID(netmove::make_network(netlink, record));
    return store.write(record);
}

Result<int> create(NetworkOptions const& options, Paths const& paths) {
    Store store(paths);
    TRY_VOID(store.lock());
    TRY(auto netlink, Netlink::open());
    TRY(auto record, recorded(store, netlink, options));
    auto const& definition = record.definition;
    if (!record.rules.empty()) {
        TRY(auto const differences, netmove::check_network(netlink, record));
        if (differences.empty()) {
            fmt::print("{} exists already, unchanged\n", definition.name);
            return 0;
        }
    }
    if (auto const made = make(store, netlink, record); !made) {
        complain(made.error());
        fmt::print(stderr,
                   "`sidecar network create {}` completes it, `delete` removes what was made\n",
                   definition.name);
        return machine::exit_failed;
    }
    fmt::print("{}: {}, bridge {}, uplink {}\n", definition.name, role(definition), definition.name,
               wire(definition));
    return 0;
}

// ---- list, show, check --------------------------------------------------------------------------

Json described(NetworkRecord const& record, netmove::NetworkState const& state) {
    Json ports = Json::array();
    for (auto const& port : state.ports) ports.add(port);
    Json outside = Json::array();
    for (auto const& port : state.not_admitted) outside.add(port);
    return record.definition.to_json()
        .set("present", state.present)
        .set("up", state.up)
        .set("ports", ports)
        .set("not_admitted", outside)
        .set("dropped_frames", state.dropped_frames);
}

Result<int> list(NetworkOptions const& options, Paths const& paths) {
    TRY(auto const records, Store(paths).all());
    TRY(auto netlink, Netlink::open());
    Json all = Json::array();
    for (auto const& record : records) {
        TRY(auto const state, netmove::look_at_network(netlink, record));
        all.add(described(record, state));
        if (options.json) continue;
        fmt::print("{:<14}{:<15}uplink {:<16}{}\n", record.definition.name, role(record.definition),
                   wire(record.definition),
                   !state.present ? "not there"
                   : !state.up    ? "down"
                                  : fmt::format("up, {} ports", state.ports.size()));
    }
    if (options.json) fmt::print("{}\n", all.dump());
    return 0;
}

void print_list(char const* what, std::vector<std::string> const& names) {
    if (names.empty()) return;
    fmt::print("    {}:", what);
    for (auto const& one : names) fmt::print(" {}", one);
    fmt::print("\n");
}

Result<int> show(NetworkOptions const& options, Paths const& paths) {
    TRY(auto const records, Store(paths).all());
    auto const at = named(records, options.name);
    if (at == records.end()) return unknown(options.name);
    TRY(auto netlink, Netlink::open());
    TRY(auto const state, netmove::look_at_network(netlink, *at));
    if (options.json) {
        fmt::print("{}\n", described(*at, state).dump());
        return 0;
    }
    auto const& definition = at->definition;
    fmt::print("{}: {}, uplink {}, {}\n", definition.name, role(definition), wire(definition),
               !state.present ? "not there"
               : state.up     ? "up"
                              : "down");
    std::vector<std::string> addresses;
    for (auto const& entry : definition.addresses) addresses.push_back(entry.text());
    std::vector<std::string> types;
    for (auto const type : definition.allowed) types.push_back(fmt::format("{:#06x}", type));
    print_list("the host's addresses", addresses);
    print_list("EtherTypes passed besides the protocol", types);
    print_list("guests' ports", state.ports);
    print_list("in the bridge, but not in the network", state.not_admitted);
    fmt::print("    {} frames of other kinds dropped\n", state.dropped_frames);
    return 0;
}

Result<int> check(NetworkOptions const& options, Paths const& paths) {
    TRY(auto const records, Store(paths).all());
    if (!options.name.empty() && named(records, options.name) == records.end()) {
        return unknown(options.name);
    }
    TRY(auto netlink, Netlink::open());
    bool good = true;
    Json all = Json::array();
    for (auto const& record : records) {
        auto const& network = record.definition.name;
        if (!options.name.empty() && network != options.name) continue;
        TRY(auto const differences, netmove::check_network(netlink, record));
        good = good && differences.empty();
        Json told = Json::array();
        for (auto const& [what, advice] : differences) {
            told.add(Json::object({{"what", what}, {"advice", advice}}));
            if (!options.json) fmt::print("[FAIL] {}: {} ({})\n", network, what, advice);
        }
        if (!options.json && differences.empty()) {
            fmt::print("[ OK ] {}: as defined\n", network);
        }
        all.add(
            Json::object({{"name", network}, {"ok", differences.empty()}, {"differences", told}}));
    }
    if (options.json) fmt::print("{}\n", all.dump());
    return good ? 0 : static_cast<int>(machine::exit_failed);
}

// ---- delete -------------------------------------------------------------------------------------

Result<int> remove(NetworkOptions const& options, Paths const& paths) {
    Store store(paths);
    TRY_VOID(store.lock());
    TRY(auto const records, store.all());
    auto const at = named(records, options.name);
    if (at == records.end()) return unknown(options.name);
    TRY(auto netlink, Netlink::open());
    TRY_VOID(netmove::delete_network(netlink, *at, options.force));
    TRY_VOID(store.forget(options.name));
    fmt::print("{} is removed\n", options.name);
    return 0;
}

Result<int> run(NetworkOptions const& options, Paths const& paths) {
    using Action = NetworkOptions::Action;
    switch (options.action) {
        case Action::create:
            return create(options, paths);
        case Action::list:
            return list(options, paths);
        case Action::show:
            return show(options, paths);
        case Action::check:
            return check(options, paths);
        case Action::remove:
            return remove(options, paths);
    }
    return list(options, paths);
}

}  // namespace

int network_command(Options const& options) {
    auto const status = run(options.network, options.paths);
    return status ? *status : complain(status.error());
}

}  // namespace sidecar
