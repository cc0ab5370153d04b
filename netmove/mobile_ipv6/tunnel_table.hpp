// TunnelTable: where packets of home addresses go. Used by DataPath, which looks each packet up in
// it once. Pure: no descriptor; the time comes with each call.
//
// Invariant: an address leads to one tunnel. A care-of address has one path, however many tunnels
// lead there.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <unordered_map>

#include "core/deadline.hpp"
#include "netmove/mobile_ipv6/address_hash.hpp"
#include "netmove/mobile_ipv6/binding_cache.hpp"

namespace netmove::mobile_ipv6 {

/// What a path carries is learned again after so long (RFC 8201 4: at least 5 minutes; 10 advised).
constexpr std::chrono::minutes path_mtu_lifetime{10};
/// Less than this no IPv4 path is taken to carry (RFC 1191 has no limit; forged messages must not
/// make packets tiny).
constexpr std::size_t ipv4_path_mtu_min = 576;

/// The way to one care-of address.
class CarePath {
public:
    CarePath(Address to, std::size_t mtu) : to_(to), link_mtu_(mtu) {}
    [[nodiscard]] Address const& to() const { return to_; }
    /// Bytes of an outer packet that pass.
    [[nodiscard]] std::size_t mtu(TimePoint now) const;
    /// A router said that no more than this passes. False: it changes nothing.
    bool learn(std::size_t mtu, TimePoint now);
    /// Of the route, as the host has it now.
    void set_link_mtu(std::size_t mtu) { link_mtu_ = mtu; }

private:
    friend class TunnelTable;
    Address to_;
    std::size_t link_mtu_;
    std::size_t learned_ = 0;
    TimePoint learned_until_{};
    std::size_t users_ = 0;
};

struct TunnelTraffic {
    std::uint64_t packets_to = 0;  ///< To the mobile node.
    std::uint64_t bytes_to = 0;  ///< Without the outer header.
    std::uint64_t packets_from = 0;
    std::uint64_t bytes_from = 0;
};

struct Tunnel {
    Address home;
    std::optional<Address> ipv4_home;
    CareOf care_of;
    CarePath* path = nullptr;  ///< Of the table.
    TunnelTraffic traffic{};

    /// Bytes of the outer headers.
    [[nodiscard]] std::size_t overhead() const {
        if (care_of.address.is_ipv6()) return 40;
        return care_of.udp_port == 0 ? 20 : 28;
    }
};

class TunnelTable {
public:
    /// Packets for the home addresses go to route.care_of. `mtu`: of the host's route there. The
    /// traffic of an earlier tunnel for the same home address is kept.
    Tunnel& bind(Route const& route, std::size_t mtu);
    void unbind(Address const& home);

    /// By an IPv6 or IPv4 home address; null: none.
    [[nodiscard]] Tunnel* find(Address const& home) const {
        auto const at = by_address_.find(home);
        return at == by_address_.end() ? nullptr : at->second;
    }
    /// The way to a care-of address that some tunnel has; null: none has it.
    [[nodiscard]] CarePath* path(Address const& care_of);
    [[nodiscard]] std::size_t size() const { return tunnels_.size(); }

private:
    CarePath& use_path(Address const& care_of, std::size_t mtu);
    void leave_path(CarePath* path);

    std::unordered_map<Address, std::unique_ptr<Tunnel>, AddressHash> tunnels_;  ///< By home.
    std::unordered_map<Address, Tunnel*, AddressHash> by_address_;
    std::unordered_map<Address, CarePath, AddressHash> paths_;
};

}  // namespace netmove::mobile_ipv6
