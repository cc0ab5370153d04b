#include "sidecar/host/journal.hpp"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstring>

#include "sidecar/host/mac_moves.hpp"
#include "sidecar/host/paths.hpp"

namespace sidecar {

using core::Errc;
using core::fail;
using core::fail_errno;
using core::Result;

namespace {

Result<JournalSlot> read_newest(int fd, std::string const& path) {
    std::array<DecodedSlot, 2> slots;
    for (std::size_t index = 0; index < slots.size(); ++index) {
        std::array<char, journal_slot_bytes> buffer{};
        auto const got =
            pread(fd, buffer.data(), buffer.size(), static_cast<off_t>(index * buffer.size()));
        if (got < 0) return fail_errno(errno, "cannot read the journal {}", path);
        slots[index] = decode({buffer.data(), static_cast<std::size_t>(got)});
    }
    return newest(slots[0], slots[1], path);
}

/// A new file is allocated now, so that a full disk is found here and not when COMMIT is recorded.
/// The file and its name are durable before a record is written to it.
Result<> allocate(int fd, std::string const& path, std::string const& directory) {
    int const error = posix_fallocate(fd, 0, 2 * journal_slot_bytes);
    if (error != 0) return fail_errno(error, "cannot allocate the journal {}", path);
    if (fsync(fd) < 0) return fail_errno(errno, "cannot sync {}", path);
    return sync_directory(directory);
}

}  // namespace

Result<Journal> Journal::open(std::string const& directory) {
    TRY_VOID(make_directory(directory));
    Journal journal;
    journal.path_ = directory + "/journal";
    journal.file_.reset(::open(journal.path_.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
    if (!journal.file_) return fail_errno(errno, "cannot open the journal {}", journal.path_);
    if (flock(journal.file_.get(), LOCK_EX | LOCK_NB) < 0) {
        if (errno == EWOULDBLOCK) {
            return fail(Errc::refused, "another sidecar has this guest already (it holds {})",
                        journal.path_);
        }
        return fail_errno(errno, "cannot lock the journal {}", journal.path_);
    }
    struct stat file{};
    if (fstat(journal.file_.get(), &file) == 0 &&
        file.st_size < static_cast<off_t>(2 * journal_slot_bytes)) {
        TRY_VOID(allocate(journal.file_.get(), journal.path_, directory));
    }
    TRY(auto const slot, read_newest(journal.file_.get(), journal.path_));
    // The bytes that are read may be only in the page cache, after a sync that failed.
    if (slot.sequence > 0) {
        TRY(auto const text, encode(slot));
        TRY_VOID(journal.write(text, slot.sequence));
    }
    journal.sequence_ = slot.sequence;
    journal.last_ = slot.entry;
    return journal;
}

void Journal::note_move(std::int64_t at_ms) {
    forget_old_moves(last_.moves, at_ms);
    last_.moves.push_back(at_ms);
}

Result<> Journal::record(Entry entry) {
    entry.moves = last_.moves;
    JournalSlot slot{sequence_ + 1, std::move(entry)};
    TRY(auto const text, encode(slot));
    TRY_VOID(write(text, slot.sequence));
    sequence_ = slot.sequence;
    last_ = std::move(slot.entry);
    return {};
}

// Write and sync are separate, so that an error shows which of the two failed. After a failed sync
// the kernel may consider the page clean: the record is then written again, never only synced.
Result<> Journal::write(std::string const& slot, std::uint64_t sequence) {
    auto const at = static_cast<off_t>((sequence % 2) * journal_slot_bytes);
    auto const written = pwrite(file_.get(), slot.data(), slot.size(), at);
    may_be_recorded_ = written > 0;
    if (written != static_cast<ssize_t>(slot.size())) {
        return fail_errno(written < 0 ? errno : ENOSPC, "cannot write the journal {}", path_);
    }
    if (fdatasync(file_.get()) < 0) return fail_errno(errno, "cannot sync the journal {}", path_);
    may_be_recorded_ = false;
    return {};
}

Result<Journal::Entry> Journal::peek(std::string const& directory) {
    auto const path = directory + "/journal";
    core::Fd file(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
    if (!file && errno == ENOENT) return Entry{};
    if (!file) return fail_errno(errno, "cannot read the journal {}", path);
    TRY(auto slot, read_newest(file.get(), path));
    return slot.entry;
}

}  // namespace sidecar
