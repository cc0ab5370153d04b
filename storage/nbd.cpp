#include "storage/nbd.hpp"

#include <libnbd.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>

#include <cassert>
#include <cerrno>

#include "core/gnutls.hpp"
#include "core/stream.hpp"
#include "storage/limits.hpp"

namespace storage {

using core::Deadline;
using core::Errc;
using core::fail;
using core::Result;
using core::Task;

namespace {

/// Negotiated by every connection that asks for extents.
constexpr auto extent_bytes_min = 1;

std::string_view verb(int kind) {
    constexpr std::string_view verbs[] = {"read", "write", "write of zeroes",
                                          "trim", "flush", "block status"};
    return verbs[kind];
}

// QEMU 7.2 leaves Nagle's algorithm on: each of its small replies waits for the acknowledgement of
// the one before, which our kernel would delay by 40 ms. The kernel forgets this wish, so it is
// repeated whenever something was read.
void acknowledge_at_once(int tcp_socket) {
    int const on = 1;
    (void)setsockopt(tcp_socket, IPPROTO_TCP, TCP_QUICKACK, &on, sizeof on);
}

}  // namespace

std::string NbdAddress::text() const {
    return unix_path.empty() ? fmt::format("{}:{}", host, port) : "unix:" + unix_path;
}

/// The other end of this connection, for messages.
struct Nbd::Peer {
    std::string address;
    std::string export_name;
    bool tcp = false;
};

/// What is asked of libnbd.
struct Nbd::Call {
    enum class Kind { pread, pwrite, zero, trim, flush, block_status };
    Kind kind = Kind::flush;
    std::uint64_t offset = 0;
    std::uint64_t length = 0;
    Buffer buffer = {};
    std::size_t begin = 0;
    std::string context = {};
};

/// One request in libnbd. Shared by the coroutine that waits for it and by libnbd, which lets go of
/// it last.
struct Nbd::Request {
    Request(Nbd& owner_, Call call_) : owner(owner_), done(owner_.loop_), call(std::move(call_)) {}

    // Called once, from libnbd with the handle's lock held: marks, posts, and does nothing else.
    void finish(int os_errno) {
        if (finished) return;
        finished = true;
        error = os_errno;
        owner.slots_.release();
        if (--owner.in_flight_ == 0) owner.quiet_.set();
        call.buffer = {};
        done.set();
    }

    static int on_completion(void* data, int* os_errno) {
        (*static_cast<std::shared_ptr<Request>*>(data))->finish(*os_errno);
        return 1;  // libnbd retires the command
    }
    static void on_free(void* data) {
        auto* request = static_cast<std::shared_ptr<Request>*>(data);
        (*request)->finish(ENOTCONN);  // no effect after the completion
        delete request;
    }
    static int on_extents(void* data, char const* context, std::uint64_t offset,
                          std::uint32_t* entries, std::size_t count, int*) {
        auto& request = **static_cast<std::shared_ptr<Request>*>(data);
        if (request.call.context != context) return 0;
        for (std::size_t i = 0; i + 1 < count; i += 2) {
            if (entries[i] < extent_bytes_min) continue;
            request.status.push_back({offset, entries[i], entries[i + 1]});
            offset += entries[i];
        }
        return 0;
    }
    static void on_extents_free(void* data) { delete static_cast<std::shared_ptr<Request>*>(data); }

