// GuestState: whether a guest runs, and if not, why: QEMU's run states in which a guest can be
// moved. QEMU sends its run state with the device state, so a guest that does not run arrives in
// the run state that it had. Used by the description, the source's driver and the destination's.
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>

#include "core/result.hpp"

namespace sidecar {

enum class GuestState : std::uint8_t {
    running,
    prelaunch,  ///< Never continued since its start with -S, or since its reset.
    paused,  ///< By `stop`.
    io_error,  ///< A disk with werror=stop or rerror=stop failed; `cont` tries again.
    guest_panicked,
    watchdog,  ///< The guest's watchdog device has stopped it (action `pause`).
    shutdown,  ///< The guest has powered off, with -no-shutdown.
};

/// QEMU's name of it: "io-error".
[[nodiscard]] std::string_view name(GuestState state);
/// None: QEMU's RunState `qemu_name` is not one in which a guest can be moved.
[[nodiscard]] std::optional<GuestState> guest_state(std::string_view qemu_name);
/// The same; fails with refused, in a sentence that says what to do.
[[nodiscard]] core::Result<GuestState> movable_state(std::string_view qemu_name);

}  // namespace sidecar
