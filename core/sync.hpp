// What coroutines of one loop wait on besides the kernel: Event, Semaphore, Turn, sleep, TaskGroup,
// which joins tasks, and CallGate, which keeps an object as long as callers are in it. All wake-ups
// go through Loop::post, so that setting one never runs foreign code in the caller's stack.
#pragma once

#include <deque>
#include <list>

#include "core/loop.hpp"

namespace core {

namespace detail {

/// One coroutine waiting in a list, with deadline and stop token.
class Waiter final : Timer {
public:
    Waiter(Loop& loop, std::list<Waiter*>& queue, bool ready, Deadline deadline)
        : loop_(loop), queue_(queue), ready_(ready), deadline_(std::move(deadline)) {}
    ~Waiter() { assert(!waiting_); }

    bool await_ready() {
        if (!ready_ && deadline_.stopped()) why_ = Errc::cancelled;
        return ready_ || why_.has_value();
    }
    void await_suspend(std::coroutine_handle<> handle) {
        handle_ = handle;
        waiting_ = true;
        queue_.push_back(this);
        if (deadline_.at() != Clock::time_point::max()) loop_.arm(*this, deadline_.at());
        if (deadline_.token().stop_possible()) on_stop_.emplace(deadline_.token(), Stop{this});
    }
    [[nodiscard]] Result<> await_resume() {
        if (!why_) return {};
        if (*why_ == Errc::cancelled) return fail(Errc::cancelled, "cancelled");
        return fail(Errc::timed_out, "nothing happened within the time allowed");
    }

    /// Called by the owner of the queue: what was waited for is there.
    void wake() { leave(std::nullopt); }

private:
    struct Stop {
        Waiter* waiter;
        void operator()() const { waiter->leave(Errc::cancelled); }
    };
    void expired() override { leave(Errc::timed_out); }
    void leave(std::optional<Errc> why) {
        if (!waiting_) return;
        waiting_ = false;
        why_ = why;
        queue_.remove(this);
        loop_.disarm(*this);
        // on_stop_ is destroyed with the Waiter: resetting it here could be inside its own
        // callback.
        loop_.post(handle_);
    }

    Loop& loop_;
    std::list<Waiter*>& queue_;
    bool ready_;
    bool waiting_ = false;
    Deadline deadline_;
    std::optional<std::stop_callback<Stop>> on_stop_;
    std::optional<Errc> why_;
    std::coroutine_handle<> handle_;
};

}  // namespace detail

/// Set once (or until reset); every waiter goes on. `co_await event.wait(deadline)` is a Result<>.
class Event {
public:
    explicit Event(Loop& loop) : loop_(loop) {}
    ~Event() { assert(waiters_.empty()); }  // who waits here would look at it again
    Event(Event const&) = delete;
    Event& operator=(Event const&) = delete;
    void set() {
        set_ = true;
        while (!waiters_.empty()) waiters_.front()->wake();
    }
    void reset() { set_ = false; }
    [[nodiscard]] bool is_set() const { return set_; }
    detail::Waiter wait(Deadline deadline) {
        return detail::Waiter(loop_, waiters_, set_, std::move(deadline));
    }

private:
    Loop& loop_;
    bool set_ = false;
    std::list<detail::Waiter*> waiters_;
};

/// A counted number of places: requests in flight, bytes of buffers. acquire() waits its turn.
class Semaphore {
public:
    Semaphore(Loop& loop, std::size_t count) : loop_(loop), free_(count) {}
    ~Semaphore() { assert(waiters_.empty()); }
    /// After success the caller holds one place and gives it back with release().
    Task<Result<>> acquire(Deadline deadline) {
        while (free_ == 0) {
            CO_TRY_VOID(co_await detail::Waiter(loop_, waiters_, false, deadline));
        }
        --free_;
        co_return Result<>{};
    }
    void release() {
        ++free_;
        if (!waiters_.empty()) waiters_.front()->wake();
    }
    [[nodiscard]] std::size_t free() const { return free_; }

private:
    Loop& loop_;
    std::size_t free_;
    std::list<detail::Waiter*> waiters_;
};

/// One task at a time: the others wait.
class Turn {
public:
    explicit Turn(Loop& loop) : place_(loop, 1) {}
    /// Waits without a limit: whatever is run must have its own.
    template <class T>
    Task<Result<T>> run(Task<Result<T>> task) {
        CO_TRY_VOID(co_await place_.acquire(Deadline::never()));
        auto done = co_await std::move(task);
        place_.release();
        co_return done;
    }

private:
    Semaphore place_;
};

/// Messages from one task to another, in order. The limit is the owner's: push() refuses when full.
template <class T>
class Queue {
public:
    Queue(Loop& loop, std::size_t limit) : event_(loop), limit_(limit) {}
    /// False when the queue holds `limit` messages already.
    [[nodiscard]] bool push(T message) {
        if (messages_.size() >= limit_) return false;
        messages_.push_back(std::move(message));
        event_.set();
        return true;
    }
    Task<Result<T>> pop(Deadline deadline) {
        while (messages_.empty()) {
            event_.reset();
            CO_TRY_VOID(co_await event_.wait(deadline));
        }
        T message = std::move(messages_.front());
        messages_.pop_front();
        co_return message;
    }
    [[nodiscard]] std::size_t size() const { return messages_.size(); }

private:
    Event event_;
    std::size_t limit_;
    std::deque<T> messages_;
};

/// Waits for a span of time. Not a means of synchronisation: for retries, rates and progress only.
inline Task<Result<>> sleep_for(Loop& loop, Clock::duration span, std::stop_token token = {}) {
    Event never(loop);
    auto waited = co_await never.wait(Deadline::after(span, std::move(token)));
    if (!waited && waited.error().code == Errc::cancelled) co_return waited;
    co_return Result<>{};
}

/// Tasks that run beside their owner. Must be joined before it is destroyed; to end them early
/// their owner triggers the stop token it gave them.
class TaskGroup {
public:
    explicit TaskGroup(Loop& loop) : loop_(loop), idle_(loop) { idle_.set(); }
    ~TaskGroup() { assert(running_ == 0); }
    TaskGroup(TaskGroup const&) = delete;
    TaskGroup& operator=(TaskGroup const&) = delete;

