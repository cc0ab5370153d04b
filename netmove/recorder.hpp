// What a QEMU has read from a tap and not given to its guest. QEMU goes on to read its taps while
// it stops the guest: what it reads then, one frame or two of each tap, it keeps for a guest that
// does not go on here, and a frame in its memory is in no ring. So two records are begun, and
// compared afterwards:
//
//   FrameRecorder  what the network sent to the tap, with its offloads. Begun long before STOP: a
//                  frame may wait in the tap's ring for seconds before QEMU reads it
//   ReadRecorder   what QEMU read from it, by its own filter-dump object (QEMU's qapi/qom.json),
//                  which writes pcap with the guest's clock. That clock stands still from the
//                  moment QEMU takes the guest for stopped: frames read since have its last value.
//                  Begun shortly before STOP, because QEMU's main loop writes it
//
// QEMU drops a frame that it reads before its devices are stopped. It keeps the next one, and
// delivers it if the guest resumes there. Which is which matters only for that case.
//
// A guest that is slow has no buffer left in its receive queue: QEMU then keeps the frame it read
// last, however long before the stop, reads no other, and drops it at the stop. No record shows
// that: before calling before_last() the caller must have asked the queue itself. If QEMU had read
// it before its record began, it is the one that was sent before the next that QEMU read.
//
// With vhost, and with several queues, QEMU refuses the filter: then what it reads is not known.
#pragma once

#include <cstdint>
#include <deque>
#include <optional>
#include <string>
#include <vector>

#include "netmove/caught.hpp"

namespace netmove {

/// Of what QEMU read, the newest frames that are kept. Two at most are looked for.
constexpr std::size_t reads_kept_max = 64;
/// Of what it read at the instant of the stop.
constexpr std::size_t stop_reads_max = 8;
/// Of what was sent: as many as may wait in the ring after those.
constexpr std::size_t sent_kept_max = migration_queue_length + reads_kept_max;
/// Of one frame that was sent: all of it up to an MTU of 9,000 bytes. Of longer ones, which are
/// segments of TCP that the network put together, the rest is in QEMU's record.
constexpr std::size_t sent_bytes_max = 9 * 1024;

/// A frame that was sent to a tap.
struct SentFrame {
    CaughtFrame frame;  ///< At most sent_bytes_max of its bytes from Ethernet on.
    std::size_t bytes = 0;  ///< As many as it had, from Ethernet on.
    [[nodiscard]] bool is_whole() const { return frame.size() == virtio_header_size + bytes; }
};

/// Takes a copy of each frame that is sent to a tap. Needs CAP_NET_RAW.
class FrameRecorder {
public:
    static core::Result<FrameRecorder> open(Netlink& netlink, std::string const& tap);
    [[nodiscard]] int descriptor() const { return socket_.get(); }
    /// Reads what came since. To be called whenever descriptor() is readable.
    core::Result<> take_in();
    /// Oldest first.
    [[nodiscard]] std::deque<SentFrame> const& frames() const { return frames_; }

private:
    explicit FrameRecorder(core::Fd socket) : socket_(std::move(socket)) {}
    core::Fd socket_;
    std::deque<SentFrame> frames_;
};

/// Reads filter-dump's pcap from a fifo at `path`, which QEMU opens for writing. The fifo has lost
/// its name once QEMU has opened it (opened()); when its reader goes, QEMU stops to write.
class ReadRecorder {
public:
    /// Makes the FIFO, before QEMU gets its name.
    static core::Result<ReadRecorder> make(std::string path);
    [[nodiscard]] int descriptor() const { return fifo_.get(); }
    core::Result<> opened();
    core::Result<> take_in();
    /// The frames that were read when the guest's clock stood still: those that have the last value
    /// it had. Only when the guest is stopped and something was read since. As QEMU writes them:
    /// until 7.2 with the tap's vnet header, later without.
    [[nodiscard]] std::vector<Bytes> read_last() const;
    /// The one that was read just before read_last(). Only while the guest is stopped: then QEMU
    /// reads at most one frame after note_stop(); more than one means that the guest runs again.
    [[nodiscard]] std::optional<Bytes> before_last() const;
    /// The first that was read at the stop, if nothing was read before. As before_last().
    [[nodiscard]] std::optional<Bytes> first_at_stop() const;
    /// QEMU says that the guest is stopped: what it has thrown away was read before it said so.
    /// Remembers that instant, since a guest that goes on has a clock that goes on.
    core::Result<> note_stop();
    /// Of a guest that went on, or will, where it was: what QEMU has thrown away. All that was read
    /// at the instant of note_stop() but the last, which QEMU has kept. (One frame alone was either
    /// that one, or read and given to the guest before the stop.)
    [[nodiscard]] std::vector<Bytes> thrown_away() const;

private:
    struct Read {
        std::uint64_t at_us;  ///< The guest's clock.
        Bytes frame;
    };
    ReadRecorder(core::Fd fifo, std::string path)
        : fifo_(std::move(fifo)), path_(std::move(path)) {}
    core::Result<> parse();

    core::Fd fifo_;
    std::string path_;
    Bytes unparsed_;
    bool header_seen_ = false;
    std::deque<Read> reads_;
    std::optional<std::uint64_t> stopped_at_us_;
    std::vector<Bytes> read_at_stop_;
    std::size_t count_ = 0;  ///< Of all reads.
    std::optional<std::size_t> count_at_stop_;
};

/// Whether QEMU's record is of that frame.
[[nodiscard]] bool same_frame(Bytes const& read, CaughtFrame const& sent);
/// Of `read`, those that were sent to the tap, with their offloads; the gate's own are left out.
[[nodiscard]] std::vector<CaughtFrame> matching(std::vector<Bytes> const& read,
                                                std::deque<SentFrame> const& sent);
/// The frame that was sent before the one that QEMU read as `read`. None if that was not recorded,
/// or not as a whole.
[[nodiscard]] std::optional<CaughtFrame> sent_before(Bytes const& read,
                                                     std::deque<SentFrame> const& sent);

}  // namespace netmove
