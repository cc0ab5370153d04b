// Types shared by the two migration machines: how an action ends, where the guest is,
// and the outcome.
//
// Used by source.hpp, destination.hpp, the driver and the simulation. The machines are pure: they
// see no clock, no descriptor, no coroutine, and this folder includes only the standard library.
#pragma once

#include <compare>
#include <cstdint>
#include <string_view>
#include <vector>

namespace sidecar::machine {

/// How an action ended. Every action a machine asks for ends in exactly one of these.
enum class ActionResult : std::uint8_t {
    ok,      ///< It happened. For a record: it is durable.
    failed,  ///< It certainly did not happen. For a record: the old record certainly stands.
    unknown, ///< The answer was lost or timed out: it may or may not have happened.
    acked,   ///< send_commit only: the destination has recorded OWNER.
    aborted, ///< send_commit only: the destination has recorded ABORTED, durably.
    /// copy_disks only: the destination was unreachable for the link timeout; the copy is kept.
    link_lost,
};

/// The outcome of a migration, as the journal records it and the exit status reports it.
enum class Outcome : std::uint8_t {
    none,  ///< Still under way, or never begun.
    moved,  ///< The guest belongs to the destination.
    failed,  ///< The guest belongs to the source. It may have crashed there: see Guest.
    refused,  ///< A check failed; nothing was changed.
    cancelled,  ///< The operator cancelled; the guest belongs to the source.
    /// COMMIT is recorded but not answered: the guest stays paused until it is answered.
    in_doubt,
    suspended,  ///< The copy waits for `migrate --resume`; the guest runs on the source.
};

/// Where the guest is, as far as the source knows.
enum class Guest : std::uint8_t {
    source,  ///< It runs, or is about to be resumed, on the source.
    destination,  ///< The destination owns it.
    unknown,  ///< COMMIT was recorded and there is no answer yet.
    /// Its QEMU went away while the source owned it; the source's disk is the valid one.
    crashed_source,
    stopped_source,  ///< Stopped on the source, but not by sidecar: sidecar does not resume it.
    silent_source,  ///< On the source, whose QEMU does not answer: it may be paused.
};

/// One end of a migration.
enum class Side : std::uint8_t { source, destination };

/// The exit statuses of every command.
enum ExitStatus : int {
    exit_moved = 0,  ///< Other commands: done.
    exit_failed = 1,  ///< migrate: the guest runs on the source.
    exit_usage = 2,
    exit_refused = 3,  ///< A check failed; nothing was changed.
    exit_in_doubt = 4,  ///< The guest is paused.
    exit_cancelled = 5,  ///< The guest runs on the source.
    /// The copy is suspended until the link is back; the guest runs on the source.
    exit_suspended = 6,
    /// A second SIGINT ended the command; the sidecar continues. 128 + SIGINT, as in a shell.
    exit_interrupted = 130,
};

/// The exit status of `sidecar migrate` for `outcome`. `none` counts as failed: a migration that
/// never ended has not moved the guest.
[[nodiscard]] ExitStatus exit_status(Outcome outcome);

[[nodiscard]] std::string_view name(ActionResult result);
[[nodiscard]] std::string_view name(Outcome outcome);
[[nodiscard]] std::string_view name(Guest guest);
[[nodiscard]] std::string_view name(Side side);

/// A set of enumerators below 32, comparable and hashable through `bits()`.
template <typename Enumeration>
class EnumSet {
public:
    constexpr EnumSet() = default;

    [[nodiscard]] constexpr bool contains(Enumeration value) const {
        return (bits_ & mask(value)) != 0;
    }
    constexpr void insert(Enumeration value) { bits_ |= mask(value); }
    constexpr void erase(Enumeration value) { bits_ &= ~mask(value); }
    [[nodiscard]] constexpr bool empty() const { return bits_ == 0; }
    [[nodiscard]] constexpr std::uint32_t bits() const { return bits_; }

    friend constexpr auto operator<=>(EnumSet const&, EnumSet const&) = default;

private:
    static constexpr std::uint32_t mask(Enumeration value) {
        return std::uint32_t{1} << static_cast<unsigned>(value);
    }
    std::uint32_t bits_ = 0;
};

}  // namespace sidecar::machine
