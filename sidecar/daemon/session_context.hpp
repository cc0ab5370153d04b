// SessionContext: what the parts of a guest's session share. Session owns all of it and makes one
// context; each part keeps a copy. Invariant: the referenced objects outlive the parts.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <stop_token>
#include <string>

#include "core/loop.hpp"
#include "sidecar/guest/guest.hpp"
#include "sidecar/host/journal.hpp"
#include "sidecar/host/settings.hpp"
#include "sidecar/registry/ownership.hpp"

namespace sidecar {

struct SessionContext {
    core::Loop& loop;
    SessionSettings const& options;
    Paths const& paths;
    std::string const& name;  ///< Of the guest.
    std::optional<Journal>& journal;  ///< Open before any part is used.
    std::unique_ptr<Guest> const& guest;  ///< Null: the guest does not run here, or not yet.
    std::stop_source const& stop;  ///< The session ends: stops the tasks of the parts.
    registry::Ownership& ownership;  ///< Who owns the guest.
    std::function<void(std::string why)> leave;  ///< Ends the session soon.
};

}  // namespace sidecar
