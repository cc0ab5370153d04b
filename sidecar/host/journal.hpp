// Journal: the one durable record of a guest's migrations on this host, and the lock that allows
// only one sidecar per guest. Two preallocated slots of one block are written alternately, and
// each write is synced. A torn write therefore leaves the previous record, and a record costs
// one disk write.
#pragma once

#include <cstdint>
#include <string>

#include "core/fd.hpp"
#include "core/result.hpp"
#include "sidecar/host/journal_entry.hpp"

namespace sidecar {

class Journal {
public:
    using Entry = JournalEntry;

    /// Opens or creates `directory`/journal and locks it. Fails with refused if another sidecar
    /// holds the lock, or if the journal is damaged so that its content is uncertain.
    static core::Result<Journal> open(std::string const& directory);

    [[nodiscard]] Entry const& last() const { return last_; }
    /// Durable if it returns ok. After an error may_be_recorded() says whether the old
    /// record certainly remains.
    core::Result<> record(Entry entry);
    /// After an error of record(): true if the kernel accepted the record, or a part of it, and
    /// its sync failed: the record may be on the disk. False: the write itself failed, and
    /// nothing was written.
    [[nodiscard]] bool may_be_recorded() const { return may_be_recorded_; }

    /// The guest's MAC addresses have just moved, or moved back, as the network sees it; in
    /// milliseconds since 1970. Durable with the next record.
    void note_move(std::int64_t at_ms);

    /// The guest comes from a host that knows when it moved before: replaces what is noted here.
    void set_moves(std::vector<std::int64_t> moves) { last_.moves = std::move(moves); }

    /// Reads the journal without locking it: for `sidecar status` and the watchdog.
    static core::Result<Entry> peek(std::string const& directory);

private:
    core::Result<> write(std::string const& slot, std::uint64_t sequence);
    core::Fd file_;
    std::string path_;
    std::uint64_t sequence_ = 0;
    Entry last_;
    bool may_be_recorded_ = false;
};

}  // namespace sidecar
