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
using core::Json;
using core::Result;

namespace {

constexpr std::size_t slot_bytes = 4096;  // one block of the file system, and of most disks

std::uint32_t checksum(
    std::string_view text) {  // CRC-32 (IEEE), bit by bit: slots are short and rare
    std::uint32_t crc = ~0U;
    for (char const c : text) {
        crc ^= static_cast<unsigned char>(c);
        for (int bit = 0; bit < 8; ++bit) crc = (crc >> 1) ^ (0xEDB88320U & (0U - (crc & 1U)));
    }
    return ~crc;
}

struct Slot {
    std::uint64_t sequence = 0;
    Journal::Entry entry;
};

// A slot is `<crc as 8 hex digits> <json>\n` and NUL bytes to its end.
std::string encode(Slot const& slot) {
    auto const& entry = slot.entry;
    Json moves = Json::array();
    for (auto const at : entry.moves) moves.add(at);
    auto const body = Json::object({{"sequence", slot.sequence},
                                    {"migration_id", entry.migration_id},
                                    {"role", entry.role},
                                    {"record", entry.record},
                                    {"outcome", entry.outcome},
                                    {"peer", entry.peer},
                                    {"moves", moves}})
                          .dump();
    std::string text = fmt::format("{:08x} {}\n", checksum(body), body);
    text.resize(slot_bytes, '\0');
    return text;
}

bool decode(std::string_view text, Slot& slot) {
    auto const end = text.find('\n');
    if (end == std::string_view::npos || end < 10) return false;
    auto const body = text.substr(9, end - 9);
    if (fmt::format("{:08x}", checksum(body)) != text.substr(0, 8)) return false;
    auto const parsed = Json::parse(body);
    if (!parsed) return false;
    slot.sequence = static_cast<std::uint64_t>((*parsed)["sequence"].integer_or(0));
    slot.entry = {(*parsed)["migration_id"].text_or(""), (*parsed)["role"].text_or(""),
                  (*parsed)["record"].text_or(""), (*parsed)["outcome"].text_or(""),
                  (*parsed)["peer"].text_or("")};
    for (auto const& at : (*parsed)["moves"].elements()) {
        slot.entry.moves.push_back(at.integer_or(0));
    }
    return slot.sequence > 0;
}

Result<Slot> newest(int fd, std::string const& path) {
    Slot best;
    for (std::size_t index = 0; index < 2; ++index) {
        std::array<char, slot_bytes> buffer{};
        auto const got =
            pread(fd, buffer.data(), buffer.size(), static_cast<off_t>(index * slot_bytes));
        if (got < 0) return fail_errno(errno, "cannot read the journal {}", path);
        Slot slot;
        if (decode({buffer.data(), static_cast<std::size_t>(got)}, slot) &&
            slot.sequence > best.sequence) {
            best = slot;
        }
    }
    return best;
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
        file.st_size < static_cast<off_t>(2 * slot_bytes)) {
        // Allocated now, so that a full disk is found here and not when COMMIT is to be recorded.
        int const error = posix_fallocate(journal.file_.get(), 0, 2 * slot_bytes);
        if (error != 0) return fail_errno(error, "cannot allocate the journal {}", journal.path_);
        if (fsync(journal.file_.get()) < 0)
            return fail_errno(errno, "cannot sync {}", journal.path_);
    }
    TRY(auto const slot, newest(journal.file_.get(), journal.path_));
    // What is read may be only in the page cache, after a sync that failed.
    if (slot.sequence > 0) TRY_VOID(journal.write(encode(slot), slot.sequence));
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
    Slot slot{sequence_ + 1, std::move(entry)};
    auto const text = encode(slot);
    if (text.size() != slot_bytes) return fail(Errc::invalid, "the journal entry is too long");
    TRY_VOID(write(text, slot.sequence));
    sequence_ = slot.sequence;
    last_ = std::move(slot.entry);
    return {};
}

// Written and synced apart, so that an error tells which of the two it was. After a sync that
// failed the kernel may take the page for clean: the whole is written again, never only synced.
Result<> Journal::write(std::string const& slot, std::uint64_t sequence) {
    auto const at = static_cast<off_t>((sequence % 2) * slot_bytes);
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
    TRY(auto slot, newest(file.get(), path));
    return slot.entry;
}

}  // namespace sidecar