    Nbd& owner;  ///< Valid until finished.
    core::Event done;
    Call call;
    std::vector<Status> status;
    int error = 0;
    bool finished = false;
};

Nbd::Nbd(core::Loop& loop, nbd_handle* handle, std::shared_ptr<Peer const> peer)
    : loop_(loop),
      handle_(handle),
      peer_(std::move(peer)),
      wants_write_(loop),
      quiet_(loop),
      ended_(loop),
      slots_(loop, limits::requests_per_connection_max),
      scope_(loop) {
    quiet_.set();
}

Nbd::~Nbd() { assert(handle_ == nullptr); }

Task<Result<std::unique_ptr<Nbd>>> Nbd::connect(core::Loop& loop, NbdAddress address,
                                                std::string export_name,
                                                std::vector<std::string> contexts,
                                                Deadline deadline) {
    auto const limit = deadline.sooner(limits::connect);
    auto peer =
        std::make_shared<Peer const>(Peer{address.text(), export_name, address.unix_path.empty()});
    auto socket = address.unix_path.empty()
                      ? co_await core::connect_tcp(loop, address.host, address.port, limit)
                      : co_await core::connect_unix(loop, address.unix_path, limit);
    if (!socket) {
        co_return std::unexpected(
            std::move(socket.error())
                .while_doing(fmt::format("connecting to the NBD server at {}", peer->address)));
    }
    nbd_handle* handle = nbd_create();
    if (handle == nullptr) co_return fail(Errc::nbd, "libnbd: {}", nbd_get_error());
    std::unique_ptr<Nbd> nbd(new Nbd(loop, handle, peer));
    auto connected = nbd->configure(address, contexts);
    if (connected) connected = co_await nbd->negotiate(std::move(*socket), limit);
    if (connected) connected = nbd->learn(contexts);
    if (!connected) {
        nbd_close(std::exchange(nbd->handle_, nullptr));
        co_return std::unexpected(std::move(connected.error())
                                      .while_doing(fmt::format("connecting to export {} at {}",
                                                               export_name, peer->address)));
    }
    nbd->start_watching();
    co_return nbd;
}

Result<> Nbd::configure(NbdAddress const& address, std::vector<std::string> const& contexts) {
    bool const tls = !address.psk_file.empty();
    if (tls) core::use_gnutls();
    bool ok = nbd_set_export_name(handle_, peer_->export_name.c_str()) == 0 &&
              nbd_set_handshake_flags(handle_, LIBNBD_HANDSHAKE_FLAG_MASK) == 0 &&
              nbd_set_pread_initialize(handle_, false) == 0 &&
              nbd_set_tls(handle_, tls ? LIBNBD_TLS_REQUIRE : LIBNBD_TLS_DISABLE) == 0;
    if (ok && tls) {
        ok = nbd_set_tls_psk_file(handle_, address.psk_file.c_str()) == 0 &&
             nbd_set_tls_username(handle_, address.psk_username.c_str()) == 0;
    }
    for (auto const& context : contexts) {
        ok = ok && nbd_add_meta_context(handle_, context.c_str()) == 0;
    }
    if (!ok) return std::unexpected(library_error(Errc::nbd, "libnbd refuses its settings"));
    return {};
}

Task<Result<>> Nbd::negotiate(core::Fd socket, Deadline deadline) {
    int const on = 1;
    auto const link_dead = static_cast<unsigned>(core::milliseconds(limits::link_dead).count());
    // Both fail on a unix socket, where they mean nothing.
    (void)setsockopt(socket.get(), IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    (void)setsockopt(socket.get(), IPPROTO_TCP, TCP_USER_TIMEOUT, &link_dead, sizeof link_dead);
    int const fd = socket.get();
    bool const tcp = peer_->tcp;
    // libnbd takes the descriptor, also when the call fails.
    int result = nbd_aio_connect_socket(handle_, socket.release());
    while (result == 0 && nbd_aio_is_connecting(handle_) > 0) {
        unsigned const direction = nbd_aio_get_direction(handle_);
        int const events = ((direction & LIBNBD_AIO_DIRECTION_READ) != 0 ? POLLIN : 0) |
                           ((direction & LIBNBD_AIO_DIRECTION_WRITE) != 0 ? POLLOUT : 0);
        if (tcp) acknowledge_at_once(fd);
        CO_TRY(int const ready, co_await loop_.poll(fd, static_cast<short>(events), deadline));
        bool const read = (direction & LIBNBD_AIO_DIRECTION_READ) != 0 &&
                          (ready & (POLLIN | POLLHUP | POLLERR)) != 0;
        result = read ? nbd_aio_notify_read(handle_) : nbd_aio_notify_write(handle_);
    }
    if (result != 0 || nbd_aio_is_ready(handle_) <= 0) {
        co_return std::unexpected(library_error(Errc::nbd, "the NBD server refused us"));
    }
    co_return Result<>{};
}

Result<> Nbd::learn(std::vector<std::string> const& contexts) {
    std::int64_t const size = nbd_get_size(handle_);
    if (size < 0) return std::unexpected(library_error(Errc::nbd, "the export has no size"));
    std::int64_t const largest = nbd_get_block_size(handle_, LIBNBD_SIZE_MAXIMUM);
    traits_.size = static_cast<std::uint64_t>(size);
    traits_.request_bytes_max =
        largest > 0 ? static_cast<std::uint64_t>(largest) : limits::request_bytes_max;
    traits_.read_only = nbd_is_read_only(handle_) > 0;
    traits_.can_flush = nbd_can_flush(handle_) > 0;
    traits_.can_trim = nbd_can_trim(handle_) > 0;
    traits_.can_zero = nbd_can_zero(handle_) > 0;
    traits_.can_fast_zero = nbd_can_fast_zero(handle_) > 0;
    traits_.can_multi_conn = nbd_can_multi_conn(handle_) > 0;
    traits_.tls = nbd_get_tls_negotiated(handle_) > 0;
    for (auto const& context : contexts) {
        if (nbd_can_meta_context(handle_, context.c_str()) <= 0) {
            return fail(Errc::nbd, "the NBD server does not offer the meta context {}", context);
        }
    }
    return {};
}

void Nbd::start_watching() {
    scope_.spawn(watch_readable(*this));
    scope_.spawn(watch_writable(*this));
}

// libnbd's own rule: look at the direction again after every call on the handle.
void Nbd::called() {
    if ((nbd_aio_get_direction(handle_) & LIBNBD_AIO_DIRECTION_WRITE) != 0) wants_write_.set();
    if (nbd_aio_is_dead(handle_) > 0 || nbd_aio_is_closed(handle_) > 0) {
        ended_.set();
        wants_write_.set();
    }
}

Task<void> Nbd::watch_readable(Nbd& self) {
    int const fd = nbd_aio_get_fd(self.handle_);
    while (!self.ended_.is_set()) {
        auto const ready =
            co_await self.loop_.poll(fd, POLLIN, Deadline::never(self.stop_.get_token()));
        if (!ready) break;
        // In every state after the handshake libnbd takes a read notification; it finds out by
        // itself that the other side hung up. One notification for each readiness, no more: one
        // that finds nothing to read, while a large write waits for the socket, leaves libnbd
        // waiting for a reply to a request that it has not sent yet.
        (void)nbd_aio_notify_read(self.handle_);
        if (self.peer_->tcp) acknowledge_at_once(fd);
        self.called();
    }
    self.ended_.set();
    self.wants_write_.set();
}

Task<void> Nbd::watch_writable(Nbd& self) {
    auto const deadline = Deadline::never(self.stop_.get_token());
    int const fd = nbd_aio_get_fd(self.handle_);
    while (!self.ended_.is_set()) {
        if (!co_await self.wants_write_.wait(deadline)) break;
        self.wants_write_.reset();
        if (self.ended_.is_set()) break;
        if (!co_await self.loop_.poll(fd, POLLOUT, deadline)) break;
        if ((nbd_aio_get_direction(self.handle_) & LIBNBD_AIO_DIRECTION_WRITE) != 0) {
            (void)nbd_aio_notify_write(self.handle_);
        }
        self.called();
    }
}

bool Nbd::alive() const { return handle_ != nullptr && !ended_.is_set(); }

std::int64_t Nbd::issue(Call const& call, std::shared_ptr<Request> const& request) {
    nbd_completion_callback const done{&Request::on_completion,
                                       new std::shared_ptr<Request>(request), &Request::on_free};
    switch (call.kind) {
        case Call::Kind::pread:
            return nbd_aio_pread(handle_, call.buffer.bytes().data() + call.begin, call.length,
                                 call.offset, done, 0);
        case Call::Kind::pwrite:
            return nbd_aio_pwrite(handle_, call.buffer.bytes().data() + call.begin, call.length,
                                  call.offset, done, 0);
        case Call::Kind::zero:
            return nbd_aio_zero(handle_, call.length, call.offset, done, 0);
        case Call::Kind::trim:
            return nbd_aio_trim(handle_, call.length, call.offset, done, 0);
        case Call::Kind::flush:
            return nbd_aio_flush(handle_, done, 0);
        case Call::Kind::block_status: {
            nbd_extent_callback const extents{&Request::on_extents,
                                              new std::shared_ptr<Request>(request),
                                              &Request::on_extents_free};
            return nbd_aio_block_status(handle_, call.length, call.offset, extents, done, 0);
        }
    }
    return -1;
}

Task<Result<std::shared_ptr<Nbd::Request>>> Nbd::submit(Call call, Deadline deadline) {
    auto const peer = peer_;
    auto const kind = call.kind;
    auto const offset = call.offset;
    auto const length = call.length;
    auto describe = [&]() {
        return fmt::format("NBD {} of {} bytes at {} (export {} at {})",
                           verb(static_cast<int>(kind)), length, offset, peer->export_name,
                           peer->address);
    };
    CO_TRY_VOID(co_await slots_.acquire(deadline));
    if (!alive()) {
        slots_.release();
        co_return fail(Errc::closed, "{}: the connection {}", describe(), why_closed_);
    }
    auto request = std::make_shared<Request>(*this, std::move(call));
    ++in_flight_;
    quiet_.reset();
    if (issue(request->call, request) < 0) {
        int const os_errno = nbd_get_errno();
        auto const code = nbd_aio_is_dead(handle_) > 0 ? Errc::closed : Errc::nbd;
        request->finish(os_errno);  // libnbd has freed the callbacks already; harmless then
        called();
        co_return std::unexpected(library_error(code, describe()));
    }
    called();
    if (auto waited = co_await request->done.wait(deadline); !waited) {
        co_return std::unexpected(std::move(waited.error()).while_doing(describe()));
    }
    if (request->error != 0) {
        // ENOTCONN is libnbd's word for a connection that ended; no server can send it.
        auto const code = request->error == ENOTCONN ? Errc::closed : Errc::nbd;
        co_return core::fail_os(code, request->error, describe() + " failed");
    }
    co_return request;
}

Task<Result<>> Nbd::perform(Call call, Deadline deadline) {
    CO_TRY_VOID(co_await submit(std::move(call), std::move(deadline)));
    co_return Result<>{};
}

// A server may take less at once than we would send.
Task<Result<>> Nbd::perform_in_parts(Call call, Deadline deadline) {
    for (std::uint64_t done = 0; done < call.length;) {
        Call part = call;
        part.offset += done;
        part.begin += static_cast<std::size_t>(done);
        part.length = std::min(call.length - done, traits_.request_bytes_max);
        done += part.length;
        CO_TRY_VOID(co_await perform(std::move(part), deadline));
    }
    co_return Result<>{};
}

Task<Result<>> Nbd::transfer(Call call, Deadline deadline) {
    if (call.length <= traits_.request_bytes_max) {
        return perform(std::move(call), std::move(deadline));
    }
    return perform_in_parts(std::move(call), std::move(deadline));
}

Task<Result<>> Nbd::pread(Buffer buffer, std::size_t length, std::uint64_t offset,
                          Deadline deadline) {
    assert(length <= buffer.size());
    return transfer({Call::Kind::pread, offset, length, std::move(buffer)}, std::move(deadline));
}

Task<Result<>> Nbd::pwrite(Buffer buffer, std::size_t begin, std::size_t length,
                           std::uint64_t offset, Deadline deadline) {
    assert(begin + length <= buffer.size());
    return transfer({Call::Kind::pwrite, offset, length, std::move(buffer), begin},
                    std::move(deadline));
}

Task<Result<>> Nbd::zero(std::uint64_t offset, std::uint64_t length, Deadline deadline) {
    assert(length <= limits::zero_request_bytes_max);
    return perform({Call::Kind::zero, offset, length}, std::move(deadline));
}

Task<Result<>> Nbd::trim(std::uint64_t offset, std::uint64_t length, Deadline deadline) {
    return perform({Call::Kind::trim, offset, length}, std::move(deadline));
}

Task<Result<>> Nbd::flush(Deadline deadline) {
    return perform({Call::Kind::flush, 0, 0}, std::move(deadline));
}

Task<Result<std::vector<Nbd::Status>>> Nbd::block_status(std::string context, std::uint64_t offset,
                                                         std::uint64_t length, Deadline deadline) {
    std::vector<Status> all;
    std::uint64_t const end = offset + length;
    while (offset < end) {
        std::uint64_t const ask = std::min(end - offset, limits::block_status_bytes_max);
        CO_TRY(auto const request,
               co_await submit({Call::Kind::block_status, offset, ask, {}, 0, context}, deadline));
        std::uint64_t const before = offset;
        for (auto status : request->status) {
            if (status.offset != offset || offset >= end) break;
            status.length = std::min(status.length, end - offset);  // the last one may overshoot
            offset += status.length;
            if (!all.empty() && all.back().flags == status.flags) {
                all.back().length += status.length;
            } else {
                all.push_back(status);
            }
        }
        if (offset == before) {
            co_return fail(Errc::protocol, "the NBD server at {} says nothing of {} at {}",
                           peer_->address, context, offset);
        }
    }
    co_return all;
}

void Nbd::say_goodbye() {
    if (!alive() || in_flight_ != 0) return;
    (void)nbd_aio_disconnect(handle_, 0);
    called();
}

void Nbd::abort(std::string_view why) {
    if (handle_ == nullptr) return;
    if (!why.empty()) why_closed_ = why;
    // The shutdown makes the socket readable: libnbd finds the connection dead and fails
    // everything.
    (void)shutdown(nbd_aio_get_fd(handle_), SHUT_RDWR);
}

Task<void> Nbd::close() {
    if (handle_ == nullptr) co_return;
    auto const limit = Deadline::after(limits::disconnect);
    if (alive() && co_await quiet_.wait(limit)) say_goodbye();
    if (!ended_.is_set()) (void)co_await ended_.wait(limit);
    stop_.request_stop();
    co_await scope_.join();
    ended_.set();
    nbd_close(std::exchange(handle_, nullptr));
}

core::Error Nbd::library_error(Errc code, std::string what) const {
    char const* text = nbd_get_error();
    return core::Error{code,
                       nbd_get_errno(),
                       fmt::format("{}: {}", what, text != nullptr ? text : "no reason given"),
                       {}};
}

}  // namespace storage
