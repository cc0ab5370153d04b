// Journal: the one durable word about a guest's migrations on this host, and the lock that makes
// one sidecar per guest. Two preallocated slots of one block are written in turn, each synced, so
// that a torn write leaves the record before it, and recording costs one write to the disk.
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

    /// Opens or creates `directory`/journal and locks it. Fails with refused when another sidecar
    /// has it, and when it is damaged, so that what it says is not certain.
    static core::Result<Journal> open(std::string const& directory);

    [[nodiscard]] Entry const& last() const { return last_; }
    /// Durable when it returns ok. After an error may_be_recorded() says whether the old record
    /// certainly stands.
    core::Result<> record(Entry entry);
    /// After an error of record(): the kernel has taken the record, or a part of it, and its sync
    /// failed. It may be on the disk. False: the write itself failed, and nothing was written.
    [[nodiscard]] bool may_be_recorded() const { return may_be_recorded_; }

    /// The guest's MAC addresses have just moved, or moved back, in the eyes of the network; in
    /// milliseconds since 1970. Durable with the next record.
    void note_move(std::int64_t at_ms);

    /// What the journal says without locking it: for `sidecar status` and the watchdog.
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
