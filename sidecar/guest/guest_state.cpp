#include "sidecar/guest/guest_state.hpp"

#include <array>
#include <utility>

namespace sidecar {

using core::Errc;
using core::fail;
using core::Result;

namespace {

constexpr std::pair<GuestState, std::string_view> guest_states[] = {
    {GuestState::running, "running"},
    {GuestState::prelaunch, "prelaunch"},
    {GuestState::paused, "paused"},
    {GuestState::io_error, "io-error"},
    {GuestState::guest_panicked, "guest-panicked"},
    {GuestState::watchdog, "watchdog"},
    {GuestState::shutdown, "shutdown"},
};

/// What to do about a run state that does not exist at the destination, or that QEMU does not leave
/// by a migration.
constexpr std::pair<std::string_view, std::string_view> remedies[] = {
    {"postmigrate",
     "an earlier migration has stopped it, and QEMU migrates it again only after `cont`: continue "
     "it, and stop it again if it is to stay stopped"},
    {"suspended", "it sleeps, and a migration would wake it: wake it first (system_wakeup)"},
    {"internal-error", "its processor cannot go on: reset it first (system_reset)"},
    {"debug", "a debugger has stopped it: continue it there first"},
    {"finish-migrate", "a migration of it is ending: wait for it"},
};

}  // namespace

std::string_view name(GuestState state) {
    for (auto const& [known, text] : guest_states) {
        if (known == state) return text;
    }
    std::unreachable();
}

std::optional<GuestState> guest_state(std::string_view qemu_name) {
    for (auto const& [state, text] : guest_states) {
        if (text == qemu_name) return state;
    }
    return {};
}

Result<GuestState> movable_state(std::string_view qemu_name) {
    if (auto const state = guest_state(qemu_name)) return *state;
    std::string_view remedy = "continue it first";
    for (auto const& [state, text] : remedies) {
        if (state == qemu_name) remedy = text;
    }
    return fail(Errc::refused, "the guest cannot be moved while QEMU says {}: {}", qemu_name,
                remedy);
}

}  // namespace sidecar
