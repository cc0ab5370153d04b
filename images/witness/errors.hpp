// Everything that the witness found wrong, by kind. All parts report here; serial and control read.
// Invariant: a count never decreases, and the text of the first error is kept.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <mutex>
#include <string>

namespace witness {

enum class Kind {
    setup,  // a module, disk or address asked for on the kernel command line could not be used
    ram_changed,  // a page's content is not what its own header says
    ram_stale,  // a whole page, but not the generation that was written last
    disk_lost,  // the block holds what it held before the last write
    disk_stale,  // the block holds an older version than that
    disk_torn,  // parts of two versions
    disk_corrupt,  // not any version
    disk_misplaced,  // a whole block of another place or disk
    disk_future,  // a version this guest has not written: another copy of it ran
    disk_io,  // the read or write itself failed
    count_,
};

/// The kind's name in reports.
const char* name_of(Kind kind);

class Errors {
public:
    void add(Kind kind, std::string what);
    std::uint64_t total() const { return total_; }
    std::uint64_t of(Kind kind) const { return counts_[static_cast<std::size_t>(kind)]; }
    std::string first() const;
    std::string last() const;

private:
    std::array<std::atomic<std::uint64_t>, static_cast<std::size_t>(Kind::count_)> counts_{};
    std::atomic<std::uint64_t> total_ = 0;
    mutable std::mutex mutex_;
    std::string first_;
    std::string last_;
};

/// The one collection of this program.
Errors& errors();

}  // namespace witness
