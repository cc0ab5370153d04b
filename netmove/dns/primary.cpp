#include "netmove/dns/primary.hpp"

#include <fmt/format.h>

#include <cstdlib>
#include <fstream>
#include <sstream>

#include "core/stream.hpp"

namespace netmove::dns {

using core::Deadline;
using core::Errc;
using core::Error;
using core::fail;
using core::Result;
using core::Task;

namespace {

/// Without the final dot, as people write it.
std::string plain(std::string const& absolute) {
    return absolute.size() > 1 && absolute.ends_with('.') ? absolute.substr(0, absolute.size() - 1)
                                                          : absolute;
}

/// The words before the next line break; removes them from `text`.
std::vector<std::string> next_line(std::string_view& text) {
    auto const end = std::min(text.find('\n'), text.size());
    std::istringstream line{std::string(text.substr(0, end))};
    text.remove_prefix(std::min(end + 1, text.size()));
    std::vector<std::string> words;
    for (std::string word; line >> word;) words.push_back(word);
    return words;
}

std::string file_text(std::string const& path) {
    std::ostringstream text;
    text << std::ifstream(path).rdbuf();
    return text.str();
}

/// The zone of a name and its primary server, as the host's resolvers know them.
Task<Result<Answer>> ask_resolvers(core::Loop& loop, std::string name, std::string resolv_conf,
                                   Deadline deadline) {
    std::vector<core::SocketAddress> addresses;
    for (auto const& resolver : resolvers_in(file_text(resolv_conf))) {
        auto found = co_await core::resolve(loop, resolver, dns_port, deadline);
        if (found) addresses.insert(addresses.end(), found->begin(), found->end());
    }
    if (addresses.empty()) {
        co_return fail(Errc::refused, "{} names no usable resolver: give --dns-server",
                       resolv_conf);
    }
    Client const client(loop, std::move(addresses), "in " + resolv_conf);
    CO_TRY(auto const request, Request::question(name, RecordType::soa, nullptr));
    CO_TRY(auto answer, co_await client.ask(request, deadline));
    if (!absolute_name(answer.primary) || !is_in_zone(name, answer.zone)) {
        co_return fail(
            Errc::refused, "this host's resolver knows no zone of {} ({}){}: give --dns-server",
            plain(name), dns::name(answer.rcode), answer.alias ? ", which is an alias" : "");
    }
    co_return answer;
}

}  // namespace

std::vector<std::string> resolvers_in(std::string_view resolv_conf) {
    std::vector<std::string> all;
    while (!resolv_conf.empty() && all.size() < resolvers_max) {
        auto const words = next_line(resolv_conf);
        if (words.size() >= 2 && words[0] == "nameserver") all.push_back(words[1]);
    }
    if (all.empty()) all.emplace_back("127.0.0.1");
    return all;
}

Primary::Primary(Client client, std::string host, std::string port, std::string name,
                 std::string zone, TsigKey key)
    : client_(std::move(client)),
      host_(std::move(host)),
      port_(std::move(port)),
      name_(std::move(name)),
      zone_(std::move(zone)),
      key_(std::move(key)) {}

Task<Result<Primary>> Primary::find(core::Loop& loop, std::string name, std::string server,
                                    TsigKey key, std::string resolv_conf, Deadline deadline) {
    std::pair<std::string, std::string> place;
    if (server.empty()) {
        CO_TRY(auto const known, co_await ask_resolvers(loop, name, resolv_conf, deadline));
        place = {plain(known.primary), dns_port};
    } else {
        CO_TRY(place, core::split_host_port(server, dns_port));
    }
    auto const& [host, port] = place;
    CO_TRY(auto addresses, co_await core::resolve(loop, host, port, deadline));
    auto const label = port == dns_port ? host : fmt::format("{} port {}", host, port);
    Primary made(Client(loop, std::move(addresses), label), host, port, std::move(name), "",
                 std::move(key));
    CO_TRY_VOID(co_await made.find_zone(deadline));
    co_return made;
}

/// The server itself says in which of its zones the name is: by the SOA record in its answer, of
/// the name itself or beside the statement that the name has none (RFC 2308, section 3).
Task<Result<>> Primary::find_zone(Deadline deadline) {
    CO_TRY(auto const answer, co_await ask(RecordType::soa, deadline));
    if (!answer.authoritative || answer.zone.empty() || !is_in_zone(name_, answer.zone)) {
        co_return fail(Errc::refused, "the DNS server {} has no zone with {} in it", client_.name(),
                       plain(name_));
    }
    zone_ = answer.zone;
    co_return Result<>{};
}

/// What the server says about the key, in a sentence; empty: nothing.
std::string Primary::key_refusal(Answer const& answer) const {
    auto const& server = client_.name();
    auto const key = plain(key_.name);
    switch (answer.tsig_error) {
        case TsigError::bad_key:
            return fmt::format(
                "the DNS server {} does not know the TSIG key {} with {} (BADKEY): compare its "
                "name and algorithm with the server's",
                server, key, dns::name(key_.algorithm));
        case TsigError::bad_signature:
            return fmt::format("the DNS server {} has another secret for the TSIG key {} (BADSIG)",
                               server, key);
        case TsigError::bad_time:
            return fmt::format(
                "the clock of the DNS server {} is {} s {} this host's, and TSIG allows {} s "
                "(BADTIME): set the clocks",
                server, std::abs(answer.server_ahead_s),
                answer.server_ahead_s < 0 ? "behind" : "ahead of", tsig_fudge_s);
        case TsigError::other:
        case TsigError::none:
            return {};
    }
    return {};
}

/// Why the server has not done what it was asked for.
Error Primary::refusal(Answer const& answer, Purpose purpose) const {
    if (auto const sentence = key_refusal(answer); !sentence.empty()) {
        return fail(Errc::refused, "{}", sentence).error();
    }
    auto const server = fmt::format("the DNS server {}", client_.name());
    auto const name = plain(name_);
    auto const refuse = [](std::string sentence) {
        return Error{Errc::refused, 0, std::move(sentence), {}};
    };
    switch (answer.rcode) {
        case Rcode::refused:
            if (purpose == Purpose::question) {
                return refuse(
                    fmt::format("{} does not answer for {} (REFUSED): it has no zone of "
                                "that name, or the TSIG key {} may not ask",
                                server, name, plain(key_.name)));
            }
            return refuse(
                fmt::format("{} does not let the TSIG key {} change A and AAAA of {} "
                            "(REFUSED)",
                            server, plain(key_.name), name));
        case Rcode::notauth:
            return refuse(fmt::format("{} is not the primary of {} (NOTAUTH)", server,
                                      zone_.empty() ? "a zone with " + name : plain(zone_)));
        case Rcode::notzone:
            return refuse(fmt::format("{} is not in the zone {} of {} (NOTZONE)", name,
                                      plain(zone_), server));
        case Rcode::notimp:
            return refuse(fmt::format("{} takes no updates (NOTIMP)", server));
        case Rcode::servfail:
            return refuse(fmt::format("{} failed (SERVFAIL): its log says why", server));
        case Rcode::yxrrset:
        case Rcode::nxrrset:
            return refuse(fmt::format("the addresses of {} were changed just now ({})", name,
                                      dns::name(answer.rcode)));
        case Rcode::noerror:
        case Rcode::formerr:
        case Rcode::nxdomain:
        case Rcode::yxdomain:
            break;
    }
    return refuse(fmt::format("{} answers {}", server, dns::name(answer.rcode)));
}

Task<Result<Answer>> Primary::ask(RecordType type, Deadline deadline) const {
    CO_TRY(auto const request, Request::question(name_, type, &key_));
    CO_TRY(auto answer, co_await client_.ask(request, deadline));
    if (answer.rcode != Rcode::noerror && answer.rcode != Rcode::nxdomain) {
        co_return std::unexpected(refusal(answer, Purpose::question));
    }
    if (answer.alias) {
        co_return fail(Errc::refused,
                       "{} is an alias (CNAME): give the name that has the addresses",
                       plain(name_));
    }
    co_return answer;
}

Task<Result<Records>> Primary::read_one(RecordType type, Deadline deadline) const {
    CO_TRY(auto answer, co_await ask(type, deadline));
    co_return std::move(answer.records);
}

Task<Result<Records>> Primary::read(Deadline deadline) const {
    CO_TRY(auto both, co_await read_one(RecordType::a, deadline));
    CO_TRY(auto const ipv6, co_await read_one(RecordType::aaaa, deadline));
    for (auto const& address : ipv6.addresses) both.add(address);
    both.ttl_ipv6 = ipv6.ttl_ipv6;
    if (both.addresses.size() > addresses_max) {
        co_return fail(Errc::refused, "{} has more than {} addresses", plain(name_), addresses_max);
    }
    co_return both;
}

Task<Result<>> Primary::try_key(Records before, Deadline deadline) const {
    CO_TRY(auto const request, Request::trial({zone_, name_, std::move(before), {}}, key_));
    CO_TRY(auto const answer, co_await client_.ask(request, deadline));
    if (answer.rcode != Rcode::noerror) co_return std::unexpected(refusal(answer, Purpose::update));
    co_return Result<>{};
}

Task<Result<Primary::Updated>> Primary::update(Records before, Records after,
                                               Deadline deadline) const {
    Error last{Errc::timed_out, 0, "there was no time for the update", {}};
    for (std::size_t number = 0; number < updates_max; ++number) {
        if (deadline.passed() || deadline.stopped()) break;
        // Each with an id and a time of its own.
        CO_TRY(auto const request, Request::update({zone_, name_, before, after}, key_));
        auto const transport = number + 1 < updates_max ? Transport::udp : Transport::tcp;
        auto const answer = co_await client_.try_once(request, transport, number, deadline);
        if (answer && answer->rcode == Rcode::noerror) co_return Updated{};
        if (!answer) last = answer.error();
        if (answer) last = refusal(*answer, Purpose::update);
        bool const condition_failed =
            answer && (answer->rcode == Rcode::nxrrset || answer->rcode == Rcode::yxrrset);
        if (answer && !condition_failed) break;
        // An update whose answer was lost makes the conditions of its repetition false.
        auto const now = co_await read(deadline);
        if (!now) {
            last = now.error();
            continue;
        }
        if (now->addresses == after.addresses) co_return Updated{};
        if (now->addresses != before.addresses) {
            co_return Updated{Outcome::changed_by_others, *now};
        }
    }
    co_return std::unexpected(std::move(last));
}

std::string Primary::commands(Records const& before, Records const& after, bool only_before) const {
    auto text = fmt::format("server {} {}\nzone {}\n", host_, port_, zone_);
    constexpr std::pair<Address::Family, char const*> types[] = {{Address::Family::ipv4, "A"},
                                                                 {Address::Family::ipv6, "AAAA"}};
    for (auto const& [family, type] : types) {
        if (only_before && !before.has(family)) {
            text += fmt::format("prereq nxrrset {} {}\n", name_, type);
        }
        for (auto const& address : before.addresses) {
            if (!only_before || address.family() != family) continue;
            text += fmt::format("prereq yxrrset {} {} {}\n", name_, type, address.text());
        }
    }
    for (auto const& [family, type] : types) {
        text += fmt::format("update delete {} {}\n", name_, type);
        auto const ttl = family == Address::Family::ipv4 ? after.ttl_ipv4 : after.ttl_ipv6;
        for (auto const& address : after.addresses) {
            if (address.family() != family) continue;
            text += fmt::format("update add {} {} {} {}\n", name_, ttl.value_or(0), type,
                                address.text());
        }
    }
    return text + "send\n";
}

}  // namespace netmove::dns
