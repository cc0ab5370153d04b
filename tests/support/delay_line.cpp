#include "tests/support/delay_line.hpp"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <deque>
#include <list>
#include <memory>
#include <optional>
#include <vector>

#include "core/stream.hpp"
#include "tests/support/command.hpp"

namespace lab {

namespace {

using Clock = std::chrono::steady_clock;

/// Bytes in flight in one direction of one connection: 1 GB/s for 250 ms. Above it, TCP waits.
constexpr std::size_t under_way_bytes_max = 256 * 1024 * 1024;
/// Bytes of one read; and reads of one connection before other connections are served.
constexpr std::size_t read_bytes = 256 * 1024;
constexpr int reads_in_turn_max = 16;

/// A buffer for one read. Free buffers are kept: the allocator would return them to the kernel,
/// which would zero them again, and that costs more than relaying.
using Room = std::unique_ptr<std::array<std::byte, read_bytes>>;
class Rooms {
public:
    Room take() {
        if (free_.empty()) return std::make_unique_for_overwrite<Room::element_type>();
        auto room = std::move(free_.back());
        free_.pop_back();
        return room;
    }
    void give(Room room) { free_.push_back(std::move(room)); }

private:
    std::vector<Room> free_;  ///< At most as many as were in flight at once.
};

struct Chunk {
    Room room;
    std::size_t bytes = 0;
    std::size_t sent = 0;
    Clock::time_point due;
};

/// One direction of a connection.
class Direction {
public:
    Direction(int from, int to, Rooms& rooms) : from_(from), to_(to), rooms_(rooms) {}

    [[nodiscard]] bool over() const { return ended_ && chunks_.empty(); }
    [[nodiscard]] bool reads() const { return !ended_ && under_way_ < under_way_bytes_max; }
    /// When the next byte may be sent; nothing if there is none, or if the receiver is not ready.
    [[nodiscard]] std::optional<Clock::time_point> due() const {
        if (chunks_.empty() || full_) return {};
        return chunks_.front().due;
    }
    [[nodiscard]] bool full() const { return full_; }
    void writable() { full_ = false; }

