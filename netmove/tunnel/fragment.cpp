#include "netmove/tunnel/fragment.hpp"

#include <algorithm>
#include <cassert>
#include <cstring>

#include "netmove/tunnel/bytes.hpp"

namespace netmove::tunnel {

namespace {

constexpr std::uint8_t flag_part = 1;
constexpr std::uint8_t flag_vnet = 2;
// A part shorter than this is not worth its header: the frame begins in the next record.
constexpr std::size_t part_min = 32;

bool is_frame_size(bool vnet, std::size_t content) {
    std::size_t const least = ethernet_min + (vnet ? virtio_header_size : 0);
    return content >= least && content <= content_max;
}

FrameView view_of(bool vnet, ByteView content) {
    std::size_t const header = vnet ? virtio_header_size : 0;
    return {content.first(header), content.subspan(header)};
}

}  // namespace

void Packer::set_room(std::size_t bytes) {
    assert(used_ == 0 && bytes >= plain_min && bytes <= scratch_.size());
    room_ = bytes;
}

void Packer::begin_record() {
    scratch_[0] = static_cast<std::uint8_t>(RecordKind::frames);
    used_ = 1;
}

void Packer::put_number(std::size_t number, std::size_t size) {
    for (std::size_t i = size; i-- > 0;) {
        scratch_[used_++] = static_cast<std::uint8_t>(number >> (8 * i));
    }
}

void Packer::put_bytes(FrameView frame, std::size_t offset, std::size_t size) {
    if (offset < frame.vnet.size()) {
        auto const some = std::min(size, frame.vnet.size() - offset);
        std::memcpy(&scratch_[used_], &frame.vnet[offset], some);
        used_ += some;
        offset += some;
        size -= some;
    }
    if (size == 0) return;
    std::memcpy(&scratch_[used_], &frame.ethernet[offset - frame.vnet.size()], size);
    used_ += size;
}

void Packer::put_part(std::uint8_t flags, FrameView frame, std::size_t offset, std::size_t size) {
    scratch_[used_++] = flags | flag_part;
    put_number(size, 2);
    put_number(next_number_, 4);
    put_number(offset, 3);
    put_number(frame.vnet.size() + frame.ethernet.size(), 3);
    put_bytes(frame, offset, size);
}

void Packer::add(FrameView frame, PlainSink& sink) {
    std::uint8_t const flags = frame.vnet.empty() ? 0 : flag_vnet;
    std::size_t const total = frame.vnet.size() + frame.ethernet.size();
    assert(is_frame_size(!frame.vnet.empty(), total));
    if (used_ == 0) begin_record();
    if (room_ - used_ >= whole_header_size + total) {
        scratch_[used_++] = flags;
        put_number(total, 2);
        put_bytes(frame, 0, total);
        return;
    }
    for (std::size_t offset = 0; offset < total;) {
        if (room_ - used_ < part_header_size + part_min) finish(sink);
        if (used_ == 0) begin_record();
        auto const size = std::min(total - offset, room_ - used_ - part_header_size);
        put_part(flags, frame, offset, size);
        offset += size;
    }
    ++next_number_;
}

void Packer::finish(PlainSink& sink) {
    if (used_ == 0) return;
    sink.put(scratch_.first(used_));
    used_ = 0;
}

bool Reassembly::read(ByteView record, std::uint64_t sender, core::Clock::time_point now,
                      FrameSink& sink) {
    if (record.empty() || record[0] != static_cast<std::uint8_t>(RecordKind::frames)) return false;
    for (auto rest = record.subspan(1); !rest.empty();) {
        bool const is_part = (rest[0] & flag_part) != 0;
        bool const vnet = (rest[0] & flag_vnet) != 0;
        std::size_t const header = is_part ? part_header_size : whole_header_size;
        if ((rest[0] & ~(flag_part | flag_vnet)) != 0 || rest.size() < header) return false;
        auto const length = number_at(rest, 1, 2);
        if (length > rest.size() - header) return false;
        auto const bytes = rest.subspan(header, length);
        bool good = false;
        if (is_part) {
            Part const part{sender,
                            static_cast<std::uint32_t>(number_at(rest, 3, 4)),
                            vnet,
                            number_at(rest, 7, 3),
                            number_at(rest, 10, 3),
                            bytes};
            good = read_part(part, now, sink);
        } else {
            good = read_whole(vnet, bytes, sink);
        }
        if (!good) return false;
        rest = rest.subspan(header + length);
    }
    return true;
}

bool Reassembly::read_whole(bool vnet, ByteView bytes, FrameSink& sink) {
    if (!is_frame_size(vnet, bytes.size())) return false;
    sink.frame(view_of(vnet, bytes));
    return true;
}

bool Reassembly::read_part(Part const& part, core::Clock::time_point now, FrameSink& sink) {
    if (!is_frame_size(part.vnet, part.total) || part.bytes.empty() || part.offset > part.total ||
        part.bytes.size() > part.total - part.offset) {
        return false;
    }
    auto& partial = partial_for(part, now);
    auto const which = partial_.begin() + (&partial - partial_.data());
    if (!insert(partial, part)) {
        drop(which);
        return false;
    }
    if (partial.have.size() != 1 || partial.have[0].end - partial.have[0].begin != part.total) {
        return true;
    }
    sink.frame(view_of(partial.vnet, partial.content));
    bytes_ -= partial.content.size();
    spare_ = std::move(partial.content);
    partial_.erase(which);
    return true;
}

Reassembly::Partial& Reassembly::partial_for(Part const& part, core::Clock::time_point now) {
    for (auto& partial : partial_) {
        if (partial.number == part.number && partial.sender == part.sender) return partial;
    }
    expire(now);
    while (!partial_.empty() &&
           (partial_.size() >= limits_.frames || bytes_ + part.total > limits_.bytes)) {
        drop(partial_.begin());
    }
    Partial made{part.sender, part.number, part.vnet, now, std::move(spare_), {}};
    spare_ = {};
    made.content.resize(part.total);
    bytes_ += part.total;
    partial_.push_back(std::move(made));
    return partial_.back();
}

bool Reassembly::insert(Partial& into, Part const& part) const {
    if (into.content.size() != part.total || into.vnet != part.vnet) return false;
    Range const range{part.offset, part.offset + part.bytes.size()};
    // The first that ends after the beginning of the new one.
    auto const next =
        std::ranges::find_if(into.have, [&](Range const& one) { return one.end > range.begin; });
    if (next != into.have.end() && next->begin < range.end) return false;  // they overlap
    std::ranges::copy(part.bytes, into.content.begin() + static_cast<std::ptrdiff_t>(part.offset));
    bool const joins_next = next != into.have.end() && next->begin == range.end;
    bool const joins_last = next != into.have.begin() && std::prev(next)->end == range.begin;
    if (joins_last) {
        std::prev(next)->end = joins_next ? next->end : range.end;
        if (joins_next) into.have.erase(next);
    } else if (joins_next) {
        next->begin = range.begin;
    } else {
        if (into.have.size() >= limits_.gaps) return false;
        into.have.insert(next, range);
    }
    return true;
}

void Reassembly::drop(std::vector<Partial>::iterator which) {
    ++incomplete_;
    bytes_ -= which->content.size();
    partial_.erase(which);
}

void Reassembly::expire(core::Clock::time_point now) {
    while (!partial_.empty() && now - partial_.front().since > limits_.age) {
        drop(partial_.begin());
    }
    if (partial_.empty()) spare_ = {};
}

void write_ping(Ping const& ping, std::span<std::uint8_t> room) {
    std::ranges::fill(room, std::uint8_t{0});
    room[0] = static_cast<std::uint8_t>(ping.answer ? RecordKind::pong : RecordKind::ping);
    for (std::size_t i = 0; i < 4; ++i) {
        room[1 + i] = static_cast<std::uint8_t>(ping.token >> (24 - 8 * i));
    }
    room[5] = static_cast<std::uint8_t>(ping.datagram_max >> 8);
    room[6] = static_cast<std::uint8_t>(ping.datagram_max & 0xff);
}

std::optional<Ping> parse_ping(ByteView record) {
    if (record.size() < ping_size) return std::nullopt;
    bool const answer = record[0] == static_cast<std::uint8_t>(RecordKind::pong);
    if (!answer && record[0] != static_cast<std::uint8_t>(RecordKind::ping)) return std::nullopt;
    return Ping{answer, static_cast<std::uint32_t>(number_at(record, 1, 4)),
                static_cast<std::uint16_t>(number_at(record, 5, 2))};
}

}  // namespace netmove::tunnel
