#include "tests/support/packet_line.hpp"

#include <fcntl.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <deque>
#include <optional>
#include <random>
#include <vector>

#include "tests/support/command.hpp"

namespace lab {

namespace {

using Clock = std::chrono::steady_clock;

constexpr char const* tap_name = "line";
/// Bytes in flight in one direction: more than a TCP window, so that only chance loses frames.
constexpr std::size_t queued_bytes_max = 64 * 1024 * 1024;
/// The longest frame of a tap with an MTU of 1500.
constexpr std::size_t frame_bytes_max = 2048;
/// Frames read from one end before the other end is served.
constexpr int frames_in_turn_max = 256;
/// Frames that wait in a tap until they are read.
constexpr char const* tap_queue_frames = "10000";

struct Frame {
    std::vector<std::byte> bytes;
    Clock::time_point due;
};

struct LineDirection {
    int from;
    int to;
    std::deque<Frame> frames = {};
    std::size_t under_way = 0;
};

/// An end of the line. Each knows the other's MAC from the start: a lost ARP request would be
/// repeated only after one second, and tests do not want to measure that wait.
struct End {
    char const* address;
    char const* mac;
};
constexpr End near_end{PacketLine::near_address, "02:00:00:79:00:01"};
constexpr End far_end{PacketLine::far_address, "02:00:00:79:00:02"};

core::Fd make_tap(std::string const& netns, End const& own, End const& other) {
    Visit const inside(netns);
    core::Fd tap(open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC));
    ifreq request{};
    request.ifr_flags = IFF_TAP | IFF_NO_PI;
    std::strncpy(request.ifr_name, tap_name, sizeof request.ifr_name - 1);
    if (!tap || ioctl(tap.get(), TUNSETIFF, &request) < 0) {
        throw Failure("cannot make a tap in " + netns + ": " + std::strerror(errno));
    }
    Place const there{netns, {}};
    must_run({"ip", "address", "add", std::string(own.address) + "/24", "dev", tap_name}, there);
    must_run(
        {"ip", "link", "set", tap_name, "address", own.mac, "txqueuelen", tap_queue_frames, "up"},
        there);
    must_run({"ip", "neighbour", "add", other.address, "lladdr", other.mac, "dev", tap_name, "nud",
              "permanent"},
             there);
    return tap;
}

std::optional<timespec> until(std::optional<Clock::time_point> due) {
    if (!due) return {};
    auto const left = std::max(*due - Clock::now(), Clock::duration::zero());
    auto const whole = std::chrono::duration_cast<std::chrono::seconds>(left);
    return timespec{whole.count(), std::chrono::nanoseconds(left - whole).count()};
}

std::optional<Clock::time_point> first_due(std::array<LineDirection, 2> const& directions) {
    std::optional<Clock::time_point> first;
    for (auto const& one : directions) {
        if (one.frames.empty()) continue;
        if (!first || one.frames.front().due < *first) first = one.frames.front().due;
    }
    return first;
}

/// Sends the frames that are due; the kernel may refuse a frame whose tap is being removed.
void give(LineDirection& one, Clock::time_point now) {
    while (!one.frames.empty() && one.frames.front().due <= now) {
        auto const& bytes = one.frames.front().bytes;
        [[maybe_unused]] auto const written = ::write(one.to, bytes.data(), bytes.size());
        one.under_way -= bytes.size();
        one.frames.pop_front();
    }
}

}  // namespace

PacketLine::PacketLine(std::string const& near_netns, std::string const& far_netns,
                       std::chrono::microseconds round_trip, double loss)
    : keep_converged_(make_tap(near_netns, near_end, far_end)),
      far_(make_tap(far_netns, far_end, near_end)),
      wake_(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {
    if (!wake_) throw Failure("cannot make an eventfd");
    thread_ = std::thread([this, round_trip, loss] { run(round_trip / 2, loss); });
}

PacketLine::~PacketLine() {
    over_ = true;
    wake();
    thread_.join();
}

void PacketLine::hold() {
    held_ = true;
    wake();
}

void PacketLine::release() {
    held_ = false;
    wake();
}

void PacketLine::wake() { (void)eventfd_write(wake_.get(), 1); }

void PacketLine::run(std::chrono::microseconds one_way, double loss) {
    std::array<LineDirection, 2> directions{LineDirection{keep_converged_.get(), far_.get()},
                                            LineDirection{far_.get(), keep_converged_.get()}};
    std::mt19937_64 random(1);  // the same losses for each program that is measured
    std::bernoulli_distribution is_lost(loss);
    std::vector<std::byte> room(frame_bytes_max);
    while (!over_) {
        std::array<pollfd, 3> wanted{{{wake_.get(), POLLIN, 0},
                                      {keep_converged_.get(), POLLIN, 0},
                                      {far_.get(), POLLIN, 0}}};
        auto const wait = held_ ? std::nullopt : until(first_due(directions));
        if (::ppoll(wanted.data(), wanted.size(), wait ? &*wait : nullptr, nullptr) < 0) continue;
        eventfd_t ignored = 0;
        (void)eventfd_read(wake_.get(), &ignored);
        for (auto& one : directions) {
            for (int i = 0; i < frames_in_turn_max; ++i) {
                auto const got = ::read(one.from, room.data(), room.size());
                if (got <= 0) break;
                auto const size = static_cast<std::size_t>(got);
                bool const full = one.under_way + size > queued_bytes_max;
                if (full) ++overflowed_;
                if (is_lost(random) || full) {
                    ++lost_;
                    continue;
                }
                ++carried_;
                one.under_way += size;
                one.frames.push_back({{room.begin(), room.begin() + got}, Clock::now() + one_way});
            }
            if (!held_) give(one, Clock::now());
        }
    }
}

}  // namespace lab
