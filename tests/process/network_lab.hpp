// What the process tests of networks share: a host whose wires and guests are taps, frames of every
// kind that may try to get from one network into another, and a judge that knows nothing of rules.
#pragma once

#include <random>

#include "netmove/network.hpp"
#include "tests/process/netmove_lab.hpp"
#include "tests/support/lab.hpp"

namespace network_lab {

using namespace netmove_lab;

/// What a frame is, by its bytes alone.
enum class Kind {
    ipv4,  ///< IPv4, or ARP for it.
    ipv6,
    announcement,  ///< RARP of a moved station, without an address.
    other,  ///< All that no network passes.
};
Kind kind_of(Bytes const& frame);
char const* name(Kind kind);

/// Frames of all kinds in turn, each different, with random payload and stations: what both
/// protocols need, what carries one in the other's clothes, tags once and twice, LLC and SNAP, cut
/// ones, reserved groups.
class Flood {
public:
    explicit Flood(unsigned seed) : random_(seed) {}
    std::vector<Bytes> next(std::size_t count);
    /// Only those that a network of that protocol passes.
    std::vector<Bytes> good(Protocol protocol, std::size_t count);

private:
    Bytes one();
    Bytes header(unsigned ether_type);
    /// A datagram that every check of the kernel's lets pass (bridge-nf-call-iptables looks at it).
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
    /// The same; the test fails unless it ends with 0. What it printed.
    std::string must_network(std::vector<std::string> words) const;
    /// A tap that stands for a wire, or for a guest in that network.
    Tap wire(std::string const& name);
    Tap guest(std::string const& name, std::string const& network);
    /// Links, addresses, rules and IPv6 settings: to be the same after as before.
    [[nodiscard]] std::string everything() const;

    lab::fs::path directory;
};

/// Writes the frames into one tap, a few at a time; `look` sees what has come to the others.
void send(Tap const& from, std::vector<Bytes> const& frames, std::function<void()> const& look);

}  // namespace network_lab
