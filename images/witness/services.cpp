// UDP echo, TCP echo and TCP source in one epoll loop; control in another, so that a long check
// never delays the traffic that measures the guest.
#include "network.hpp"

#include "base.hpp"
#include "errors.hpp"

#include <arpa/inet.h>
#include <endian.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sched.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>
#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <vector>

namespace witness {
namespace {

constexpr std::size_t sessions_max = 256;       // TCP clients at once; more are closed at once
constexpr std::size_t echo_buffer_bytes = 65536; // what one echo client may have on its way back
constexpr std::size_t datagram_bytes_max = 65536;
constexpr std::size_t datagrams_a_turn = 64;    // then the others have a turn
constexpr std::size_t pieces_a_turn = 8;        // sent or received of one session, as above
constexpr std::size_t record_bytes = 64;        // of the TCP source
constexpr int source_turn_ms = 10;              // how often the source's clients get what is due
constexpr std::size_t control_line_max = 65536;
constexpr std::size_t control_clients_max = 16;

// A socket of one family only, bound to `port` of every address. -1 and a setup error if that
// fails.
int open_server(int family, int type, std::uint16_t port) {
    const int fd = socket(family, type | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    const int on = 1;
    sockaddr_storage address{};
    socklen_t length = sizeof(sockaddr_in);
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (family == AF_INET) {
        auto& in = reinterpret_cast<sockaddr_in&>(address);
        in.sin_family = AF_INET;
        in.sin_port = htons(port);
        setsockopt(fd, IPPROTO_IP, IP_PKTINFO, &on, sizeof on);
    } else {
        auto& in6 = reinterpret_cast<sockaddr_in6&>(address);
        in6.sin6_family = AF_INET6;
        in6.sin6_port = htons(port);
        length = sizeof in6;
        setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &on, sizeof on);
        setsockopt(fd, IPPROTO_IPV6, IPV6_RECVPKTINFO, &on, sizeof on);
    }
    const int buffer_bytes = 4 << 20; // a burst that waited elsewhere must fit
    setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &buffer_bytes, sizeof buffer_bytes);
    if (bind(fd, reinterpret_cast<sockaddr*>(&address), length) != 0 ||
        (type == SOCK_STREAM && listen(fd, 64) != 0)) {
        errors().add(Kind::setup, "port " + std::to_string(port) + ": " + std::strerror(errno));
        close(fd);
        return -1;
    }
    return fd;
}

int accept_one(int fd) {
    const int client = accept4(fd, nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (client < 0) return -1;
    const int on = 1;
    const int gone_ms = 120'000;  // a client that vanished is forgotten, long after any test's cut
    setsockopt(client, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    setsockopt(client, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof on);
    setsockopt(client, IPPROTO_TCP, TCP_USER_TIMEOUT, &gone_ms, sizeof gone_ms);
    return client;
}

// A datagram that is received and sent back, with the kernel's control messages.
class Letter {
public:
    bool receive(int fd) {
        part_ = {room_.data(), room_.size()};
        message_ = {};
        message_.msg_name = &peer_;
        message_.msg_namelen = sizeof peer_;
        message_.msg_iov = &part_;
        message_.msg_iovlen = 1;
        message_.msg_control = ancillary_.data();
        message_.msg_controllen = ancillary_.size();
        const ssize_t got = recvmsg(fd, &message_, 0);
        if (got < 0) return false;
        part_.iov_len = static_cast<std::size_t>(got);
        return true;
    }
    std::span<unsigned char> bytes() { return {room_.data(), part_.iov_len}; }
    std::uint64_t received_ns() {
        const auto* at = find<timespec>(SOL_SOCKET, SCM_TIMESTAMPNS);
        return at == nullptr ? now_ns()
                             : static_cast<std::uint64_t>(at->tv_sec) * ns_per_s +
                                   static_cast<std::uint64_t>(at->tv_nsec);
    }
    std::uint32_t overflowed() {
        const auto* count = find<std::uint32_t>(SOL_SOCKET, SO_RXQ_OVFL);
        return count == nullptr ? 0 : *count;
    }
    // From the address that the client used, through the interface of the route.
    bool send_back(int fd) {
        alignas(cmsghdr) std::array<char, CMSG_SPACE(sizeof(in6_pktinfo))> asked{};
        std::size_t asked_bytes = 0;
        for (cmsghdr* c = CMSG_FIRSTHDR(&message_); c != nullptr; c = CMSG_NXTHDR(&message_, c)) {
            const bool ipv4 = c->cmsg_level == IPPROTO_IP && c->cmsg_type == IP_PKTINFO;
            const bool ipv6 = c->cmsg_level == IPPROTO_IPV6 && c->cmsg_type == IPV6_PKTINFO;
            if (ipv4) {
                auto* info = reinterpret_cast<in_pktinfo*>(CMSG_DATA(c));
                info->ipi_spec_dst = info->ipi_addr;
                info->ipi_ifindex = 0;
            }
            if (!ipv4 && !ipv6) continue;
            std::memcpy(asked.data(), c, c->cmsg_len);
            asked_bytes = CMSG_ALIGN(c->cmsg_len);
        }
        message_.msg_control = asked.data();
        message_.msg_controllen = asked_bytes;
        return sendmsg(fd, &message_, 0) == static_cast<ssize_t>(part_.iov_len);
    }

private:
    template <class T>
    const T* find(int level, int type) {
        for (cmsghdr* c = CMSG_FIRSTHDR(&message_); c != nullptr; c = CMSG_NXTHDR(&message_, c))
            if (c->cmsg_level == level && c->cmsg_type == type)
                return reinterpret_cast<const T*>(CMSG_DATA(c));
        return nullptr;
    }

    static inline std::array<unsigned char, datagram_bytes_max> room_;  // one thread uses it
    sockaddr_storage peer_{};
    alignas(cmsghdr) std::array<char, 256> ancillary_{};
    iovec part_{};
    msghdr message_{};
};

void watch(int epoll, int fd, std::uint32_t events, std::uint64_t tag) {
    epoll_event event{};
    event.events = events;
    event.data.u64 = tag;
    if (fd >= 0) epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event);
}

}  // namespace

struct Services::Session {
    Session(int a_fd, bool is_source, Traffic& a_count)
        : fd(a_fd), source(is_source), count(a_count) {}
    ~Session() {
        close(fd);
        --count.tcp_open;
    }
    Session(const Session&) = delete;
    Session& operator=(const Session&) = delete;

