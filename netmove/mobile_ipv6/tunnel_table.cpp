#include "netmove/mobile_ipv6/tunnel_table.hpp"

#include <algorithm>

namespace netmove::mobile_ipv6 {

std::size_t CarePath::mtu(TimePoint now) const {
    bool const learned = learned_ != 0 && now < learned_until_;
    return learned ? std::min(learned_, link_mtu_) : link_mtu_;
}

bool CarePath::learn(std::size_t mtu, TimePoint now) {
    mtu = std::max(mtu, to_.is_ipv6() ? ipv6_mtu_min : ipv4_path_mtu_min);
    if (mtu >= this->mtu(now)) return false;
    learned_ = mtu;
    learned_until_ = now + path_mtu_lifetime;
    return true;
}

CarePath& TunnelTable::use_path(Address const& care_of, std::size_t mtu) {
    auto& path = paths_.try_emplace(care_of, care_of, mtu).first->second;
    path.set_link_mtu(mtu);
    ++path.users_;
    return path;
}

void TunnelTable::leave_path(CarePath* path) {
    if (path == nullptr || --path->users_ > 0) return;
    auto const to = path->to();
    paths_.erase(to);
}

Tunnel& TunnelTable::bind(Route const& route, std::size_t mtu) {
    auto& slot = tunnels_[route.home];
    if (!slot) slot = std::make_unique<Tunnel>();
    auto& tunnel = *slot;
    auto* const before = tunnel.path;
    tunnel.path = &use_path(route.care_of.address, mtu);
    leave_path(before);
    if (tunnel.ipv4_home && tunnel.ipv4_home != route.ipv4_home) {
        by_address_.erase(*tunnel.ipv4_home);
    }
    tunnel.home = route.home;
    tunnel.ipv4_home = route.ipv4_home;
    tunnel.care_of = route.care_of;
    by_address_[tunnel.home] = &tunnel;
    if (tunnel.ipv4_home) by_address_[*tunnel.ipv4_home] = &tunnel;
    return tunnel;
}

void TunnelTable::unbind(Address const& home) {
    auto const at = tunnels_.find(home);
    if (at == tunnels_.end()) return;
    auto& tunnel = *at->second;
    leave_path(tunnel.path);
    by_address_.erase(tunnel.home);
    if (tunnel.ipv4_home) by_address_.erase(*tunnel.ipv4_home);
    tunnels_.erase(at);
}

CarePath* TunnelTable::path(Address const& care_of) {
    auto const at = paths_.find(care_of);
    return at == paths_.end() ? nullptr : &at->second;
}

}  // namespace netmove::mobile_ipv6
