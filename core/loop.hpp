// Loop: one io_uring and the coroutines that wait on it, on one thread. One turn = submit and wait
// (bounded by the nearest deadline), collect completions, then resume. No coroutine is ever resumed
// while the ring is drained, so libraries whose callbacks hold locks (libnbd) may call post() and
// Event::set() from them.
//
// An operation past its deadline, or stopped, asks the kernel to cancel and resumes its coroutine
// only after its own completion arrived: until then the kernel may write to the buffer. So a task
// is never destroyed mid-operation; it is cancelled, then joined.
#pragma once

#include <liburing.h>
#include <sys/socket.h>

#include <coroutine>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <set>
#include <span>
#include <stop_token>
#include <utility>
#include <vector>

#include "core/deadline.hpp"
#include "core/result.hpp"
#include "core/task.hpp"

namespace core {

class Loop;

/// Called when a point in time has passed. Its owner registers it and removes it.
class Timer {
public:
    Timer() = default;
    Timer(Timer const&) = delete;
    Timer& operator=(Timer const&) = delete;

protected:
    ~Timer() = default;

private:
    friend class Loop;
    virtual void expired() = 0;
    Clock::time_point at_{};
    bool armed_ = false;
};

/// One operation in the kernel; lives in the frame of the coroutine that awaits it. Result: what
/// the kernel returned (bytes, an fd, poll's revents), or io with errno, timed_out, cancelled.
class [[nodiscard]] Op final : Timer {
public:
    enum class Kind {
        read,
        write,
        poll,
        accept,
        connect,
        fdatasync,
        sendmsg,
        recvmsg,
        shutdown,
        punch_hole
    };
    struct Request {
        Kind kind;
        int fd;
        void const* address = nullptr;
        std::uint64_t length = 0;
        std::uint64_t offset = 0;
        int memory = -1;  ///< Of Loop::register_memory(); `address` lies in it.
    };

    Op(Loop& loop, Request request, Deadline deadline)
        : loop_(loop), request_(request), deadline_(std::move(deadline)) {}
    ~Op() { assert(!in_kernel_); }

    bool await_ready();
    void await_suspend(std::coroutine_handle<> waiter);
    [[nodiscard]] Result<int> await_resume();

private:
    friend class Loop;
    struct Stop {
        Op* op;
        void operator()() const { op->cancel(Errc::cancelled); }
    };
    void expired() override { cancel(Errc::timed_out); }
    void cancel(Errc why);
    void completed(int result);

    Loop& loop_;
    Request request_;
    Deadline deadline_;
    std::optional<std::stop_callback<Stop>> on_stop_;
    std::coroutine_handle<> waiter_;
    std::optional<Errc> cancelled_because_;
    int result_ = 0;
    bool in_kernel_ = false;
};

class Loop {
public:
    /// Fails where io_uring is missing or forbidden, and then says so and what to do.
    static Result<std::unique_ptr<Loop>> create();
    ~Loop();
    Loop(Loop const&) = delete;
    Loop& operator=(Loop const&) = delete;

    /// Runs turns until `task` has finished, and returns its value. Not reentrant.
    template <class T>
    T run(Task<T> task) {
        post(task.handle());
        while (true) {
            resume_ready();
            // Asked before waiting: other tasks may be in the kernel for as long as they like.
            if (task.handle().done()) break;
            turn();
        }
        return task.handle().promise().take();
    }

    /// Reads at most buffer.size() bytes; 0 is the end of a stream.
    Op read(int fd, std::span<std::byte> buffer, Deadline deadline);
    Op write(int fd, std::span<std::byte const> buffer, Deadline deadline);
    Op read_at(int fd, std::span<std::byte> buffer, std::uint64_t offset, Deadline deadline);
    Op write_at(int fd, std::span<std::byte const> buffer, std::uint64_t offset, Deadline deadline);
    /// As read_at(), into memory of register_memory(); -1: into any.
    Op read_at(int fd, std::span<std::byte> buffer, std::uint64_t offset, int memory,
               Deadline deadline);
    /// Pins the memory once, so that the kernel need not for each O_DIRECT read into it. Its
    /// number; -1 where the kernel has no room or no leave for it (RLIMIT_MEMLOCK): it is as good
    /// without. Give it to forget_memory() before it is freed, or end the loop first.
    int register_memory(std::span<std::byte> memory);
    void forget_memory(int number);
    /// Waits for poll(2) events on `fd`; the result is revents.
    Op poll(int fd, short events, Deadline deadline);
    /// Accepts one connection; the result is a non-blocking, close-on-exec descriptor the caller
    /// owns.
    Op accept(int fd, Deadline deadline);
    /// `address` must outlive the operation.
    Op connect(int fd, sockaddr const* address, socklen_t length, Deadline deadline);
    Op fdatasync(int fd, Deadline deadline);
    /// fallocate(2) with FALLOC_FL_PUNCH_HOLE: the range reads as zeroes, and takes no space where
    /// the file system or the device can do that; otherwise it fails with EOPNOTSUPP. The kernel
    /// does not interrupt it.
    Op punch_hole(int fd, std::uint64_t offset, std::uint64_t length, Deadline deadline);
    /// `message` must outlive the operation.
    Op sendmsg(int fd, msghdr const* message, Deadline deadline);
    Op recvmsg(int fd, msghdr* message, Deadline deadline);

    struct [[nodiscard]] NextTurn {
        Loop& loop;
        [[nodiscard]] bool await_ready() const noexcept { return false; }
        void await_suspend(std::coroutine_handle<> waiter) const { loop.post(waiter); }
        void await_resume() const noexcept {}
    };
    /// Suspends until the next turn, so that a long piece of work does not hold up everything else.
    NextTurn next_turn() { return {*this}; }

    /// Resumes `waiter` in the next turn. May be called from callbacks; never runs anything itself.
    void post(std::coroutine_handle<> waiter) { ready_.push_back(waiter); }
    void arm(Timer& timer, Clock::time_point at);
    void disarm(Timer& timer);

private:
    friend class Op;
    Loop() = default;
    void turn();
    void resume_ready();
    void submit_and_wait();
    void collect();
    void fire_timers();
    io_uring_sqe* next_sqe();
    void submit(Op& op);
    void submit_cancel(Op& op);

    io_uring ring_{};
    std::vector<int> free_memory_;  ///< Numbers for register_memory().
    bool memory_table_ = false;  ///< The ring has been asked for one.
    std::size_t in_kernel_ = 0;  ///< Operations and cancels whose completion is still to come.
    std::vector<std::coroutine_handle<>> ready_;
    std::vector<std::coroutine_handle<>> resuming_;
    std::set<std::pair<Clock::time_point, Timer*>> timers_;
};

}  // namespace core
