#include "netmove/dns/message.hpp"

#include <algorithm>
#include <array>
#include <cstdlib>
#include <memory>
#include <random>

#include "core/base64.hpp"
#include "netmove/dns/ldns.hpp"

namespace netmove::dns {

using core::Errc;
using core::fail;
using core::Result;

namespace {

struct Free {
    void operator()(ldns_pkt* packet) const { ldns_pkt_free(packet); }
    void operator()(ldns_rr* record) const { ldns_rr_free(record); }
    void operator()(ldns_rdf* field) const { ldns_rdf_deep_free(field); }
    void operator()(void* bytes) const { std::free(bytes); }
};
using Packet = std::unique_ptr<ldns_pkt, Free>;
using Rr = std::unique_ptr<ldns_rr, Free>;
using Rdf = std::unique_ptr<ldns_rdf, Free>;
using CText = std::unique_ptr<char, Free>;

// Fields of a TSIG record (RFC 8945, section 4.2), in ldns's numbering.
constexpr std::size_t tsig_algorithm = 0;
constexpr std::size_t tsig_time_signed = 1;
constexpr std::size_t tsig_mac = 3;
constexpr std::size_t tsig_error_code = 5;
constexpr std::size_t tsig_other = 6;
constexpr std::size_t tsig_fields = 7;

Rdf rdf_of(std::string const& name) {
    ldns_rdf* made = nullptr;
    if (ldns_str2rdf_dname(&made, name.c_str()) != LDNS_STATUS_OK) return {};
    return Rdf(made);
}

Rdf rdf_of(Address const& address) {
    auto const bytes = address.bytes();
    auto const type = address.is_ipv4() ? LDNS_RDF_TYPE_A : LDNS_RDF_TYPE_AAAA;
    return Rdf(ldns_rdf_new_frm_data(type, bytes.size(), bytes.data()));
}

/// Absolute, in lower case; characters that no host name has are escaped.
std::string name_of(ldns_rdf const* name) {
    Rdf const copy(name == nullptr ? nullptr : ldns_rdf_clone(name));
    if (!copy) return {};
    ldns_dname2canonical(copy.get());
    CText const text(ldns_rdf2str(copy.get()));
    return text ? text.get() : "";
}

ldns_rr_type type_of(Address::Family family) {
    return family == Address::Family::ipv4 ? LDNS_RR_TYPE_A : LDNS_RR_TYPE_AAAA;
}
ldns_rr_type type_of(RecordType type) {
    switch (type) {
        case RecordType::a:
            return LDNS_RR_TYPE_A;
        case RecordType::aaaa:
            return LDNS_RR_TYPE_AAAA;
        case RecordType::soa:
            return LDNS_RR_TYPE_SOA;
    }
    return LDNS_RR_TYPE_SOA;
}

Rr record(std::string const& owner, ldns_rr_type type, ldns_rr_class rr_class,
          std::uint32_t ttl = 0) {
    Rr made(ldns_rr_new());
    ldns_rr_set_owner(made.get(), rdf_of(owner).release());
    ldns_rr_set_type(made.get(), type);
    ldns_rr_set_class(made.get(), rr_class);
    ldns_rr_set_ttl(made.get(), ttl);
    return made;
}

Rr record(std::string const& owner, Address const& address, ldns_rr_class rr_class,
          std::uint32_t ttl = 0) {
    auto made = record(owner, type_of(address.family()), rr_class, ttl);
    ldns_rr_push_rdf(made.get(), rdf_of(address).release());
    return made;
}

void push(Packet& packet, ldns_pkt_section section, Rr made) {
    ldns_pkt_push_rr(packet.get(), section, made.release());
}

constexpr std::array families{Address::Family::ipv4, Address::Family::ipv6};

/// RFC 2136, 2.4.2 and 2.4.3: the name has exactly these records.
void add_conditions(Packet& packet, Change const& change) {
    for (auto const family : families) {
        if (!change.before.has(family)) {
            push(packet, LDNS_SECTION_ANSWER,
                 record(change.name, type_of(family), LDNS_RR_CLASS_NONE));
        }
        for (auto const& address : change.before.addresses) {
            if (address.family() != family) continue;
            push(packet, LDNS_SECTION_ANSWER, record(change.name, address, LDNS_RR_CLASS_IN));
        }
    }
}

/// RFC 2136, 2.5.2 and 2.5.1: removes all records of both types, then adds the new ones.
void add_replacement(Packet& packet, Change const& change) {
    for (auto const family : families) {
        push(packet, LDNS_SECTION_AUTHORITY,
             record(change.name, type_of(family), LDNS_RR_CLASS_ANY));
    }
    for (auto const& address : change.after.addresses) {
        auto const ttl = address.is_ipv4() ? change.after.ttl_ipv4 : change.after.ttl_ipv6;
        push(packet, LDNS_SECTION_AUTHORITY,
             record(change.name, address, LDNS_RR_CLASS_IN, ttl.value_or(0)));
    }
}

/// An address for documentation (RFC 5737, RFC 3849) that is not among `others`.
Address absent(Address::Family family, std::vector<Address> const& others) {
    static_assert(addresses_max < 255);
    for (std::uint8_t last = 0;; ++last) {
        std::array<std::uint8_t, 4> const ipv4{192, 0, 2, last};
        std::array<std::uint8_t, 16> const ipv6{0x20, 0x01, 0x0d, 0xb8, 0, 0, 0, 0,
                                                0,    0,    0,    0,    0, 0, 0, last};
        auto const made =
            family == Address::Family::ipv4 ? Address::ipv4(ipv4) : Address::ipv6(ipv6);
        if (std::ranges::find(others, made) == others.end()) return made;
    }
}

/// RFC 2136, 2.5.4: removes one record of each type that is not there.
void add_nothing(Packet& packet, Change const& change) {
    for (auto const family : families) {
        push(packet, LDNS_SECTION_AUTHORITY,
             record(change.name, absent(family, change.before.addresses), LDNS_RR_CLASS_NONE));
    }
}

std::string algorithm_name(TsigKey const& key) { return std::string(name(key.algorithm)) + "."; }

std::uint64_t number_of(ldns_rdf const* field) {
    std::uint64_t number = 0;
    for (std::size_t i = 0; i < ldns_rdf_size(field) && i < sizeof number; ++i) {
        number = number << 8 | ldns_rdf_data(field)[i];
    }
    return number;
}

bool is_whole(ldns_rr const* tsig) {
    if (tsig == nullptr || ldns_rr_rd_count(tsig) != tsig_fields) return false;
    for (std::size_t i = 0; i < tsig_fields; ++i) {
        if (ldns_rr_rdf(tsig, i) == nullptr) return false;
    }
    return ldns_rdf_size(ldns_rr_rdf(tsig, tsig_time_signed)) == 6 &&
           ldns_rdf_size(ldns_rr_rdf(tsig, tsig_error_code)) == 2;
}

TsigError error_of(ldns_rr const* tsig) {
    switch (number_of(ldns_rr_rdf(tsig, tsig_error_code))) {
        case 0:
            return TsigError::none;
        case 16:
            return TsigError::bad_signature;
        case 17:
            return TsigError::bad_key;
        case 18:
            return TsigError::bad_time;
        default:
            return TsigError::other;
    }
}

/// The server's clock in a BADTIME answer: 48 bits after the length of the field.
std::int64_t ahead_s(ldns_rr const* tsig, std::time_t now) {
    auto const* other = ldns_rr_rdf(tsig, tsig_other);
    if (ldns_rdf_size(other) != 8) return 0;
    std::int64_t there = 0;
    for (std::size_t i = 2; i < 8; ++i) there = there << 8 | ldns_rdf_data(other)[i];
    return there - now;
}

/// Checks the signature, and reads what it says. ldns compares neither the key's name and
/// algorithm nor the time. Leaves the packet with its TSIG record.
Result<> check_signature(ldns_pkt* packet, std::span<std::uint8_t const> bytes, TsigKey const& key,
                         std::vector<std::uint8_t> const& mac, std::time_t now, Answer& answer) {
    auto* const tsig = ldns_pkt_tsig(packet);
    auto const code = name(answer.rcode);
    if (!is_whole(tsig)) {
        return fail(Errc::protocol, "the answer ({}) to a signed request is not signed", code);
    }
    answer.tsig_error = error_of(tsig);
    bool const unsigned_by_rule =
        answer.tsig_error == TsigError::bad_signature || answer.tsig_error == TsigError::bad_key;
    if (unsigned_by_rule && answer.rcode == Rcode::notauth) return {};
    bool const same_key = name_of(ldns_rr_owner(tsig)) == key.name &&
                          name_of(ldns_rr_rdf(tsig, tsig_algorithm)) == algorithm_name(key);
    Rdf const own_mac(ldns_rdf_new_frm_data(LDNS_RDF_TYPE_INT16_DATA, mac.size(), mac.data()));
    bool const right =
        same_key && ldns_pkt_tsig_verify(packet, bytes.data(), bytes.size(), key.name.c_str(),
                                         key.secret.c_str(), own_mac.get());
    if (ldns_pkt_tsig(packet) == nullptr) ldns_pkt_set_tsig(packet, tsig);  // ldns took it away
    if (!right) return fail(Errc::protocol, "the signature of the answer ({}) is wrong", code);
    if (answer.tsig_error == TsigError::bad_time) {
        answer.server_ahead_s = ahead_s(tsig, now);
        return {};
    }
    auto const signed_at =
        static_cast<std::int64_t>(number_of(ldns_rr_rdf(tsig, tsig_time_signed)));
    if (std::abs(signed_at - static_cast<std::int64_t>(now)) > tsig_fudge_s) {
        return fail(Errc::protocol,
                    "the answer was signed {} s away from this host's time, more than {} s",
                    signed_at - static_cast<std::int64_t>(now), tsig_fudge_s);
    }
    return {};
}

std::optional<Address> address_of(ldns_rr const* rr) {
    auto const* field = ldns_rr_rdf(rr, 0);
    if (field == nullptr) return std::nullopt;
    std::span const bytes(ldns_rdf_data(field), ldns_rdf_size(field));
    if (ldns_rr_get_type(rr) == LDNS_RR_TYPE_A && bytes.size() == 4) {
        return Address::ipv4(bytes.first<4>());
    }
    if (ldns_rr_get_type(rr) == LDNS_RR_TYPE_AAAA && bytes.size() == 16) {
        return Address::ipv6(bytes.first<16>());
    }
    return std::nullopt;
}

Result<> read_record(ldns_rr const* rr, std::string const& asked, Answer& answer) {
    if (ldns_rr_get_class(rr) != LDNS_RR_CLASS_IN) return {};
    auto const owner = name_of(ldns_rr_owner(rr));
    auto const type = ldns_rr_get_type(rr);
    if (type == LDNS_RR_TYPE_SOA && ldns_rr_rdf(rr, 0) != nullptr) {
        answer.zone = owner;
        answer.primary = name_of(ldns_rr_rdf(rr, 0));
    }
    if (owner != asked) return {};
    if (type == LDNS_RR_TYPE_CNAME) answer.alias = true;
    auto const address = address_of(rr);
    if (!address) return {};
    if (answer.records.addresses.size() == addresses_max) {
        return fail(Errc::protocol, "{} has more than {} addresses", asked, addresses_max);
    }
    answer.records.add(*address);
    // All records of a type have one TTL (RFC 2181, 5.2).
    (address->is_ipv4() ? answer.records.ttl_ipv4 : answer.records.ttl_ipv6) = ldns_rr_ttl(rr);
    return {};
}

Result<> read_section(ldns_rr_list const* list, std::string const& asked, Answer& answer) {
    for (std::size_t i = 0; list != nullptr && i < ldns_rr_list_rr_count(list); ++i) {
        TRY_VOID(read_record(ldns_rr_list_rr(list, i), asked, answer));
    }
    return {};
}

/// Without a question it is the answer to a request that the server could not parse.
bool has_question(ldns_pkt const* packet, std::string const& asked, ldns_rr_type type) {
    auto const* list = ldns_pkt_question(packet);
    auto const count = list == nullptr ? 0 : ldns_rr_list_rr_count(list);
    if (count == 0) return true;
    auto const* rr = ldns_rr_list_rr(list, 0);
    return count == 1 && ldns_rr_get_type(rr) == type && name_of(ldns_rr_owner(rr)) == asked;
}

std::uint16_t fresh_id() {
    std::random_device system;  // getrandom(2)
    return static_cast<std::uint16_t>(system());
}

/// Signs the packet if there is a key; then its MAC is in `mac`.
Result<std::vector<std::uint8_t>> finish(Packet& packet, TsigKey const* key,
                                         std::vector<std::uint8_t>& mac) {
    ldns_pkt_set_id(packet.get(), fresh_id());
    if (key != nullptr) {
        auto const status = ldns_pkt_tsig_sign(packet.get(), key->name.c_str(), key->secret.c_str(),
                                               tsig_fudge_s, algorithm_name(*key).c_str(), nullptr);
        auto const* tsig = ldns_pkt_tsig(packet.get());
        if (status != LDNS_STATUS_OK || !is_whole(tsig)) {
            return fail(Errc::invalid, "cannot sign a message with the key {}: {}", key->name,
                        ldns_get_errorstr_by_id(status));
        }
        auto const* field = ldns_rr_rdf(tsig, tsig_mac);
        mac.assign(ldns_rdf_data(field), ldns_rdf_data(field) + ldns_rdf_size(field));
    }
    std::uint8_t* bytes = nullptr;
    std::size_t size = 0;
    auto const status = ldns_pkt2wire(&bytes, packet.get(), &size);
    std::unique_ptr<std::uint8_t, Free> const owned(bytes);
    if (status != LDNS_STATUS_OK) {
        return fail(Errc::invalid, "cannot make a DNS message: {}",
                    ldns_get_errorstr_by_id(status));
    }
    return std::vector(bytes, bytes + size);
}

}  // namespace

void Records::add(Address const& address) {
    auto const at = std::ranges::lower_bound(addresses, address);
    if (at == addresses.end() || *at != address) addresses.insert(at, address);
}

bool Records::has(Address::Family family) const {
    return std::ranges::any_of(addresses, [family](auto const& a) { return a.family() == family; });
}

std::string Records::text() const {
    std::string all;
    for (auto const& address : addresses) all += (all.empty() ? "" : ", ") + address.text();
    return all.empty() ? "no address" : all;
}

std::string name(Rcode code) {
    constexpr std::array names{"NOERROR",  "FORMERR", "SERVFAIL", "NXDOMAIN", "NOTIMP", "REFUSED",
                               "YXDOMAIN", "YXRRSET", "NXRRSET",  "NOTAUTH",  "NOTZONE"};
    auto const number = static_cast<std::size_t>(code);
    return number < names.size() ? names.at(number) : fmt::format("response code {}", number);
}

bool is_in_zone(std::string const& name, std::string const& zone) {
    return zone == "." || name == zone || name.ends_with("." + zone);
}

Result<Request> Request::question(std::string const& name, RecordType type, TsigKey const* key) {
    TRY_VOID(load_ldns());
    auto asked = rdf_of(name);
    if (!asked) return fail(Errc::invalid, "`{}` is no name in the DNS", name);
    Request made;
    made.name_ = name;
    made.type_ = type;
    if (key != nullptr) made.key_ = *key;
    Packet packet(ldns_pkt_query_new(asked.release(), type_of(type), LDNS_RR_CLASS_IN,
                                     key == nullptr ? LDNS_RD : 0));
    ldns_pkt_set_edns_udp_size(packet.get(), udp_bytes_max);
    TRY(made.wire_, finish(packet, key, made.mac_));
    return made;
}

Result<Request> Request::conditional(Change const& change, bool trial, TsigKey const& key) {
    TRY_VOID(load_ldns());
    auto zone = rdf_of(change.zone);
    if (!zone || !rdf_of(change.name)) {
        return fail(Errc::invalid, "`{}` in `{}` is no name in the DNS", change.name, change.zone);
    }
    Request made;
    made.name_ = change.zone;
    made.key_ = key;
    Packet packet(ldns_pkt_query_new(zone.release(), LDNS_RR_TYPE_SOA, LDNS_RR_CLASS_IN, 0));
    ldns_pkt_set_opcode(packet.get(), LDNS_PACKET_UPDATE);
    add_conditions(packet, change);
    if (trial) {
        add_nothing(packet, change);
    } else {
        add_replacement(packet, change);
    }
    TRY(made.wire_, finish(packet, &key, made.mac_));
    return made;
}

Result<Request> Request::update(Change const& change, TsigKey const& key) {
    return conditional(change, false, key);
}

Result<Request> Request::trial(Change const& change, TsigKey const& key) {
    return conditional(change, true, key);
}

bool Request::is_answered_by(std::span<std::uint8_t const> bytes) const {
    if (bytes.size() < LDNS_HEADER_SIZE || bytes.size() > answer_bytes_max) return false;
    return bytes[0] == wire_[0] && bytes[1] == wire_[1] && LDNS_QR_WIRE(bytes.data()) != 0 &&
           LDNS_OPCODE_WIRE(bytes.data()) == LDNS_OPCODE_WIRE(wire_.data());
}

Result<Answer> Request::read(std::span<std::uint8_t const> bytes, std::time_t now) const {
    if (!is_answered_by(bytes)) {
        return fail(Errc::protocol, "it is not an answer to this request");
    }
    ldns_pkt* parsed = nullptr;
    auto const status = ldns_wire2pkt(&parsed, bytes.data(), bytes.size());
    if (status != LDNS_STATUS_OK) {
        return fail(Errc::protocol, "the answer is malformed: {}", ldns_get_errorstr_by_id(status));
    }
    Packet const packet(parsed);
    if (!has_question(packet.get(), name_, type_of(type_))) {
        return fail(Errc::protocol, "it is the answer to another question");
    }
    Answer answer;
    answer.rcode = static_cast<Rcode>(ldns_pkt_get_rcode(packet.get()));
    answer.truncated = ldns_pkt_tc(packet.get());
    answer.authoritative = ldns_pkt_aa(packet.get());
    if (key_) TRY_VOID(check_signature(packet.get(), bytes, *key_, mac_, now, answer));
    if (answer.truncated) return answer;  // what is there is not all of it
    TRY_VOID(read_section(ldns_pkt_answer(packet.get()), name_, answer));
    TRY_VOID(read_section(ldns_pkt_authority(packet.get()), name_, answer));
    return answer;
}

}  // namespace netmove::dns