    /// False if the connection is broken.
    bool take(std::chrono::microseconds delay) {
        for (int i = 0; i < reads_in_turn_max && reads(); ++i) {
            auto room = rooms_.take();
            auto const got = ::recv(from_, room->data(), room->size(), MSG_DONTWAIT);
            if (got <= 0) {
                int const why = errno;
                rooms_.give(std::move(room));
                ended_ = got == 0;
                return ended_ || why == EAGAIN || why == EINTR;
            }
            auto const bytes = static_cast<std::size_t>(got);
            under_way_ += bytes;
            chunks_.push_back({std::move(room), bytes, 0, Clock::now() + delay});
        }
        return true;
    }
    bool give(Clock::time_point now) {
        while (!chunks_.empty() && !full_ && chunks_.front().due <= now) {
            Chunk& chunk = chunks_.front();
            auto const sent = ::send(to_, chunk.room->data() + chunk.sent, chunk.bytes - chunk.sent,
                                     MSG_DONTWAIT | MSG_NOSIGNAL);
            if (sent < 0 && errno != EAGAIN && errno != EINTR) return false;
            if (sent < 0) {
                full_ = true;
                break;
            }
            chunk.sent += static_cast<std::size_t>(sent);
            under_way_ -= static_cast<std::size_t>(sent);
            if (chunk.sent == chunk.bytes) {
                rooms_.give(std::move(chunk.room));
                chunks_.pop_front();
            }
        }
        if (over()) (void)::shutdown(to_, SHUT_WR);
        return true;
    }

private:
    int from_;
    int to_;
    Rooms& rooms_;
    std::deque<Chunk> chunks_;
    std::size_t under_way_ = 0;
    bool full_ = false;
    bool ended_ = false;
};

struct Connection {
    Connection(core::Fd keep_converged_, core::Fd far_, Rooms& rooms)
        : near(std::move(keep_converged_)),
          far(std::move(far_)),
          there(near.get(), far.get(), rooms),
          back(far.get(), near.get(), rooms) {
        int const on = 1;
        for (int const fd : {near.get(), far.get()}) {
            (void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
        }
    }
    core::Fd near;
    core::Fd far;
    Direction there;
    Direction back;
    bool broken = false;
};

/// What to poll for at the near end and the far end of a connection.
void ask(Connection const& one, bool held, std::vector<pollfd>& wanted) {
    auto const events = [held](Direction const& in, Direction const& out) {
        return static_cast<short>((in.reads() ? POLLIN : 0) | (out.full() && !held ? POLLOUT : 0));
    };
    short const near = events(one.there, one.back);
    short const far = events(one.back, one.there);
    // An end that is not polled is left out: poll would report its hang-up again and again.
    wanted.push_back({near != 0 ? one.near.get() : -1, near, 0});
    wanted.push_back({far != 0 ? one.far.get() : -1, far, 0});
}

void serve(Connection& one, short near, short far, bool held, std::chrono::microseconds delay) {
    constexpr short readable = POLLIN | POLLHUP | POLLERR;
    if ((near & POLLOUT) != 0) one.back.writable();
    if ((far & POLLOUT) != 0) one.there.writable();
    bool ok = true;
    if ((near & readable) != 0) ok = one.there.take(delay);
    if ((far & readable) != 0) ok = one.back.take(delay) && ok;
    auto const now = Clock::now();
    if (!held) ok = one.there.give(now) && one.back.give(now) && ok;
    one.broken = !ok || (one.there.over() && one.back.over());
}

std::optional<timespec> until_due(std::list<Connection> const& connections) {
    std::optional<Clock::time_point> first;
    for (auto const& one : connections) {
        for (auto const due : {one.there.due(), one.back.due()}) {
            if (due && (!first || *due < *first)) first = due;
        }
    }
    if (!first) return {};
    auto const left = std::max(*first - Clock::now(), Clock::duration::zero());
    auto const whole = std::chrono::duration_cast<std::chrono::seconds>(left);
    return timespec{whole.count(), std::chrono::nanoseconds(left - whole).count()};
}

}  // namespace

DelayLine::DelayLine(int port_behind, std::chrono::microseconds round_trip) {
    auto listener = core::listen_tcp("127.0.0.1", "0");
    if (!listener) throw Failure(listener.error().sentence());
    listener_ = std::move(*listener);
    auto const port = core::local_port(listener_.get());
    if (!port) throw Failure(port.error().sentence());
    port_ = *port;
    wake_ = core::Fd(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
    if (!wake_) throw Failure("cannot make an eventfd");
    thread_ = std::thread([this, port_behind, round_trip] { run(port_behind, round_trip / 2); });
}

DelayLine::~DelayLine() {
    over_ = true;
    wake();
    thread_.join();
}

void DelayLine::hold() {
    held_ = true;
    wake();
}

void DelayLine::release() {
    held_ = false;
    wake();
}

void DelayLine::wake() { (void)eventfd_write(wake_.get(), 1); }

void DelayLine::run(int port_behind, std::chrono::microseconds one_way) {
    Rooms rooms;
    std::list<Connection> connections;
    std::vector<pollfd> wanted;
    while (!over_) {
        bool const held = held_;
        wanted.assign({{wake_.get(), POLLIN, 0}, {listener_.get(), POLLIN, 0}});
        for (auto const& one : connections) ask(one, held, wanted);
        auto const wait = held ? std::nullopt : until_due(connections);
        if (::ppoll(wanted.data(), wanted.size(), wait ? &*wait : nullptr, nullptr) < 0) continue;
        eventfd_t ignored = 0;
        (void)eventfd_read(wake_.get(), &ignored);
        std::size_t i = 2;
        for (auto& one : connections) {
            serve(one, wanted[i].revents, wanted[i + 1].revents, held, one_way);
            i += 2;
        }
        std::erase_if(connections, [](auto const& one) { return one.broken; });
        if (wanted[1].revents == 0) continue;
        core::Fd near(::accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
        if (!near) continue;
        auto far = connect_in("", "127.0.0.1", port_behind);
        if (far) connections.emplace_back(std::move(near), std::move(far), rooms);
    }
}

}  // namespace lab
