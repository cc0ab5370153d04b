#include "tests/support/qmp_relay.hpp"

#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <array>
#include <cstring>
#include <utility>

namespace lab {

namespace {

sockaddr_un address_of(fs::path const& path) {
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    auto const text = path.string();
    if (text.size() >= sizeof address.sun_path) throw Failure("too long for a socket: " + text);
    std::memcpy(address.sun_path, text.c_str(), text.size() + 1);
    return address;
}

constexpr std::string_view own_id = "relay-1";
// Without a bandwidth the rest of the RAM would take longer than the pause may.
constexpr std::string_view raise_limit =
    "{\"execute\": \"migrate-set-parameters\", \"arguments\": {\"downtime-limit\": 20000, "
    "\"max-bandwidth\": 10000000000}, \"id\": \"relay-1\"}\r\n";

core::Fd unix_socket() { return core::Fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0)); }

}  // namespace

QmpRelay::QmpRelay(fs::path socket) : socket_(std::move(socket)), monitor_(socket_) {
    monitor_ += ".qemu";
    fs::rename(socket_, monitor_);
    listener_ = unix_socket();
    auto const address = address_of(socket_);
    if (::bind(listener_.get(), reinterpret_cast<sockaddr const*>(&address), sizeof address) < 0 ||
        ::listen(listener_.get(), 4) < 0) {
        throw Failure("cannot listen on " + socket_.string());
    }
    int ends[2];
    if (::pipe2(ends, O_CLOEXEC | O_NONBLOCK) < 0) throw Failure("cannot make a pipe");
    wake_read_.reset(ends[0]);
    wake_write_.reset(ends[1]);
    thread_ = std::thread([this] { run(); });
}

QmpRelay::~QmpRelay() {
    stop_ = true;
    wake();
    thread_.join();
    std::error_code ignored;  // the host's directory may be gone already
    fs::remove(socket_, ignored);
    fs::rename(monitor_, socket_, ignored);
}

void QmpRelay::cut() {
    cut_ = true;
    wake();
}

void QmpRelay::silence(bool on) {
    silent_ = on;
    wake();
}

void QmpRelay::garbage() {
    garbage_ = true;
    wake();
}

void QmpRelay::pass_answers() {
    if (hold_ != Hold::answers) throw Failure("the relay holds no answers");
    released_ = true;
    wake();
}

void QmpRelay::wake() { [[maybe_unused]] auto const written = ::write(wake_write_.get(), "w", 1); }

void QmpRelay::hang_up() {
    client_.reset();
    qemu_.reset();
}

void QmpRelay::take_commands() {
    std::array<char, 16> word{};
    [[maybe_unused]] auto const got = ::read(wake_read_.get(), word.data(), word.size());
    if (cut_.exchange(false)) hang_up();
    if (released_.exchange(false)) {
        hold_ = Hold::none;
        send_to(client_.get(), std::exchange(held_, {}) + std::exchange(line_, {}));
    }
    if (garbage_.exchange(false) && client_) {
        constexpr char noise[] = "\x01\xff}{ no QMP\r\n";
        [[maybe_unused]] auto const sent =
            ::send(client_.get(), noise, sizeof noise - 1, MSG_NOSIGNAL);
    }
    if (!silent_ && client_ && !qemu_) hang_up();  // accepted while silent: it may try again
}

void QmpRelay::stop_guest_during(std::string word) {
    word_ = std::move(word);
    hold_ = Hold::armed;
}

void QmpRelay::send_to(int to, std::string_view bytes) {
    while (!bytes.empty()) {
        auto const once = ::send(to, bytes.data(), bytes.size(), MSG_NOSIGNAL);
        if (once <= 0) return hang_up();
        bytes.remove_prefix(static_cast<std::size_t>(once));
    }
}

/// Before these bytes are passed to QEMU.
void QmpRelay::hear_client(std::string_view bytes) {
    if (hold_ != Hold::armed || bytes.find(word_) == std::string_view::npos) return;
    hold_ = Hold::answers;
    send_to(qemu_.get(), raise_limit);
}

/// Passes events on, and keeps answers.
void QmpRelay::hear_qemu(std::string_view bytes) {
    line_ += bytes;
    for (auto end = line_.find('\n'); end != std::string::npos; end = line_.find('\n')) {
        auto const line = line_.substr(0, end + 1);
        line_.erase(0, end + 1);
        if (line.find(own_id) != std::string::npos) continue;
        if (line.find("\"event\"") == std::string::npos) {
            held_ += line;
            continue;
        }
        send_to(client_.get(), line);
    }
}

void QmpRelay::pass(int from, int to) {
    std::array<char, 65536> bytes{};
    auto const got = ::read(from, bytes.data(), bytes.size());
    if (got <= 0) return hang_up();
    std::string_view const read(bytes.data(), static_cast<std::size_t>(got));
    if (hold_ == Hold::answers) return hear_qemu(read);
    send_to(to, read);
}

// Descriptors that are sent with a command (getfd) are passed on as well.
void QmpRelay::run() {
    while (!stop_) {
        bool const passes = !silent_ && client_ && qemu_;
        std::array<pollfd, 4> polled{{{wake_read_.get(), POLLIN, 0},
                                      {client_ ? -1 : listener_.get(), POLLIN, 0},
                                      {passes ? client_.get() : -1, POLLIN, 0},
                                      {passes ? qemu_.get() : -1, POLLIN, 0}}};
        ::poll(polled.data(), polled.size(), -1);
        if (polled[0].revents != 0) {
            take_commands();
            continue;
        }
        if (polled[1].revents != 0) {
            client_.reset(::accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC));
            ++connections_;
            if (silent_) continue;
            qemu_ = unix_socket();
            auto const address = address_of(monitor_);
            if (::connect(qemu_.get(), reinterpret_cast<sockaddr const*>(&address),
                          sizeof address) < 0) {
                hang_up();
            }
            continue;
        }
        if (polled[2].revents != 0) pass_with_descriptor();
        if (client_ && polled[3].revents != 0) pass(qemu_.get(), client_.get());
    }
}

void QmpRelay::pass_with_descriptor() {
    std::array<char, 65536> bytes{};
    alignas(cmsghdr) std::array<char, CMSG_SPACE(sizeof(int))> control{};
    iovec part{bytes.data(), bytes.size()};
    msghdr message{};
    message.msg_iov = &part;
    message.msg_iovlen = 1;
    message.msg_control = control.data();
    message.msg_controllen = control.size();
    auto const got = ::recvmsg(client_.get(), &message, MSG_CMSG_CLOEXEC);
    if (got <= 0) return hang_up();
    hear_client({bytes.data(), static_cast<std::size_t>(got)});
    if (!qemu_) return;
    core::Fd carried;
    if (auto const* header = CMSG_FIRSTHDR(&message);
        header != nullptr && header->cmsg_type == SCM_RIGHTS) {
        int fd = -1;
        std::memcpy(&fd, CMSG_DATA(header), sizeof fd);
        carried.reset(fd);
    } else {
        message.msg_controllen = 0;
        message.msg_control = nullptr;
    }
    part.iov_len = static_cast<std::size_t>(got);
    if (::sendmsg(qemu_.get(), &message, MSG_NOSIGNAL) != got) hang_up();
}

}  // namespace lab
