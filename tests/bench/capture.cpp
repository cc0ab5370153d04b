#include "tests/bench/capture.hpp"

#include <fmt/format.h>

#include <chrono>
#include <csignal>
#include <cstring>
#include <deque>
#include <map>

namespace bench {

namespace {

constexpr auto listen_limit = std::chrono::seconds(10);
/// Bytes kept of each frame: Ethernet, IPv6 and TCP headers with options.
constexpr char const* snapshot_bytes = "128";
/// The kernel's buffer for frames that tcpdump has not read yet.
constexpr char const* buffer_kib = "32768";
/// Linux waits at least 200 ms before it retransmits without any answer (TCP_RTO_MIN).
constexpr double late_ms = 190;

constexpr std::uint32_t magic_ns = 0xa1b23c4d;  // in the writer's byte order: this machine's
constexpr std::size_t file_header = 24;

lab::Argv line(std::string const& device, std::string const& direction, lab::Argv const& filter,
               lab::fs::path const& file, int count) {
    lab::Argv argv{"tcpdump",
                   "-i",
                   device,
                   "-Q",
                   direction,
                   "-n",
                   "-U",
                   "--immediate-mode",
                   "--time-stamp-precision=nano",
                   "-B",
                   buffer_kib,
                   "-s",
                   snapshot_bytes,
                   "-Z",
                   "root",
                   "-w",
                   file};
    if (count > 0) argv.insert(argv.end(), {"-c", std::to_string(count)});
    argv.insert(argv.end(), filter.begin(), filter.end());
    return argv;
}

std::uint64_t big_endian(std::string const& bytes, std::size_t at, std::size_t size) {
    std::uint64_t value = 0;
    for (std::size_t i = 0; i < size; ++i) {
        value = value << 8 | static_cast<std::uint8_t>(bytes.at(at + i));
    }
    return value;
}

struct Segment {
    std::string flow;  ///< Addresses and ports of this direction.
    std::uint32_t sequence = 0;
    std::uint32_t length = 0;  ///< Of its data.
    bool reset = false;
};

std::optional<Segment> segment_of(std::string const& bytes) {
    constexpr std::size_t ethernet = 14;
    if (bytes.size() < ethernet + 20) return {};
    auto const type = big_endian(bytes, 12, 2);
    std::size_t tcp = 0;
    std::uint64_t length = 0;
    std::string flow;
    if (type == 0x0800 && bytes[ethernet + 9] == 6) {
        auto const header = (big_endian(bytes, ethernet, 1) & 15) * 4;
        tcp = ethernet + header;
        length = big_endian(bytes, ethernet + 2, 2) - header;
        flow = bytes.substr(ethernet + 12, 8);
    } else if (type == 0x86dd && bytes.size() > ethernet + 40 && bytes[ethernet + 6] == 6) {
        tcp = ethernet + 40;
        length = big_endian(bytes, ethernet + 4, 2);
        flow = bytes.substr(ethernet + 8, 32);
    }
    if (tcp == 0 || bytes.size() < tcp + 20) return {};
    auto const header = (big_endian(bytes, tcp + 12, 1) >> 4) * 4;
    flow += bytes.substr(tcp, 4);
    return Segment{flow, static_cast<std::uint32_t>(big_endian(bytes, tcp + 4, 4)),
                   static_cast<std::uint32_t>(length > header ? length - header : 0),
                   (big_endian(bytes, tcp + 13, 1) & 4) != 0};
}

// Sequence numbers wrap: a number less than half of them behind is old (RFC 9293, 3.4).
bool is_before(std::uint32_t one, std::uint32_t other) {
    return static_cast<std::int32_t>(one - other) < 0;
}

/// The data sent by one end of a session.
class Direction {
public:
    /// When the first byte of the segment was last sent before, if it was and if that is still
    /// known.
    std::optional<double> sent(Segment const& segment, double at_ms) {
        auto const end = segment.sequence + segment.length;
        bool const old = !recent_.empty() && is_before(segment.sequence, end_);
        std::optional<double> before;
        if (old) before = recent_.front().at_ms;
        for (auto one = recent_.rbegin(); old && one != recent_.rend(); ++one) {
            if (is_before(segment.sequence, one->begin) || !is_before(segment.sequence, one->end)) {
                continue;
            }
            before = one->at_ms;
            break;
        }
        if (recent_.empty() || is_before(end_, end)) end_ = end;
        recent_.push_back({segment.sequence, end, at_ms});
        if (recent_.size() > recent_max) recent_.pop_front();
        return before;
    }

private:
    static constexpr std::size_t recent_max = 4096;
    struct Sent {
        std::uint32_t begin, end;
        double at_ms;
    };
    std::deque<Sent> recent_;
    std::uint32_t end_ = 0;  ///< After the last byte.
};

}  // namespace

double wall_ms() {
    auto const now = std::chrono::system_clock::now().time_since_epoch();
    return std::chrono::duration<double, std::milli>(now).count();
}

Capture::Capture(std::string const& netns, std::string const& device, std::string const& direction,
                 lab::Argv const& filter, lab::fs::path const& file, int count)
    : file_(file),
      tcpdump_("tcpdump-" + lab::unique_suffix(), line(device, direction, filter, file, count),
               {netns, {}}, file.parent_path()) {
    lab::wait_until("tcpdump to listen", listen_limit,
                    [&] { return tcpdump_.err().find("listening on") != std::string::npos; });
}

std::vector<Packet> Capture::finish() {
    if (tcpdump_.running()) tcpdump_.signal(SIGINT);
    if (!tcpdump_.wait(lab::end_limit)) throw lab::Failure("tcpdump does not end");
    if (tcpdump_.err().find("\n0 packets dropped by kernel") == std::string::npos) {
        throw lab::Failure("tcpdump missed packets: " + tcpdump_.err());
    }
    return read_capture(file_);
}

std::vector<Packet> read_capture(lab::fs::path const& file) {
    auto const text = lab::read_file(file);
    std::uint32_t magic = 0;
    if (text.size() < file_header) throw lab::Failure(file.string() + " is no capture");
    std::memcpy(&magic, text.data(), sizeof magic);
    if (magic != magic_ns) throw lab::Failure(file.string() + " has no nanoseconds");
    std::vector<Packet> packets;
    struct Record {
        std::uint32_t seconds, nanoseconds, kept, length;
    } record{};
    for (std::size_t at = file_header; at + sizeof record <= text.size();) {
        std::memcpy(&record, text.data() + at, sizeof record);
        at += sizeof record;
        if (at + record.kept > text.size()) break;
        packets.push_back(
            {record.seconds * 1e3 + record.nanoseconds / 1e6, text.substr(at, record.kept)});
        at += record.kept;
    }
    return packets;
}

TcpSeen read_tcp(std::vector<Packet> const& packets) {
    std::map<std::string, Direction> directions;
    TcpSeen seen;
    for (auto const& packet : packets) {
        auto const segment = segment_of(packet.bytes);
        if (!segment) continue;
        if (segment->reset) ++seen.resets;
        if (segment->length == 0) continue;
        ++seen.segments;
        auto const before = directions[segment->flow].sent(*segment, packet.at_ms);
        if (before) ++seen.resent;
        if (before && packet.at_ms - *before > late_ms) ++seen.late;
    }
    return seen;
}

}  // namespace bench
