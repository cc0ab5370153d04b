// Shared by the process tests of netmove/tunnel/: two hosts with a router between them, a Hub and a
// tap on each, frames put into the ring of a tap as the network does, and what the other end writes
// into its tap seen by a packet socket there. Invariant: everything is in namespaces that end with
// the test; one loop runs both ends.
#pragma once

#include <set>

#include "core/sync.hpp"
#include "netmove/caught.hpp"
#include "netmove/tunnel/tunnel.hpp"
#include "tests/process/netmove_lab.hpp"

namespace tunnel_lab {

using namespace netmove_lab;
using tunnel::Endpoint;
using tunnel::Hub;
using tunnel::Key;
using tunnel::Role;
using tunnel::Tunnel;

/// A frame as CaughtFrame: virtio_net_hdr of 10 bytes, then Ethernet.
using Frame = CaughtFrame;

/// A frame of `size` bytes that no other has, without a vnet header's work.
Frame plain_frame(std::uint32_t number, std::size_t size);
/// A TCP superframe over IPv4 of `size` bytes (Ethernet included) to be cut into `segment` bytes.
Frame super_frame(std::uint32_t number, std::size_t size, std::uint16_t segment);
/// Equal but for hdr_len, which the kernel fills anew on each way.
bool same(Frame const& sent, Frame const& got);

/// A tap of a host, with what the network does to it and sees of it.
class TapLab {
public:
    /// In the namespace that the thread is in.
    explicit TapLab(std::string const& name);
    [[nodiscard]] Tap const& tap() const { return tap_; }
    /// Into the ring; false: it is full.
    [[nodiscard]] bool put(Frame const& frame) const { return must(injector_.put(frame)); }
    /// What was written into the tap since the last call.
    std::vector<Frame> written();

private:
    Netlink netlink_;
    Tap tap_;
    Injector injector_;
    core::Fd seen_;
    Bytes room_;
};

struct Options {
    int mtu = 1500;  ///< Of the link between the router and host b.
    bool ipv6 = false;  ///< Whether the hosts speak IPv6 with each other.
};

/// Host a listens (the anchor), host b connects.
class Hosts {
public:
    explicit Hosts(Options options = {});
    ~Hosts();
    Hosts(Hosts const&) = delete;
    Hosts& operator=(Hosts const&) = delete;

    core::Loop& loop() { return *loop_; }
    /// Runs the loop until it holds; false if it does not within `limit`.
    bool until(std::function<bool()> const& holds, std::chrono::milliseconds limit = 10s);
    /// Runs the loop for a time in which something must not happen.
    void for_a_while(std::chrono::milliseconds span) {
        CHECK_FALSE(until([] { return false; }, span));
    }
    template <class T>
    T run(core::Task<T> task) {
        return loop_->run(std::move(task));
    }

    Home home;  ///< First, so that the thread returns to where it was.
    Space a;
    Space router;
    Space b;
    std::unique_ptr<Hub> hub_a;
    std::unique_ptr<Hub> hub_b;
    std::optional<TapLab> tap_a;
    std::optional<TapLab> tap_b;
    Key key = Key::generate();
    Tunnel* at_a = nullptr;
    Tunnel* at_b = nullptr;

    std::unique_ptr<Hub> open_hub(Space const& space, std::uint16_t port = 0);
    void end_hub(std::unique_ptr<Hub>& hub);
    /// Where the other end finds host a.
    [[nodiscard]] Endpoint endpoint_a() const;
    [[nodiscard]] std::string address_of(char host) const;
    /// Adds the tunnel to both hubs and waits until both are established.
    void establish();
    /// attach() and forward() at both ends.
    void connect_taps();
    /// Ends the Hub of a host, makes it again with the same key, and forwards its tap.
    void restart_a();
    void restart_b();
    /// Puts the frames into the ring of one end, and gives what comes out at the other, in order,
    /// once as many have come, or `limit` passed.
    std::vector<Frame> carry(TapLab& from, TapLab& to, std::vector<Frame> const& frames,
                             std::chrono::milliseconds limit = 20s);

private:
    Options options_;
    std::unique_ptr<core::Loop> loop_;
};

}  // namespace tunnel_lab
