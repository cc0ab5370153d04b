#include "sidecar/handover/dns_update.hpp"

#include <algorithm>

#include "core/log.hpp"

namespace sidecar {

using core::Deadline;
using core::Errc;
using core::fail;
using core::Json;
using core::Result;
using core::Task;
using netmove::Address;
using netmove::dns::Primary;
using netmove::dns::Records;

namespace {

constexpr char const* resolv_conf = "/etc/resolv.conf";

Json addresses_json(Records const& records) {
    auto list = Json::array();
    for (auto const& address : records.addresses) list.add(address.text());
    return list;
}

Json records_json(Records const& records) {
    auto made = Json::object({{"addresses", addresses_json(records)}});
    if (records.ttl_ipv4) made.set("ttl_ipv4", std::int64_t{*records.ttl_ipv4});
    if (records.ttl_ipv6) made.set("ttl_ipv6", std::int64_t{*records.ttl_ipv6});
    return made;
}

std::optional<std::uint32_t> ttl_from(Json const& json) {
    auto const ttl = json.integer_or(-1);
    if (ttl < 0 || ttl > UINT32_MAX) return std::nullopt;
    return static_cast<std::uint32_t>(ttl);
}

std::optional<Records> records_from(Json const& json) {
    if (!json["addresses"].is_array()) return std::nullopt;
    Records made;
    for (auto const& text : json["addresses"].elements()) {
        auto const address = Address::parse(text.text_or(""));
        if (!address || made.addresses.size() == netmove::dns::addresses_max) return std::nullopt;
        made.add(*address);
    }
    made.ttl_ipv4 = ttl_from(json["ttl_ipv4"]);
    made.ttl_ipv6 = ttl_from(json["ttl_ipv6"]);
    return made;
}

}  // namespace

DnsUpdate::DnsUpdate(core::Loop& loop, DnsOptions const& options, std::string guest)
    : loop_(loop), options_(options), guest_(std::move(guest)) {}

std::string_view DnsUpdate::name(Outcome outcome) {
    switch (outcome) {
        case Outcome::none:
            return "none";
        case Outcome::changed:
            return "changed";
        case Outcome::unchanged:
            return "unchanged";
        case Outcome::changed_by_others:
            return "changed_by_others";
        case Outcome::failed:
            return "failed";
    }
    return "?";
}

Task<Result<>> DnsUpdate::find(Deadline deadline) {
    if (primary_) co_return Result<>{};
    CO_TRY(auto key, netmove::dns::read_tsig_key(options_.key_file));
    CO_TRY(auto absolute, netmove::dns::absolute_name(options_.name));
    CO_TRY(primary_, co_await Primary::find(loop_, std::move(absolute), options_.server,
                                            std::move(key), resolv_conf, deadline));
    co_return Result<>{};
}

/// The new records. Each family keeps its TTL; one that the name did not have takes the other's.
Result<Records> DnsUpdate::wanted_records() const {
    Records made;
    for (auto const& text : options_.addresses) {
        TRY(auto const address, Address::parse(text));
        made.add(address);
    }
    auto const ttl = [this](std::optional<std::uint32_t> own, std::optional<std::uint32_t> other) {
        return options_.ttl ? options_.ttl : own ? own : other;
    };
    auto const ipv4 = ttl(before_->ttl_ipv4, before_->ttl_ipv6);
    if (!ipv4) {
        return fail(Errc::refused,
                    "{} has no address in the DNS, so there is no TTL to keep: check the name, or "
                    "give --dns-ttl",
                    options_.name);
    }
    if (made.has(Address::Family::ipv4)) made.ttl_ipv4 = ipv4;
    if (made.has(Address::Family::ipv6)) made.ttl_ipv6 = ttl(before_->ttl_ipv6, before_->ttl_ipv4);
    return made;
}

Task<Result<>> DnsUpdate::check(Deadline deadline) {
    if (!wanted()) co_return Result<>{};
    CO_TRY_VOID(co_await find(deadline));
    CO_TRY(before_, co_await primary_->read(deadline));
    CO_TRY(after_, wanted_records());
    co_return co_await primary_->try_key(*before_, deadline);
}

Task<Result<>> DnsUpdate::change(Deadline deadline) {
    CO_TRY_VOID(co_await find(deadline));
    if (!before_) {
        CO_TRY(before_, co_await primary_->read(deadline));
    }
    CO_TRY(after_, wanted_records());
    if (*before_ == after_) {
        outcome_ = Outcome::unchanged;
        co_return Result<>{};
    }
    CO_TRY(auto updated, co_await primary_->update(*before_, after_, deadline));
    found_ = std::move(updated.found);
    outcome_ = updated.outcome == Primary::Outcome::changed ? Outcome::changed
                                                            : Outcome::changed_by_others;
    co_return Result<>{};
}

Task<void> DnsUpdate::run(Deadline deadline) {
    if (!wanted() || std::exchange(begun_, true)) co_return;
    auto const changed = co_await change(deadline);
    if (!changed) {
        outcome_ = Outcome::failed;
        failure_ = changed.error();
    }
    if (auto const line = done_line(); !line.empty()) core::log::info("guest={} {}", guest_, line);
    if (auto const line = warning(); !line.empty()) core::log::warning("guest={} {}", guest_, line);
}

/// "300 s", or "A 300 s, AAAA 60 s"
std::string DnsUpdate::cached_for() const {
    auto const& ipv4 = before_->ttl_ipv4;
    auto const& ipv6 = before_->ttl_ipv6;
    if (ipv4 && ipv6 && *ipv4 != *ipv6) return fmt::format("A {} s, AAAA {} s", *ipv4, *ipv6);
    return fmt::format("{} s", ipv4.value_or(ipv6.value_or(0)));
}

std::vector<std::string> DnsUpdate::lines() const {
    if (!primary_ || !before_) return {};
    std::vector<std::string> all{fmt::format(
        "name {}: the DNS server {} (zone {}) lets the key change it from {} to {}", options_.name,
        primary_->server(), primary_->zone(), before_->text(), after_.text())};
    if (!before_->addresses.empty()) {
        all.push_back(fmt::format("name {}: resolvers may keep the old addresses for its TTL: {}",
                                  options_.name, cached_for()));
    }
    return all;
}

std::string DnsUpdate::done_line() const {
    if (outcome_ == Outcome::unchanged) {
        return fmt::format("{} has the addresses {} in the DNS already", options_.name,
                           after_.text());
    }
    if (outcome_ != Outcome::changed) return {};
    return fmt::format("{} has the addresses {} in the DNS now, instead of {}", options_.name,
                       after_.text(), before_->text());
}

std::string DnsUpdate::by_hand() const {
    if (!primary_ || !before_ || after_.addresses.empty()) return {};
    auto commands = primary_->commands(*before_, after_, outcome_ != Outcome::changed_by_others);
    for (auto at = commands.find('\n'); at != std::string::npos; at = commands.find('\n', at)) {
        commands.replace(at, 1, "\\n");
    }
    return fmt::format("printf '{}' | nsupdate -k {}", commands, options_.key_file);
}

std::string DnsUpdate::warning() const {
    if (outcome_ == Outcome::changed_by_others) {
        return fmt::format(
            "{} was changed in the DNS meanwhile: it had {} before the move, and has {} now; it is "
            "left alone. To give it {}: {}",
            options_.name, before_->text(), found_.text(), after_.text(), by_hand());
    }
    if (outcome_ != Outcome::failed) return {};
    auto const commands = by_hand();
    return fmt::format("the addresses of {} in the DNS could not be changed: {}{}{}", options_.name,
                       failure_->sentence(), commands.empty() ? "" : "; by hand: ", commands);
}

Json DnsUpdate::report() const {
    if (outcome_ == Outcome::none) return {};
    auto made = Json::object({{"name", options_.name}, {"outcome", name(outcome_)}});
    if (primary_) made.set("zone", primary_->zone()).set("server", primary_->server());
    if (before_) made.set("before", records_json(*before_));
    if (!after_.addresses.empty()) made.set("after", records_json(after_));
    if (outcome_ == Outcome::changed_by_others) made.set("found", records_json(found_));
    if (failure_) made.set("error", failure_->sentence());
    return made;
}

Json DnsUpdate::record() const { return before_ ? records_json(*before_) : Json(); }

void DnsUpdate::restore(Json const& record) {
    if (!before_) before_ = records_from(record);
}

}  // namespace sidecar
