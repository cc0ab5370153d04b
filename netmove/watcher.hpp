// AddressWatcher: learns which addresses a guest uses by looking at what it sends. One per tap, as
// long as the guest runs. Needs CAP_NET_RAW.
//
// Invariant: only frames from the guest are looked at (incoming on the tap), and only as far as
// their headers. A filter in the kernel lets through what may be news, so a silent guest costs
// nothing and a busy one little.
#pragma once

#include <memory>
#include <stop_token>
#include <string>
#include <vector>

#include "core/deadline.hpp"
#include "core/fd.hpp"
#include "core/loop.hpp"
#include "core/task.hpp"
#include "netmove/frame.hpp"

namespace netmove {

/// Addresses remembered per interface; the one not seen for longest makes room. A guest with
/// privacy addresses has a dozen; one that forges its sources must not fill memory or the
/// announcement.
constexpr std::size_t learned_addresses_max = 64;

struct SeenAddress {
    GuestAddress address;
    core::Clock::time_point last_seen;
};

class AddressWatcher {
public:
    /// Starts to collect at once (in the socket's buffer); run() looks at it. The tap must exist.
    static core::Result<std::unique_ptr<AddressWatcher>> open(core::Loop& loop,
                                                              std::string const& tap,
                                                              MacAddress const& mac);
    ~AddressWatcher();
    AddressWatcher(AddressWatcher const&) = delete;
    AddressWatcher& operator=(AddressWatcher const&) = delete;

    /// Looks until stopped (then success), or until the tap is gone (closed). One at a time.
    core::Task<core::Result<>> run(std::stop_token stop);

    /// What is known now, most recently seen first. Takes in what waits in the socket, without
    /// waiting itself: after STOP this is the complete answer.
    [[nodiscard]] std::vector<SeenAddress> const& seen();
    /// The same without times.
    [[nodiscard]] std::vector<GuestAddress> addresses();
    /// The guest speaks as an IPv6 router.
    [[nodiscard]] bool router();

private:
    AddressWatcher(core::Loop& loop, core::Fd socket, MacAddress mac, std::string tap,
                   unsigned index);
    /// Reads what waits, at most batch_max frames: how many.
    core::Result<int> take_in();
    void note(GuestAddress const& address);
    /// Makes the kernel drop most frames whose source is known already.
    core::Result<> update_filter();

    core::Loop& loop_;
    core::Fd socket_;
    MacAddress mac_;
    std::string tap_;
    unsigned index_;  ///< Of the tap; it may be renamed.
    std::vector<SeenAddress> seen_;
    bool router_ = false;
    bool news_ = false;  ///< The filter does not know all of seen_ yet.
};

}  // namespace netmove
