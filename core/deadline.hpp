// Deadline: until when an operation may take, and the token that stops it earlier. Always a
// function's last parameter. A deadline can be narrowed, never widened; rollback makes a fresh one,
// without the token.
#pragma once

#include <algorithm>
#include <chrono>
#include <stop_token>

namespace core {

using Clock = std::chrono::steady_clock;
using std::chrono::milliseconds;
using std::chrono::seconds;
using namespace std::chrono_literals;

class Deadline {
public:
    /// `limit` from now, stoppable through `token`.
    static Deadline after(Clock::duration limit, std::stop_token token = {}) {
        return Deadline(Clock::now() + limit, std::move(token));
    }
    /// For what lasts as long as the program wants it (an accept loop): only the token ends it.
    static Deadline never(std::stop_token token = {}) {
        return Deadline(Clock::time_point::max(), std::move(token));
    }
    Deadline(Clock::time_point at, std::stop_token token) : at_(at), token_(std::move(token)) {}

    /// The same token, ending at the latest `limit` from now.
    [[nodiscard]] Deadline sooner(Clock::duration limit) const {
        return Deadline(std::min(at_, Clock::now() + limit), token_);
    }
    [[nodiscard]] Clock::time_point at() const { return at_; }
    [[nodiscard]] std::stop_token const& token() const { return token_; }
    [[nodiscard]] bool stopped() const { return token_.stop_requested(); }
    [[nodiscard]] bool passed() const {
        return at_ != Clock::time_point::max() && Clock::now() >= at_;
    }

private:
    Clock::time_point at_;
    std::stop_token token_;
};

}  // namespace core
