#include "netmove/watcher.hpp"

#include <arpa/inet.h>
#include <linux/filter.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <net/if.h>
#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>

#include "core/sync.hpp"

namespace netmove {

using core::Errc;
using core::fail;
using core::Result;

namespace {

// As far as frames are looked at: IPv6 and the largest neighbour advertisement in use.
constexpr unsigned snapshot_size = 256;
// Frames taken in one go. After a full batch the watcher rests, so that a guest that sends from
// ever new addresses costs at most 64 frames per rest, not a core.
constexpr int batch_max = 64;
constexpr core::milliseconds rest{50};
// Batches that one look at what is known takes in: more than the socket's buffer holds.
constexpr int batches_max = 16;
// Addresses the kernel's filter knows: the most recently seen. Real guests have fewer; it is short,
// because every frame of the guest passes it.
constexpr std::size_t filter_addresses_max = 16;
// Of the frames from these addresses one in so many is let through: they are still in use.
constexpr unsigned known_sampling = 4096;
// Room for what the guest sends between two looks. What finds none is dropped, and seen another
// time.
constexpr int socket_buffer_size = 128 * 1024;
// A tap that is down is looked at so often: the kernel does not tell a packet socket that an
// interface which is down was deleted.
constexpr core::seconds down_poll{1};

// Where things are in a frame. The kernel takes a VLAN tag off before the filter sees it.
constexpr unsigned at_source_mac = 6;
constexpr unsigned at_type = 12;
constexpr unsigned at_ipv4_source = 14 + 12;
constexpr unsigned at_ipv6_next = 14 + 6;
constexpr unsigned at_ipv6_source = 14 + 8;
constexpr unsigned at_icmpv6_type = 14 + 40;

std::uint32_t word(std::span<std::uint8_t const> bytes, std::size_t at) {
    return static_cast<std::uint32_t>(bytes[at]) << 24 |
           static_cast<std::uint32_t>(bytes[at + 1]) << 16 |
           static_cast<std::uint32_t>(bytes[at + 2]) << 8 | bytes[at + 3];
}

/// A classic BPF program, built from its beginning to its end: what is decided is returned on the
/// spot, so that conditional jumps (which reach 255 instructions) only ever skip a few.
class Filter {
public:
    Filter(MacAddress const& mac, std::span<SeenAddress const> known) {
        load_special(SKF_AD_PKTTYPE);
        drop_if(PACKET_OUTGOING);  // what the network sends to the guest
        load(BPF_W, at_source_mac);
        drop_unless(word(mac.bytes, 0));
        load(BPF_H, at_source_mac + 4);
        drop_unless(word(mac.bytes, 2) & 0xffff);
        load(BPF_H, at_type);
        accept_if(ETH_P_ARP);
        jump(BPF_JEQ, ETH_P_IPV6, 0, 1);
        std::size_t const over_ipv4 = code_.size();
        statement(BPF_JMP | BPF_JA, 0);
        drop_unless(ETH_P_IP);
        ipv4(known);
        code_[over_ipv4].k = static_cast<std::uint32_t>(code_.size() - over_ipv4 - 1);
        ipv6(known);
    }

    [[nodiscard]] Result<> attach(int socket) const {
        sock_fprog const program{static_cast<unsigned short>(code_.size()),
                                 const_cast<sock_filter*>(code_.data())};
        if (setsockopt(socket, SOL_SOCKET, SO_ATTACH_FILTER, &program, sizeof program) < 0) {
            return core::fail_errno(errno, "cannot give a packet socket its filter");
        }
        return {};
    }

private:
    static constexpr int sample_size = 5;

    void ipv4(std::span<SeenAddress const> known) {
        load(BPF_W, at_ipv4_source);
        for (auto const& entry : known) {
            if (!entry.address.address.is_ipv4()) continue;
            jump(BPF_JEQ, word(entry.address.address.bytes(), 0), 0, sample_size);
            sample();
        }
        accept();
    }

