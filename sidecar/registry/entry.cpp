#include "sidecar/registry/entry.hpp"

#include <algorithm>

#include "sidecar/host/paths.hpp"
#include "sidecar/registry/limits.hpp"

namespace sidecar::registry {

using core::Errc;
using core::fail;
using core::Json;
using core::Result;

namespace {

constexpr std::string_view state_names[] = {"here", "handed_over"};

/// Absent: empty. It is printed on terminals, so control characters are refused.
Result<std::string> short_text(Json const& json, char const* key) {
    if (!json.has(key)) return std::string();
    TRY(auto text, json.text(key));
    bool const plain = std::ranges::none_of(
        text, [](char one) { return static_cast<unsigned char>(one) < 0x20 || one == 0x7f; });
    if (text.size() > limits::text_bytes_max || !plain) {
        return fail(Errc::protocol, "`{}` is too long, or not plain text", key);
    }
    return text;
}

Result<State> state_from(Json const& json) {
    TRY(auto const word, json.text("state"));
    auto const at = std::ranges::find(state_names, word);
    if (at == std::end(state_names)) return fail(Errc::protocol, "the state is none of ours");
    return static_cast<State>(at - std::begin(state_names));
}

}  // namespace

std::string_view name(State state) { return state_names[static_cast<std::size_t>(state)]; }

std::string text(Host const& host) {
    auto const& name = host.name.empty() ? host.id : host.name;
    if (host.address.empty() || host.address == name) return name.empty() ? "(unknown)" : name;
    return name.empty() ? host.address : name + " (" + host.address + ")";
}

Json to_json(Host const& host) {
    return Json::object({{"id", host.id}, {"name", host.name}, {"address", host.address}});
}

Result<Host> host_from_json(Json const& json) {
    Host host;
    if (!json.is_object()) return fail(Errc::protocol, "a host is missing");
    TRY(host.id, short_text(json, "id"));
    TRY(host.name, short_text(json, "name"));
    TRY(host.address, short_text(json, "address"));
    return host;
}

Json Entry::to_json() const {
    Json list = Json::array();
    for (auto const& address : addresses) list.add(address);
    return Json::object({{"guest", guest},
                         {"host", registry::to_json(host)},
                         {"anchor", anchor ? registry::to_json(*anchor) : Json()},
                         {"token", token},
                         {"migration_id", migration_id},
                         {"state", name(state)},
                         {"addresses", list},
                         {"changed_ms", changed_ms}});
}

Result<Entry> Entry::from_json(Json const& json) {
    Entry made;
    TRY(made.guest, json.text("guest"));
    if (!check_guest_name(made.guest)) return fail(Errc::protocol, "`guest` is no guest's name");
    TRY(made.host, host_from_json(json["host"]));
    if (!json["anchor"].is_null()) {
        TRY(made.anchor, host_from_json(json["anchor"]));
    }
    TRY(auto const token, json.integer("token"));
    if (token < 1 || static_cast<std::uint64_t>(token) > limits::token_max) {
        return fail(Errc::protocol, "the token {} is none of ours", token);
    }
    made.token = static_cast<std::uint64_t>(token);
    TRY(made.migration_id, short_text(json, "migration_id"));
    TRY(made.state, state_from(json));
    auto const addresses = json["addresses"].elements();
    if (addresses.size() > limits::addresses_max) {
        return fail(Errc::protocol, "{} addresses are too many", addresses.size());
    }
    for (auto const& address : addresses) {
        TRY(auto text, short_text(Json::object({{"addresses", address}}), "addresses"));
        made.addresses.push_back(std::move(text));
    }
    TRY(made.changed_ms, json.integer("changed_ms"));
    return made;
}

}  // namespace sidecar::registry
