// SourceContext: what the parts of the source's driver share. SourceMigration owns all of it and
// makes one context; each part keeps a copy. Invariant: the referenced objects outlive the parts.
#pragma once

#include <stop_token>
#include <string>
#include <vector>

#include "core/deadline.hpp"
#include "sidecar/channel/peer.hpp"
#include "sidecar/guest/description.hpp"
#include "sidecar/guest/guest.hpp"
#include "sidecar/host/limits.hpp"
#include "sidecar/host/settings.hpp"
#include "sidecar/migration/migration_timeline.hpp"

namespace sidecar {

struct SourceContext {
    Guest& guest;
    MigrateOptions const& options;  ///< `sidecar set` changes some while the migration runs.
    std::string const& migration_id;
    Description& description;  ///< Empty until the check has filled it in.
    PeerChannel& peer;
    MigrationTimeline& timeline;
    std::stop_source const& actions_stop;  ///< The machine's `interrupt` stops and replaces it.
    bool const& qemu_gone;  ///< The process of QEMU on this host has ended.

    /// The deadline of one step of an action: after `limit`, or when the action is interrupted.
    [[nodiscard]] core::Deadline within(core::Clock::duration limit) const {
        return core::Deadline::after(limit, actions_stop.get_token());
    }
    /// The deadline of a step while the guest is stopped: the limit of its downtime.
    [[nodiscard]] core::Deadline within_pause() const {
        auto const end = timeline.stop_at().value_or(core::Clock::now()) + downtime_limit();
        return core::Deadline(end + limits::downtime_step_margin, actions_stop.get_token());
    }
    [[nodiscard]] core::milliseconds downtime_limit() const {
        return core::milliseconds(options.downtime_limit_ms);
    }
    /// Whether the streams to the destination are encrypted.
    [[nodiscard]] bool encrypted() const {
        return options.tls.mode != core::TlsConfig::Mode::plaintext;
    }
    /// The directory of the key of these streams on this host.
    [[nodiscard]] std::string key_directory() const {
        return guest.paths.run(guest.name) + "/keys-" + migration_id;
    }
    /// The images of all disks, at the source, absolute.
    [[nodiscard]] std::vector<std::string> image_paths() const {
        std::vector<std::string> paths;
        for (auto const& disk : description.disks) paths.push_back(disk.path);
        return paths;
    }
};

}  // namespace sidecar
