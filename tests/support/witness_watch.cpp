// One thread and one poll: probes and records are sent when they are due, and answers are read as
// they come. Figures has all results of one family. A session that ends is counted and opened
// again, so that the watch continues.
#include "tests/support/witness_watch.hpp"

#include <arpa/inet.h>
#include <endian.h>
#include <fmt/format.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <unistd.h>
#include <algorithm>
#include <array>
#include <cerrno>
#include <csignal>
#include <cstring>
#include <ctime>
#include <memory>
#include <span>
#include <tuple>
#include <vector>

namespace witness_client {
namespace {

constexpr std::uint64_t ns_per_ms = 1'000'000;
constexpr std::uint64_t ns_per_s = 1'000'000'000;
constexpr std::uint64_t drain_ms_max = 3000;  // for answers still in flight at the end
constexpr std::uint64_t reconnect_ms = 100;  // after a session ended
constexpr std::uint64_t connect_ms_max = 5000;
constexpr std::uint64_t progress_ms = 500;
constexpr std::uint64_t catch_up_max = 50;  // late sends that are made up for
constexpr std::size_t lost_told_max = 20;  // lost probes that are listed by their send time
constexpr std::size_t record_bytes = 64;  // eight 64 bit words, as the guest's source sends
constexpr std::size_t record_words = record_bytes / sizeof(std::uint64_t);
constexpr std::size_t unsent_bytes_max = 65536;  // above it no new record, until the guest reads
constexpr std::uint64_t probe_magic = 0x70726f62657721ULL;
constexpr std::uint16_t udp_echo_port = 7;
constexpr std::uint16_t tcp_echo_port = 7001;
constexpr std::uint16_t tcp_source_port = 7002;

std::uint64_t clock_ns(clockid_t clock) {
    timespec t{};
    clock_gettime(clock, &t);
    return static_cast<std::uint64_t>(t.tv_sec) * ns_per_s + static_cast<std::uint64_t>(t.tv_nsec);
}
std::uint64_t now_ns() { return clock_ns(CLOCK_MONOTONIC); }

struct Endpoint {
    sockaddr_storage address{};
    socklen_t bytes = 0;
    int family = AF_UNSPEC;
};

std::optional<Endpoint> endpoint(const std::string& text, std::uint16_t port) {
    Endpoint found;
    auto& in = reinterpret_cast<sockaddr_in&>(found.address);
    auto& in6 = reinterpret_cast<sockaddr_in6&>(found.address);
    if (inet_pton(AF_INET, text.c_str(), &in.sin_addr) == 1) {
        in.sin_family = AF_INET;
        in.sin_port = htons(port);
        found.bytes = sizeof in;
        found.family = AF_INET;
    } else if (inet_pton(AF_INET6, text.c_str(), &in6.sin6_addr) == 1) {
        in6.sin6_family = AF_INET6;
        in6.sin6_port = htons(port);
        found.bytes = sizeof in6;
        found.family = AF_INET6;
    } else {
        return std::nullopt;
    }
    return found;
}

/// The longest time between two arrivals, including the begin and the end of the watch.
struct Gap {
    explicit Gap(std::uint64_t began_ns) : last_ns(began_ns) {}
    std::uint64_t last_ns;
    std::uint64_t longest_ns = 0;
    std::uint64_t longest_began_ns = 0;
    void arrived(std::uint64_t at_ns) {
        if (at_ns > last_ns && at_ns - last_ns > longest_ns) {
            longest_ns = at_ns - last_ns;
            longest_began_ns = last_ns;
        }
        last_ns = std::max(last_ns, at_ns);
    }
};

struct Figures {
    std::uint64_t udp_sent = 0;
    std::uint64_t udp_received = 0;  // different ones
    std::uint64_t udp_duplicated = 0;
    std::uint64_t udp_reordered = 0;
    std::uint64_t udp_rtt_max_ns = 0;
    std::vector<std::uint64_t> udp_lost_sent_ns;  // the first of them, CLOCK_REALTIME
    Gap udp_gap{clock_ns(CLOCK_REALTIME)};  // by the kernel's receive time
    std::uint64_t tcp_sessions = 0;
    std::uint64_t tcp_resets = 0;
    std::uint64_t tcp_records = 0;
    std::uint64_t tcp_mismatches = 0;
    std::uint64_t tcp_unanswered = 0;  // sent on the last echo session, unanswered at the end
    std::uint64_t tcp_longest_gap_ns = 0;
};

/// The due times of an event that happens `hz` times a second.
class Ticks {
public:
    explicit Ticks(std::uint64_t hz)
        : step_ns_(ns_per_s / std::max<std::uint64_t>(hz, 1)), next_ns_(now_ns()) {}
    std::uint64_t next_ns() const { return next_ns_; }
    bool take() {
        const std::uint64_t now = now_ns();
        if (next_ns_ > now) return false;
        if (next_ns_ + catch_up_max * step_ns_ < now) next_ns_ = now - catch_up_max * step_ns_;
        next_ns_ += step_ns_;
        return true;
    }

private:
    std::uint64_t step_ns_;
    std::uint64_t next_ns_;
};

// ---- UDP --------------------------------------------------------------------------------------

struct Probe {
    std::uint64_t magic;
    std::uint64_t number;
    std::uint64_t sent_ns;  // CLOCK_REALTIME, to be compared with the kernel's receive time
    std::uint64_t reserved;
};

class UdpProbes {
public:
    UdpProbes(const Endpoint& to, std::uint64_t hz, Figures& figures)
        : ticks_(hz), figures_(figures) {
        const int on = 1;
        const int buffer_bytes = 8 << 20;  // a burst of delayed answers must fit
        fd_ = socket(to.family, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
        setsockopt(fd_, SOL_SOCKET, SO_TIMESTAMPNS, &on, sizeof on);
        setsockopt(fd_, SOL_SOCKET, SO_RCVBUFFORCE, &buffer_bytes, sizeof buffer_bytes);
        // A failure is reported when sending.
        (void)connect(fd_, reinterpret_cast<const sockaddr*>(&to.address), to.bytes);
    }
    ~UdpProbes() { close(fd_); }
    UdpProbes(const UdpProbes&) = delete;
    UdpProbes& operator=(const UdpProbes&) = delete;

    int fd() const { return fd_; }
    std::uint64_t next_ns() const { return ticks_.next_ns(); }
    bool answered() const { return figures_.udp_received > 0; }
    bool complete() const { return figures_.udp_received == figures_.udp_sent; }

    void send_due() {
        while (ticks_.take()) {
            const Probe probe{probe_magic, figures_.udp_sent++, clock_ns(CLOCK_REALTIME), 0};
            seen_.push_back(false);
            sent_ns_.push_back(probe.sent_ns);
            // An ICMP error of an earlier probe is reported here once; then the probe itself is
            // sent. A probe that still cannot be sent counts as lost.
            if (send(fd_, &probe, sizeof probe, 0) < 0) (void)send(fd_, &probe, sizeof probe, 0);
        }
    }

    /// No more answers are expected.
    void finish() {
        for (std::size_t i = 0; i < seen_.size(); ++i) {
            if (figures_.udp_lost_sent_ns.size() >= lost_told_max) return;
            if (!seen_[i]) figures_.udp_lost_sent_ns.push_back(sent_ns_[i]);
        }
    }

    void receive() {
        while (true) {
            Probe probe{};
            alignas(cmsghdr) std::array<char, 64> ancillary{};
            iovec part{&probe, sizeof probe};
            msghdr message{};
            message.msg_iov = &part;
            message.msg_iovlen = 1;
            message.msg_control = ancillary.data();
            message.msg_controllen = ancillary.size();
            const ssize_t got = recvmsg(fd_, &message, 0);
            if (got < 0 && errno == ECONNREFUSED) continue;
            if (got < 0) return;
            if (got != static_cast<ssize_t>(sizeof probe) || probe.magic != probe_magic) continue;
            count(probe, received_at(message));
        }
    }

private:
    static std::uint64_t received_at(msghdr& message) {
        for (cmsghdr* c = CMSG_FIRSTHDR(&message); c != nullptr; c = CMSG_NXTHDR(&message, c)) {
            if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_TIMESTAMPNS) continue;
            timespec t{};
            std::memcpy(&t, CMSG_DATA(c), sizeof t);
            return static_cast<std::uint64_t>(t.tv_sec) * ns_per_s +
                   static_cast<std::uint64_t>(t.tv_nsec);
        }
        return clock_ns(CLOCK_REALTIME);
    }