    void ipv6(std::span<SeenAddress const> known) {
        load(BPF_B, at_ipv6_next);
        jump(BPF_JEQ, 58, 0, 4);  // ICMPv6: neighbour discovery is types 133 to 136
        load(BPF_B, at_icmpv6_type);
        jump(BPF_JGE, 133, 0, 2);
        jump(BPF_JGT, 136, 1, 0);
        accept();
        for (auto const& entry : known) {
            if (!entry.address.address.is_ipv6()) continue;
            // The last word first: it differs most.
            for (std::size_t part = 4; part > 0; --part) {
                auto const at = 4 * (part - 1);
                load(BPF_W, at_ipv6_source + static_cast<unsigned>(at));
                auto const over = 2 * static_cast<int>(part - 1) + sample_size;
                jump(BPF_JEQ, word(entry.address.address.bytes(), at), 0, over);
            }
            sample();
        }
        accept();
    }

    void sample() {
        load_special(SKF_AD_RANDOM);
        statement(BPF_ALU | BPF_AND | BPF_K, known_sampling - 1);
        jump(BPF_JEQ, 0, 0, 1);
        accept();
        drop();
    }
    void accept() { statement(BPF_RET | BPF_K, snapshot_size); }
    void drop() { statement(BPF_RET | BPF_K, 0); }
    void accept_if(std::uint32_t value) {
        jump(BPF_JEQ, value, 0, 1);
        accept();
    }
    void drop_if(std::uint32_t value) {
        jump(BPF_JEQ, value, 0, 1);
        drop();
    }
    void drop_unless(std::uint32_t value) {
        jump(BPF_JEQ, value, 1, 0);
        drop();
    }
    void load(int size, unsigned at) { statement(BPF_LD | BPF_ABS | size, at); }
    void load_special(int what) {
        statement(BPF_LD | BPF_ABS | BPF_W, static_cast<unsigned>(SKF_AD_OFF + what));
    }
    void statement(int code, std::uint32_t k) {
        code_.push_back({static_cast<std::uint16_t>(code), 0, 0, k});
    }
    void jump(int test, std::uint32_t k, int when_true, int when_false) {
        code_.push_back({static_cast<std::uint16_t>(BPF_JMP | BPF_K | test),
                         static_cast<std::uint8_t>(when_true),
                         static_cast<std::uint8_t>(when_false), k});
    }

