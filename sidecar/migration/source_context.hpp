// SourceContext: what the parts of the source's driver share. SourceMigration owns all of it and
// makes one context, of which each part keeps a copy. Invariant: what it refers to outlives the
// parts.
#pragma once

#include <stop_token>
#include <string>

#include "core/deadline.hpp"
#include "sidecar/channel/peer.hpp"
#include "sidecar/guest/description.hpp"
#include "sidecar/guest/guest.hpp"
#include "sidecar/host/settings.hpp"

namespace sidecar {

struct SourceContext {
    Guest& guest;
    MigrateOptions const& options;  ///< `sidecar set` changes some while the migration runs.
    std::string const& migration_id;
    Description& description;  ///< Empty until the check has filled it in.
    PeerChannel& peer;
    std::stop_source const& actions_stop;  ///< The machine's `interrupt` stops and replaces it.

    /// The deadline of one step of an action: `limit` from now, or when the action is interrupted.
    [[nodiscard]] core::Deadline within(core::Clock::duration limit) const {
        return core::Deadline::after(limit, actions_stop.get_token());
    }
};

}  // namespace sidecar
