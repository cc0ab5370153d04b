// Messages of Mobile IPv6 (RFC 6275) and of its extension for IPv4 (RFC 5555): the Mobility Header
// and its options, as values and as bytes. Pure code over bytes: no descriptor, no clock.
//
// netmove/mobile_ipv6/ may use core, netmove/address.hpp, netmove/frame.hpp and
// netmove/frame_fields.hpp. It has two machines that decide (registration.hpp: the mobile node,
// binding_cache.hpp: the home agent) and what acts for them.
//
// Invariant: whatever the bytes are, parsing stays inside them. What was encoded is parsed to the
// same value. Values that do not fit the wire are a bug of the caller: encoding asserts them.
#pragma once

#include <array>
#include <chrono>
#include <cstdint>
#include <optional>
#include <string>
#include <variant>

#include "core/result.hpp"
#include "netmove/address.hpp"
#include "netmove/frame.hpp"

namespace netmove::mobile_ipv6 {

/// The Mobility Header's number as an IPv6 next header (RFC 6275 6.1.1).
constexpr std::uint8_t next_is_mobility = 135;
/// A Mobility Header's length is in units of 8 bytes, without the first 8, in one byte.
constexpr std::size_t mobility_header_max = 8 * 256;

/// Lifetimes are on the wire in units of 4 seconds (RFC 6275 6.1.7).
using LifetimeUnits = std::chrono::duration<std::uint16_t, std::ratio<4>>;
/// No expiry: all bits set (RFC 6275 6.1.7).
constexpr LifetimeUnits lifetime_infinite{0xffff};

/// Mobility Header types that are read or written here (RFC 6275 6.1).
enum class MessageType : std::uint8_t {
    binding_refresh_request = 0,
    binding_update = 5,
    binding_acknowledgement = 6,
    binding_error = 7,
};

/// Status of a Binding Acknowledgement (RFC 6275 6.1.8). Below 128 the update was accepted.
enum class BindingStatus : std::uint8_t {
    accepted = 0,
    accepted_prefix_discovery_necessary = 1,
    reason_unspecified = 128,
    administratively_prohibited = 129,
    insufficient_resources = 130,
    home_registration_not_supported = 131,
    not_home_subnet = 132,
    not_home_agent = 133,
    duplicate_address_detection_failed = 134,
    sequence_out_of_window = 135,
    registration_type_change_disallowed = 139,
    invalid_care_of_address = 174,
};
[[nodiscard]] constexpr bool is_accepted(BindingStatus status) {
    return static_cast<std::uint8_t>(status) < 128;
}
/// "sequence number out of window (135)"; "status 200" for one that has no name here.
std::string text(BindingStatus status);

/// Status of an IPv4 Address Acknowledgement (RFC 5555 3.2.1). Below 128 it was accepted.
enum class Ipv4Status : std::uint8_t {
    accepted = 0,
    reason_unspecified = 128,
    administratively_prohibited = 129,
    incorrect_address = 130,
    invalid_address = 131,
    dynamic_assignment_unavailable = 132,
    prefix_allocation_unauthorized = 133,
};
std::string text(Ipv4Status status);

/// IPv4 Home Address option, type 29 (RFC 5555 3.1.1).
struct Ipv4HomeAddress {
    Address address;  ///< 0.0.0.0 asks the home agent for one.
    int prefix_length = 32;  ///< 0-32
    bool prefix_requested = false;  ///< P: the home agent is asked for a mobile IPv4 prefix.
    friend bool operator==(Ipv4HomeAddress const&, Ipv4HomeAddress const&) = default;
};

/// IPv4 Address Acknowledgement option, type 30 (RFC 5555 3.2.1; its section 8 misprints 29).
struct Ipv4Acknowledgement {
    Ipv4Status status = Ipv4Status::accepted;
    int prefix_length = 32;  ///< 0-32
    Address address;
    friend bool operator==(Ipv4Acknowledgement const&, Ipv4Acknowledgement const&) = default;
};

/// NAT Detection option, type 31 (RFC 5555 3.2.2).
struct NatDetection {
    bool force_udp = false;  ///< F: UDP encapsulation is required.
    std::uint32_t refresh_s = 0;  ///< Between keepalives; 0: the default; all bits set: none.
    friend bool operator==(NatDetection const&, NatDetection const&) = default;
};

/// Binding Update (RFC 6275 6.1.7).
struct BindingUpdate {
    static constexpr MessageType type = MessageType::binding_update;
    std::uint16_t sequence = 0;
    bool acknowledge = true;  ///< A
    bool home_registration = true;  ///< H
    bool link_local_compatible = false;  ///< L
    bool key_management_mobility = false;  ///< K
    bool force_udp = false;  ///< F (RFC 5555 3.1.3)
    bool tlv_header = false;  ///< T (RFC 5845 3): read, and refused by who cannot do it.
    LifetimeUnits lifetime{0};  ///< 0: the binding is to be deleted.
    /// IPv6. Mandatory in home registrations (11.7.1).
    std::optional<Address> alternate_care_of{};
    std::optional<Ipv4HomeAddress> ipv4_home{};
    std::optional<Address> ipv4_care_of{};  ///< Option 32 (RFC 5555 3.1.2).
    friend bool operator==(BindingUpdate const&, BindingUpdate const&) = default;
};

/// Binding Acknowledgement (RFC 6275 6.1.8).
struct BindingAcknowledgement {
    static constexpr MessageType type = MessageType::binding_acknowledgement;
    BindingStatus status = BindingStatus::accepted;
    bool key_management_mobility = false;  ///< K
    bool tlv_header = false;  ///< T (RFC 5845 3)
    std::uint16_t sequence = 0;  ///< Of the update; with sequence_out_of_window the last accepted.
    LifetimeUnits lifetime{0};  ///< Granted.
    std::optional<LifetimeUnits> refresh_advice{};  ///< Option 2: refresh after this time.
    std::optional<Ipv4Acknowledgement> ipv4_home{};
    std::optional<NatDetection> nat{};
    friend bool operator==(BindingAcknowledgement const&, BindingAcknowledgement const&) = default;
};

/// Binding Error (RFC 6275 6.1.9). `status`: 1 unknown binding for a Home Address option, 2
/// unrecognised Mobility Header type.
struct BindingError {
    static constexpr MessageType type = MessageType::binding_error;
    std::uint8_t status = 0;
    /// IPv6; :: if the packet had none.
    Address home_address = Address::ipv6(std::array<std::uint8_t, 16>{});
    friend bool operator==(BindingError const&, BindingError const&) = default;
};

/// Binding Refresh Request (RFC 6275 6.1.2).
struct BindingRefreshRequest {
    static constexpr MessageType type = MessageType::binding_refresh_request;
    friend bool operator==(BindingRefreshRequest const&, BindingRefreshRequest const&) = default;
};

/// A message of a type that is not read here: the answer is a Binding Error of status 2 (9.2). Its
/// content is not kept.
struct UnknownMessage {
    std::uint8_t type = 0;
    friend bool operator==(UnknownMessage const&, UnknownMessage const&) = default;
};

using Message = std::variant<BindingUpdate, BindingAcknowledgement, BindingError,
                             BindingRefreshRequest, UnknownMessage>;

/// The Mobility Header with its options and padding, and its checksum. `source` and `destination`
/// are the addresses of the checksum's pseudo-header, both IPv6: the home address in place of the
/// care-of address, wherever a Home Address option or a type 2 routing header carries it (6.1.1).
Bytes encode(Message const& message, Address const& source, Address const& destination);

/// Reads a Mobility Header, with which `bytes` begin; what follows it is ignored (RFC 8200 4.7).
/// Unknown options, and those that have no meaning in the message, are skipped (6.2.1). Of an
/// option that is repeated the first counts. Fails with protocol, naming the field: a wrong
/// checksum, a next header other than 59, a length that does not fit its message or option, an IPv4
/// prefix longer than 32.
core::Result<Message> parse_message(ByteView bytes, Address const& source,
                                    Address const& destination);

/// Whether `bytes` begin with a whole Mobility Header whose checksum is wrong.
bool is_checksum_wrong(ByteView bytes, Address const& source, Address const& destination);

}  // namespace netmove::mobile_ipv6
