#include <algorithm>

#include "core/log.hpp"
#include "sidecar/handover/tracking.hpp"

namespace sidecar {

using core::Errc;
using core::fail;
using core::Json;
using core::Result;

namespace {

bool has(std::vector<netmove::Address> const& all, netmove::Address const& one) {
    return std::ranges::find(all, one) != all.end();
}

}  // namespace

Result<> DestinationTracking::take_addresses(Guest const* guest, Json const& arguments) {
    if (guest == nullptr || !guest->netlink) {
        return fail(Errc::protocol, "the source names interfaces of a guest that has none here");
    }
    TRY(auto const here, guest->netlink->addresses());
    host_addresses_.clear();
    for (auto const& one : here) host_addresses_.push_back(one.address);
    addresses_.clear();
    auto const all = arguments["interfaces"].elements();
    if (all.size() > guest->nics.size()) {
        return fail(Errc::protocol, "the source names {} interfaces of {}", all.size(),
                    guest->nics.size());
    }
    for (auto const& one : all) {
        TRY(auto const interface, netmove::GuestInterface::from_json(one));
        for (auto const& known : interface.addresses) {
            if (!has(host_addresses_, known.address)) addresses_.push_back(known.address);
        }
    }
    gateways_ = Json::array();
    for (auto const& one : arguments["gateways"].elements()) {
        auto const address = netmove::Address::parse(one.text_or(""));
        if (address && has(host_addresses_, *address)) gateways_.add(address->text());
    }
    return {};
}

Result<Json> DestinationTracking::take(Guest const* guest, Json const& arguments) {
    if (arguments.has("interfaces")) TRY_VOID(take_addresses(guest, arguments));
    auto const sent = arguments["entries"].elements();
    auto const gone = arguments["gone"].elements();
    if (sent.size() > netmove::conntrack_batch_max || gone.size() > netmove::conntrack_batch_max) {
        return fail(Errc::protocol, "the source sent more than {} connections at once",
                    netmove::conntrack_batch_max);
    }
    if (restored_ + failed_.size() + sent.size() > 2 * netmove::conntrack_entries_max) {
        return fail(Errc::protocol, "the source sent more than {} connections",
                    netmove::conntrack_entries_max);
    }
    std::vector<netmove::ConntrackEntry> entries;
    for (auto const& one : sent) {
        auto entry = netmove::ConntrackEntry::from_json(one, addresses_);
        if (entry) entries.push_back(std::move(*entry));
        if (!entry && ++refused_ == 1) {
            core::log::warning("conntrack: {}", entry.error().sentence());
        }
    }
    std::vector<netmove::ConntrackKey> keys;
    for (auto const& one : gone) {
        TRY(auto key, netmove::ConntrackKey::from_json(one));
        keys.push_back(std::move(key));
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
        conntrack_->forget_restored(keys);
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

Json DestinationTracking::report() const {
    std::map<std::string, std::uint64_t> reasons;
    for (auto const& [key, why] : failed_) {
        bool const room = reasons.contains(why) || reasons.size() < limits::conntrack_reasons_max;
        ++reasons[room ? why : "for other reasons"];
    }
    if (refused_ > 0) reasons["were none of this guest's"] += refused_;
    Json list = Json::array();
    for (auto const& [why, count] : reasons) {
        list.add(Json::object({{"why", why}, {"entries", count}}));
    }
    return Json::object({{"restored", static_cast<std::uint64_t>(restored_)},
                         {"failed", list},
                         {"gateways", gateways_}});
}

}  // namespace sidecar
