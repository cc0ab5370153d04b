// PendingRequests: the source's requests whose answer the destination's machine decides. Used by
// DestinationMigration. Invariant: the machine answers only the last of them, so an earlier one of
// another verb ends when a new one arrives.
#pragma once

#include <functional>
#include <initializer_list>
#include <list>

#include "core/sync.hpp"
#include "sidecar/channel/protocol.hpp"

namespace sidecar {

class PendingRequests {
public:
    explicit PendingRequests(core::Loop& loop) : loop_(loop) {}

    /// Waits for the answer to a request of the source. `post` tells the machine of the request,
    /// once its answer can be received. Fails with cancelled if a request of another verb follows,
    /// with timed_out if the machine forgot it, or with what the machine answers.
    core::Task<core::Result<protocol::Packed>> ask(protocol::Verb verb, std::function<void()> post);
    /// Answers every waiting request that is one of `verbs`. Fails with closed if there is none.
    core::Result<> answer(std::initializer_list<protocol::Verb> verbs,
                          core::Result<protocol::Packed> const& result);
    /// The machine runs no more: every waiting request fails with closed.
    void end();

private:
    struct Waiting {
        Waiting(core::Loop& loop, protocol::Verb verb_) : verb(verb_), answered(loop) {}
        void give(core::Result<protocol::Packed> result);
        protocol::Verb verb;
        core::Event answered;
        core::Result<protocol::Packed> answer = core::fail(core::Errc::closed, "no answer");
    };

    core::Loop& loop_;
    std::list<Waiting*> waiting_;  ///< Each is in the frame of its ask().
};

}  // namespace sidecar
