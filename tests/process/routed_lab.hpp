// Shared by the tests of routed guests: two hosts in two subnets, a router between them, and a
// client on its far side, each a namespace; and a guest, which is a namespace with a tap of its
// own. A relay stands in the place of QEMU: it copies frames between the host's tap and the
// guest's.
//
//   guest eth0 ~ relay ~ tap0 :host a: up0 ---- to-a :router: to-c ---- up0 :client
//                        tap0 :host b: up0 ---- to-b :
#pragma once

#include <array>
#include <atomic>
#include <filesystem>
#include <memory>
#include <mutex>
#include <thread>

#include "netmove/gate.hpp"
#include "netmove/routed_tap.hpp"
#include "netmove/routes_mover.hpp"
#include "tests/process/netmove_lab.hpp"
#include "tests/support/routed.hpp"

namespace routed_lab {

using namespace netmove_lab;

inline constexpr char const* guest_ipv4 = "10.9.0.10";
inline constexpr char const* guest_ipv6 = "fd09::10";
inline constexpr char const* client_ipv4 = "10.3.0.100";
inline constexpr char const* client_ipv6 = "fd03::100";

/// Makes the thread's namespace a router of both families; for a host, before it has interfaces.
void forward(bool ipv4 = true, bool ipv6 = true);

/// The router, in whose namespace the others plug in their wires. Leaves the thread there.
struct Router {
    Router();
    Space space;
    Netlink netlink = must(Netlink::open());
};

/// A namespace with a wire to the router: addresses 10.N.0.HOST and fd0N::HOST, the router has 254.
struct Stub {
    Stub(Router const& router, std::string const& name, int subnet, int host);
    Space space;
    Netlink netlink = must(Netlink::open());
};

/// A host, with a tap of the guest that is not placed yet.
struct RoutedHost : Stub {
    using Stub::Stub;
    Tap tap = must(Tap::open(netlink, "tap0", {1, false, true}));
};

/// What the host of `number` must know of the guest.
GuestInterface guest_interface();

/// The guest, and its relay. It begins with its relay at no tap.
class RelayedGuest {
public:
    RelayedGuest();
    ~RelayedGuest();
    /// QEMU reads this tap from now on; none: the guest is stopped.
    void runs_on(Tap const* tap);
    void enter() const { space_.enter(); }
    [[nodiscard]] Space const& space() const { return space_; }

private:
    void relay();

    Space space_;
    Netlink netlink_ = must(Netlink::open());
    Tap tap_;
    std::mutex mutex_;
    Tap const* at_ = nullptr;
    std::atomic<bool> over_ = false;
    std::thread thread_;
};

/// Numbered datagrams at 1 kHz from one namespace to another, in both families.
class Stream {
public:
    Stream(Space const& from, Space const& to, std::string const& to_ipv4,
           std::string const& to_ipv6);
    ~Stream();
    struct Seen {
        unsigned sent = 0;
        unsigned lost = 0;
        unsigned first_lost = 0;  ///< Its number, if one was lost.
        unsigned duplicated = 0;
        unsigned reordered = 0;
        std::chrono::microseconds longest_gap{};
        [[nodiscard]] std::string text() const;
    };
    /// Stops sending, waits for what is under way, and counts: IPv4, IPv6.
    std::array<Seen, 2> finish();

private:
    struct Flow;
    std::vector<std::unique_ptr<Flow>> flows_;
    std::atomic<bool> sending_ = true;
    std::atomic<bool> receiving_ = true;
    std::vector<std::thread> senders_;
    std::vector<std::thread> receivers_;
};

/// BIRD in the thread's namespace, with a configuration of docs/recipes in which `changes` are
/// made. Ends with the test.
class Bird {
public:
    Bird(std::string const& name, std::string const& recipe, lab::Changes const& changes);
    ~Bird();
    Bird(Bird const&) = delete;
    Bird& operator=(Bird const&) = delete;
    /// Output of birdc.
    [[nodiscard]] std::string ask(std::string const& command) const;
    /// So many BGP sessions are established.
    [[nodiscard]] bool established(int sessions) const;

private:
    std::filesystem::path directory_;
    pid_t pid_ = -1;
};

}  // namespace routed_lab
