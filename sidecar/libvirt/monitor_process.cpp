#include "sidecar/libvirt/monitor_process.hpp"

#include <poll.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <mutex>
#include <optional>
#include <stop_token>
#include <thread>

#include "core/fd.hpp"
#include "core/log.hpp"
#include "core/process.hpp"
#include "qmp/wire.hpp"
#include "sidecar/libvirt/domain.hpp"

namespace sidecar::libvirt {

using core::Errc;
using core::fail;
using core::Json;
using core::Result;

namespace {

constexpr std::size_t monitor_read_bytes = 65536;
/// A client that reads nothing for so long is cut off: libvirt's events wait for it.
constexpr timeval client_patience{10, 0};

/// The socket of the client. Replies and events come from two threads.
class Peer {
public:
    void take(core::Fd socket) {
        std::lock_guard const lock(mutex_);
        socket_ = std::move(socket);
    }
    void send(Json const& message) {
        std::lock_guard const lock(mutex_);
        if (!socket_) return;
        auto const text = message.dump() + "\r\n";
        for (std::size_t sent = 0; sent < text.size();) {
            auto const part =
                ::send(socket_.get(), text.data() + sent, text.size() - sent, MSG_NOSIGNAL);
            if (part <= 0) {
                shutdown(socket_.get(), SHUT_RDWR);  // the reader sees its end
                return;
            }
            sent += static_cast<std::size_t>(part);
        }
    }
    void close() { take(core::Fd()); }
    /// The reader sees the end of the connection.
    void cut() {
        std::lock_guard const lock(mutex_);
        if (socket_) shutdown(socket_.get(), SHUT_RDWR);
    }
    /// Only of the thread that takes and closes it.
    [[nodiscard]] int descriptor() const { return socket_.get(); }

private:
    std::mutex mutex_;
    core::Fd socket_;
};

/// A command, and the descriptor that came with it.
struct Received {
    std::string bytes;
    core::Fd fd;
};

/// Fails with closed at the end.
Result<Received> receive(int socket) {
    Received got;
    got.bytes.resize(monitor_read_bytes);
    iovec part{got.bytes.data(), got.bytes.size()};
    alignas(cmsghdr) std::array<char, CMSG_SPACE(sizeof(int))> control{};
    msghdr message{};
    message.msg_iov = &part;
    message.msg_iovlen = 1;
    message.msg_control = control.data();
    message.msg_controllen = control.size();
    auto const bytes = recvmsg(socket, &message, MSG_CMSG_CLOEXEC);
    if (bytes < 0) return core::fail_errno(errno, "cannot read the client's commands");
    if (bytes == 0) return fail(Errc::closed, "the client has gone");
    got.bytes.resize(static_cast<std::size_t>(bytes));
    auto* const header = CMSG_FIRSTHDR(&message);
    if (header != nullptr && header->cmsg_type == SCM_RIGHTS) {
        int fd = -1;
        std::copy_n(CMSG_DATA(header), sizeof fd, reinterpret_cast<unsigned char*>(&fd));
        got.fd.reset(fd);
    }
    return got;
}

class Monitor {
public:
    explicit Monitor(MonitorProcess const& settings) : settings_(settings) {}

    /// Connects to libvirt, and finds QEMU: {"pid", "uuid"}.
    Result<Json> begin();
    void serve();

private:
    enum class Wake { client, qemu_ended };
    /// Waits until `fd` is readable, or QEMU has ended.
    [[nodiscard]] Wake wait(int fd) const;
    void converse();
    Result<> greet();
    Result<> answer_all(Received got);
    Result<> answer(Json const& command, int fd);
    static void on_event(virConnectPtr, virDomainPtr, char const* event, long long seconds,
                         unsigned microseconds, char const* details, void* monitor);
    static void on_lost_connection(virConnectPtr, int reason, void* monitor);

