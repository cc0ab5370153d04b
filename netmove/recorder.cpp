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
        {BPF_RET | BPF_K, 0, 0, 0xffffffff},
        {BPF_RET | BPF_K, 0, 0, 0}};
    sock_fprog const program{std::size(code), code};
    int const on = 1;
    sockaddr_ll where{};
    where.sll_family = AF_PACKET;
    where.sll_protocol = htons(ETH_P_ALL);
    where.sll_ifindex = link.index;
    if (setsockopt(socket.get(), SOL_SOCKET, SO_ATTACH_FILTER, &program, sizeof program) < 0 ||
        setsockopt(socket.get(), SOL_PACKET, PACKET_VNET_HDR, &on, sizeof on) < 0 ||
        setsockopt(socket.get(), SOL_SOCKET, SO_RCVBUFFORCE, &recorder_buffer_bytes,
                   sizeof recorder_buffer_bytes) < 0 ||
        ::bind(socket.get(), reinterpret_cast<sockaddr const*>(&where), sizeof where) < 0) {
        return fail_errno(errno, "cannot record what is sent to the tap {}", tap);
    }
    return FrameRecorder(std::move(socket));
}

Result<> FrameRecorder::take_in() {
    static thread_local std::array<std::uint8_t, tap_frame_max> buffer;
    for (int reads = 0; reads < reads_max; ++reads) {
        auto const got = ::recv(socket_.get(), buffer.data(), buffer.size(), 0);
        if (got < 0 && errno == EAGAIN) return {};
        if (got < 0) return fail_errno(errno, "cannot read what was sent to a tap");
        frames_.emplace_back(buffer.begin(), buffer.begin() + got);
        bytes_ += static_cast<std::size_t>(got);
        while (frames_.size() > sent_kept_max || bytes_ > caught_bytes_max) {
            bytes_ -= frames_.front().size();
            frames_.pop_front();
        }
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

bool same_frame(Bytes const& read, CaughtFrame const& sent) {
    auto const ethernet = std::span(sent).subspan(virtio_header_size);
    if (read.size() < ethernet.size()) return false;
    // struct virtio_net_hdr, or virtio_net_hdr_mrg_rxbuf.
    auto const header = read.size() - ethernet.size();
    if (header != 0 && header != virtio_header_size && header != virtio_header_size + 2)
        return false;
    return std::ranges::equal(std::span(read).subspan(header), ethernet);
}

std::vector<CaughtFrame> matching(std::vector<Bytes> const& read,
                                  std::deque<CaughtFrame> const& sent) {
    std::vector<CaughtFrame> out;
    for (auto const& frame : read) {
        // The newest first: a frame may have been sent before with the same bytes.
        auto const found = std::find_if(sent.rbegin(), sent.rend(),
                                        [&](auto const& one) { return same_frame(frame, one); });
        if (found != sent.rend() && !Gate::is_own(*found)) out.push_back(*found);
    }
    return out;
}

}  // namespace netmove
