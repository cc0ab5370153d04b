#include "sidecar/registry/http.hpp"

#include <arpa/inet.h>
#include <poll.h>
#include <sys/epoll.h>

#include <array>
#include <cerrno>
#include <memory>
#include <optional>

#include "core/fd.hpp"
#include "core/resolve.hpp"
#include "sidecar/registry/curl.hpp"

namespace sidecar::registry {

using core::Clock;
using core::Deadline;
using core::Errc;
using core::fail;
using core::fail_errno;
using core::Loop;
using core::Result;
using core::Task;

namespace {

struct EndEasy {
    void operator()(CURL* easy) const { curl_easy_cleanup(easy); }
};
struct EndMulti {
    void operator()(CURLM* multi) const { curl_multi_cleanup(multi); }
};
struct FreeList {
    void operator()(curl_slist* list) const { curl_slist_free_all(list); }
};
using Easy = std::unique_ptr<CURL, EndEasy>;
using Multi = std::unique_ptr<CURLM, EndMulti>;
using List = std::unique_ptr<curl_slist, FreeList>;

constexpr int events_at_once = 8;
/// curl tries the addresses of a name in turn.
constexpr long connect_timeout_ms = 1500;

bool is_numeric(std::string const& host) {
    std::array<unsigned char, sizeof(in6_addr)> binary{};
    return inet_pton(AF_INET, host.c_str(), binary.data()) == 1 ||
           inet_pton(AF_INET6, host.c_str(), binary.data()) == 1;
}

std::string bracketed(std::string const& host) {
    return host.find(':') == std::string::npos ? host : "[" + host + "]";
}

/// One request in curl. Its sockets are in an epoll instance, so that the loop waits for one
/// descriptor. curl calls back into it until it is destroyed.
class Transfer {
public:
    explicit Transfer(BodySink sink) : sink_(std::move(sink)) {}
    ~Transfer() {
        if (added_) curl_multi_remove_handle(multi_.get(), easy_.get());
    }
    Transfer(Transfer const&) = delete;
    Transfer& operator=(Transfer const&) = delete;

    /// `addresses`: of the host, when it is a name.
    Result<> open(HttpRequest const& request, std::string const& addresses);
    Task<Result<int>> run(Loop& loop, Deadline deadline);

private:
    static int socket_changed(CURL*, curl_socket_t socket, int what, void* self, void* known);
    static int timer_changed(CURLM*, long timeout_ms, void* self);
    static std::size_t body_arrived(char* bytes, std::size_t, std::size_t count, void* self);

    void set_up(HttpRequest const& request, std::string const& addresses);
    void handle_events();
    void act(curl_socket_t socket, int events) {
        curl_multi_socket_action(multi_.get(), socket, events, &running_);
    }
    [[nodiscard]] Result<int> result();

