// netmove/tunnel/ carries Ethernet frames of one guest's interface between two hosts, over UDP, in
// user space. It uses core/ and netmove/. `serve` holds both ends: the anchor on the guest's home
// network, and the end on the host where the guest runs.
//
//   home network                                                          host of the guest
//   bridge -- tap -- Tunnel -- Hub === UDP, DTLS === Hub -- Tunnel -- tap -- bridge -- guest's tap
//
// Hub: one UDP socket and all tunnels on it. Tunnel: one pair of ends. A datagram is the id of its
// tunnel, in clear, and one DTLS 1.2 record (RFC 6347; GnuTLS, with a pre-shared key of this
// tunnel). A record holds frames and parts of frames (fragment.hpp), so a frame of any size passes
// a path of any MTU, and no packet-too-big is ever needed. The tap's vnet header travels with the
// frame: superframes are carried whole.
//
// Invariant: a datagram that does not authenticate changes nothing, the peer's endpoint included.
// An authenticated one from a new address moves the endpoint there (NAT, a host that changes its
// address). Nothing is read from a tap while no session is up: frames wait in its ring.
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "core/deadline.hpp"
#include "core/json.hpp"
#include "core/loop.hpp"
#include "core/result.hpp"
#include "core/task.hpp"
#include "netmove/address.hpp"
#include "netmove/tap.hpp"

namespace netmove::tunnel {

/// An address and a UDP port.
struct Endpoint {
    Address address;
    std::uint16_t port = 0;
    /// "192.0.2.1:4791", "[2001:db8::1]:4791".
    [[nodiscard]] std::string text() const;
    static core::Result<Endpoint> parse(std::string_view text);
    auto operator<=>(Endpoint const&) const = default;
};

/// Names one tunnel and is its secret. Made by the process that sets the tunnel up, which sends it
/// to both ends over an authenticated channel.
struct Key {
    std::uint64_t id = 0;  ///< In clear in each datagram. Random, so that ids of two hosts differ.
    std::string secret;  ///< 32 bytes as lower-case hex.
    static Key generate();
    [[nodiscard]] core::Json to_json() const;
    static core::Result<Key> from_json(core::Json const& json);
};

/// Who begins the handshake. The end whose endpoint is known to the other waits (the anchor).
enum class Role : std::uint8_t { listens, connects };

/// What a test of the path found.
struct PathTest {
    std::chrono::nanoseconds round_trip{};
    std::size_t datagram_max = 0;  ///< Bytes of UDP payload that pass in both directions.
};

struct Statistics {
    std::uint64_t frames_sent = 0;
    std::uint64_t frames_received = 0;
    std::uint64_t bytes_sent = 0;  ///< Of frames, without headers of the tunnel.
    std::uint64_t bytes_received = 0;
    std::uint64_t unauthenticated = 0;  ///< Datagrams: forged, with an old key, or from a stranger.
    std::uint64_t replayed = 0;
    std::uint64_t malformed = 0;  ///< Authentic, but not as fragment.hpp says.
    std::uint64_t incomplete = 0;  ///< Frames of which a part did not arrive.
    std::uint64_t not_written = 0;  ///< Frames that the tap did not take.
    std::uint64_t handshakes = 0;
    std::optional<Endpoint> peer;  ///< Where it is now.
    std::optional<PathTest> path;
    [[nodiscard]] core::Json to_json() const;
};

class Hub;

/// One end of a tunnel. Made by Hub::add(), ends with Hub::remove() or the Hub.
class Tunnel {
public:
    virtual ~Tunnel() = default;
    [[nodiscard]] virtual Key const& key() const = 0;
    /// Waits until the two ends have authenticated each other. Fails with timed_out, naming the
    /// endpoint and what was received from there. The tunnel goes on trying until it is removed,
    /// and after a break by itself: the end that connects begins again when the other is silent.
    virtual core::Task<core::Result<>> established(core::Deadline deadline) = 0;
    [[nodiscard]] virtual bool is_established() const = 0;
    /// Measures the path (RFC 8899: padded probes with the don't-fragment bit), both directions.
    /// Fails with timed_out, or with refused if not even datagrams of 1,200 bytes pass.
    virtual core::Task<core::Result<PathTest>> test_path(core::Deadline deadline) = 0;

    /// The tap whose ring is read and that received frames are written to. The tunnel keeps
    /// duplicates of its descriptors. One at a time; nothing flows before forward().
    virtual core::Result<> attach(Tap const& tap) = 0;
    /// Begins to read the tap's ring, now and until hold(). Does not suspend. The tap then takes
    /// superframes (TUNSETOFFLOAD), so no guest may read it. Fails with refused without a tap.
    virtual core::Result<> forward() = 0;
    /// Stops reading: frames wait in the ring from now on. Does not suspend.
    virtual void hold() = 0;
    /// Whether received frames are written to the tap. Off: they are dropped and counted. If it is
    /// not called: from the first forward() of an attached tap on.
    virtual void accept(bool on) = 0;
    [[nodiscard]] virtual Statistics statistics() const = 0;
};

struct HubOptions {
    std::string listen = "[::]";  ///< Both families.
    std::uint16_t port = 0;  ///< 0: any. See default_port.
};

/// UDP port of an anchor when none is given; beside the control port 4790. Unassigned by IANA.
constexpr std::uint16_t default_port = 4791;
/// Tunnels on one Hub: bounds memory and ids.
constexpr std::size_t tunnels_max = 4'096;

class Hub {
public:
    virtual ~Hub() = default;
    static core::Result<std::unique_ptr<Hub>> open(core::Loop& loop, HubOptions options);
    [[nodiscard]] virtual std::uint16_t port() const = 0;
    /// `peer` is needed if this end connects. Fails with refused if the id is in use.
    virtual core::Result<Tunnel*> add(Key key, Role role, std::optional<Endpoint> peer) = 0;
    /// The Tunnel must not be used afterwards; tasks that wait in it end with cancelled first.
    virtual core::Task<void> remove(std::uint64_t id) = 0;
    /// Ends all tunnels. Call before destruction.
    virtual core::Task<void> close() = 0;
    /// Datagrams that were for no tunnel of this Hub, or none of ours at all.
    [[nodiscard]] virtual std::uint64_t strangers() const = 0;
};

}  // namespace netmove::tunnel