    /// Starts `task` in the next turn.
    void spawn(Task<void> task) {
        ++running_;
        idle_.reset();
        loop_.post(run(*this, std::move(task)).handle);
    }
    /// Waits until no task runs. Cannot be cancelled: a scope that does not end is a bug to be
    /// seen.
    Task<void> join() {
        while (running_ != 0) (void)co_await idle_.wait(Deadline::never());
    }
    [[nodiscard]] std::size_t running() const { return running_; }

private:
    struct Detached {
        struct promise_type {
            Detached get_return_object() {
                return {std::coroutine_handle<promise_type>::from_promise(*this)};
            }
            std::suspend_always initial_suspend() noexcept { return {}; }
            std::suspend_never final_suspend() noexcept { return {}; }
            void return_void() {}
            [[noreturn]] void unhandled_exception() { std::terminate(); }
        };
        std::coroutine_handle<> handle;
    };
    static Detached run(TaskGroup& scope, Task<void> task) {
        {
            Task<void> owned = std::move(task);
            co_await std::move(owned);
        }
        if (--scope.running_ == 0) scope.idle_.set();
    }

    Loop& loop_;
    std::size_t running_ = 0;
    Event idle_;
};

/// The callers that are inside an object's coroutines. Each holds the gate while it may look at the
/// object again; its owner closes the gate before it frees the object.
class CallGate {
public:
    explicit CallGate(Loop& loop) : idle_(loop) {}
    ~CallGate() { assert(inside_ == 0); }
    CallGate(CallGate const&) = delete;
    CallGate& operator=(CallGate const&) = delete;

    class [[nodiscard]] Hold {
    public:
        explicit Hold(CallGate& gate) : gate_(gate) { ++gate_.inside_; }
        ~Hold() {
            if (--gate_.inside_ == 0) gate_.idle_.set();
        }
        Hold(Hold const&) = delete;
        Hold& operator=(Hold const&) = delete;

    private:
        CallGate& gate_;
    };

    /// A caller that finds it closed leaves at once.
    [[nodiscard]] bool closed() const { return closed_; }
    /// Waits until the last caller has left. What they wait for must have been woken before, or
    /// have a deadline.
    Task<void> close() {
        closed_ = true;
        while (inside_ != 0) {
            idle_.reset();
            (void)co_await idle_.wait(Deadline::never());
        }
    }

private:
    std::size_t inside_ = 0;
    bool closed_ = false;
    Event idle_;
};

/// A stop source that is also triggered by an outer token: "my own cancel, or the one I was given".
class LinkedStop {
public:
    explicit LinkedStop(std::stop_token outer) : forward_(std::move(outer), Forward{&source_}) {}
    [[nodiscard]] std::stop_token token() const { return source_.get_token(); }
    void request_stop() { source_.request_stop(); }

private:
    struct Forward {
        std::stop_source* source;
        void operator()() const { source->request_stop(); }
    };
    std::stop_source source_;
    std::stop_callback<Forward> forward_;
};

}  // namespace core
