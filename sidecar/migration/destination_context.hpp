// DestinationContext: what the parts of the destination's driver share. DestinationMigration owns
// all of it and makes one context; each part keeps a copy. Invariant: the referenced objects
// outlive the parts.
#pragma once

#include <memory>
#include <stop_token>
#include <string>

#include "core/loop.hpp"
#include "sidecar/guest/description.hpp"
#include "sidecar/guest/guest.hpp"
#include "sidecar/host/settings.hpp"

namespace sidecar {

struct DestinationContext {
    core::Loop& loop;
    Paths const& paths;
    std::string const& name;  ///< Of the guest.
    std::string const& migration_id;
    ServeOptions const& options;
    Description& description;  ///< Empty until `prepare` is requested.
    std::string& key;  ///< Hex; of the RAM and NBD streams. Empty: plaintext, or after a restart.
    /// Null until `prepare` has started QEMU or a restarted sidecar has joined it, and after
    /// DestinationMigration::take_guest().
    std::unique_ptr<Guest>& guest;
    std::stop_source const& stop;  ///< Stops the tasks of the parts.

    /// The directory of the key of these streams on this host.
    [[nodiscard]] std::string key_directory() const {
        return paths.run(name) + "/keys-" + migration_id;
    }
};

}  // namespace sidecar
