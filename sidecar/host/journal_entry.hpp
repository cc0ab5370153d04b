// JournalEntry: what a journal records of a guest's migration, and its form in a slot of the
// journal's file. Used by Journal, and by all who ask what was recorded. Everything about the
// words on the disk is here; decode() takes any bytes.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "core/result.hpp"

namespace sidecar {

/// Recorded by the source of a migration, in this order; each replaces the one before.
struct SourceEntry {
    enum class Record : std::uint8_t {
        begun,        ///< Something may have been created on either host.
        committed,    ///< COMMIT: the source must not resume the guest by itself.
        rolled_back,  ///< After COMMIT: the destination has recorded ABORTED, or an operator ruled.
        ended,  ///< `outcome` says how.
    };
    enum class Outcome : std::uint8_t { none, moved, failed, refused, cancelled, in_doubt };
    Record record = Record::begun;
    Outcome outcome = Outcome::none;  ///< With `ended`.
    std::string peer = {};  ///< HOST:PORT of the destination.
    friend bool operator==(SourceEntry const&, SourceEntry const&) = default;
};

/// Recorded by the destination of a migration.
struct DestinationEntry {
    enum class Record : std::uint8_t {
        owner,  ///< The guest may run here from now on.
        aborted,  ///< The guest never runs here.
        ended_owner,  ///< Nothing is left to do after OWNER.
        ended_aborted,  ///< Nothing is left to do after ABORTED.
    };
    Record record = Record::aborted;
    friend bool operator==(DestinationEntry const&, DestinationEntry const&) = default;
};

/// Recorded by the host that keeps a replica: `sidecar failover` has started the guest here.
struct FailedOverEntry {
    friend bool operator==(FailedOverEntry const&, FailedOverEntry const&) = default;
};

struct JournalEntry {
    std::string migration_id = {};  ///< Which migration or replication; empty: none was recorded.
    std::variant<std::monostate, SourceEntry, DestinationEntry, FailedOverEntry> what = {};
    std::vector<std::int64_t> moves = {};  ///< See Journal::note_move().

    [[nodiscard]] SourceEntry const* source() const { return std::get_if<SourceEntry>(&what); }
    [[nodiscard]] DestinationEntry const* destination() const {
        return std::get_if<DestinationEntry>(&what);
    }
    [[nodiscard]] bool failed_over() const { return std::holds_alternative<FailedOverEntry>(what); }
    /// The guest moved away from this host in `migration_id`, and did not come back since.
    [[nodiscard]] bool moved_away() const;
    /// A source's migration that a new sidecar of the guest must bring to its end.
    [[nodiscard]] bool source_unfinished() const;
    /// Another migration must not overwrite this record: only its own migration may end it. All
    /// that is not ended, but for `begun`: before COMMIT a source that is gone decides nothing.
    [[nodiscard]] bool must_be_ended_first() const;
    /// For messages: begun, committed, rolled_back, owner, aborted, ended; empty: none.
    [[nodiscard]] std::string_view record_name() const;

    friend bool operator==(JournalEntry const&, JournalEntry const&) = default;
};

/// One block of the file system, and of most disks: what is written at once.
inline constexpr std::size_t journal_slot_bytes = 4096;

struct JournalSlot {
    std::uint64_t sequence = 0;  ///< From 1 on; the newest slot has the highest.
    JournalEntry entry;
};

/// `<CRC-32 of the JSON as 8 hex digits> <JSON>\n`, then NUL bytes. Fails with invalid when the
/// entry does not fit in a slot.
core::Result<std::string> encode(JournalSlot const& slot);

enum class SlotState : std::uint8_t {
    empty,  ///< Only NUL bytes: never written.
    intact,  ///< `slot` is set.
    damaged,  ///< A torn write, or bytes that changed on the disk.
    unknown,  ///< Intact, and this version does not know what it says.
};
struct DecodedSlot {
    SlotState state = SlotState::empty;
    std::optional<JournalSlot> slot = {};
};
DecodedSlot decode(std::string_view bytes);

/// What the two slots say together; `path` is for the message. An entry with sequence 0: nothing
/// was recorded yet. Fails with refused when that is not certain: both are damaged, or one says
/// what this version does not know.
core::Result<JournalSlot> newest(DecodedSlot const& first, DecodedSlot const& second,
                                 std::string const& path);

}  // namespace sidecar