    int fd;
    bool source;
    Traffic& count;
    std::vector<std::byte> waiting;  // to be sent
    bool full = false;  // the kernel took no more of it when it was last asked
    std::uint64_t next_record = 0;
    std::uint64_t due_ns = now_ns();
    std::uint32_t events = EPOLLIN;  // what epoll was told to wait for
};

Services::Services(std::uint64_t rate) : source_rate(rate) {
    for (const int family : {0, 1}) {
        const int af = family == 0 ? AF_INET : AF_INET6;
        udp_[family] = open_server(af, SOCK_DGRAM, udp_echo_port);
        echo_[family] = open_server(af, SOCK_STREAM, tcp_echo_port);
        source_[family] = open_server(af, SOCK_STREAM, tcp_source_port);
        control_[family] = open_server(af, SOCK_STREAM, control_port);
        probe_[family] = open_server(af, SOCK_DGRAM, probe_port);
        probe_tcp_[family] = open_server(af, SOCK_STREAM, probe_port);
        const int on = 1;
        setsockopt(probe_[family], SOL_SOCKET, SO_TIMESTAMPNS, &on, sizeof on);
        setsockopt(probe_[family], SOL_SOCKET, SO_RXQ_OVFL, &on, sizeof on);
    }
}

Services::~Services() {
    for (const int* fds : {udp_, echo_, source_, control_, probe_, probe_tcp_})
        for (const int family : {0, 1})
            if (fds[family] >= 0) close(fds[family]);
}

void Services::echo_udp(int fd, Traffic& count) {
    Letter letter;
    for (std::size_t turn = 0; turn < datagrams_a_turn; ++turn) {
        if (!letter.receive(fd)) return;
        if (letter.send_back(fd)) ++count.udp_echoed;
    }
}

void Services::echo_probes(int fd) {
    Letter letter;
    for (std::size_t turn = 0; turn < datagrams_a_turn; ++turn) {
        if (!letter.receive(fd)) return;
        if (probe_echo_.answer(letter.bytes(), letter.received_ns(), letter.overflowed()))
            letter.send_back(fd);
    }
}

void Services::accept_session(int epoll, int fd, bool source, Traffic& count) {
    const int client = accept_one(fd);
    if (client < 0) return;
    ++count.tcp_accepted;
    ++count.tcp_open;
    auto session = std::make_unique<Session>(client, source, count);
    if (sessions_.size() >= sessions_max) return;
    watch(epoll, client, EPOLLIN, reinterpret_cast<std::uint64_t>(session.get()));
    sessions_.push_back(std::move(session));
}

// Sends what waits, and reads what arrived. False: the session has ended.
bool Services::serve(Session& session) {
    for (std::size_t turn = 0; turn < pieces_a_turn; ++turn) {
        if (!session.waiting.empty()) {
            const ssize_t sent =
                send(session.fd, session.waiting.data(), session.waiting.size(), MSG_NOSIGNAL);
            session.full = sent < 0 && errno == EAGAIN;
            if (session.full) return true;
            if (sent < 0) {
                ++session.count.tcp_failed;
                return false;
            }
            session.count.tcp_sent_bytes += static_cast<std::uint64_t>(sent);
            session.waiting.erase(session.waiting.begin(), session.waiting.begin() + sent);
            continue;
        }
        std::array<std::byte, echo_buffer_bytes> data;
        const ssize_t got = recv(session.fd, data.data(), data.size(), 0);
        if (got < 0 && errno == EAGAIN) return true;
        if (got < 0) ++session.count.tcp_failed;
        if (got <= 0) return false;
        session.count.tcp_received_bytes += static_cast<std::uint64_t>(got);
        if (!session.source) session.waiting.assign(data.begin(), data.begin() + got);
    }
    return true;
}

// Appends the records that are due: number, the guest's clock, then the number again and again, all
// big endian. If the client reads slowly, records wait; none is lost or numbered twice.
bool Services::produce(Session& session) {
    const std::uint64_t rate = source_rate;
    const std::uint64_t now = now_ns();
    if (session.due_ns + Pace::burst_ns < now) session.due_ns = now - Pace::burst_ns;
    while (rate != 0 && session.due_ns <= now && session.waiting.size() < echo_buffer_bytes) {
        std::array<std::uint64_t, record_bytes / sizeof(std::uint64_t)> record;
        record.fill(htobe64(session.next_record++));
        record[1] = htobe64(now);
        const auto* bytes = reinterpret_cast<const std::byte*>(record.data());
        session.waiting.insert(session.waiting.end(), bytes, bytes + record_bytes);
        session.due_ns += ns_per_s / rate;
    }
    return serve(session);
}

void Services::run_traffic() {
    const sched_param ahead{10};
    sched_setscheduler(0, SCHED_FIFO, &ahead);  // its delays would be taken for the network's
    // + 0: IPv4, + 1: IPv6
    enum Tag : std::uint64_t { udp = 0, echo = 2, source = 4, probe = 6, probe_tcp = 8, end = 10 };
    const int epoll = epoll_create1(EPOLL_CLOEXEC);
    for (const std::uint64_t family : {0U, 1U}) {
        watch(epoll, udp_[family], EPOLLIN, udp + family);
        watch(epoll, echo_[family], EPOLLIN, echo + family);
        watch(epoll, source_[family], EPOLLIN, source + family);
        watch(epoll, probe_[family], EPOLLIN, probe + family);
        watch(epoll, probe_tcp_[family], EPOLLIN, probe_tcp + family);
    }
    std::array<epoll_event, 32> events;
    while (true) {
        const bool producing =
            std::ranges::any_of(sessions_, [](const auto& s) { return s->source; });
        const bool waiting =
            std::ranges::any_of(sessions_, [](const auto& s) { return !s->waiting.empty(); });
        const bool sendable = std::ranges::any_of(
            sessions_, [](const auto& s) { return !s->waiting.empty() && !s->full; });
        const int wait_ms = sendable ? 0 : producing || waiting ? source_turn_ms : -1;
        const int count =
            epoll_wait(epoll, events.data(), static_cast<int>(events.size()), wait_ms);
        std::vector<const Session*> ended;
        for (int i = 0; i < count; ++i) {
            const std::uint64_t tag = events[static_cast<std::size_t>(i)].data.u64;
            const std::size_t family = tag & 1U;
            if (tag < echo)
                echo_udp(udp_[family], traffic[family]);
            else if (tag < source)
                accept_session(epoll, echo_[family], false, traffic[family]);
            else if (tag < probe)
                accept_session(epoll, source_[family], true, traffic[family]);
            else if (tag < probe_tcp)
                echo_probes(probe_[family]);
            else if (tag < end)
                accept_session(epoll, probe_tcp_[family], false, traffic[family]);
            else if (auto* session = reinterpret_cast<Session*>(tag); !serve(*session))
                ended.push_back(session);
        }
        // This includes those whose client was slow: they are served each source_turn_ms.
        std::erase_if(sessions_, [&](const std::unique_ptr<Session>& session) {
            if (std::ranges::find(ended, session.get()) != ended.end()) return true;
            if (session->source) return !produce(*session);
            return !session->waiting.empty() && !serve(*session);
        });
        // While data waits to be sent nothing is read. Otherwise each arrival would wake this loop
        // again, and because of its priority no time would be left to send. EPOLLET reports only
        // once that sending is possible: a kernel short of TCP memory reports it and accepts
        // nothing. This loop would then retry without end, and the code that frees memory would
        // not run (the kernel gives all else 50 ms of each second then).
        for (const auto& session : sessions_) {
            const std::uint32_t wanted = session->waiting.empty() ? EPOLLIN : EPOLLOUT | EPOLLET;
            if (wanted == session->events) continue;
            epoll_event event{};
            event.events = session->events = wanted;
            event.data.u64 = reinterpret_cast<std::uint64_t>(session.get());
            epoll_ctl(epoll, EPOLL_CTL_MOD, session->fd, &event);
        }
    }
}

void Services::run_control(const std::function<std::string(std::string_view)>& execute) {
    struct Client {
        int fd;
        std::string text;
    };
    std::vector<Client> clients;
    while (true) {
        std::vector<pollfd> polled{{control_[0], POLLIN, 0}, {control_[1], POLLIN, 0}};
        for (const Client& client : clients) polled.push_back({client.fd, POLLIN, 0});
        poll(polled.data(), polled.size(), -1);
        for (std::size_t i = clients.size(); i-- > 0;) {
            if (polled[2 + i].revents == 0) continue;
            Client& client = clients[i];
            std::array<char, 4096> data;
            const ssize_t got = recv(client.fd, data.data(), data.size(), 0);
            if (got > 0) client.text.append(data.data(), static_cast<std::size_t>(got));
            std::size_t end = 0;
            while ((end = client.text.find('\n')) != std::string::npos) {
                const std::string reply = execute(client.text.substr(0, end)) + "\n";
                client.text.erase(0, end + 1);
                // An answer fits the socket's buffer; a client that never reads loses it.
                (void)send(client.fd, reply.data(), reply.size(), MSG_NOSIGNAL);
            }
            const bool again = got < 0 && errno == EAGAIN;
            if ((got <= 0 && !again) || client.text.size() > control_line_max) {
                close(client.fd);
                clients.erase(clients.begin() + static_cast<std::ptrdiff_t>(i));
            }
        }
        for (const std::size_t family : {0U, 1U}) {
            if ((polled[family].revents & POLLIN) == 0) continue;
            const int fd = accept_one(control_[family]);
            if (fd >= 0 && clients.size() >= control_clients_max)
                close(fd);
            else if (fd >= 0)
                clients.push_back({fd, {}});
        }
    }
}

}  // namespace witness
