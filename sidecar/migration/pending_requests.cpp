#include "sidecar/migration/pending_requests.hpp"

#include <algorithm>

#include "sidecar/host/limits.hpp"

namespace sidecar {

using core::Deadline;
using core::Errc;
using core::fail;
using core::Result;
using core::Task;
using protocol::Verb;

void PendingRequests::Waiting::give(Result<protocol::Packed> result) {
    answer = std::move(result);
    answered.set();
}

Task<Result<protocol::Packed>> PendingRequests::ask(Verb verb, std::function<void()> post) {
    // Otherwise, after an `abort` during a `seal`, the `seal` would wait forever.
    for (auto* earlier : waiting_) {
        if (earlier->answered.is_set() || earlier->verb == verb) continue;
        earlier->give(fail(Errc::cancelled, "the source asked `{}` while this was under way",
                           protocol::name(verb)));
    }
    Waiting waiting(loop_, verb);
    waiting_.push_back(&waiting);
    post();
    // The source has its own, shorter limit. This one only ends a request that was forgotten.
    auto const waited =
        co_await waiting.answered.wait(Deadline::after(limits::prepare_timeout * 2));
    waiting_.remove(&waiting);
    if (!waited) co_return std::unexpected(waited.error());
    co_return waiting.answer;
}

Result<> PendingRequests::answer(std::initializer_list<Verb> verbs,
                                 Result<protocol::Packed> const& result) {
    bool any = false;
    for (auto* waiting : waiting_) {
        if (waiting->answered.is_set() || std::ranges::find(verbs, waiting->verb) == verbs.end())
            continue;
        waiting->give(result);
        any = true;
    }
    if (!any) return fail(Errc::closed, "no request waits for this answer");
    return {};
}

void PendingRequests::end() {
    for (auto* waiting : waiting_) {
        if (waiting->answered.is_set()) continue;
        waiting->give(fail(Errc::closed, "the destination's sidecar is ending"));
    }
}

}  // namespace sidecar