    std::vector<sock_filter> code_;
};

/// The VLAN the kernel took off the frame; 0: none.
std::uint16_t stripped_vlan(msghdr& message) {
    for (auto* part = CMSG_FIRSTHDR(&message); part != nullptr;
         part = CMSG_NXTHDR(&message, part)) {
        if (part->cmsg_level != SOL_PACKET || part->cmsg_type != PACKET_AUXDATA) continue;
        tpacket_auxdata data;
        std::memcpy(&data, CMSG_DATA(part), sizeof data);
        if ((data.tp_status & TP_STATUS_VLAN_VALID) != 0) return data.tp_vlan_tci & 0x0fff;
    }
    return 0;
}

Result<> set_option(int socket, int level, int option, int value) {
    if (setsockopt(socket, level, option, &value, sizeof value) < 0) {
        return core::fail_errno(errno, "cannot set up a packet socket");
    }
    return {};
}

}  // namespace

Result<std::unique_ptr<AddressWatcher>> AddressWatcher::open(core::Loop& loop,
                                                             std::string const& tap,
                                                             MacAddress const& mac) {
    unsigned const index = if_nametoindex(tap.c_str());
    if (index == 0)
        return fail(Errc::invalid, "there is no network interface {} on this host", tap);
    // Protocol 0: nothing is received before the filter is there and the socket is bound.
    core::Fd socket(::socket(AF_PACKET, SOCK_RAW | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
    if (!socket && (errno == EPERM || errno == EACCES)) {
        return core::fail_os(
            Errc::netlink, errno,
            fmt::format("no privilege: CAP_NET_RAW is needed to watch the guest's addresses on {}; "
                        "run as root, or give all addresses with --address",
                        tap));
    }
    if (!socket) return core::fail_errno(errno, "cannot open a packet socket");
    TRY_VOID(set_option(socket.get(), SOL_PACKET, PACKET_AUXDATA, 1));
    TRY_VOID(set_option(socket.get(), SOL_SOCKET, SO_RCVBUF, socket_buffer_size));
    TRY_VOID(Filter(mac, {}).attach(socket.get()));
    // The kernel copies each frame to the guest for a packet socket before it asks that socket's
    // filter. A kernel without this option (before 4.20) leaves them to the filter.
    (void)set_option(socket.get(), SOL_PACKET, PACKET_IGNORE_OUTGOING, 1);
    sockaddr_ll place{};
    place.sll_family = AF_PACKET;
    place.sll_protocol = htons(ETH_P_ALL);
    place.sll_ifindex = static_cast<int>(index);
    if (bind(socket.get(), reinterpret_cast<sockaddr const*>(&place), sizeof place) < 0) {
        return core::fail_errno(errno, "cannot watch {}", tap);
    }
    return std::unique_ptr<AddressWatcher>(
        new AddressWatcher(loop, std::move(socket), mac, tap, index));
}

AddressWatcher::AddressWatcher(core::Loop& loop, core::Fd socket, MacAddress mac, std::string tap,
                               unsigned index)
    : loop_(loop), socket_(std::move(socket)), mac_(mac), tap_(std::move(tap)), index_(index) {}

AddressWatcher::~AddressWatcher() = default;

core::Task<Result<>> AddressWatcher::run(std::stop_token stop) {
    auto const for_ever = core::Deadline::never(stop);
    bool down = false;
    for (;;) {
        auto const deadline = down ? for_ever.sooner(down_poll) : for_ever;
        auto const polled = co_await loop_.poll(socket_.get(), POLLIN, deadline);
        if (!polled && polled.error().code == Errc::cancelled) co_return Result<>{};
        auto const taken = take_in();
        down = !taken;
        char name[IF_NAMESIZE];
        if (down && if_indextoname(index_, name) == nullptr) {
            co_return fail(Errc::closed, "the tap {} is gone", tap_);
        }
        if (taken && *taken == batch_max) {
            if (!co_await core::sleep_for(loop_, rest, stop)) co_return Result<>{};
        }
    }
}

Result<int> AddressWatcher::take_in() {
    std::array<std::uint8_t, snapshot_size> buffer;
    alignas(cmsghdr) std::array<char, CMSG_SPACE(sizeof(tpacket_auxdata)) + 64> control;
    int taken = 0;
    for (; taken < batch_max; ++taken) {
        iovec part{buffer.data(), buffer.size()};
        msghdr message{};
        message.msg_iov = &part;
        message.msg_iovlen = 1;
        message.msg_control = control.data();
        message.msg_controllen = control.size();
        auto const got = ::recvmsg(socket_.get(), &message, 0);
        if (got < 0 && errno == EAGAIN) break;
        if (got < 0) return core::fail_errno(errno, "cannot watch {}", tap_);
        auto const frame = parse_ethernet(ByteView(buffer).first(static_cast<std::size_t>(got)));
        if (!frame) continue;
        auto const stripped = stripped_vlan(message);
        if (stripped != 0 && frame->tags > 0) continue;  // two tags: cannot be announced
        auto const learned = learn(mac_, *frame);
        if (learned.router) router_ = *learned.router;
        if (learned.address) note({*learned.address, stripped != 0 ? stripped : frame->vlan});
    }
    if (std::exchange(news_, false)) {
        auto const known = std::span(seen_).first(std::min(seen_.size(), filter_addresses_max));
        TRY_VOID(Filter(mac_, known).attach(socket_.get()));
    }
    return taken;
}

void AddressWatcher::note(GuestAddress const& address) {
    auto known = std::ranges::find(seen_, address, &SeenAddress::address);
    if (known == seen_.end()) {
        if (seen_.size() == learned_addresses_max) seen_.pop_back();
        seen_.push_back({address, {}});
        known = seen_.end() - 1;
        news_ = true;
    }
    known->last_seen = core::Clock::now();
    std::rotate(seen_.begin(), known, known + 1);
}

std::vector<SeenAddress> const& AddressWatcher::seen() {
    for (int batch = 0; batch < batches_max; ++batch) {
        auto const taken = take_in();
        if (!taken || *taken < batch_max) break;
    }
    return seen_;
}

std::vector<GuestAddress> AddressWatcher::addresses() {
    std::vector<GuestAddress> out;
    for (auto const& entry : seen()) out.push_back(entry.address);
    return out;
}

bool AddressWatcher::router() {
    (void)seen();
    return router_;
}

}  // namespace netmove
