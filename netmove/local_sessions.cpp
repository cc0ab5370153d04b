// How many sessions a guest with a local address has: the elements of its sets, counted as the
// kernel sends them. (libnftables would make text of each.)
#include <linux/netfilter/nf_tables.h>
#include <linux/netfilter/nfnetlink.h>
#include <linux/netlink.h>
#include <netlink/attr.h>
#include <netlink/msg.h>
#include <sys/socket.h>
#include <sys/time.h>

#include <cerrno>
#include <vector>

#include "core/fd.hpp"
#include "core/json.hpp"
#include "netmove/local_rules.hpp"
#include "netmove/netlink_message.hpp"
#include "netmove/nft.hpp"

namespace netmove {

using core::Errc;
using core::fail_os;
using core::Result;

namespace {

// NFPROTO_NETDEV. (Its header cannot be read beside those of the C library.)
constexpr unsigned char family_netdev = 5;
// The kernel fills a dump's datagrams up to 32 KiB when the reader has the room.
constexpr std::size_t set_datagram_bytes_max = 65'536;
// A set of local_sessions_max elements is sent in some hundred.
constexpr int set_datagrams_max = 4'096;

std::uint64_t elements_in(nlmsghdr* message) {
    auto const attributes = attributes_of<NFTA_SET_ELEM_LIST_MAX>(message, sizeof(nfgenmsg));
    auto* const list = attributes[NFTA_SET_ELEM_LIST_ELEMENTS];
    if (list == nullptr) return 0;
    std::uint64_t count = 0;
    int left = nla_len(list);
    for (auto* one = static_cast<nlattr*>(nla_data(list)); nla_ok(one, left);
         one = nla_next(one, &left)) {
        ++count;
    }
    return count;
}

/// Adds the elements of one datagram; false: it was the last.
Result<bool> count_part(std::vector<char>& datagram, std::size_t size, std::uint64_t& count) {
    auto left = static_cast<unsigned>(size);
    for (auto* message = reinterpret_cast<nlmsghdr*>(datagram.data()); NLMSG_OK(message, left);
         message = NLMSG_NEXT(message, left)) {
        if (message->nlmsg_type == NLMSG_DONE) return false;
        if (message->nlmsg_type != NLMSG_ERROR) {
            count += elements_in(message);
            continue;
        }
        int const error = -static_cast<nlmsgerr*>(NLMSG_DATA(message))->error;
        return fail_os(Errc::netlink, error, "cannot list the sessions of a local address");
    }
    return true;
}

Result<std::uint64_t> elements(std::string const& table, std::string_view set) {
    core::Fd const fd(::socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_NETFILTER));
    timeval const patience{answer_timeout.count() / 1000, 0};
    if (!fd || ::setsockopt(fd.get(), SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience) < 0) {
        return fail_os(Errc::netlink, errno, "cannot open a netlink socket");
    }
    nfgenmsg header{};
    header.nfgen_family = family_netdev;
    auto const message = make_message(NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_GETSETELEM,
                                      NLM_F_REQUEST | NLM_F_DUMP, header);
    nla_put_string(message.get(), NFTA_SET_ELEM_LIST_TABLE, table.c_str());
    nla_put_string(message.get(), NFTA_SET_ELEM_LIST_SET, std::string(set).c_str());
    auto const* const request = nlmsg_hdr(message.get());
    if (::send(fd.get(), request, request->nlmsg_len, 0) < 0) {
        return fail_os(Errc::netlink, errno, "cannot ask for the sessions of a local address");
    }
    std::uint64_t count = 0;
    std::vector<char> datagram(set_datagram_bytes_max);
    for (int part = 0; part < set_datagrams_max; ++part) {
        auto const got = ::recv(fd.get(), datagram.data(), datagram.size(), 0);
        if (got < 0) {
            return fail_os(Errc::netlink, errno, "the kernel lists no sessions of a local address");
        }
        TRY(bool const more, count_part(datagram, static_cast<std::size_t>(got), count));
        if (!more) break;
    }
    return count;
}

Result<> add_counters(LocalAddress const& local, LocalSessions& into) {
    TRY(auto nft, Nft::open());
    TRY(auto const text, nft.run_for_json(list_local_counters(local.bridge)));
    TRY(auto const json, core::Json::parse(text));
    for (auto const& entry : json["nftables"].elements()) {
        auto const counter = entry["counter"];
        auto const packets = static_cast<std::uint64_t>(counter["packets"].integer_or(0));
        auto const name = counter["name"].text_or("");
        if (name == "direct_in") into.packets_in = packets;
        if (name == "direct_out") into.packets_out = packets;
    }
    return {};
}

}  // namespace

Result<LocalSessions> local_sessions(LocalAddress const& local, bool packets) {
    LocalSessions sessions;
    auto const table = local_table(local.bridge);
    auto const add = [&](auto const& sets, std::uint64_t& into) -> Result<> {
        for (std::size_t at = 0; at < std::size(sets); ++at) {
            auto const family = at == 0 ? Address::Family::ipv4 : Address::Family::ipv6;
            if (!local.choice.of(family)) continue;
            TRY(auto const count, elements(table, sets[at]));
            into += count;
        }
        return {};
    };
    TRY_VOID(add(home_sets, sessions.home));
    TRY_VOID(add(direct_sets, sessions.direct));
    if (packets) TRY_VOID(add_counters(local, sessions));
    return sessions;
}

Result<std::vector<MacAddress>> local_gateways(LocalAddress const& local) {
    std::vector<MacAddress> found;
    if (!local.choice.release_when_idle) return found;
    TRY(auto nft, Nft::open());
    TRY(auto const text, nft.run_for_json(list_local_gateways(local.bridge)));
    TRY(auto const json, core::Json::parse(text));
    for (auto const& entry : json["nftables"].elements()) {
        for (auto const& element : entry["set"]["elem"].elements()) {
            auto const mac = MacAddress::parse(element["elem"]["val"].text_or(""));
            if (mac) found.push_back(*mac);
        }
    }
    return found;
}

}  // namespace netmove