    BodySink sink_;
    bool enough_ = false;
    core::Fd epoll_;
    std::optional<Clock::time_point> timer_;
    int running_ = 1;
    bool added_ = false;
    std::array<char, CURL_ERROR_SIZE> error_{};
    // Destroyed first: their callbacks use what is above.
    List resolve_;
    List headers_;
    Multi multi_;
    Easy easy_;
};

int Transfer::socket_changed(CURL*, curl_socket_t socket, int what, void* self, void* known) {
    auto& transfer = *static_cast<Transfer*>(self);
    epoll_event event{};
    event.data.fd = socket;
    if (what == CURL_POLL_REMOVE) {
        epoll_ctl(transfer.epoll_.get(), EPOLL_CTL_DEL, socket, &event);
        return 0;
    }
    if ((what & CURL_POLL_IN) != 0) event.events |= EPOLLIN;
    if ((what & CURL_POLL_OUT) != 0) event.events |= EPOLLOUT;
    int const operation = known == nullptr ? EPOLL_CTL_ADD : EPOLL_CTL_MOD;
    if (epoll_ctl(transfer.epoll_.get(), operation, socket, &event) < 0) return -1;
    curl_multi_assign(transfer.multi_.get(), socket, self);
    return 0;
}

int Transfer::timer_changed(CURLM*, long timeout_ms, void* self) {
    auto& transfer = *static_cast<Transfer*>(self);
    transfer.timer_.reset();
    if (timeout_ms >= 0) transfer.timer_ = Clock::now() + core::milliseconds(timeout_ms);
    return 0;
}

std::size_t Transfer::body_arrived(char* bytes, std::size_t, std::size_t count, void* self) {
    auto& transfer = *static_cast<Transfer*>(self);
    transfer.enough_ = transfer.sink_({bytes, count}) == Continue::no;
    return transfer.enough_ ? CURL_WRITEFUNC_ERROR : count;
}

void Transfer::set_up(HttpRequest const& request, std::string const& addresses) {
    auto* const easy = easy_.get();
    bool const tls = !request.tls_directory.empty();
    auto const url = fmt::format("{}://{}:{}{}", tls ? "https" : "http", bracketed(request.host),
                                 request.port, request.path);
    curl_easy_setopt(easy, CURLOPT_URL, url.c_str());
    curl_easy_setopt(easy, CURLOPT_PROTOCOLS_STR, "http,https");
    curl_easy_setopt(easy, CURLOPT_PROXY, "");
    curl_easy_setopt(easy, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(easy, CURLOPT_HTTP_VERSION, CURL_HTTP_VERSION_1_1);
    curl_easy_setopt(easy, CURLOPT_CONNECTTIMEOUT_MS, connect_timeout_ms);
    curl_easy_setopt(easy, CURLOPT_ERRORBUFFER, error_.data());
    headers_.reset(curl_slist_append(nullptr, "Content-Type: application/json"));
    curl_easy_setopt(easy, CURLOPT_HTTPHEADER, headers_.get());
    curl_easy_setopt(easy, CURLOPT_POSTFIELDSIZE, static_cast<long>(request.body.size()));
    curl_easy_setopt(easy, CURLOPT_COPYPOSTFIELDS, request.body.c_str());
    curl_easy_setopt(easy, CURLOPT_WRITEFUNCTION, body_arrived);
    curl_easy_setopt(easy, CURLOPT_WRITEDATA, this);
    if (!addresses.empty()) {
        auto const line = fmt::format("{}:{}:{}", request.host, request.port, addresses);
        resolve_.reset(curl_slist_append(nullptr, line.c_str()));
        curl_easy_setopt(easy, CURLOPT_RESOLVE, resolve_.get());
    }
    if (!tls) return;
    curl_easy_setopt(easy, CURLOPT_CAINFO, (request.tls_directory + "/ca-cert.pem").c_str());
    curl_easy_setopt(easy, CURLOPT_SSLCERT, (request.tls_directory + "/client-cert.pem").c_str());
    curl_easy_setopt(easy, CURLOPT_SSLKEY, (request.tls_directory + "/client-key.pem").c_str());
    curl_easy_setopt(easy, CURLOPT_SSLVERSION, static_cast<long>(CURL_SSLVERSION_TLSv1_2));
}

Result<> Transfer::open(HttpRequest const& request, std::string const& addresses) {
    TRY_VOID(load_curl());
    epoll_.reset(epoll_create1(EPOLL_CLOEXEC));
    if (!epoll_) return fail_errno(errno, "cannot wait for sockets");
    easy_.reset(curl_easy_init());
    multi_.reset(easy_ ? curl_multi_init() : nullptr);
    if (!multi_) return fail(Errc::io, "libcurl cannot be set up");
    set_up(request, addresses);
    curl_multi_setopt(multi_.get(), CURLMOPT_SOCKETFUNCTION, socket_changed);
    curl_multi_setopt(multi_.get(), CURLMOPT_SOCKETDATA, this);
    curl_multi_setopt(multi_.get(), CURLMOPT_TIMERFUNCTION, timer_changed);
    curl_multi_setopt(multi_.get(), CURLMOPT_TIMERDATA, this);
    auto const added = curl_multi_add_handle(multi_.get(), easy_.get());
    if (added != CURLM_OK) return fail(Errc::io, "libcurl: {}", curl_multi_strerror(added));
    added_ = true;
    return {};
}

void Transfer::handle_events() {
    std::array<epoll_event, events_at_once> events{};
    int const count = epoll_wait(epoll_.get(), events.data(), events_at_once, 0);
    for (int index = 0; index < count; ++index) {
        auto const& event = events[static_cast<std::size_t>(index)];
        int what = 0;
        if ((event.events & EPOLLIN) != 0) what |= CURL_CSELECT_IN;
        if ((event.events & EPOLLOUT) != 0) what |= CURL_CSELECT_OUT;
        if ((event.events & (EPOLLERR | EPOLLHUP)) != 0) what |= CURL_CSELECT_ERR;
        act(event.data.fd, what);
    }
}

Task<Result<int>> Transfer::run(Loop& loop, Deadline deadline) {
    act(CURL_SOCKET_TIMEOUT, 0);
    while (running_ > 0) {
        auto const until = timer_ ? std::min(*timer_, deadline.at()) : deadline.at();
        auto const ready =
            co_await loop.poll(epoll_.get(), POLLIN, Deadline(until, deadline.token()));
        if (ready) {
            handle_events();
        } else if (ready.error().code != Errc::timed_out) {
            co_return ready;
        } else if (deadline.passed()) {
            co_return fail(Errc::timed_out, "no answer within the time allowed");
        } else {
            timer_.reset();
            act(CURL_SOCKET_TIMEOUT, 0);
        }
    }
    co_return result();
}

Result<int> Transfer::result() {
    int left = 0;
    auto const* const message = curl_multi_info_read(multi_.get(), &left);
    auto const code = message == nullptr ? CURLE_FAILED_INIT : message->data.result;
    long status = 0;
    curl_easy_getinfo(easy_.get(), CURLINFO_RESPONSE_CODE, &status);
    if (code == CURLE_OK || enough_) return static_cast<int>(status);
    auto const words =
        error_[0] != '\0' ? std::string(error_.data()) : std::string(curl_easy_strerror(code));
    switch (code) {
        case CURLE_OPERATION_TIMEDOUT:
            return fail(Errc::timed_out, "{}", words);
        case CURLE_GOT_NOTHING:
        case CURLE_RECV_ERROR:
        case CURLE_SEND_ERROR:
        case CURLE_PARTIAL_FILE:
            return fail(Errc::closed, "{}", words);
        case CURLE_PEER_FAILED_VERIFICATION:
        case CURLE_SSL_CERTPROBLEM:
        case CURLE_SSL_CACERT_BADFILE:
        case CURLE_SSL_CONNECT_ERROR:
            return fail(Errc::refused, "TLS: {}", words);
        default:  // of some hundred codes
            return fail(Errc::io, "{}", words);
    }
}

/// "192.0.2.1,[2001:db8::1]", as CURLOPT_RESOLVE takes it; empty for a numeric host. Our resolver
/// can be cancelled; curl's would leave a thread.
Task<Result<std::string>> addresses_of(Loop& loop, std::string host, std::string port,
                                       Deadline deadline) {
    std::string text;
    if (is_numeric(host)) co_return text;
    CO_TRY(auto const all, co_await core::resolve(loop, host, port, std::move(deadline)));
    for (auto const& one : all) {
        if (!text.empty()) text += ',';
        text += bracketed(one.host());
    }
    co_return text;
}

}  // namespace

Task<Result<int>> http_post(Loop& loop, HttpRequest request, BodySink sink, Deadline deadline) {
    auto addresses = co_await addresses_of(loop, request.host, request.port, deadline);
    if (!addresses && addresses.error().code == Errc::invalid) addresses.error().code = Errc::io;
    CO_TRY_VOID(addresses);
    Transfer transfer(std::move(sink));
    CO_TRY_VOID(transfer.open(request, *addresses));
    co_return co_await transfer.run(loop, std::move(deadline));
}

}  // namespace sidecar::registry
