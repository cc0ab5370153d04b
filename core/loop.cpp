#include "core/loop.hpp"

#include <poll.h>

#include <cassert>
#include <cerrno>

namespace core {

namespace {

// Submission entries of the ring. More operations than this may be in flight: a full queue is
// flushed.
constexpr unsigned ring_entries = 512;
/// Pieces of memory that a ring may hold: 64 MiB in flight in requests of 512 KiB.
constexpr int registered_max = 128;

Error setup_error(int os_errno) {
    std::string what;
    switch (os_errno) {
        case ENOSYS:
            what = "io_uring is not in this kernel; sidecar needs Linux 6.1 or later";
            break;
        case EPERM:
        case EACCES:
            what =
                "io_uring is forbidden here: set the sysctl kernel.io_uring_disabled to 0, or "
                "allow the "
                "io_uring system calls in the seccomp profile of this container or unit";
            break;
        case ENOMEM:
            what =
                "io_uring could not lock its memory: raise the limit `ulimit -l` (LimitMEMLOCK=)";
            break;
        default:
            what = "io_uring could not be set up";
    }
    return fail_os(Errc::io, os_errno, std::move(what)).error();
}

}  // namespace

bool Op::await_ready() {
    if (deadline_.stopped()) cancelled_because_ = Errc::cancelled;
    if (cancelled_because_) result_ = -ECANCELED;
    return cancelled_because_.has_value();
}

void Op::await_suspend(std::coroutine_handle<> waiter) {
    waiter_ = waiter;
    loop_.submit(*this);
    if (deadline_.at() != Clock::time_point::max()) loop_.arm(*this, deadline_.at());
    if (deadline_.token().stop_possible()) on_stop_.emplace(deadline_.token(), Stop{this});
}

Result<int> Op::await_resume() {
    if (result_ >= 0) return result_;
    if (cancelled_because_ &&
        (result_ == -ECANCELED || result_ == -EINTR || result_ == -EALREADY)) {
        if (*cancelled_because_ == Errc::timed_out) {
            return fail(Errc::timed_out, "no answer within the time allowed");
        }
        return fail(Errc::cancelled, "cancelled");
    }
    constexpr std::string_view verbs[] = {"read",      "write",   "poll",    "accept",  "connect",
                                          "fdatasync", "sendmsg", "recvmsg", "shutdown"};
    return fail_os(Errc::io, -result_,
                   fmt::format("{} failed", verbs[static_cast<std::size_t>(request_.kind)]));
}

void Op::cancel(Errc why) {
    if (!in_kernel_ || cancelled_because_) return;
    cancelled_because_ = why;
    loop_.submit_cancel(*this);
}

void Op::completed(int result) {
    result_ = result;
    in_kernel_ = false;
    loop_.disarm(*this);
    on_stop_.reset();
    loop_.post(waiter_);
}

Result<std::unique_ptr<Loop>> Loop::create() {
    std::unique_ptr<Loop> loop(new Loop);
    io_uring_params params{};
    params.flags = IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN | IORING_SETUP_CLAMP;
    int error = io_uring_queue_init_params(ring_entries, &loop->ring_, &params);
    if (error ==
        -EINVAL) {  // kernels before 6.1 do not know these flags; all else works from 5.11 on
        params = {};
        error = io_uring_queue_init_params(ring_entries, &loop->ring_, &params);
    }
    if (error < 0) {
        loop->ring_.ring_fd = -1;
        return std::unexpected(setup_error(-error));
    }
    if ((params.features & IORING_FEAT_EXT_ARG) == 0) {
        return fail(Errc::io,
                    "io_uring of this kernel is too old; sidecar needs Linux 6.1 or later");
    }
    return loop;
}

Loop::~Loop() {
    assert(in_kernel_ == 0 && timers_.empty());
    if (ring_.ring_fd >= 0) io_uring_queue_exit(&ring_);
}

Op Loop::read(int fd, std::span<std::byte> buffer, Deadline deadline) {
    return read_at(fd, buffer, static_cast<std::uint64_t>(-1), std::move(deadline));
}
Op Loop::write(int fd, std::span<std::byte const> buffer, Deadline deadline) {
    return write_at(fd, buffer, static_cast<std::uint64_t>(-1), std::move(deadline));
}
Op Loop::read_at(int fd, std::span<std::byte> buffer, std::uint64_t offset, Deadline deadline) {
    return Op(*this, {Op::Kind::read, fd, buffer.data(), buffer.size(), offset},
              std::move(deadline));
}
Op Loop::write_at(int fd, std::span<std::byte const> buffer, std::uint64_t offset,
                  Deadline deadline) {
    return Op(*this, {Op::Kind::write, fd, buffer.data(), buffer.size(), offset},
              std::move(deadline));
}
Op Loop::read_at(int fd, std::span<std::byte> buffer, std::uint64_t offset, int memory,
                 Deadline deadline) {
    return Op(*this, {Op::Kind::read, fd, buffer.data(), buffer.size(), offset, memory},
              std::move(deadline));
}

int Loop::register_memory(std::span<std::byte> memory) {
    if (!std::exchange(memory_table_, true) &&
        io_uring_register_buffers_sparse(&ring_, registered_max) == 0) {
        for (int number = registered_max; number-- > 0;) free_memory_.push_back(number);
    }
    if (free_memory_.empty()) return -1;
    auto const number = static_cast<unsigned>(free_memory_.back());
    iovec const where{memory.data(), memory.size()};
    __u64 const no_tag = 0;
    if (io_uring_register_buffers_update_tag(&ring_, number, &where, &no_tag, 1) < 0) return -1;
    free_memory_.pop_back();
    return static_cast<int>(number);
}

void Loop::forget_memory(int number) {
    if (number < 0) return;
    iovec const nothing{};
    __u64 const no_tag = 0;
    io_uring_register_buffers_update_tag(&ring_, static_cast<unsigned>(number), &nothing, &no_tag,
                                         1);
    free_memory_.push_back(number);
}

Op Loop::poll(int fd, short events, Deadline deadline) {
    return Op(*this, {Op::Kind::poll, fd, nullptr, static_cast<std::uint64_t>(events)},
              std::move(deadline));
}
Op Loop::accept(int fd, Deadline deadline) {
    return Op(*this, {Op::Kind::accept, fd}, std::move(deadline));
}
Op Loop::connect(int fd, sockaddr const* address, socklen_t length, Deadline deadline) {
    return Op(*this, {Op::Kind::connect, fd, address, length}, std::move(deadline));
}
Op Loop::fdatasync(int fd, Deadline deadline) {
    return Op(*this, {Op::Kind::fdatasync, fd}, std::move(deadline));
}
Op Loop::punch_hole(int fd, std::uint64_t offset, std::uint64_t length, Deadline deadline) {
    return Op(*this, {Op::Kind::punch_hole, fd, nullptr, length, offset}, std::move(deadline));
}
Op Loop::sendmsg(int fd, msghdr const* message, Deadline deadline) {
    return Op(*this, {Op::Kind::sendmsg, fd, message}, std::move(deadline));
}
Op Loop::recvmsg(int fd, msghdr* message, Deadline deadline) {
    return Op(*this, {Op::Kind::recvmsg, fd, message}, std::move(deadline));
}

void Loop::arm(Timer& timer, Clock::time_point at) {
    disarm(timer);
    timer.at_ = at;
    timer.armed_ = true;
    timers_.emplace(at, &timer);
}

void Loop::disarm(Timer& timer) {
    if (!timer.armed_) return;
    timers_.erase({timer.at_, &timer});
    timer.armed_ = false;
}

void Loop::turn() {
    submit_and_wait();
    collect();
    fire_timers();
}

void Loop::resume_ready() {
    resuming_.swap(ready_);
    for (auto waiter : resuming_) waiter.resume();
    resuming_.clear();
}

void Loop::submit_and_wait() {
    if (!ready_.empty()) {
        io_uring_submit_and_get_events(&ring_);
        return;
    }
    if (in_kernel_ == 0 && timers_.empty()) return;  // nothing can ever happen: run() has finished
    io_uring_cqe* first = nullptr;
    if (timers_.empty()) {
        io_uring_submit_and_wait(&ring_, 1);
        return;
    }
    auto const wait = std::max(timers_.begin()->first - Clock::now(), Clock::duration::zero());
    auto const whole = std::chrono::duration_cast<std::chrono::seconds>(wait);
    __kernel_timespec limit{whole.count(), (wait - whole).count()};
    io_uring_submit_and_wait_timeout(&ring_, &first, 1, &limit, nullptr);
}

void Loop::collect() {
    io_uring_cqe* entry = nullptr;
    unsigned head = 0;
    unsigned count = 0;
    io_uring_for_each_cqe(&ring_, head, entry) {
        ++count;
        --in_kernel_;
        auto* op = static_cast<Op*>(io_uring_cqe_get_data(entry));
        if (op != nullptr) op->completed(entry->res);  // null: the completion of a cancel
    }
    io_uring_cq_advance(&ring_, count);
}

void Loop::fire_timers() {
    auto const now = Clock::now();
    while (!timers_.empty() && timers_.begin()->first <= now) {
        Timer& timer = *timers_.begin()->second;
        disarm(timer);
        timer.expired();
    }
}

io_uring_sqe* Loop::next_sqe() {
    io_uring_sqe* sqe = io_uring_get_sqe(&ring_);
    while (sqe == nullptr) {  // the queue is full: hand it to the kernel, which empties it
        io_uring_submit(&ring_);
        sqe = io_uring_get_sqe(&ring_);
    }
    return sqe;
}

void Loop::submit(Op& op) {
    io_uring_sqe* sqe = next_sqe();
    auto const& request = op.request_;
    auto* address = const_cast<void*>(request.address);
    auto const length = static_cast<unsigned>(request.length);
    switch (request.kind) {
        case Op::Kind::read:
            io_uring_prep_read(sqe, request.fd, address, length, request.offset);
            if (request.memory >= 0) {
                sqe->opcode = IORING_OP_READ_FIXED;
                sqe->buf_index = static_cast<std::uint16_t>(request.memory);
            }
            break;
        case Op::Kind::write:
            io_uring_prep_write(sqe, request.fd, address, length, request.offset);
            break;
        case Op::Kind::poll:
            io_uring_prep_poll_add(sqe, request.fd, length);
            break;
        case Op::Kind::accept:
            io_uring_prep_accept(sqe, request.fd, nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC);
            break;
        case Op::Kind::connect:
            io_uring_prep_connect(sqe, request.fd, static_cast<sockaddr*>(address), length);
            break;
        case Op::Kind::fdatasync:
            io_uring_prep_fsync(sqe, request.fd, length == 0 ? IORING_FSYNC_DATASYNC : 0);
            break;
        case Op::Kind::sendmsg:
            io_uring_prep_sendmsg(sqe, request.fd, static_cast<msghdr*>(address), MSG_NOSIGNAL);
            break;
        case Op::Kind::recvmsg:
            io_uring_prep_recvmsg(sqe, request.fd, static_cast<msghdr*>(address), MSG_CMSG_CLOEXEC);
            break;
        case Op::Kind::shutdown:
            io_uring_prep_shutdown(sqe, request.fd, static_cast<int>(length));
            break;
        case Op::Kind::punch_hole:
            io_uring_prep_fallocate(sqe, request.fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                                    static_cast<off_t>(request.offset),
                                    static_cast<off_t>(request.length));
            break;
    }
    io_uring_sqe_set_data(sqe, &op);
    op.in_kernel_ = true;
    ++in_kernel_;
}

void Loop::submit_cancel(Op& op) {
    io_uring_sqe* sqe = next_sqe();
    io_uring_prep_cancel(sqe, &op, 0);
    io_uring_sqe_set_data(sqe, nullptr);
    ++in_kernel_;
}

}  // namespace core