    void count(const Probe& probe, std::uint64_t at_ns) {
        if (probe.number >= seen_.size()) return;
        figures_.udp_gap.arrived(at_ns);
        if (seen_[probe.number]) {
            ++figures_.udp_duplicated;
            return;
        }
        seen_[probe.number] = true;
        ++figures_.udp_received;
        if (probe.number < highest_) ++figures_.udp_reordered;
        highest_ = std::max(highest_, probe.number);
        if (at_ns > probe.sent_ns)
            figures_.udp_rtt_max_ns = std::max(figures_.udp_rtt_max_ns, at_ns - probe.sent_ns);
    }

    int fd_ = -1;
    Ticks ticks_;
    Figures& figures_;
    std::vector<bool> seen_;
    std::vector<std::uint64_t> sent_ns_;
    std::uint64_t highest_ = 0;
};

// ---- TCP --------------------------------------------------------------------------------------

/// One session that is opened again when it ends. Echo: we send numbered records and expect the
/// same back. Source: the guest sends the records.
class TcpSession {
public:
    TcpSession(const Endpoint& to, bool source, std::uint64_t hz, Figures& figures)
        : to_(to), source_(source), ticks_(hz), figures_(figures) {
        open();
    }
    ~TcpSession() { shut(); }
    TcpSession(const TcpSession&) = delete;
    TcpSession& operator=(const TcpSession&) = delete;