    MonitorProcess settings_;
    std::optional<Domain> domain_;
    core::Process qemu_;
    Peer peer_;
    qmp::Framer framer_;
    core::Fd passed_;  ///< With a command that was not answered yet.
};

Result<Json> Monitor::begin() {
    TRY(domain_, Domain::open(settings_.uri, settings_.guest));
    if (!domain_->is_running())
        return fail(Errc::refused, "the domain `{}` of libvirt does not run", settings_.guest);
    TRY(auto const pid, domain_->qemu_pid());
    TRY(qemu_, core::Process::open(pid));
    TRY(auto const uuid, domain_->uuid());
    return Json::object({{"pid", static_cast<std::int64_t>(pid)}, {"uuid", uuid}});
}

Monitor::Wake Monitor::wait(int fd) const {
    std::array<pollfd, 2> waiting{{{fd, POLLIN, 0}, {qemu_.pidfd(), POLLIN, 0}}};
    while (poll(waiting.data(), waiting.size(), -1) < 0 && errno == EINTR) {
    }
    return waiting[0].revents != 0 ? Wake::client : Wake::qemu_ended;
}

void Monitor::serve() {
    while (wait(settings_.listener_fd) == Wake::client) {
        core::Fd socket(accept4(settings_.listener_fd, nullptr, nullptr, SOCK_CLOEXEC));
        if (!socket) continue;
        setsockopt(socket.get(), SOL_SOCKET, SO_SNDTIMEO, &client_patience, sizeof client_patience);
        peer_.take(std::move(socket));
        converse();
        peer_.close();
    }
}

void Monitor::on_event(virConnectPtr, virDomainPtr, char const* event, long long seconds,
                       unsigned microseconds, char const* details, void* monitor) {
    auto message =
        Json::object({{"timestamp", Json::object({{"seconds", static_cast<std::int64_t>(seconds)},
                                                  {"microseconds", microseconds}})},
                      {"event", event}});
    if (details != nullptr) {
        if (auto const data = Json::parse(details)) message.set("data", *data);
    }
    static_cast<Monitor*>(monitor)->peer_.send(message);
}

void Monitor::on_lost_connection(virConnectPtr, int, void* monitor) {
    static_cast<Monitor*>(monitor)->peer_.cut();
}

/// One client, until it goes, or libvirt or QEMU does.
void Monitor::converse() {
    framer_ = {};
    passed_.reset();
    auto begun = greet();
    if (!begun) {
        core::log::warning("guest={} {}", settings_.guest, begun.error().sentence());
        return;
    }
    auto const connection = domain_->connection();
    int const events = virConnectDomainQemuMonitorEventRegister(
        connection, domain_->domain(), nullptr, on_event, this, nullptr, 0);
    if (events < 0) {
        core::log::warning("guest={} libvirt does not report QEMU's events: {}", settings_.guest,
                           last_error());
        return;
    }
    (void)virConnectRegisterCloseCallback(connection, on_lost_connection, this, nullptr);
    Result<> going;
    while (going && wait(peer_.descriptor()) == Wake::client) {
        auto got = receive(peer_.descriptor());
        going = got ? answer_all(std::move(*got)) : std::unexpected(got.error());
    }
    if (!going && going.error().code != Errc::closed)
        core::log::warning("guest={} {}", settings_.guest, going.error().sentence());
    (void)virConnectUnregisterCloseCallback(connection, on_lost_connection);
    (void)virConnectDomainQemuMonitorEventDeregister(connection,
                                                     events);  // the connection may be lost
}

/// After a restart of libvirtd the connection is made again.
Result<> Monitor::greet() {
    if (!domain_ || !domain_->is_connected()) {
        domain_.reset();
        TRY(domain_, Domain::open(settings_.uri, settings_.guest));
    }
    TRY(auto const version, domain_->command(Json::object({{"execute", "query-version"}}), -1));
    peer_.send(Json::object({{"QMP", Json::object({{"version", version["return"]},
                                                   {"capabilities", Json::array()}})}}));
    return {};
}

Result<> Monitor::answer_all(Received got) {
    if (got.fd) passed_ = std::move(got.fd);
    framer_.feed(got.bytes);
    for (;;) {
        TRY(auto const text, framer_.next());
        if (!text) return {};
        TRY(auto const command, Json::parse(*text));
        // As QEMU does: it is kept for the next command that takes one. The kernel may deliver it
        // together with commands that were sent before.
        auto const name = command["execute"].text_or("");
        bool const takes_fd = name == "getfd" || name == "add-fd";
        auto const fd = takes_fd ? std::exchange(passed_, core::Fd()) : core::Fd();
        TRY_VOID(answer(command, fd.get()));
    }
}

Result<> Monitor::answer(Json const& command, int fd) {
    auto const name = command["execute"].text_or("");
    auto answered = Result<Json>(Json::object({{"return", Json::object()}}));
    if (name != "qmp_capabilities") {
        auto asked = Json::object({{"execute", name}});  // libvirt gives it an id of its own
        if (command.has("arguments")) asked.set("arguments", command["arguments"]);
        answered = domain_->command(asked, fd);
    }
    if (!answered) {
        // QEMU may end before it answers `quit`.
        bool const lost = !domain_->is_connected() || !qemu_.running() || !domain_->is_running();
        if (lost || name == "quit") return fail(Errc::closed, "{}", answered.error().what);
        answered = Json::object({{"error", Json::object({{"class", "GenericError"},
                                                         {"desc", answered.error().what}})}});
    }
    answered->set("id", command["id"]);
    peer_.send(*answered);
    return {};
}

/// libvirt's event loop, in a thread of its own, as long as this lives.
class EventLoop {
public:
    EventLoop() : thread_(run) {}
    ~EventLoop() {
        thread_.request_stop();
        // So that it looks. It may be in on_event(), which takes client_patience at most.
        (void)virEventAddTimeout(0, [](int, void*) {}, nullptr, nullptr);
    }
    EventLoop(EventLoop const&) = delete;

private:
    static void run(std::stop_token token) {
        while (!token.stop_requested() && virEventRunDefaultImpl() == 0) {
        }
    }
    std::jthread thread_;
};

}  // namespace

int serve_monitor(MonitorProcess const& settings) {
    sigset_t none;
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, nullptr);  // main() has blocked what ends this process
    Monitor monitor(settings);
    std::optional<EventLoop> events;  // ends before the connection does
    auto begun = [&]() -> Result<Json> {
        TRY_VOID(load_libvirt());
        if (virEventRegisterDefaultImpl() < 0)
            return fail(Errc::io, "libvirt has no event loop: {}", last_error());
        events.emplace();
        return monitor.begin();
    }();
    auto const word = begun ? *begun : Json::object({{"error", begun.error().sentence()}});
    auto const text = word.dump();
    if (settings.ready_fd >= 0) {
        [[maybe_unused]] auto written = ::write(settings.ready_fd, text.data(), text.size());
        ::close(settings.ready_fd);
    }
    if (begun) monitor.serve();
    return begun ? 0 : 1;
}

}  // namespace sidecar::libvirt
