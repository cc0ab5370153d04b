// The kernel's connection tracking: what it knows of a guest's connections is read here on one
// host, and made known again on another. Through ctnetlink, in the network namespace the thread was
// in at open(); messages are put together by libnetfilter_conntrack.
//
// While a guest is stopped nothing is searched: the kernel reports what changed since the last
// look (listen), and only that is read.
#pragma once

#include <linux/netlink.h>

#include <map>
#include <set>
#include <span>
#include <string>
#include <vector>

#include "core/fd.hpp"
#include "core/sync.hpp"
#include "netmove/conntrack_entry.hpp"

namespace netmove {

using ConntrackTable = std::map<ConntrackKey, ConntrackEntry>;

struct ConntrackDump {
    ConntrackTable entries;
    std::size_t beyond = 0;  ///< Of the guest's too, but more than conntrack_entries_max.
    std::size_t not_carried = 0;  ///< Of a protocol whose state is not carried.
};

struct ConntrackChanges {
    std::vector<ConntrackEntry> now;  ///< New, or in another state.
    std::vector<ConntrackKey> gone;
    /// The kernel had to drop events, or sends none: only dump() knows.
    bool incomplete = false;
};

/// What became of entries that were to be made known here.
struct ConntrackRestored {
    std::size_t made = 0;
    /// Those that were not, or not wholly, and why, in a few words.
    std::map<ConntrackKey, std::string> failed;
};

class Conntrack {
public:
    /// Fails with refused where this kernel tracks no connections (then there is nothing to bring,
    /// and nowhere to put it), with netlink where it does not let us: that needs CAP_NET_ADMIN.
    static core::Result<Conntrack> open();

    /// How many connections this namespace tracks; cheap. 0: no filter here needs to know any.
    core::Result<std::size_t> count();
    /// The entries one of `addresses` is an end of. Suspends between the kernel's answers, since
    /// the whole table is gone through.
    core::Task<core::Result<ConntrackDump>> dump(core::Loop& loop, std::vector<Address> addresses,
                                                 core::Deadline deadline);

    /// From now on the kernel reports what changes. Connections that began before it did so may be
    /// left out (nf_conntrack_events 2, the default), so this belongs well before dump().
    core::Result<> listen();
    /// Forgets what was told until now; before a dump().
    void forget();
    /// What changed since, of at most `most` connections; the others the next time. Does not
    /// suspend, and costs a system call where nothing did.
    core::Result<ConntrackChanges> changes(std::span<Address const> addresses, std::size_t most);

    /// Makes entries known here, in the place of any of the same key. TCP's windows are not known,
    /// so the entries are marked liberal about them (as conntrackd does). `host_addresses`: of
    /// this host; an entry that is translated to an address of the source alone is not made.
    ConntrackRestored restore(std::span<ConntrackEntry const> entries,
                              std::span<Address const> host_addresses);
    /// Of what restore() made, what is gone at the source.
    void forget_restored(std::span<ConntrackKey const> keys);
    /// Takes back all that restore() made and nothing else: how many there were.
    core::Result<std::size_t> undo();
    /// What it made stays: undo() has nothing to do any more.
    void keep() { made_.clear(); }
    [[nodiscard]] std::size_t restored() const { return made_.size(); }
    /// Readable when the kernel has told something; -1: before listen().
    [[nodiscard]] int descriptor() const { return events_.get(); }
    /// How many were there to be removed.
    core::Result<std::size_t> remove(std::span<ConntrackKey const> keys);

private:
    explicit Conntrack(core::Fd requests) : requests_(std::move(requests)) {}
    /// Several messages in one: for each its errno, 0 where it was done.
    core::Result<std::vector<int>> ask(std::vector<std::vector<char>>& messages);
    core::Result<std::vector<int>> ask_batch(std::span<std::vector<char>> messages);
    core::Result<> send(std::span<char const> bytes);
    core::Result<std::optional<ConntrackEntry>> get(ConntrackKey const& key);
    core::Result<> hear(std::span<Address const> addresses);
    core::Task<core::Result<>> dump_one(core::Loop& loop, std::vector<char> request,
                                        std::vector<Address> const& addresses, ConntrackDump& into,
                                        core::Deadline deadline);
    /// False: that was its end.
    core::Result<bool> take_part(std::span<char const> datagram,
                                 std::vector<Address> const& addresses, ConntrackDump& into);

    core::Fd requests_;
    core::Fd events_;
    std::uint32_t sequence_ = 0;
    std::set<ConntrackKey> made_;
    std::set<ConntrackKey> changed_;  ///< Told, and not yet asked for.
    std::set<ConntrackKey> gone_;
    bool lost_ = false;
};

}  // namespace netmove
