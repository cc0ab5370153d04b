// HomeLink: what a home agent does on the home link for nodes that are away (RFC 6275 10.4.1): it
// answers neighbour discovery and ARP for their addresses, announces that it has them, and looks
// whether another station has them. Used by HomeAgent. Needs CAP_NET_RAW.
//
// It answers itself, with a packet socket, and not by the kernel's proxy entries: the kernel
// answers multicast questions up to 0.8 s late, as a router, and without Override where it defends
// an address, so that a station that has its address by mistake would keep it.
#pragma once

#include <memory>
#include <optional>
#include <stop_token>
#include <unordered_map>

#include "core/fd.hpp"
#include "core/loop.hpp"
#include "core/sync.hpp"
#include "netmove/frame.hpp"
#include "netmove/mobile_ipv6/address_hash.hpp"
#include "netmove/netlink.hpp"

namespace netmove::mobile_ipv6 {

/// RFC 4862 5.1: one question (DupAddrDetectTransmits), and so long for the answer (RetransTimer).
constexpr std::chrono::milliseconds detection_time{1'000};
/// Group memberships of one socket: the kernel keeps a few thousand (net.core.optmem_max).
constexpr std::size_t memberships_per_socket_max = 128;

/// Memberships of solicited-node groups: the kernel then reports them (MLD), and the link's
/// interface takes their frames. Two addresses may have one group.
class GroupMemberships {
public:
    explicit GroupMemberships(int link) : link_(link) {}
    core::Result<> join(Address const& group);
    void leave(Address const& group);

private:
    struct Membership {
        std::size_t socket;
        std::size_t users;
    };
    struct MembershipSocket {
        core::Fd fd;
        std::size_t groups = 0;
    };
    core::Result<std::size_t> socket_with_room();

    int link_;
    std::vector<MembershipSocket> sockets_;
    std::unordered_map<Address, Membership, AddressHash> groups_;
};

class HomeLink {
public:
    struct Counters {
        std::uint64_t answered = 0;  ///< Questions of stations that want to send to an address.
        std::uint64_t defended = 0;  ///< Duplicate address detection of other stations.
        std::uint64_t conflicts = 0;  ///< Another station said that an address is its own.
        std::uint64_t not_sent = 0;  ///< Frames that the link did not take.
    };

    /// `agent`: the home agent's own address on `link`. Nothing is answered before run().
    static core::Result<std::unique_ptr<HomeLink>> open(core::Loop& loop, Link const& link,
                                                        Address const& agent);

    /// Answers until stopped (then success), or until the link is gone (closed). One at a time.
    core::Task<core::Result<>> run(std::stop_token stop);

    /// Duplicate address detection of the home addresses, while run() runs: whether another station
    /// has one of them. Takes detection_time, if none has.
    core::Task<core::Result<bool>> detect(std::vector<Address> addresses, std::stop_token stop);

    /// Answers for the address from now on, and announces it once. An IPv6 address is announced
    /// with its link-local address, if `with_link_local`. Each claim needs a release.
    core::Result<> claim(Address const& address, bool with_link_local = false);
    /// No more.
    void release(Address const& address, bool with_link_local = false);

    [[nodiscard]] Counters const& counters() const { return counters_; }

private:
    struct Detection {
        explicit Detection(core::Loop& loop) : found(loop) {}
        core::Event found;
    };
    HomeLink(core::Loop& loop, core::Fd socket, Link const& link, Address const& agent);
    /// Reads what waits, at most one batch; false: the link is down or gone.
    bool take_in();
    void handle(EthernetFrame const& frame);
    void handle_arp(EthernetFrame const& frame);
    void handle_discovery(EthernetFrame const& frame);
    void answer(Address const& target, NeighbourAsker const& asker);
    void claimed_by_other(Address const& address);
    core::Result<> claim_one(Address const& address);
    void release_one(Address const& address);
    void send(ByteView frame);

    core::Loop& loop_;
    core::Fd socket_;
    int link_;
    std::string name_;
    MacAddress mac_;
    Address agent_;
    GroupMemberships groups_;
    /// How often each is claimed: a link-local address may belong to two home addresses.
    std::unordered_map<Address, std::size_t, AddressHash> claimed_;
    std::unordered_map<Address, Detection*, AddressHash> detecting_;
    Counters counters_;
};

/// The link-local address with the interface identifier of a home address.
Address link_local_of(Address const& home);

}  // namespace netmove::mobile_ipv6
