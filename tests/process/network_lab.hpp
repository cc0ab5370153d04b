// Shared by the process tests of networks: a host whose wires and guests are taps; frames of every
// kind that might pass from one network into another; and a classifier independent of the rules.
#pragma once

#include <random>

#include "netmove/network.hpp"
#include "tests/process/netmove_lab.hpp"
#include "tests/support/lab.hpp"

namespace network_lab {

using namespace netmove_lab;

/// The kind of a frame, by its bytes alone.
enum class Kind {
    ipv4,  ///< IPv4, or ARP for it.
    ipv6,
    announcement,  ///< RARP of a moved station, without an address.
    other,  ///< Everything that no network forwards.
};
Kind kind_of(Bytes const& frame);
char const* name(Kind kind);

/// Frames of all kinds in turn, each different, with random payload and stations: the frames both
/// protocols need, one protocol under the other's EtherType, one and two VLAN tags, LLC and SNAP,
/// truncated frames, reserved groups.
class Flood {
public:
    explicit Flood(unsigned seed) : random_(seed) {}
    std::vector<Bytes> next(std::size_t count);
    /// Only frames that a network of that protocol forwards.
    std::vector<Bytes> good(Protocol protocol, std::size_t count);

private:
    Bytes one();
    Bytes header(unsigned ether_type);
    /// A datagram that passes every check of the kernel (bridge-nf-call-iptables inspects it).
    Bytes sound(Protocol protocol);
    Bytes packet(int version, std::size_t size);
    Bytes arp(unsigned protocol_type);
    Bytes rarp(bool with_address);
    Bytes tagged(unsigned tag, Bytes inner);
    Bytes llc(bool snap, unsigned ether_type, int version);
    unsigned below(unsigned limit) { return static_cast<unsigned>(random_() % limit); }

    std::mt19937 random_;
    unsigned turn_ = 0;
    std::uint32_t number_ = 0;
};

/// A host in a namespace of its own, with a state directory of its own.
struct NetworkHost : OneHost {
    NetworkHost();
    ~NetworkHost();
    /// `sidecar network WORDS`.
    lab::Output network(std::vector<std::string> words) const;
    /// The same; fails the test unless the exit status is 0. Returns what it printed.
    std::string must_network(std::vector<std::string> words) const;
    /// A tap that represents a wire, or a guest in that network.
    Tap wire(std::string const& name);
    Tap guest(std::string const& name, std::string const& network);
    /// Links, addresses, rules and IPv6 settings: must be the same before and after.
    [[nodiscard]] std::string everything() const;

    lab::fs::path directory;
};

/// Writes the frames into one tap, a few at a time; `look` then reads what the others received.
void send(Tap const& from, std::vector<Bytes> const& frames, std::function<void()> const& look);

}  // namespace network_lab
