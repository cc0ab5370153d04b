#include <algorithm>

#include "core/log.hpp"
#include "sidecar/handover/tracking.hpp"

namespace sidecar {

using core::Errc;
using core::fail;
using core::Result;

Result<> DestinationTracking::take_addresses(Guest const* guest, protocol::Conntrack const& sent) {
    if (guest == nullptr || !guest->netlink) {
        return fail(Errc::protocol, "the source names interfaces of a guest that has none here");
    }
    TRY(auto const here, guest->netlink->addresses());
    host_addresses_.clear();
    for (auto const& one : here) host_addresses_.push_back(one.address);
    addresses_.clear();
    auto const& all = *sent.interfaces;
    if (all.size() > guest->nics.size()) {
        return fail(Errc::protocol, "the source names {} interfaces of {}", all.size(),
                    guest->nics.size());
    }
    for (auto const& interface : all) {
        for (auto const& known : interface.addresses) {
            if (!has(host_addresses_, known.address)) addresses_.push_back(known.address);
        }
    }
    gateways_.clear();
    for (auto const& one : sent.gateways) {
        auto const address = netmove::Address::parse(one);
        if (address && has(host_addresses_, *address)) gateways_.push_back(address->text());
    }
    return {};
}

Result<protocol::TrackingReport> DestinationTracking::take(Guest const* guest,
                                                           protocol::Conntrack const& sent) {
    if (sent.interfaces) TRY_VOID(take_addresses(guest, sent));
    if (restored_ + failed_.size() + sent.entries.size() > 2 * netmove::conntrack_entries_max) {
        return fail(Errc::protocol, "the source sent more than {} connections",
                    netmove::conntrack_entries_max);
    }
    std::vector<netmove::ConntrackEntry> entries;
    for (auto const& one : sent.entries) {
        auto entry = netmove::ConntrackEntry::from_json(one, addresses_);
        if (entry) entries.push_back(std::move(*entry));
        if (!entry && ++refused_ == 1) {
            core::log::warning("conntrack: {}", entry.error().sentence());
        }
    }
    auto const opened = entries.empty() ? Result<>{} : open();
    for (auto const& entry : entries) {
        failed_.erase(entry.key);
        if (!opened) failed_[entry.key] = opened.error().what;
    }
    if (conntrack_) {
        for (auto& [key, why] : conntrack_->restore(entries, host_addresses_).failed) {
            failed_.insert_or_assign(key, std::move(why));
        }
        conntrack_->forget_restored(sent.gone);
        restored_ = conntrack_->restored();
    }
    return report();
}

Result<> DestinationTracking::open() {
    if (conntrack_) return {};
    TRY(auto opened, netmove::Conntrack::open());
    conntrack_ = std::move(opened);
    return {};
}

void DestinationTracking::undo() {
    if (!conntrack_) return;
    auto const undone = conntrack_->undo();
    if (!undone) core::log::warning("conntrack: {}", undone.error().sentence());
    conntrack_.reset();
    restored_ = 0;
}

protocol::TrackingReport DestinationTracking::report() const {
    std::map<std::string, std::uint64_t> reasons;
    for (auto const& [key, why] : failed_) {
        bool const room = reasons.contains(why) || reasons.size() < limits::conntrack_reasons_max;
        ++reasons[room ? why : "for other reasons"];
    }
    if (refused_ > 0) reasons["they do not belong to this guest"] += refused_;
    protocol::TrackingReport made{restored_, {}, gateways_};
    for (auto const& [why, count] : reasons) made.failed.push_back({why, count});
    return made;
}

}  // namespace sidecar
