#include "netmove/recorder.hpp"

#include <arpa/inet.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <net/if.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>

#include "netmove/gate.hpp"

namespace netmove {

using core::Errc;
using core::fail;
using core::fail_errno;
using core::Result;

namespace {

// Room for what is sent while the sidecar does something else; more is not recorded.
constexpr int recorder_buffer_bytes = 8 * 1024 * 1024;
// Room in the fifo, so that QEMU need not wait for us: the most a user may ask for by default.
constexpr int fifo_bytes = 1024 * 1024;
// pcap: its global header, and that of a record (seconds, microseconds, bytes here, bytes sent).
constexpr std::size_t pcap_header_size = 24;
constexpr std::size_t record_header_size = 16;
constexpr std::uint32_t pcap_magic = 0xa1b2c3d4;
// What is read from either in one go, for a loop that has other things to do.
constexpr int reads_max = 4096;

/// What the kernel says of a frame beside it; all zero: it said nothing.
tpacket_auxdata about_frame(msghdr& message) {
    tpacket_auxdata about{};
    for (auto* one = CMSG_FIRSTHDR(&message); one != nullptr; one = CMSG_NXTHDR(&message, one)) {
        if (one->cmsg_level == SOL_PACKET && one->cmsg_type == PACKET_AUXDATA)
            std::memcpy(&about, CMSG_DATA(one), sizeof about);
    }
    return about;
}

/// Puts a VLAN tag into the frame, as the tap does for its reader: the kernel keeps it apart.
void insert_tag(SentFrame& sent, tpacket_auxdata const& about) {
    constexpr std::ptrdiff_t behind_macs = virtio_header_size + 12;
    constexpr unsigned tag_bytes = 4;
    if ((about.tp_status & TP_STATUS_VLAN_VALID) == 0 || sent.frame.size() < behind_macs) return;
    bool const typed = (about.tp_status & TP_STATUS_VLAN_TPID_VALID) != 0;
    unsigned const type = typed ? about.tp_vlan_tpid : ETH_P_8021Q;
    unsigned const tag = about.tp_vlan_tci;
    std::array<std::uint8_t, tag_bytes> const bytes{
        static_cast<std::uint8_t>(type >> 8), static_cast<std::uint8_t>(type & 0xff),
        static_cast<std::uint8_t>(tag >> 8), static_cast<std::uint8_t>(tag & 0xff)};
    sent.frame.insert(sent.frame.begin() + behind_macs, bytes.begin(), bytes.end());
    sent.bytes += tag_bytes;
    VirtioHeader header{};
    std::memcpy(&header, sent.frame.data(), sizeof header);
    if ((header.flags & virtio_needs_checksum) != 0) header.csum_start += tag_bytes;
    if (header.gso_type != 0) header.hdr_len += tag_bytes;
    std::memcpy(sent.frame.data(), &header, sizeof header);
}

std::uint32_t native32(Bytes const& bytes, std::size_t at) {
    std::uint32_t value = 0;
    std::memcpy(&value, bytes.data() + at, sizeof value);
    return value;
}

}  // namespace

Result<FrameRecorder> FrameRecorder::open(Netlink& netlink, std::string const& tap) {
    TRY(auto const link, netlink.link(tap));
    core::Fd socket(::socket(AF_PACKET, SOCK_RAW | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
    if (!socket) return fail_errno(errno, "cannot make a packet socket for the tap {}", tap);
    // Only what goes to the guest.
    sock_filter code[] = {
        {BPF_LD | BPF_W | BPF_ABS, 0, 0, static_cast<std::uint32_t>(SKF_AD_OFF + SKF_AD_PKTTYPE)},
        {BPF_JMP | BPF_JEQ | BPF_K, 0, 1, PACKET_OUTGOING},
        {BPF_RET | BPF_K, 0, 0, static_cast<std::uint32_t>(sent_bytes_max)},
        {BPF_RET | BPF_K, 0, 0, 0}};
    sock_fprog const program{std::size(code), code};
    int const on = 1;
    sockaddr_ll where{};
    where.sll_family = AF_PACKET;
    where.sll_protocol = htons(ETH_P_ALL);
    where.sll_ifindex = link.index;
    if (setsockopt(socket.get(), SOL_SOCKET, SO_ATTACH_FILTER, &program, sizeof program) < 0 ||
        setsockopt(socket.get(), SOL_PACKET, PACKET_VNET_HDR, &on, sizeof on) < 0 ||
        setsockopt(socket.get(), SOL_PACKET, PACKET_AUXDATA, &on, sizeof on) < 0 ||
        setsockopt(socket.get(), SOL_SOCKET, SO_RCVBUFFORCE, &recorder_buffer_bytes,
                   sizeof recorder_buffer_bytes) < 0 ||
        ::bind(socket.get(), reinterpret_cast<sockaddr const*>(&where), sizeof where) < 0) {
        return fail_errno(errno, "cannot record what is sent to the tap {}", tap);
    }
    return FrameRecorder(std::move(socket));
}

Result<> FrameRecorder::take_in() {
    static thread_local std::array<std::uint8_t, virtio_header_size + sent_bytes_max> buffer;
    for (int reads = 0; reads < reads_max; ++reads) {
        iovec where{buffer.data(), buffer.size()};
        alignas(cmsghdr) std::array<std::uint8_t, CMSG_SPACE(sizeof(tpacket_auxdata))> control;
        msghdr message{};
        message.msg_iov = &where;
        message.msg_iovlen = 1;
        message.msg_control = control.data();
        message.msg_controllen = control.size();
        auto const got = ::recvmsg(socket_.get(), &message, 0);
        if (got < 0 && errno == EAGAIN) return {};
        if (got < 0) return fail_errno(errno, "cannot read what was sent to a tap");
        auto const about = about_frame(message);
        frames_.push_back({CaughtFrame(buffer.begin(), buffer.begin() + got), about.tp_len});
        insert_tag(frames_.back(), about);
        if (frames_.size() > sent_kept_max) frames_.pop_front();
    }
    return {};
}

Result<ReadRecorder> ReadRecorder::make(std::string path) {
    ::unlink(path.c_str());  // of a sidecar that was killed
    if (::mkfifo(path.c_str(), 0600) < 0) return fail_errno(errno, "cannot make the fifo {}", path);
    core::Fd fifo(::open(path.c_str(), O_RDONLY | O_NONBLOCK | O_CLOEXEC));
    if (!fifo) {
        int const os = errno;
        ::unlink(path.c_str());
        return fail_errno(os, "cannot open the fifo {}", path);
    }
    (void)::fcntl(fifo.get(), F_SETPIPE_SZ, fifo_bytes);  // else it is shorter
    return ReadRecorder(std::move(fifo), std::move(path));
}

Result<> ReadRecorder::opened() {
    if (::unlink(path_.c_str()) < 0) return fail_errno(errno, "cannot remove {}", path_);
    return {};
}

Result<> ReadRecorder::take_in() {
    static thread_local std::array<std::uint8_t, 65'536> buffer;
    for (int reads = 0; reads < reads_max; ++reads) {
        auto const got = ::read(fifo_.get(), buffer.data(), buffer.size());
        if (got == 0 || (got < 0 && errno == EAGAIN)) return {};
        if (got < 0) return fail_errno(errno, "cannot read what QEMU has read from a tap");
        unparsed_.insert(unparsed_.end(), buffer.begin(), buffer.begin() + got);
        TRY_VOID(parse());
    }
    return {};
}

Result<> ReadRecorder::parse() {
    std::size_t at = 0;
    if (!header_seen_) {
        if (unparsed_.size() < pcap_header_size) return {};
        if (native32(unparsed_, 0) != pcap_magic) {
            return fail(Errc::protocol, "QEMU's filter-dump writes another format than pcap");
        }
        header_seen_ = true;
        at = pcap_header_size;
    }
    while (unparsed_.size() - at >= record_header_size) {
        std::size_t const size = native32(unparsed_, at + 8);
        if (size > tap_frame_max) {
            return fail(Errc::protocol, "QEMU's filter-dump wrote a frame of {} bytes", size);
        }
        if (unparsed_.size() - at < record_header_size + size) break;
        std::uint64_t const at_us =
            std::uint64_t{native32(unparsed_, at)} * 1'000'000 + native32(unparsed_, at + 4);
        auto const frame = unparsed_.begin() + static_cast<std::ptrdiff_t>(at + record_header_size);
        reads_.push_back({at_us, Bytes(frame, frame + static_cast<std::ptrdiff_t>(size))});
        ++count_;
        if (at_us == stopped_at_us_ && read_at_stop_.size() < stop_reads_max) {
            read_at_stop_.push_back(reads_.back().frame);
        }
        if (reads_.size() > reads_kept_max) reads_.pop_front();
        at += record_header_size + size;
    }
    unparsed_.erase(unparsed_.begin(), unparsed_.begin() + static_cast<std::ptrdiff_t>(at));
    return {};
}

std::vector<Bytes> ReadRecorder::read_last() const {
    std::vector<Bytes> out;
    for (auto const& read : reads_) {
        if (read.at_us == reads_.back().at_us) out.push_back(read.frame);
    }
    return out;
}

std::optional<Bytes> ReadRecorder::before_last() const {
    if (!count_at_stop_ || count_ - *count_at_stop_ > 1) return {};
    for (auto read = reads_.rbegin(); read != reads_.rend(); ++read) {
        if (read->at_us != reads_.back().at_us) return read->frame;
    }
    return {};
}

std::optional<Bytes> ReadRecorder::first_at_stop() const {
    bool const stopped = count_at_stop_ && count_ - *count_at_stop_ <= 1;
    if (!stopped || reads_.empty() || reads_.size() != count_) return {};
    if (reads_.front().at_us != reads_.back().at_us) return {};
    return reads_.front().frame;
}

Result<> ReadRecorder::note_stop() {
    TRY_VOID(take_in());
    if (!count_at_stop_) count_at_stop_ = count_;
    if (stopped_at_us_ || reads_.empty()) return {};
    stopped_at_us_ = reads_.back().at_us;
    read_at_stop_ = read_last();
    return {};
}

std::vector<Bytes> ReadRecorder::thrown_away() const {
    if (read_at_stop_.size() < 2) return {};
    return {read_at_stop_.begin(), read_at_stop_.end() - 1};
}

namespace {

/// Where Ethernet begins in QEMU's record of that frame; none: it is of another frame. `bytes`: of
/// the frame, of which `beginning` is known.
std::optional<std::size_t> ethernet_in(Bytes const& read, std::span<std::uint8_t const> beginning,
                                       std::size_t bytes) {
    if (read.size() < bytes || bytes < beginning.size()) return {};
    // struct virtio_net_hdr, or virtio_net_hdr_mrg_rxbuf.
    auto const header = read.size() - bytes;
    if (header != 0 && header != virtio_header_size && header != virtio_header_size + 2) return {};
    if (!std::ranges::equal(std::span(read).subspan(header, beginning.size()), beginning))
        return {};
    return header;
}

std::optional<std::size_t> ethernet_in(Bytes const& read, SentFrame const& sent) {
    return ethernet_in(read, std::span(sent.frame).subspan(virtio_header_size), sent.bytes);
}

/// The newest that QEMU may have read as `read`: one may have been sent before with the same bytes.
std::deque<SentFrame>::const_reverse_iterator find_sent(Bytes const& read,
                                                        std::deque<SentFrame> const& sent) {
    return std::find_if(sent.rbegin(), sent.rend(),
                        [&](SentFrame const& one) { return ethernet_in(read, one).has_value(); });
}

}  // namespace

bool same_frame(Bytes const& read, CaughtFrame const& sent) {
    auto const ethernet = std::span(sent).subspan(virtio_header_size);
    return ethernet_in(read, ethernet, ethernet.size()).has_value();
}

std::vector<CaughtFrame> matching(std::vector<Bytes> const& read,
                                  std::deque<SentFrame> const& sent) {
    std::vector<CaughtFrame> out;
    for (auto const& frame : read) {
        auto const found = find_sent(frame, sent);
        if (found == sent.rend() || Gate::is_own(found->frame)) continue;
        CaughtFrame whole(found->frame.begin(), found->frame.begin() + virtio_header_size);
        auto const ethernet = static_cast<std::ptrdiff_t>(*ethernet_in(frame, *found));
        whole.insert(whole.end(), frame.begin() + ethernet, frame.end());
        out.push_back(std::move(whole));
    }
    return out;
}

std::optional<CaughtFrame> sent_before(Bytes const& read, std::deque<SentFrame> const& sent) {
    auto const found = find_sent(read, sent);
    if (found == sent.rend() || std::next(found) == sent.rend()) return {};
    auto const& before = *std::next(found);
    if (!before.is_whole() || Gate::is_own(before.frame)) return {};
    return before.frame;
}

}  // namespace netmove
