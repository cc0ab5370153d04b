// GuestAgent: one conversation with the agent inside a guest (qemu-ga) over the unix socket of its
// channel. Newline-delimited JSON; QEMU lets one client in at a time, so a conversation is short.
// Used by the mirror, to have the guest's file systems at rest in a point.
//
// What arrives was written by the guest: no more than agent_message_bytes_max of it is ever held,
// and nothing but a number or one of two words is taken from it. Protocol: qemu-ga-ref(7).
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "core/json.hpp"
#include "core/stream.hpp"

namespace qmp {

class GuestAgent {
public:
    /// Connects and brings both ends into step (guest-sync-delimited). Fails with closed (no
    /// process listens), timed_out (no agent runs in the guest, or another client talks to it),
    /// protocol.
    static core::Task<core::Result<std::unique_ptr<GuestAgent>>> connect(core::Loop& loop,
                                                                         std::string socket_path,
                                                                         core::Deadline deadline);

    /// guest-fsfreeze-status.
    core::Task<core::Result<bool>> frozen(core::Deadline deadline);
    /// guest-fsfreeze-freeze: how many file systems are frozen. After a failure they may be: it is
    /// a timeout, or its answer was lost. Fails with refused, in the agent's words, when it thawed
    /// them itself.
    core::Task<core::Result<std::int64_t>> freeze(core::Deadline deadline);
    /// guest-fsfreeze-thaw: how many were thawed. Also after a call that failed: both ends are
    /// brought into step first, and what the agent has not yet read of a freeze, it reads before.
    core::Task<core::Result<std::int64_t>> thaw(core::Deadline deadline);

private:
    explicit GuestAgent(std::unique_ptr<core::Stream> stream);
    core::Task<core::Result<>> send(std::string text, core::Deadline deadline);
    core::Task<core::Result<>> await_step(std::int64_t id, core::Deadline deadline);
    core::Task<core::Result<std::string>> read_line(core::Deadline deadline);
    core::Task<core::Result<core::Json>> answer(std::string command, core::Deadline deadline);
    core::Task<core::Result<std::int64_t>> count(std::string command, core::Deadline deadline);

    std::unique_ptr<core::Stream> stream_;
    std::string unread_;
    std::int64_t next_id_;
};

}  // namespace qmp