    int fd() const { return fd_; }
    bool answered() const { return answered_; }
    bool complete() const { return source_ || (received_ == sent_ && unsent_.empty()); }
    short events() const {
        return static_cast<short>(POLLIN | (connecting_ || !unsent_.empty() ? POLLOUT : 0));
    }
    std::uint64_t next_ns() const {
        if (fd_ < 0) return reopen_ns_;
        if (connecting_) return opened_ns_ + connect_ms_max * ns_per_ms;
        return source_ ? UINT64_MAX : ticks_.next_ns();
    }

    /// Does the work that is due.
    void turn(bool sending) {
        if (fd_ < 0 && now_ns() >= reopen_ns_) open();
        if (connecting_ && now_ns() > opened_ns_ + connect_ms_max * ns_per_ms) ended();
        while (!source_ && ticks_.take()) {
            if (!sending || fd_ < 0 || connecting_ || unsent_.size() >= unsent_bytes_max) continue;
            const auto record = make(sent_++);
            const auto* bytes = reinterpret_cast<const std::byte*>(record.data());
            unsent_.insert(unsent_.end(), bytes, bytes + record_bytes);
        }
        flush();
    }

    void ready(short revents) {
        if (connecting_ && (revents & (POLLOUT | POLLERR | POLLHUP)) != 0) {
            int error = 0;
            socklen_t bytes = sizeof error;
            getsockopt(fd_, SOL_SOCKET, SO_ERROR, &error, &bytes);
            if (error != 0) return ended();
            connecting_ = false;
            ++figures_.tcp_sessions;
        }
        if ((revents & (POLLIN | POLLERR | POLLHUP)) != 0) receive();
        flush();
    }

    /// No more records are expected: the time since the last one until `at_ns` is a gap too.
    void finish(std::uint64_t at_ns) {
        count_gap(at_ns);
        if (!source_) figures_.tcp_unanswered = sent_ - received_;
    }

private:
    using Record = std::array<std::uint64_t, record_words>;

    static Record make(std::uint64_t number) {
        Record record;
        record.fill(htobe64(number));
        return record;
    }

