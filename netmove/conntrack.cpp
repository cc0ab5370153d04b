#include "netmove/conntrack.hpp"

#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <fstream>

#include "netmove/conntrack_message.hpp"
#include "netmove/netlink.hpp"

namespace netmove {

using conntrack::Request;
using core::Deadline;
using core::Errc;
using core::fail;
using core::Result;
using core::Task;

namespace {

// The kernel fills a dump's datagrams up to 32 KiB when the reader has the room.
constexpr std::size_t datagram_size_max = 65'536;
// Messages that are sent as one: with their answers they fit the buffers below by far.
constexpr std::size_t messages_at_once = 128;
// Bytes of a socket's receive buffer: of events, what 4,000 connections that begin and end tell.
constexpr int receive_buffer_bytes = 4 * 1024 * 1024;
// Up to so many addresses are looked for one by one, each twice through the table; with more of
// them once through all of it is cheaper.
constexpr std::size_t filtered_addresses_max = 8;
// A batch's answers, and what one dump may send at most, so that no kernel keeps us for ever: a
// table of the largest size there is.
constexpr int datagrams_max = 1'000'000;
// Changed connections of one guest that are remembered until the next look.
constexpr std::size_t changes_max = 16'384;

core::Fd open_socket(int more_flags) {
    core::Fd fd(::socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC | more_flags, NETLINK_NETFILTER));
    if (!fd) return fd;
    (void)::setsockopt(fd.get(), SOL_SOCKET, SO_RCVBUFFORCE, &receive_buffer_bytes,
                       sizeof receive_buffer_bytes);  // else the default: then more is lost
    int const on = 1;
    (void)::setsockopt(fd.get(), SOL_NETLINK, NETLINK_CAP_ACK, &on, sizeof on);
    timeval const patience{answer_timeout.count() / 1000, 0};
    (void)::setsockopt(fd.get(), SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    return fd;
}

/// errno of a failed request, 0 of one that was done; none when this is no answer to one.
std::optional<int> verdict(nlmsghdr const* message) {
    if (message->nlmsg_type != NLMSG_ERROR) return {};
    if (message->nlmsg_len < NLMSG_LENGTH(sizeof(nlmsgerr))) return EPROTO;
    return -static_cast<nlmsgerr const*>(NLMSG_DATA(message))->error;
}

/// Calls `each` with every message of a datagram.
template <class Each>
void for_each_message(std::span<char const> datagram, Each each) {
    auto left = static_cast<unsigned>(datagram.size());
    for (auto const* message = reinterpret_cast<nlmsghdr const*>(datagram.data());
         NLMSG_OK(message, left); message = NLMSG_NEXT(message, left)) {
        each(message);
    }
}

bool is_event(nlmsghdr const* message, int type) {
    return message->nlmsg_type == (NFNL_SUBSYS_CTNETLINK << 8 | type);
}

std::string why(int error) {
    switch (error) {
        case EEXIST:
            return "another connection of this host is in their place";
        case ENOMEM:
        case ENOSPC:
            return "this host's table of connections is full (nf_conntrack_max)";
        case EOPNOTSUPP:
            return "this host translates no addresses (nf_nat is not loaded)";
        case EPERM:
            return "CAP_NET_ADMIN is missing";
        default:
            return fmt::format("the kernel said: {}", std::strerror(error));
    }
}

/// Events are made for listeners only where this is not 0; no such file: they are.
bool tells_events() {
    std::ifstream setting("/proc/sys/net/netfilter/nf_conntrack_events");
    int value = 1;
    return !(setting >> value) || value != 0;
}

}  // namespace

Result<Conntrack> Conntrack::open() {
    if (::access("/proc/sys/net/netfilter/nf_conntrack_count", F_OK) != 0) {
        return fail(Errc::refused,
                    "this kernel tracks no connections (nf_conntrack is not loaded)");
    }
    auto fd = open_socket(0);
    if (!fd) {
        return core::fail_os(Errc::netlink, errno,
                             "cannot ask the kernel for its connections (nfnetlink)");
    }
    Conntrack made(std::move(fd));
    TRY_VOID(made.count());
    return made;
}

Result<> Conntrack::send(std::span<char const> bytes) {
    sockaddr_nl kernel{};
    kernel.nl_family = AF_NETLINK;
    auto const sent = ::sendto(requests_.get(), bytes.data(), bytes.size(), 0,
                               reinterpret_cast<sockaddr const*>(&kernel), sizeof kernel);
    if (sent != static_cast<ssize_t>(bytes.size())) {
        return core::fail_os(Errc::netlink, errno, "cannot ask the kernel for its connections");
    }
    return {};
}

Result<std::size_t> Conntrack::count() {
    auto request = conntrack::make_request(IPCTNL_MSG_CT_GET_STATS, 0, AF_UNSPEC);
    conntrack::header_of(request).nlmsg_seq = ++sequence_;
    TRY_VOID(send(request));
    alignas(nlmsghdr) std::array<char, 4096> buffer;
    for (int datagram = 0; datagram < datagrams_max; ++datagram) {
        auto const got = ::recv(requests_.get(), buffer.data(), buffer.size(), 0);
        if (got < 0) {
            return core::fail_os(Errc::netlink, errno,
                                 "the kernel does not say how many "
                                 "connections it tracks");
        }
        std::optional<std::size_t> found;
        int error = 0;
        for_each_message({buffer.data(), static_cast<std::size_t>(got)}, [&](auto const* message) {
            if (message->nlmsg_seq != sequence_) return;  // of an earlier request
            if (auto const refused = verdict(message)) error = *refused;
            auto const* attribute = reinterpret_cast<nlattr const*>(
                reinterpret_cast<char const*>(message) + NLMSG_SPACE(sizeof(nfgenmsg)));
            if (!is_event(message, IPCTNL_MSG_CT_GET_STATS) ||
                message->nlmsg_len < NLMSG_SPACE(sizeof(nfgenmsg)) + NLA_HDRLEN + 4) {
                return;
            }
            if (attribute->nla_type != CTA_STATS_GLOBAL_ENTRIES) return;
            std::uint32_t entries = 0;
            std::memcpy(&entries, reinterpret_cast<char const*>(attribute) + NLA_HDRLEN, 4);
            found = ntohl(entries);
        });
        if (found) return *found;
        if (error != 0) {
            return core::fail_os(
                Errc::netlink, error,
                "the kernel does not list its connections (this needs CAP_NET_ADMIN)");
        }
    }
    return fail(Errc::netlink, "the kernel does not say how many connections it tracks");
}

// ---- asking for all ----------------------------------------------------------------------------

Task<Result<ConntrackDump>> Conntrack::dump(core::Loop& loop, std::vector<Address> addresses,
                                            Deadline deadline) {
    ConntrackDump made;
    if (addresses.empty()) co_return made;
    if (addresses.size() > filtered_addresses_max) {
        for (auto const family : std::array<unsigned char, 2>{AF_INET, AF_INET6}) {
            CO_TRY_VOID(co_await dump_one(loop, conntrack::dump_request(family), addresses, made,
                                          deadline));
        }
        co_return made;
    }
    for (auto const& address : addresses) {
        using conntrack::Direction;
        for (auto const direction : {Direction::original, Direction::reply}) {
            CO_TRY_VOID(co_await dump_one(loop, conntrack::dump_request(address, direction),
                                          addresses, made, deadline));
        }
    }
    co_return made;
}

Task<Result<>> Conntrack::dump_one(core::Loop& loop, std::vector<char> request,
                                   std::vector<Address> const& addresses, ConntrackDump& into,
                                   Deadline deadline) {
    auto const sequence = ++sequence_;
    conntrack::header_of(request).nlmsg_seq = sequence;
    CO_TRY_VOID(send(request));
    std::vector<char> buffer(datagram_size_max);
    for (int datagram = 0; datagram < datagrams_max; ++datagram) {
        // Others have their turn between two parts of a large table.
        CO_TRY_VOID(co_await loop.poll(requests_.get(), POLLIN, deadline));
        auto const got = ::recv(requests_.get(), buffer.data(), buffer.size(), MSG_DONTWAIT);
        if (got < 0 && errno == EAGAIN) continue;
        if (got < 0) {
            co_return core::fail_os(Errc::netlink, errno,
                                    "the kernel's list of connections cannot be read");
        }
        CO_TRY(bool const more,
               take_part({buffer.data(), static_cast<std::size_t>(got)}, addresses, into));
        if (!more) co_return Result<>{};
    }
    co_return fail(Errc::netlink, "the kernel's list of connections does not end");
}

Result<bool> Conntrack::take_part(std::span<char const> datagram,
                                  std::vector<Address> const& addresses, ConntrackDump& into) {
    bool more = true;
    int error = 0;
    for_each_message(datagram, [&](nlmsghdr const* message) {
        if (message->nlmsg_seq != sequence_) return;  // of a dump that was given up
        if (auto const refused = verdict(message)) error = *refused;
        if (message->nlmsg_type == NLMSG_DONE || message->nlmsg_type == NLMSG_ERROR) more = false;
        if (!is_event(message, IPCTNL_MSG_CT_NEW)) return;
        bool carried = true;
        auto entry = conntrack::entry_of(message, carried);
        if (!carried) ++into.not_carried;
        if (!entry || !entry->is_of(addresses)) return;
        if (into.entries.size() >= conntrack_entries_max && !into.entries.contains(entry->key)) {
            ++into.beyond;
            return;
        }
        auto const& key = entry->key;
        into.entries.insert_or_assign(key, *entry);
    });
    if (error != 0) {
        return core::fail_os(Errc::netlink, error, "the kernel refuses to list its connections");
    }
    return more;
}

// ---- what changes ------------------------------------------------------------------------------

Result<> Conntrack::listen() {
    auto fd = open_socket(SOCK_NONBLOCK);
    sockaddr_nl own{};
    own.nl_family = AF_NETLINK;
    // A socket without an address of its own counts as the kernel's and gets no events.
    int failed = fd ? ::bind(fd.get(), reinterpret_cast<sockaddr const*>(&own), sizeof own) : -1;
    for (int const group :
         {NFNLGRP_CONNTRACK_NEW, NFNLGRP_CONNTRACK_UPDATE, NFNLGRP_CONNTRACK_DESTROY}) {
        if (failed == 0) {
            failed =
                ::setsockopt(fd.get(), SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, &group, sizeof group);
        }
    }
    if (failed != 0) {
        return core::fail_os(Errc::netlink, errno,
                             "the kernel does not report changes of its connections");
    }
    events_ = std::move(fd);
    return {};
}

void Conntrack::forget() {
    std::array<char, 1> nothing{};
    for (int event = 0; event < datagrams_max; ++event) {
        auto const got = ::recv(events_.get(), nothing.data(), nothing.size(), MSG_DONTWAIT);
        if (got < 0 && errno != ENOBUFS) break;
    }
    changed_.clear();
    gone_.clear();
    lost_ = !events_ || !tells_events();
}

/// Takes in what the kernel has told until now.
Result<> Conntrack::hear(std::span<Address const> addresses) {
    if (!events_) return {};
    alignas(nlmsghdr) std::array<char, 8192> buffer;
    for (int event = 0; event < datagrams_max; ++event) {
        auto const got = ::recv(events_.get(), buffer.data(), buffer.size(), MSG_DONTWAIT);
        if (got < 0 && errno == EAGAIN) break;
        if (got < 0 && errno != ENOBUFS) {
            return core::fail_os(Errc::netlink, errno,
                                 "the kernel does not report changes of its connections");
        }
        if (got < 0) lost_ = true;
        if (got < 0) continue;
        for_each_message({buffer.data(), static_cast<std::size_t>(got)}, [&](auto const* message) {
            bool carried = true;
            auto const entry = conntrack::entry_of(message, carried);
            if (!entry || !entry->is_of(addresses)) return;
            bool const ended = is_event(message, IPCTNL_MSG_CT_DELETE);
            if (changed_.size() + gone_.size() >= changes_max) {
                lost_ = true;
                return;
            }
            (ended ? changed_ : gone_).erase(entry->key);
            (ended ? gone_ : changed_).insert(entry->key);
        });
    }
    return {};
}

Result<ConntrackChanges> Conntrack::changes(std::span<Address const> addresses, std::size_t most) {
    ConntrackChanges made;
    TRY_VOID(hear(addresses));
    for (std::size_t left = most; left > 0 && !changed_.empty(); --left) {
        // An event holds only what has changed.
        auto const key = *changed_.begin();
        changed_.erase(changed_.begin());
        TRY(auto const now, get(key));
        if (now && now->is_of(addresses)) made.now.push_back(*now);
        if (!now) gone_.insert(key);
    }
    made.gone.assign(gone_.begin(), gone_.end());
    gone_.clear();
    made.incomplete = lost_;
    return made;
}

/// None: there is no such connection any more.
Result<std::optional<ConntrackEntry>> Conntrack::get(ConntrackKey const& key) {
    auto request = conntrack::get_request(key);
    conntrack::header_of(request).nlmsg_seq = ++sequence_;
    TRY_VOID(send(request));
    alignas(nlmsghdr) std::array<char, 8192> buffer;
    for (int datagram = 0; datagram < datagrams_max; ++datagram) {
        auto const got = ::recv(requests_.get(), buffer.data(), buffer.size(), 0);
        if (got < 0) return core::fail_os(Errc::netlink, errno, "the kernel lists no connection");
        std::optional<ConntrackEntry> found;
        std::optional<int> error;
        for_each_message({buffer.data(), static_cast<std::size_t>(got)}, [&](auto const* message) {
            if (message->nlmsg_seq != sequence_) return;
            error = verdict(message);
            bool carried = true;
            if (!error) found = conntrack::entry_of(message, carried);
        });
        if (found || (error && *error == ENOENT)) return found;
        if (error) return core::fail_os(Errc::netlink, *error, "the kernel lists no connection");
    }
    return fail(Errc::netlink, "the kernel lists no connection");
}

// ---- making and removing -----------------------------------------------------------------------

Result<std::vector<int>> Conntrack::ask(std::vector<Request>& messages) {
    std::vector<int> all;
    for (std::size_t at = 0; at < messages.size(); at += messages_at_once) {
        auto const batch =
            std::span(messages).subspan(at, std::min(messages_at_once, messages.size() - at));
        TRY(auto const errors, ask_batch(batch));
        all.insert(all.end(), errors.begin(), errors.end());
    }
    return all;
}

Result<std::vector<int>> Conntrack::ask_batch(std::span<Request> messages) {
    std::vector<char> bytes;
    auto const first = sequence_ + 1;
    for (auto& message : messages) {
        auto& header = conntrack::header_of(message);
        header.nlmsg_seq = ++sequence_;
        // The kernel reports each failure, and acknowledges the last message: then it is done.
        if (&message == &messages.back()) header.nlmsg_flags |= NLM_F_ACK;
        bytes.insert(bytes.end(), message.begin(), message.end());
    }
    TRY_VOID(send(bytes));
    std::vector<int> errors(messages.size());
    alignas(nlmsghdr) std::array<char, 8192> buffer;
    bool through = false;
    for (int datagram = 0; datagram < datagrams_max && !through; ++datagram) {
        auto const got = ::recv(requests_.get(), buffer.data(), buffer.size(), 0);
        if (got < 0) {
            return core::fail_os(Errc::netlink, errno,
                                 "the kernel does not answer the changes of its connections");
        }
        for_each_message({buffer.data(), static_cast<std::size_t>(got)}, [&](auto const* message) {
            auto const index = message->nlmsg_seq - first;
            auto const error = verdict(message);
            if (!error || index >= errors.size()) return;
            errors[index] = *error;
            through = through || index + 1 == errors.size();
        });
    }
    return errors;
}

ConntrackRestored Conntrack::restore(std::span<ConntrackEntry const> entries,
                                     std::span<Address const> host_addresses) {
    ConntrackRestored result;
    auto const is_here = [&](Address const& address) {
        return std::ranges::find(host_addresses, address) != host_addresses.end();
    };
    std::vector<ConntrackEntry const*> wanted;
    for (auto const& entry : entries) {
        bool const lost =
            (entry.source_translated() && entry.reply_destination != entry.key.source &&
             !is_here(entry.reply_destination)) ||
            (entry.destination_translated() && entry.key.destination != entry.reply_source &&
             !is_here(entry.key.destination));
        if (entry.translated_to_host && lost) {
            result.failed[entry.key] =
                "translated to an address of the source host, which this host does not have";
        } else {
            wanted.push_back(&entry);
        }
    }
    // First as it is; what is in the way is removed; a helper that this host has not is left out.
    bool with_helper = true;
    std::vector<int> errors;
    for (int attempt = 0; attempt < 3 && !wanted.empty(); ++attempt) {
        std::vector<Request> removing;
        std::vector<Request> making;
        for (std::size_t index = 0; index < wanted.size(); ++index) {
            bool const there = !errors.empty() && errors[index] == EEXIST;
            if (there) removing.push_back(conntrack::delete_request(wanted[index]->key));
            bool const known = errors.empty() || there || wanted[index]->helper.empty();
            making.push_back(conntrack::create_request(*wanted[index], with_helper && known));
        }
        if (!removing.empty()) (void)ask(removing);  // what stays is seen below
        auto const made = ask(making);
        std::vector<ConntrackEntry const*> left;
        std::vector<int> left_errors;
        for (std::size_t index = 0; index < wanted.size(); ++index) {
            auto const* const entry = wanted[index];
            int const error = made ? (*made)[index] : made.error().os;
            if (error == 0) {
                ++result.made;
                made_.insert(entry->key);
                bool const without = !errors.empty() && errors[index] != EEXIST;
                if (without && !entry->helper.empty()) {
                    result.failed[entry->key] = fmt::format(
                        "restored without the helper {}, which this host does not have: "
                        "connections that it would announce are dropped",
                        entry->helper);
                }
                continue;
            }
            bool const again = attempt < 2 && (error == EEXIST || !entry->helper.empty());
            if (!again) result.failed[entry->key] = why(error);
            if (again) left.push_back(entry);
            if (again) left_errors.push_back(error);
        }
        wanted = std::move(left);
        errors = std::move(left_errors);
    }
    return result;
}

void Conntrack::forget_restored(std::span<ConntrackKey const> keys) {
    std::vector<ConntrackKey> ours;
    for (auto const& key : keys) {
        if (made_.erase(key) > 0) ours.push_back(key);
    }
    (void)remove(ours);  // what stays expires
}

Result<std::size_t> Conntrack::undo() {
    std::vector<ConntrackKey> const all(made_.begin(), made_.end());
    TRY(auto const removed, remove(all));
    made_.clear();
    return removed;
}

Result<std::size_t> Conntrack::remove(std::span<ConntrackKey const> keys) {
    std::vector<Request> requests;
    for (auto const& key : keys) requests.push_back(conntrack::delete_request(key));
    TRY(auto const errors, ask(requests));
    return static_cast<std::size_t>(std::ranges::count(errors, 0));
}

}  // namespace netmove
