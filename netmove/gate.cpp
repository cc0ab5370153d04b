#include "netmove/gate.hpp"

#include <linux/gen_stats.h>
#include <linux/pkt_sched.h>
#include <linux/rtnetlink.h>
#include <netlink/attr.h>
#include <netlink/msg.h>

#include <algorithm>
#include <array>

#include "netmove/netlink_message.hpp"

namespace netmove {

using core::Errc;
using core::fail;
using core::Result;

namespace {

/// Marks a gate as ours: no other program uses this qdisc handle.
constexpr std::uint32_t gate_handle = 0x51dc0000;

/// Closed: the shortest frame waits for longer than any guest is stopped.
constexpr std::uint32_t closed_bytes_per_second = 1;
/// Open: more than a tap can carry (1 Tbit/s), and a bucket that no moment empties.
constexpr std::uint64_t open_bytes_per_second = 125'000'000'000;
constexpr std::uint32_t open_burst_bytes = 64 * 1024 * 1024;
/// Ethernet header, and two VLAN tags that a frame of the full MTU may have.
constexpr std::uint32_t ethernet_bytes = 14;
constexpr std::uint32_t tags_bytes = 8;

/// The gate's own frames: to a locally administered address that no station has, with an
/// EtherType that IEEE 802 reserves for experiments.
constexpr std::array<std::uint8_t, 6> own_mac = {0x02, 0x51, 0xdc, 0x67, 0x61, 0x74};
constexpr std::uint16_t own_type = 0x88b5;
constexpr std::size_t own_frame_size = 60;

Message qdisc_message(int type, int flags, int link) {
    tcmsg header{};
    header.tcm_family = AF_UNSPEC;
    header.tcm_ifindex = link;
    header.tcm_parent = TC_H_ROOT;
    header.tcm_handle = gate_handle;
    return make_message(type, NLM_F_ACK | flags, header);
}

/// The tap has only the kernel's discipline (ENOENT), or one of another program (EINVAL).
bool is_none(core::Error const& error) { return error.os == ENOENT || error.os == EINVAL; }

}  // namespace

Result<> Gate::set_rate(bool open, bool create) {
    auto const message =
        qdisc_message(RTM_NEWQDISC, create ? NLM_F_CREATE | NLM_F_REPLACE : 0, link_);
    nla_put_string(message.get(), TCA_KIND, "tbf");
    auto* options = nla_nest_start(message.get(), TCA_OPTIONS);
    tc_tbf_qopt bucket{};
    bucket.rate.linklayer = TC_LINKLAYER_ETHERNET;
    bucket.rate.rate = open ? ~0U : closed_bytes_per_second;
    bucket.limit = gate_bytes_max;
    nla_put(message.get(), TCA_TBF_PARMS, sizeof bucket, &bucket);
    if (open) nla_put_u64(message.get(), TCA_TBF_RATE64, open_bytes_per_second);
    nla_put_u32(
        message.get(), TCA_TBF_BURST,
        open ? open_burst_bytes : static_cast<std::uint32_t>(mtu_) + ethernet_bytes + tags_bytes);
    nla_nest_end(message.get(), options);
    return netlink_->request(
        *message, fmt::format("{} the gate before {}", open ? "open" : "close", tap_->name()));
}

Result<Gate> Gate::install(Netlink& netlink, Tap const& tap) {
    TRY(auto const link, netlink.link(tap.name()));
    TRY(auto injector, Injector::open(netlink, tap.name()));
    Gate gate(netlink, tap, std::move(injector), link.index, link.mtu);
    TRY_VOID(gate.set_rate(true, true));
    return gate;
}

Result<std::optional<Gate>> Gate::find(Netlink& netlink, Tap const& tap) {
    TRY(auto const link, netlink.link(tap.name()));
    TRY(auto injector, Injector::open(netlink, tap.name()));
    Gate gate(netlink, tap, std::move(injector), link.index, link.mtu);
    auto const counted = gate.count();
    if (counted) return std::optional<Gate>(std::move(gate));
    if (is_none(counted.error())) return std::optional<Gate>{};
    return std::unexpected(counted.error());
}

Result<> Gate::remove(Netlink& netlink, std::string const& tap) {
    TRY(auto const link, netlink.find_link(tap));
    if (!link) return {};
    auto const removed = netlink.request(*qdisc_message(RTM_DELQDISC, 0, link->index),
                                         fmt::format("take the gate from {}", tap));
    if (!removed && is_none(removed.error())) return {};
    return removed;
}

// A bucket that is changed is full: of one frame of the MTU. The gate's own frame takes it, and is
// then in the ring.
Result<> Gate::close() {
    if (closed_) return {};
    TRY_VOID(set_rate(false, false));
    closed_ = true;
    TRY_VOID(send_own(static_cast<std::size_t>(mtu_) + ethernet_bytes));
    TRY_VOID(tap_->drain());
    return {};
}

// The kernel looks at the queue again only when something is sent: hence this frame, which is
// queued after all that waits.
Result<> Gate::open() {
    TRY_VOID(set_rate(true, false));
    closed_ = false;
    return send_own(own_frame_size);
}

Result<> Gate::send_own(std::size_t size) {
    // Refused for want of room: then frames that go on have made the kernel look already.
    TRY_VOID(injector_.queue(own_frame(size)));
    return {};
}

CaughtFrame Gate::own_frame(std::size_t size) {
    CaughtFrame frame(virtio_header_size + size);
    auto at = std::copy(own_mac.begin(), own_mac.end(), frame.begin() + virtio_header_size);
    at = std::copy(own_mac.begin(), own_mac.end(), at);
    *at++ = own_type >> 8;
    *at++ = own_type & 0xff;
    return frame;
}

Result<Gate::Count> Gate::count() {
    Count out;
    auto const read = [&out](nlmsghdr* header) {
        std::array<nlattr*, TCA_MAX + 1> parts{};
        std::array<nlattr*, TCA_STATS_MAX + 1> stats{};
        nlmsg_parse(header, sizeof(tcmsg), parts.data(), TCA_MAX, nullptr);
        if (parts[TCA_STATS2] == nullptr) return;
        nla_parse_nested(stats.data(), TCA_STATS_MAX, parts[TCA_STATS2], nullptr);
        gnet_stats_queue queue{};
        auto* const found = stats[TCA_STATS_QUEUE];
        if (found == nullptr) return;
        std::copy_n(static_cast<std::uint8_t const*>(nla_data(found)),
                    std::min(sizeof queue, static_cast<std::size_t>(nla_len(found))),
                    reinterpret_cast<std::uint8_t*>(&queue));
        out = {queue.qlen, queue.drops};
    };
    // Without NLM_F_ECHO the kernel answers with nothing but its acknowledgement.
    TRY_VOID(netlink_->request(*qdisc_message(RTM_GETQDISC, NLM_F_ECHO, link_),
                               fmt::format("ask how many frames wait for {}", tap_->name()), read));
    return out;
}

bool Gate::is_own(std::span<std::uint8_t const> caught_frame) {
    if (caught_frame.size() < virtio_header_size + ethernet_bytes) return false;
    auto const ethernet = caught_frame.subspan(virtio_header_size);
    return std::ranges::equal(ethernet.first(own_mac.size()), own_mac) &&
           (ethernet[12] << 8 | ethernet[13]) == own_type;
}

}  // namespace netmove
