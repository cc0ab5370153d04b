#include "qmp/bound_address.hpp"

#include <arpa/inet.h>

#include <algorithm>
#include <array>
#include <charconv>

namespace qmp {

namespace {

constexpr int vnc_port_first = 5900;
constexpr int websocket_port_first = 5700;

/// A host in the value of an option: what stands before it, it, and what follows.
struct HostPart {
    std::string_view before;
    std::string_view host;  ///< With its brackets.
    std::string_view after;
};

std::string_view without_brackets(std::string_view host) {
    bool const bracketed = host.size() >= 2 && host.starts_with('[') && host.ends_with(']');
    return bracketed ? host.substr(1, host.size() - 2) : host;
}

/// "HOST:REST", split at the last colon.
std::optional<HostPart> before_last_colon(std::string_view before, std::string_view text,
                                          std::string_view after) {
    auto const colon = text.rfind(':');
    if (colon == std::string_view::npos) return std::nullopt;
    // One piece of memory: what follows the host is the rest of the value.
    return HostPart{
        before, text.substr(0, colon), {text.data() + colon, text.size() - colon + after.size()}};
}

bool is_forward(std::string_view key) {
    return key == "hostfwd" || (key.starts_with("hostfwd.") && key.ends_with(".str"));
}

bool is_network(std::string_view kind) {
    return kind == "netdev" || kind == "nic" || kind == "net";
}

/// None: the value has no host.
std::optional<HostPart> host_part(std::string_view kind, std::string_view key,
                                  std::string_view value) {
    if (kind == "spice" && key == "addr") return HostPart{{}, value, {}};
    if (kind == "vnc" && key == "address" && !value.starts_with("unix:"))
        return before_last_colon({}, value, {});
    if (!is_network(kind) || !is_forward(key)) return std::nullopt;
    // "tcp:HOST:PORT-GUEST:PORT"
    auto const begin = value.find(':');
    auto const end = value.find('-');
    if (begin == std::string_view::npos || end == std::string_view::npos || end < begin)
        return std::nullopt;
    return before_last_colon(value.substr(0, begin + 1), value.substr(begin + 1, end - begin - 1),
                             value.substr(end));
}

std::optional<int> port_of(std::string_view text, int offset = 0) {
    int number = 0;
    auto const [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
    constexpr int port_max = 65535;
    if (error != std::errc() || end != text.data() + text.size() || text.empty()) return {};
    if (number < 0 || number > port_max - offset) return {};
    return number + offset;
}

/// The bytes of an address; empty: it is a name.
std::string binary(std::string const& text) {
    std::array<char, sizeof(in6_addr)> bytes{};
    if (inet_pton(AF_INET, text.c_str(), bytes.data()) == 1) return {bytes.data(), sizeof(in_addr)};
    if (inet_pton(AF_INET6, text.c_str(), bytes.data()) == 1)
        return {bytes.data(), sizeof(in6_addr)};
    return {};
}

class Collector {
public:
    explicit Collector(Option const& option) : option_(option.print()) {}

    void add(std::string_view host, std::optional<int> first, std::optional<int> last,
             bool udp = false) {
        if (!first || *first == 0) return;  // none, or the kernel chooses
        auto const end = std::max(*first, last.value_or(*first));
        found.push_back({option_, std::string(without_brackets(host)),
                         static_cast<std::uint16_t>(*first), static_cast<std::uint16_t>(end), udp});
    }
    void add_vnc(Settings const& settings) {
        auto const address = settings.get_or("address", "");
        auto const part = host_part("vnc", "address", address);
        if (!part || settings.flag("reverse", false)) return;
        auto const display = part->after.substr(1);
        add(part->host, port_of(display, vnc_port_first),
            port_of(settings.get_or("to", ""), vnc_port_first));
        auto const websocket = settings.get_or("websocket", "off");
        auto const fixed = port_of(websocket);
        if (fixed) add(part->host, fixed, fixed);
        bool const beside = !fixed && settings.flag("websocket", false);
        if (beside) add(part->host, port_of(display, websocket_port_first), {});
    }
    void add_spice(Settings const& settings) {
        if (settings.flag("unix", false)) return;
        for (auto const* key : {"port", "tls-port"}) {
            add(settings.get_or("addr", ""), port_of(settings.get_or(key, "")), {});
        }
    }
    void add_forwards(Settings const& settings) {
        for (auto const& [key, value] : settings.all()) {
            auto const part = host_part("netdev", key, value);
            if (!part) continue;
            auto const port = part->after.substr(1, part->after.find('-') - 1);
            add(part->host, port_of(port), {}, value.starts_with("udp:"));
        }
    }

    std::vector<BoundAddress> found;

private:
    std::string option_;
};

}  // namespace

std::vector<BoundAddress> bound_addresses(CommandLine const& line) {
    std::vector<BoundAddress> all;
    for (auto const& option : line.options()) {
        auto const kind = option.kind();
        if (kind != "vnc" && kind != "spice" && !is_network(kind)) continue;
        auto const settings = option.settings_or_empty();
        Collector collector(option);
        if (kind == "vnc") collector.add_vnc(settings);
        if (kind == "spice") collector.add_spice(settings);
        if (is_network(kind)) collector.add_forwards(settings);
        all.insert(all.end(), collector.found.begin(), collector.found.end());
    }
    return all;
}

std::string map_bound_address(AddressMap const& map, std::string_view kind, std::string_view key,
                              std::string_view value) {
    auto const part = host_part(kind, key, value);
    auto const old = part ? binary(std::string(without_brackets(part->host))) : "";
    if (old.empty()) return std::string(value);
    for (auto const& [from, to] : map) {
        if (binary(from) != old) continue;
        bool const brackets = kind == "vnc" && to.find(':') != std::string::npos;
        return std::string(part->before) + (brackets ? "[" + to + "]" : to) +
               std::string(part->after);
    }
    return std::string(value);
}

bool is_numeric_address(std::string const& text) { return !binary(text).empty(); }

}  // namespace qmp