    void open() {
        const int on = 1;
        fd_ = socket(to_.family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
        setsockopt(fd_, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
        opened_ns_ = now_ns();
        connecting_ = true;
        sent_ = received_ = 0;
        unsent_.clear();
        partial_.clear();
        if (connect(fd_, reinterpret_cast<const sockaddr*>(&to_.address), to_.bytes) != 0 &&
            errno != EINPROGRESS)
            ended();
    }

    void count_gap(std::uint64_t at_ns) {
        gap_.arrived(at_ns);
        figures_.tcp_longest_gap_ns = std::max(figures_.tcp_longest_gap_ns, gap_.longest_ns);
    }

    void shut() {
        if (fd_ >= 0) close(fd_);
        fd_ = -1;
    }

    void ended() {
        if (!connecting_) ++figures_.tcp_resets;
        shut();
        connecting_ = false;
        reopen_ns_ = now_ns() + reconnect_ms * ns_per_ms;
    }

    void flush() {
        if (fd_ < 0 || connecting_ || unsent_.empty()) return;
        const ssize_t done = send(fd_, unsent_.data(), unsent_.size(), MSG_NOSIGNAL);
        if (done < 0 && errno != EAGAIN) return ended();
        if (done > 0) unsent_.erase(unsent_.begin(), unsent_.begin() + done);
    }

    void receive() {
        std::array<std::byte, 65536> data;
        while (fd_ >= 0) {
            const ssize_t got = recv(fd_, data.data(), data.size(), 0);
            if (got < 0 && errno == EAGAIN) return;
            if (got <= 0) return ended();
            count_gap(now_ns());
            partial_.insert(partial_.end(), data.begin(), data.begin() + got);
            take_records();
        }
    }

    void take_records() {
        std::size_t at = 0;
        for (; partial_.size() - at >= record_bytes; at += record_bytes) {
            Record record;
            std::memcpy(record.data(), partial_.data() + at, record_bytes);
            if (source_) record[1] = record[0];  // the guest's own clock, unknown here
            if (record != make(received_)) ++figures_.tcp_mismatches;
            ++received_;
            ++figures_.tcp_records;
            answered_ = true;
        }
        partial_.erase(partial_.begin(), partial_.begin() + static_cast<std::ptrdiff_t>(at));
    }

    Endpoint to_;
    bool source_;
    Ticks ticks_;
    Figures& figures_;
    int fd_ = -1;
    bool connecting_ = false;
    bool answered_ = false;
    std::uint64_t opened_ns_ = 0;
    std::uint64_t reopen_ns_ = 0;
    std::uint64_t sent_ = 0;
    std::uint64_t received_ = 0;
    std::vector<std::byte> unsent_;
    std::vector<std::byte> partial_;
    Gap gap_{now_ns()};  // over all of its sessions
};

// ---- a family, and all of it ------------------------------------------------------------------

struct Family {
    Family(const char* a_name, const std::string& text, const WatchOptions& options)
        : name(a_name),
          udp(*endpoint(text, udp_echo_port), options.udp_hz, figures),
          echo(*endpoint(text, tcp_echo_port), false, options.tcp_hz, figures),
          source(*endpoint(text, tcp_source_port), true, options.tcp_hz, figures) {}

    const char* name;
    Figures figures;
    UdpProbes udp;
    TcpSession echo;
    TcpSession source;

    bool answered() const { return udp.answered() && echo.answered() && source.answered(); }
    bool complete() const { return udp.complete() && echo.complete(); }
    void finish(std::uint64_t at_ns, std::uint64_t at_unix_ns) {
        figures.udp_gap.arrived(at_unix_ns);
        udp.finish();
        echo.finish(at_ns);
        source.finish(at_ns);
    }
    std::uint64_t next_ns() const {
        return std::min({udp.next_ns(), echo.next_ns(), source.next_ns()});
    }
};

using Families = std::vector<std::unique_ptr<Family>>;

std::string figures_json(const Figures& f) {
    std::vector<std::uint64_t> lost_ms;
    for (auto const sent_ns : f.udp_lost_sent_ns) lost_ms.push_back(sent_ns / ns_per_ms);
    return fmt::format(
        R"({{"udp_sent":{},"udp_lost":{},"udp_lost_sent_unix_ms":[{}],)"
        R"("udp_duplicated":{},"udp_reordered":{},)"
        R"("udp_longest_gap_ms":{:.1f},"udp_longest_gap_began_unix_ms":{},"udp_rtt_max_ms":{:.1f},)"
        R"("tcp_sessions":{},"tcp_resets":{},"tcp_records":{},"tcp_mismatches":{},)"
        R"("tcp_unanswered":{},"tcp_longest_gap_ms":{:.1f}}})",
        f.udp_sent, f.udp_sent - f.udp_received, fmt::join(lost_ms, ","), f.udp_duplicated,
        f.udp_reordered, static_cast<double>(f.udp_gap.longest_ns) / 1e6,
        f.udp_gap.longest_began_ns / ns_per_ms, static_cast<double>(f.udp_rtt_max_ns) / 1e6,
        f.tcp_sessions, f.tcp_resets, f.tcp_records, f.tcp_mismatches, f.tcp_unanswered,
        static_cast<double>(f.tcp_longest_gap_ns) / 1e6);
}

std::string figures_line(const Figures& f) {
    return fmt::format(
        "udp: {} sent, {} lost, {} duplicated, {} reordered, longest gap {:.1f} ms; "
        "tcp: {} sessions, {} lost, {} records, {} wrong, longest gap {:.1f} ms",
        f.udp_sent, f.udp_sent - f.udp_received, f.udp_duplicated, f.udp_reordered,
        static_cast<double>(f.udp_gap.longest_ns) / 1e6, f.tcp_sessions, f.tcp_resets,
        f.tcp_records, f.tcp_mismatches, static_cast<double>(f.tcp_longest_gap_ns) / 1e6);
}

void print(const Families& families, bool json) {
    std::string text;
    for (const auto& family : families) {
        if (json)
            text += fmt::format(R"({}"{}":{})", text.empty() ? "" : ",", family->name,
                                figures_json(family->figures));
        else
            text += fmt::format("{}: {}\n", family->name, figures_line(family->figures));
    }
    if (json)
        fmt::print("{{{}}}\n", text);
    else
        fmt::print("{}", text);
    std::fflush(stdout);
}

/// When the watch ends: a time, a signal, or the end of stdin.
class End {
public:
    explicit End(const WatchOptions& options) : watch_stdin_(!options.seconds) {
        if (options.seconds) at_ns_ = now_ns() + static_cast<std::uint64_t>(*options.seconds * 1e9);
        sigset_t signals;
        sigemptyset(&signals);
        sigaddset(&signals, SIGINT);
        sigaddset(&signals, SIGTERM);
        sigprocmask(SIG_BLOCK, &signals, nullptr);
        signal_fd_ = signalfd(-1, &signals, SFD_CLOEXEC);
    }
    ~End() { close(signal_fd_); }
    End(const End&) = delete;
    End& operator=(const End&) = delete;

    std::uint64_t at_ns() const { return at_ns_; }
    void add_to(std::vector<pollfd>& polled) const {
        polled.push_back({signal_fd_, POLLIN, 0});
        polled.push_back({watch_stdin_ ? STDIN_FILENO : -1, POLLIN, 0});
    }
    bool come(std::span<const pollfd> polled) const {
        if (now_ns() >= at_ns_ || polled[0].revents != 0) return true;
        if (polled[1].revents == 0) return false;
        std::array<char, 256> data;
        return read(STDIN_FILENO, data.data(), data.size()) <= 0;
    }

private:
    bool watch_stdin_;
    std::uint64_t at_ns_ = UINT64_MAX;
    int signal_fd_ = -1;
};

/// Sends and receives for all families until `until_ns` at most. True: the watch has ended.
bool turn(const Families& families, const End& end, std::uint64_t until_ns, bool sending) {
    std::vector<pollfd> polled;
    end.add_to(polled);
    for (const auto& family : families) {
        if (sending) family->udp.send_due();
        family->echo.turn(sending);
        family->source.turn(sending);
        polled.push_back({family->udp.fd(), POLLIN, 0});
        polled.push_back({family->echo.fd(), family->echo.events(), 0});
        polled.push_back({family->source.fd(), family->source.events(), 0});
        if (sending) until_ns = std::min(until_ns, family->next_ns());
    }
    const std::uint64_t now = now_ns();
    const std::uint64_t wait_ns = until_ns > now ? until_ns - now : 0;
    const timespec wait{static_cast<time_t>(wait_ns / ns_per_s),
                        static_cast<long>(wait_ns % ns_per_s)};
    ppoll(polled.data(), polled.size(), &wait, nullptr);
    std::size_t at = 2;
    for (const auto& family : families) {
        if (polled[at++].revents != 0) family->udp.receive();
        if (const short e = polled[at++].revents; e != 0) family->echo.ready(e);
        if (const short e = polled[at++].revents; e != 0) family->source.ready(e);
    }
    return end.come(polled);
}

}  // namespace

int watch(const WatchOptions& options) {
    Families families;
    for (const auto& [name, text, af] :
         {std::tuple("ipv4", options.ip4, AF_INET), {"ipv6", options.ip6, AF_INET6}}) {
        if (text.empty()) continue;
        const auto found = endpoint(text, 0);
        if (!found || found->family != af) {
            fmt::print(stderr, "error: {} is no {} address\n", text, name);
            return 2;
        }
        families.push_back(std::make_unique<Family>(name, text, options));
    }
    const End end(options);
    bool told = false;
    bool finished = false;
    std::uint64_t next_progress_ns = now_ns() + progress_ms * ns_per_ms;
    while (!finished) {
        const std::uint64_t other_ns = options.progress ? next_progress_ns : now_ns() + ns_per_s;
        finished = turn(families, end, std::min(end.at_ns(), other_ns), true);
        if (!told && std::ranges::all_of(families, [](const auto& f) { return f->answered(); })) {
            fmt::print(stderr, "watching\n");
            told = true;
        }
        if (options.progress && now_ns() >= next_progress_ns) {
            for (const auto& f : families)
                fmt::print(stderr, "{}: {}\n", f->name, figures_line(f->figures));
            next_progress_ns += progress_ms * ns_per_ms;
        }
    }
    const std::uint64_t end_ns = now_ns();
    const std::uint64_t end_unix_ns = clock_ns(CLOCK_REALTIME);
    const std::uint64_t drained_ns = end_ns + drain_ms_max * ns_per_ms;
    while (now_ns() < drained_ns &&
           !std::ranges::all_of(families, [](const auto& f) { return f->complete(); }))
        (void)turn(families, end, std::min(drained_ns, now_ns() + 20 * ns_per_ms), false);
    for (const auto& family : families) family->finish(end_ns, end_unix_ns);
    print(families, options.json);
    return 0;
}

}  // namespace witness_client
