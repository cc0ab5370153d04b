// The messages that this host exchanges with a DNS server, built, signed, verified and read by
// ldns. Pure code: no socket and no wait. Used by client.cpp and primary.cpp. Invariant: the
// contents of a signed request's answer are used only if its signature is right.
#pragma once

#include <cstdint>
#include <ctime>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "core/result.hpp"
#include "netmove/address.hpp"
#include "netmove/dns/tsig_key.hpp"

namespace netmove::dns {

/// Addresses of one name, both families together. A guest has a few.
constexpr std::size_t addresses_max = 64;
/// A longer request goes over TCP, and an answer over UDP is not longer: it passes every path
/// unfragmented (RFC 9715).
constexpr std::size_t udp_bytes_max = 1232;
/// The longest answer that is read. 64 addresses of both families need 3 KiB. It must stay below
/// 64 KiB by the length of a signature: ldns verifies in a buffer of that size, and aborts the
/// process if the message does not fit.
constexpr std::size_t answer_bytes_max = 16 * 1024;
/// How far the clocks of both sides may differ, in seconds (RFC 8945, section 10).
constexpr std::uint16_t tsig_fudge_s = 300;

/// The A and AAAA records of a name.
struct Records {
    std::vector<Address> addresses;  ///< In ascending order, each once.
    std::optional<std::uint32_t> ttl_ipv4;  ///< Seconds; none: no records of the family.
    std::optional<std::uint32_t> ttl_ipv6;

    void add(Address const& address);
    [[nodiscard]] bool has(Address::Family family) const;
    /// "192.0.2.1, 2001:db8::1", or "no address"
    [[nodiscard]] std::string text() const;
    friend bool operator==(Records const&, Records const&) = default;
};

/// What an update does: it replaces `before` by `after`, both families or none.
struct Change {
    std::string zone;  ///< Absolute names, as from absolute_name().
    std::string name;
    Records before;
    Records after;  ///< With the TTL of each family that it has.
};

/// RFC 1035 (4.1.1), RFC 2136 (2.2).
enum class Rcode : std::uint8_t {
    noerror = 0,
    formerr = 1,
    servfail = 2,
    nxdomain = 3,
    notimp = 4,
    refused = 5,
    yxdomain = 6,
    yxrrset = 7,
    nxrrset = 8,
    notauth = 9,
    notzone = 10,
};
/// "REFUSED"; a number if it has no name here.
std::string name(Rcode code);

/// RFC 8945, section 3: what a server says about the signature of a request.
enum class TsigError : std::uint8_t { none, bad_signature, bad_key, bad_time, other };

/// What a server has answered.
struct Answer {
    Rcode rcode = Rcode::noerror;
    /// Of a signed request. bad_signature and bad_key come without a signature, because the server
    /// has no key for one. Any other answer to a signed request is signed by the same key.
    TsigError tsig_error = TsigError::none;
    std::int64_t server_ahead_s = 0;  ///< With bad_time: the server's clock minus ours.
    bool truncated = false;  ///< The rest can be had over TCP.
    bool authoritative = false;
    Records records;  ///< A and AAAA of the name that was asked for.
    bool alias = false;  ///< The name is an alias (CNAME).
    std::string zone;  ///< The owner of the SOA record, if there is one; absolute.
    std::string primary;  ///< Its MNAME.
};

enum class RecordType : std::uint8_t { a, aaaa, soa };

/// A request that is ready to be sent, and what is needed to check its answer.
class Request {
public:
    /// A question for the records of a name. With a key it is signed, and recursion is not asked
    /// for; without one it is for a resolver. Fails with invalid.
    static core::Result<Request> question(std::string const& name, RecordType type,
                                          TsigKey const* key);
    /// The update of RFC 2136: if A and AAAA of the name are exactly `before`, then they become
    /// `after`. Fails with invalid.
    static core::Result<Request> update(Change const& change, TsigKey const& key);
    /// The same conditions, and an update that needs the same permissions and changes nothing: it
    /// deletes one A and one AAAA record that the name does not have. (With conditions alone, BIND
    /// does not look at its `update-policy`.)
    static core::Result<Request> trial(Change const& change, TsigKey const& key);

    [[nodiscard]] std::span<std::uint8_t const> wire() const { return wire_; }
    /// Whether these bytes look like the answer to this request, by their header. Over UDP anyone
    /// may send bytes.
    [[nodiscard]] bool is_answered_by(std::span<std::uint8_t const> bytes) const;
    /// Checks and reads an answer; `now` is the time of its arrival. Accepts any bytes. Fails with
    /// protocol if they are no answer to this request, or if its signature is missing or wrong.
    [[nodiscard]] core::Result<Answer> read(std::span<std::uint8_t const> bytes,
                                            std::time_t now) const;

private:
    Request() = default;
    static core::Result<Request> conditional(Change const& change, bool trial, TsigKey const& key);

    std::vector<std::uint8_t> wire_;
    std::string name_;  ///< Of the question, or the zone.
    RecordType type_ = RecordType::soa;
    std::optional<TsigKey> key_;
    std::vector<std::uint8_t> mac_;  ///< Of this request, as ldns keeps it: with its length.
};

/// Whether `name` is the zone's name or below it; both absolute.
bool is_in_zone(std::string const& name, std::string const& zone);

}  // namespace netmove::dns
