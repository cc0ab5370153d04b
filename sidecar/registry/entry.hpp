// Entry: what a registry records of one guest, and of one host; and their JSON form, which files,
// etcd and sidecars of other hosts share. from_json() accepts any JSON and checks every member.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "core/json.hpp"

namespace sidecar::registry {

struct Host {
    std::string id;  ///< HostIdentity::id; empty: a host whose release has none.
    std::string name = {};  ///< For people.
    std::string address =
        {};  ///< HOST[:PORT] of its `serve`, as the source of a move was given it.
    friend bool operator==(Host const&, Host const&) = default;
};

enum class State : std::uint8_t {
    here,  ///< The guest was started, or has arrived, on `host`.
    handed_over,  ///< The guest is off and was given to `host`, which has not started it yet.
};

struct Entry {
    std::string guest;
    Host host;  ///< The owner: only this host may run the guest.
    /// The host that keeps the guest's addresses reachable when `host` is in another network.
    std::optional<Host> anchor = {};
    /// The fencing token, from 1: increases with every change of the owner. Of two claims the one
    /// with the higher token is the later.
    std::uint64_t token = 0;
    std::string migration_id = {};  ///< Of the move to `host`; empty: it was started there.
    State state = State::here;
    std::vector<std::string> addresses = {};  ///< Of the guest, IPv4 and IPv6.
    std::int64_t changed_ms = 0;  ///< Since 1970, by the clock of the host that wrote it.

    /// Whether `host` is the owner.
    [[nodiscard]] bool belongs_to(std::string const& host_id) const {
        return !host_id.empty() && host.id == host_id;
    }
    [[nodiscard]] core::Json to_json() const;
    /// Fails with protocol.
    static core::Result<Entry> from_json(core::Json const& json);
    friend bool operator==(Entry const&, Entry const&) = default;
};

/// A host that shows signs of life, or did.
struct HostLease {
    Host host;
    bool alive = false;
};

core::Json to_json(Host const& host);
/// Fails with protocol.
core::Result<Host> host_from_json(core::Json const& json);

std::string_view name(State state);
/// "hostb (10.0.0.2:4790)": for messages.
std::string text(Host const& host);

}  // namespace sidecar::registry
