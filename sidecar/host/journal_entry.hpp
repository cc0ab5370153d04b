// JournalEntry: what a journal records of a guest's migration, and its form in a slot of the
// journal's file. Used by Journal and by all readers of a record. The whole on-disk format is here;
// decode() accepts any bytes.
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
        begun,  ///< Something may have been created on either host.
        committed,  ///< COMMIT: the source must not resume the guest by itself.
        /// After COMMIT: the destination has recorded ABORTED, or an operator decided.
        rolled_back,
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
    /// Id of the migration or replication; empty: none was recorded.
    std::string migration_id = {};
    std::variant<std::monostate, SourceEntry, DestinationEntry, FailedOverEntry> what = {};
    std::vector<std::int64_t> moves = {};  ///< See Journal::note_move().

    [[nodiscard]] SourceEntry const* source() const { return std::get_if<SourceEntry>(&what); }
    [[nodiscard]] DestinationEntry const* destination() const {
        return std::get_if<DestinationEntry>(&what);
    }
    [[nodiscard]] bool failed_over() const { return std::holds_alternative<FailedOverEntry>(what); }
    /// The guest moved away from this host in `migration_id`, and has not come back since.
    [[nodiscard]] bool moved_away() const;
    /// A migration of this source that a new sidecar of the guest must finish.
    [[nodiscard]] bool source_unfinished() const;
    /// Another migration must not overwrite this record: only its own migration may end it.
    /// True for all records that are not ended, except `begun`: before COMMIT, a source that is
    /// gone decides nothing.
    [[nodiscard]] bool must_be_ended_first() const;
    /// For messages: begun, committed, rolled_back, owner, aborted, ended; empty: none.
    [[nodiscard]] std::string_view record_name() const;

    friend bool operator==(JournalEntry const&, JournalEntry const&) = default;
};

/// One block of the file system, and of most disks: the size of one write.
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
    unknown,  ///< Intact, but this version does not know its content.
};
struct DecodedSlot {
    SlotState state = SlotState::empty;
    std::optional<JournalSlot> slot = {};
};
DecodedSlot decode(std::string_view bytes);

/// Combines the two slots; `path` is for the message. An entry with sequence 0: nothing was
/// recorded yet. Fails with refused if the result is uncertain: both slots are damaged, or this
/// version does not know the content of one.
core::Result<JournalSlot> newest(DecodedSlot const& first, DecodedSlot const& second,
                                 std::string const& path);

}  // namespace sidecar
