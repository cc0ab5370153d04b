// The plain text of a record: frames and parts of frames, or a ping. Used by both ends of a tunnel
// and by a fuzzer; pure code. Invariant: an incomplete frame is never delivered, and what
// incomplete frames take is bounded in bytes, number and age.
//
//    0 kind (1 byte)
//    frames:      pieces until the end of the record. Each: flags (1), length (2), and of a part
//                 also frame number (4), offset (3), total (3); then `length` bytes.
//    ping, pong:  token (4), datagram_max (2), zeroes
//
// All numbers are big endian. The bytes of a frame are the vnet header, if its flag is set, and
// the Ethernet frame; `offset` and `total` count both. Frames are cut where a record is full, so
// that all records of a burst have one size (UDP_SEGMENT needs that) and small frames share one.
#pragma once

#include <array>
#include <chrono>
#include <cstdint>
#include <optional>
#include <vector>

#include "core/deadline.hpp"
#include "netmove/caught.hpp"
#include "netmove/frame.hpp"
#include "netmove/tap.hpp"

namespace netmove::tunnel {

enum class RecordKind : std::uint8_t { frames = 1, ping = 2, pong = 3 };

/// A frame as it is carried: `vnet` is zero or virtio_header_size bytes (struct virtio_net_hdr,
/// little endian as taps have it); none: all zeroes. Then Ethernet.
struct FrameView {
    ByteView vnet;
    ByteView ethernet;
};

/// vnet header and Ethernet frame.
constexpr std::size_t content_max = virtio_header_size + tap_frame_max;
/// An Ethernet header.
constexpr std::size_t ethernet_min = 14;
/// Flags, length, frame number, offset, total.
constexpr std::size_t part_header_size = 13;
constexpr std::size_t whole_header_size = 3;
/// The smallest room for plain text that a Packer works with.
constexpr std::size_t plain_min = 64;

/// Takes what is to be encrypted and sent as one record.
class PlainSink {
public:
    virtual void put(ByteView plain) = 0;

protected:
    ~PlainSink() = default;
};

/// Puts frames into records. The scratch buffer belongs to the caller, and may be shared by
/// Packers that are not used at the same time: between finish() and the next add() it holds
/// nothing.
class Packer {
public:
    explicit Packer(std::span<std::uint8_t> scratch) : scratch_(scratch) {}
    /// Bytes of plain text in each record from the next add() on; at least plain_min, at most the
    /// scratch buffer.
    void set_room(std::size_t bytes);
    /// Frames longer than content_max or shorter than ethernet_min must not be given.
    void add(FrameView frame, PlainSink& sink);
    /// Hands on what is in the last record.
    void finish(PlainSink& sink);

private:
    void begin_record();
    void put_part(std::uint8_t flags, FrameView frame, std::size_t offset, std::size_t size);
    void put_bytes(FrameView frame, std::size_t offset, std::size_t size);
    void put_number(std::size_t number, std::size_t size);

    std::span<std::uint8_t> scratch_;
    std::size_t room_ = plain_min;
    std::size_t used_ = 0;
    std::uint32_t next_number_ = 0;
};

/// A frame that is whole.
class FrameSink {
public:
    virtual void frame(FrameView frame) = 0;

protected:
    ~FrameSink() = default;
};

/// What incomplete frames may take. A path that reorders has the parts of two or three frames in
/// mixed order; four of the largest fit.
struct ReassemblyLimits {
    std::size_t frames = 16;
    std::size_t bytes = 4 * content_max;
    std::size_t gaps = 64;  ///< Separate ranges of bytes in one frame.
    core::Clock::duration age = std::chrono::seconds{1};
};

/// Puts parts together again.
class Reassembly {
public:
    explicit Reassembly(ReassemblyLimits limits = {}) : limits_(limits) {}
    /// Reads a record of kind frames, and gives what is whole to `sink`. False if the record is not
    /// as above: what came before the fault was delivered.
    /// `sender`: names the session, because a peer that begins anew numbers its frames anew.
    bool read(ByteView record, std::uint64_t sender, core::Clock::time_point now, FrameSink& sink);
    /// Drops frames that are too old.
    void expire(core::Clock::time_point now);
    /// Whether expire() would free something later.
    [[nodiscard]] bool holds_memory() const { return !partial_.empty() || !spare_.empty(); }
    [[nodiscard]] std::size_t bytes() const { return bytes_; }
    [[nodiscard]] std::uint64_t incomplete() const { return incomplete_; }

private:
    struct Range {
        std::size_t begin;
        std::size_t end;
    };
    struct Partial {
        std::uint64_t sender;
        std::uint32_t number;
        bool vnet;
        core::Clock::time_point since;
        std::vector<std::uint8_t> content;
        std::vector<Range> have;  ///< Ascending; neighbours are merged.
    };
    struct Part {
        std::uint64_t sender;
        std::uint32_t number;
        bool vnet;
        std::size_t offset;
        std::size_t total;
        ByteView bytes;
    };
    bool read_whole(bool vnet, ByteView bytes, FrameSink& sink);
    bool read_part(Part const& part, core::Clock::time_point now, FrameSink& sink);
    Partial& partial_for(Part const& part, core::Clock::time_point now);
    bool insert(Partial& into, Part const& part) const;
    void drop(std::vector<Partial>::iterator which);

    ReassemblyLimits limits_;
    std::vector<Partial> partial_;  ///< Oldest first.
    std::vector<std::uint8_t> spare_;  ///< The buffer of the last frame, for the next one.
    std::size_t bytes_ = 0;
    std::uint64_t incomplete_ = 0;
};

/// A ping asks for a pong of the same length with the same token: whether the peer is there, and
/// whether that length passes in both directions.
struct Ping {
    bool answer = false;
    std::uint32_t token = 0;
    std::uint16_t datagram_max = 0;  ///< What the sender found for this path; 0: not said.
};
constexpr std::size_t ping_size = 7;
/// Fills all of `room` (at least ping_size).
void write_ping(Ping const& ping, std::span<std::uint8_t> room);
std::optional<Ping> parse_ping(ByteView record);

}  // namespace netmove::tunnel
