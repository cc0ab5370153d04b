// Journal: the one durable word about a guest's migrations on this host, and the lock that makes
// one sidecar per guest. Two preallocated slots of one block are written in turn, each with one
// synchronous write, so that a torn write leaves the word before it, and recording costs one write
// to the disk.
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
    /// Durable when it returns ok. After a failure the old word stands, or is unknown when
    /// `Errc::io` came from the write itself: the caller must then treat the record as possibly
    /// made and write it again.
    core::Result<> record(Entry entry);

    /// The guest's MAC addresses have just moved, or moved back, in the eyes of the network; in
    /// milliseconds since 1970. Durable with the next record.
    void note_move(std::int64_t at_ms);

    /// What the journal says without locking it: for `sidecar status` and the watchdog.
    static core::Result<Entry> peek(std::string const& directory);

private:
    core::Fd file_;
    std::string path_;
    std::uint64_t sequence_ = 0;
    Entry last_;
};

}  // namespace sidecar
