// Every limit of qmp/, with its unit and its reason. Used by this room's sources and its tests.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>

namespace qmp {

/// Longest message accepted from QEMU, in bytes. query-qmp-schema is 0.3 MB; a host with thousands
/// of block nodes answers query-named-block-nodes in a few. More than this is no QMP.
inline constexpr std::size_t message_bytes_max = std::size_t{16} * 1024 * 1024;

/// Bytes of commands that may wait for QEMU to read them. A stopped QEMU must not grow us without
/// bound.
inline constexpr std::size_t unsent_bytes_max = std::size_t{4} * 1024 * 1024;

/// Events a subscription holds unread. QEMU rate-limits its frequent events; a reader that has
/// not read so many is stuck.
inline constexpr std::size_t events_unread_max = 1024;

/// One read(2) from the socket, in bytes: a usual reply in one go, the schema in a few.
inline constexpr std::size_t read_bytes = std::size_t{64} * 1024;

/// How long the greeting and the negotiation may take on a socket that has accepted us. A QEMU
/// whose main loop is busy (a slow flush) answers within a second or two; a monitor held by another
/// client never does.
inline constexpr std::chrono::seconds greeting_timeout{5};
/// Before a client that QEMU hung up on without a greeting tries once more: long enough for QEMU to
/// have seen the end of the client before it.
inline constexpr std::chrono::milliseconds greeting_again_pause{50};

/// How long a QEMU that closed its monitor may take to be gone, so that its exit can be told.
inline constexpr std::chrono::seconds exit_timeout{5};

/// How long a cancelled migration may be silent before QEMU is asked where it is, and woken. It
/// needs some 20 ms when all is well, and the guest is stopped meanwhile.
inline constexpr std::chrono::milliseconds cancel_patience{100};

/// Bytes and lines of a dead QEMU's stderr quoted in an error: its last words, not its log.
inline constexpr std::size_t last_words_bytes_max = 2000;
inline constexpr std::size_t last_words_lines_max = 6;

/// Bytes of one answer of a guest agent. Those that we ask for have fifty; the guest writes them.
inline constexpr std::size_t agent_message_bytes_max = std::size_t{64} * 1024;
/// Between two attempts while other clients use the agent's socket and its queue is full.
inline constexpr std::chrono::milliseconds agent_queue_pause{20};
/// File systems that a guest agent may say it has frozen: more than any guest mounts.
inline constexpr std::int64_t agent_file_systems_max = 1'000'000;

/// Bytes of an unexpected answer quoted in an error.
inline constexpr std::size_t quote_bytes_max = 80;

}  // namespace qmp
