// Ownership: who owns one guest, as this host knows it and as the registry knows it, and the rule
// of the fencing token. Every change is recorded on this host first (`.registry` in the state
// directory) and then written to the registry of `--registry`, if there is one. Invariant: without
// `--registry` nothing is ever refused here.
//
// The rule: of two entries the one with the higher token is the later. A host writes an entry to
// the registry only over an older one, and starts or moves a guest only if the latest entry that it
// knows names this host, or if the operator has fenced the others.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "core/sync.hpp"
#include "sidecar/host/paths.hpp"
#include "sidecar/registry/file_registry.hpp"

namespace sidecar::registry {

/// What this host does with a guest that it is to own.
struct Claim {
    enum class Kind {
        start,  ///< It starts the guest: refused if the registry cannot be read.
        join,  ///< The guest's QEMU runs here already: a registry that cannot be read is a warning.
    };
    Kind kind = Kind::start;
    bool fenced = false;  ///< The operator says that no other host can run the guest.
    std::vector<std::string> addresses = {};  ///< Of the guest.
    std::string migration_id = {};  ///< `failover`: of the replication.
    std::optional<Entry> source = {};  ///< `failover`: the entry that the source knew.
};

/// A move that has ended: the guest belongs to `to`.
struct Departure {
    Host to;
    std::string migration_id;
    State state = State::here;
    std::vector<std::string> addresses;
};

class Ownership {
public:
    Ownership(core::Loop& loop, Paths const& paths, std::string guest);

    /// Before the guest starts here, or after its QEMU was joined: records that this host owns it.
    /// Fails with refused, and says who has it.
    core::Task<core::Result<>> claim(Claim claim);
    /// Before the guest moves away. Fails with refused if another host has it. Returns a warning if
    /// the registry cannot be read; otherwise an empty text.
    core::Task<core::Result<std::string>> check_departure();
    /// After it has moved away: tries to write the registry for limits::settle_patience. Returns a
    /// warning if that failed.
    core::Task<std::string> departed(Departure departure);
    /// After it has come in. `source`: the entry that the source knew.
    void arrived(std::optional<Entry> const& source, std::string const& migration_id,
                 std::vector<std::string> addresses);
    /// Before an operator decides that the source keeps a guest whose migration is in doubt. Fails
    /// with refused if the registry says that the destination has it.
    core::Task<core::Result<>> check_kept(std::string migration_id);
    /// After that decision.
    void kept(std::string const& migration_id);

    /// Writes the record of this host to the registry, and tries until that has succeeded, another
    /// host has a later entry, or `token` is triggered. Waits while held.
    core::Task<void> keep_published(std::stop_token token);
    /// While a migration runs, keep_published() begins nothing.
    void hold() { released_.reset(); }
    void release() { released_.set(); }

    /// One try. Fails with refused if the registry has a later entry of another host.
    core::Task<core::Result<>> publish(core::Deadline deadline);
    /// The latest entry that this host knows; none: it knows nothing, or the file is damaged.
    [[nodiscard]] std::optional<Entry> known() const;

private:
    core::Task<core::Result<std::optional<Entry>>> read(core::Deadline deadline);
    core::Result<> check_owner(Claim const& claim, std::optional<Entry> const& latest,
                               std::string const& own_id) const;
    core::Result<Entry> next(std::optional<Entry> const& latest, Claim const& claim) const;
    core::Result<> record(Entry const& entry);
    void note(core::Result<> const& recorded) const;

    core::Loop& loop_;
    Paths paths_;
    std::string guest_;
    FileRegistry local_;
    std::string url_;  ///< Empty: none.
    std::unique_ptr<Registry> shared_;  ///< Null: none, or the URL is invalid.
    core::Event released_;
};

/// The latest entry of a guest that this host knows.
std::optional<Entry> local_entry(core::Loop& loop, Paths const& paths, std::string const& guest);

/// At the destination, before anything is touched: may a guest come in whose source knows the
/// entry `source`? Fails with refused if the registry names a third host with a later entry. A
/// registry that cannot be read refuses nothing: the source warns of it.
core::Task<core::Result<>> check_arrival(core::Loop& loop, Paths paths, std::string guest,
                                         std::optional<Entry> source);

}  // namespace sidecar::registry
