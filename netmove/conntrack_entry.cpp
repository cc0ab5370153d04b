#include "netmove/conntrack_entry.hpp"

#include <netinet/in.h>

#include <algorithm>

namespace netmove {

using core::Errc;
using core::fail;
using core::Json;
using core::Result;

namespace {

constexpr std::size_t labels_size = 16;
constexpr std::size_t helper_length_max = 15;  // NF_CT_HELPER_NAME_LEN, without its end
constexpr std::uint8_t tcp_state_max = 9;  // SYN_SENT2
constexpr std::uint8_t sctp_state_max = 8;
constexpr std::uint8_t window_scale_max = 14;  // RFC 7323
constexpr int address_length_max = 45;

template <class Number>
Result<Number> number(Json const& json, std::string_view name, std::uint64_t most) {
    if (!json.is_integer()) return fail(Errc::protocol, "`{}` of an entry is not a number", name);
    auto const value = json.integer_or(-1);
    if (value < 0 || static_cast<std::uint64_t>(value) > most) {
        return fail(Errc::protocol, "`{}` of an entry is {}, beyond {}", name, value, most);
    }
    return static_cast<Number>(value);
}

/// Absent: zero.
template <class Number>
Result<Number> number_or_none(Json const& json, std::string_view name, std::uint64_t most) {
    auto const value = json[name];
    if (value.is_null()) return Number{0};
    return number<Number>(value, name, most);
}

Result<Address> address(Json const& json, std::string_view name) {
    auto const text = json.text_or("");
    if (text.empty() || text.size() > address_length_max) {
        return fail(Errc::protocol, "`{}` of an entry has no address", name);
    }
    auto parsed = Address::parse(text);
    if (!parsed) return fail(Errc::protocol, "`{}` of an entry has no address", name);
    return parsed;
}

template <class Number, std::size_t Count>
Json list(std::array<Number, Count> const& numbers) {
    Json all = Json::array();
    for (auto const value : numbers) all.add(static_cast<std::uint64_t>(value));
    return all;
}

/// Absent: zeroes.
template <class Number, std::size_t Count>
Result<> read_list(Json const& json, std::string_view name, std::uint64_t most,
                   std::array<Number, Count>& into) {
    auto const value = json[name];
    if (value.is_null()) return {};
    auto const elements = value.elements();
    if (elements.size() != Count) {
        return fail(Errc::protocol, "`{}` of an entry has {} numbers, not {}", name,
                    elements.size(), Count);
    }
    for (std::size_t index = 0; index < Count; ++index) {
        TRY(into[index], number<Number>(elements[index], name, most));
    }
    return {};
}

template <class Number, std::size_t Count>
bool any(std::array<Number, Count> const& numbers) {
    return std::ranges::any_of(numbers, [](Number value) { return value != 0; });
}

std::string hex(std::span<std::uint8_t const> bytes) {
    std::string out;
    for (auto const byte : bytes) out += fmt::format("{:02x}", byte);
    return out;
}

Result<std::vector<std::uint8_t>> read_labels(Json const& json) {
    std::vector<std::uint8_t> out;
    if (json.is_null()) return out;
    auto const text = json.text_or("");
    bool const right = text.size() == 2 * labels_size && std::ranges::all_of(text, [](char c) {
                           return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f');
                       });
    if (!right) return fail(Errc::protocol, "`labels` of an entry are not {} bytes", labels_size);
    auto const digit = [](char c) { return c <= '9' ? c - '0' : c - 'a' + 10; };
    for (std::size_t at = 0; at < text.size(); at += 2) {
        out.push_back(static_cast<std::uint8_t>(digit(text[at]) << 4 | digit(text[at + 1])));
    }
    return out;
}

bool is_icmp(std::uint8_t protocol) {
    return protocol == IPPROTO_ICMP || protocol == IPPROTO_ICMPV6;
}

/// The kernel takes a helper's name for a module's: nothing but such may be asked for.
bool is_helper_name(std::string_view name) {
    return name.size() <= helper_length_max && std::ranges::all_of(name, [](char c) {
               return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
                      c == '.' || c == '-' || c == '_';
           });
}

}  // namespace

bool conntrack_carries(std::uint8_t protocol) {
    return protocol == IPPROTO_TCP || protocol == IPPROTO_UDP || protocol == IPPROTO_UDPLITE ||
           protocol == IPPROTO_SCTP || is_icmp(protocol);
}

Json ConntrackKey::to_json() const {
    auto made = Json::object({{"from", source.text()},
                              {"to", destination.text()},
                              {"protocol", int{protocol}},
                              {"ports", list(std::array{source_port, destination_port})}});
    if (is_icmp(protocol)) made.set("icmp", list(std::array{icmp_type, icmp_code}));
    if (zone != 0) made.set("zone", list(std::array{zone, static_cast<std::uint16_t>(zone_of)}));
    return made;
}

Result<ConntrackKey> ConntrackKey::from_json(Json const& json) {
    ConntrackKey key;
    TRY(key.source, address(json["from"], "from"));
    TRY(key.destination, address(json["to"], "to"));
    if (key.source.family() != key.destination.family()) {
        return fail(Errc::protocol, "an entry is from {} to {}, which are of two protocols",
                    key.source.text(), key.destination.text());
    }
    TRY(key.protocol, number<std::uint8_t>(json["protocol"], "protocol", 255));
    bool const fits = key.protocol != IPPROTO_ICMP || key.source.is_ipv4();
    if (!conntrack_carries(key.protocol) || !fits ||
        (key.protocol == IPPROTO_ICMPV6 && key.source.is_ipv4())) {
        return fail(Errc::protocol, "an entry is of the protocol {}, which is not carried",
                    key.protocol);
    }
    std::array<std::uint16_t, 2> ports{};
    TRY_VOID(read_list(json, "ports", 0xffff, ports));
    key.source_port = ports[0];
    key.destination_port = ports[1];
    if (is_icmp(key.protocol)) {
        std::array<std::uint8_t, 2> icmp{};
        TRY_VOID(read_list(json, "icmp", 255, icmp));
        key.icmp_type = icmp[0];
        key.icmp_code = icmp[1];
        if (ports[0] != ports[1]) return fail(Errc::protocol, "an entry of ICMP has two numbers");
    }
    std::array<std::uint16_t, 2> zone{};
    TRY_VOID(read_list(json, "zone", 0xffff, zone));
    if (zone[1] > 2)
        return fail(Errc::protocol, "`zone` of an entry has the direction {}", zone[1]);
    key.zone = zone[0];
    if (key.zone != 0) key.zone_of = static_cast<ZoneOf>(zone[1]);
    return key;
}

bool ConntrackEntry::source_translated() const {
    return reply_destination != key.source || reply_destination_port != key.source_port;
}

bool ConntrackEntry::destination_translated() const {
    return reply_source != key.destination || reply_source_port != key.destination_port;
}

bool ConntrackEntry::is_of(std::span<Address const> addresses) const {
    return std::ranges::any_of(addresses, [&](Address const& guest) {
        return guest == key.source || guest == reply_source;
    });
}

bool ConntrackEntry::same_but_for_time(ConntrackEntry const& other) const {
    auto mine = *this;
    mine.timeout_s = other.timeout_s;
    return mine == other;
}

Json ConntrackEntry::to_json() const {
    auto made = key.to_json();
    if (reply_source != key.destination || reply_destination != key.source) {
        made.set("reply", Json::array({reply_source.text(), reply_destination.text()}));
    }
    std::array const ports{reply_source_port, reply_destination_port};
    if (ports != std::array{key.destination_port, key.source_port}) {
        made.set("reply_ports", list(ports));
    }
    made.set("status", std::uint64_t{status}).set("timeout", std::uint64_t{timeout_s});
    if (mark != 0) made.set("mark", std::uint64_t{mark});
    if (state != 0) made.set("state", int{state});
    if (any(tcp_flags)) made.set("flags", list(tcp_flags));
    if (any(tcp_scale)) made.set("scale", list(tcp_scale));
    if (any(sctp_tags)) made.set("tags", list(sctp_tags));
    if (!helper.empty()) made.set("helper", helper);
    if (!labels.empty()) made.set("labels", hex(labels));
    if (any(sequence)) made.set("sequence", list(sequence));
    if (translated_to_host) made.set("host", true);
    return made;
}

Result<ConntrackEntry> ConntrackEntry::from_json(Json const& json,
                                                 std::span<Address const> addresses) {
    ConntrackEntry entry;
    TRY(entry.key, ConntrackKey::from_json(json));
    auto const& key = entry.key;
    entry.reply_source = key.destination;
    entry.reply_destination = key.source;
    if (auto const reply = json["reply"]; !reply.is_null()) {
        auto const both = reply.elements();
        if (both.size() != 2) return fail(Errc::protocol, "`reply` of an entry is not a pair");
        TRY(entry.reply_source, address(both[0], "reply"));
        TRY(entry.reply_destination, address(both[1], "reply"));
        if (entry.reply_source.family() != key.source.family() ||
            entry.reply_destination.family() != key.source.family()) {
            return fail(Errc::protocol, "an entry is answered in another protocol");
        }
    }
    std::array ports{key.destination_port, key.source_port};
    TRY_VOID(read_list(json, "reply_ports", 0xffff, ports));
    entry.reply_source_port = ports[0];
    entry.reply_destination_port = ports[1];
    if (!entry.is_of(addresses)) {
        return fail(Errc::protocol, "an entry from {} to {} is not one of the guest",
                    key.source.text(), key.destination.text());
    }
    TRY(entry.status, number<std::uint32_t>(json["status"], "status", conntrack_status_mask));
    if ((entry.status & ~conntrack_status_mask) != 0) {
        return fail(Errc::protocol, "`status` of an entry is {:#x}", entry.status);
    }
    TRY(entry.timeout_s,
        number<std::uint32_t>(json["timeout"], "timeout", conntrack_timeout_max_s));
    TRY(entry.mark, number_or_none<std::uint32_t>(json, "mark", 0xffffffff));
    bool const tcp = key.protocol == IPPROTO_TCP;
    bool const sctp = key.protocol == IPPROTO_SCTP;
    auto const state_max = tcp ? tcp_state_max : sctp ? sctp_state_max : std::uint8_t{0};
    TRY(entry.state, number_or_none<std::uint8_t>(json, "state", state_max));
    TRY_VOID(read_list(json, "flags", tcp ? 0xff : 0, entry.tcp_flags));
    TRY_VOID(read_list(json, "scale", tcp ? window_scale_max : 0, entry.tcp_scale));
    TRY_VOID(read_list(json, "tags", sctp ? 0xffffffff : 0, entry.sctp_tags));
    if (auto const name = json["helper"]; !name.is_null()) {
        TRY(entry.helper, json.text("helper"));
        if (!is_helper_name(entry.helper)) {
            return fail(Errc::protocol, "`helper` of an entry is not a name");
        }
    }
    TRY(entry.labels, read_labels(json["labels"]));
    TRY_VOID(read_list(json, "sequence", 0xffffffff, entry.sequence));
    entry.translated_to_host = json["host"].boolean_or(false);
    return entry;
}

}  // namespace netmove
