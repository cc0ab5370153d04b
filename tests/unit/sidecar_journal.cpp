// The journal: the last complete record is the one that is read, however the write after it failed.
#include <catch2/catch.hpp>

#include <zlib.h>

#include <algorithm>
#include <filesystem>
#include <fstream>

#include "sidecar/host/journal.hpp"
#include "sidecar/host/mac_moves.hpp"

namespace sidecar_journal_cases {

using sidecar::DestinationEntry;
using sidecar::Journal;
using sidecar::JournalEntry;
using sidecar::SlotState;
using sidecar::SourceEntry;
using Source = SourceEntry::Record;

namespace {

constexpr auto slot_bytes = sidecar::journal_slot_bytes;

struct Directory {
    std::filesystem::path path;
    Directory() {
        std::string pattern = std::filesystem::temp_directory_path() / "journal-XXXXXX";
        path = mkdtemp(pattern.data());
    }
    ~Directory() { std::filesystem::remove_all(path); }
    [[nodiscard]] std::string guest() const { return path / "guest"; }
    [[nodiscard]] std::filesystem::path file() const { return path / "guest" / "journal"; }
    [[nodiscard]] std::string bytes() const {
        std::ifstream in(file(), std::ios::binary);
        return {std::istreambuf_iterator<char>(in), {}};
    }
    void write(std::string const& bytes) const {
        std::filesystem::create_directories(guest());
        std::ofstream(file(), std::ios::binary | std::ios::trunc) << bytes;
    }
};

Journal open(Directory const& directory) {
    auto journal = Journal::open(directory.guest());
    if (!journal) FAIL(journal.error().sentence());
    return std::move(*journal);
}

JournalEntry source(Source record, std::string peer = "host:1") {
    return {"e1", SourceEntry{record, SourceEntry::Outcome::none, std::move(peer)}};
}

/// A journal of two records: `begun` is in the second slot, `committed` in the first.
std::string two_records() {
    Directory directory;
    auto journal = open(directory);
    REQUIRE(journal.record(source(Source::begun)));
    REQUIRE(journal.record(source(Source::committed)));
    return directory.bytes();
}

core::Result<sidecar::JournalSlot> read(std::string_view bytes) {
    auto const slot = [&](std::size_t at) {
        return sidecar::decode(at > bytes.size() ? "" : bytes.substr(at, slot_bytes));
    };
    return sidecar::newest(slot(0), slot(slot_bytes), "journal");
}

Source record_of(std::string_view bytes) {
    auto const found = read(bytes);
    REQUIRE(found);
    REQUIRE(found->entry.source() != nullptr);
    return found->entry.source()->record;
}

}  // namespace

TEST_CASE("journal: the last entry is found again by the next sidecar") {
    Directory directory;
    {
        auto journal = open(directory);
        CHECK(journal.last().migration_id.empty());
        REQUIRE(journal.record(source(Source::begun)));
        REQUIRE(journal.record(source(Source::committed)));
    }
    auto journal = open(directory);
    CHECK(journal.last() == source(Source::committed));
    auto const peeked = Journal::peek(directory.guest());
    REQUIRE(peeked);
    CHECK(*peeked == source(Source::committed));
}

TEST_CASE("journal: every bit that flips in one slot leaves the record of the other") {
    auto const whole = two_records();
    for (std::size_t bit = 0; bit < slot_bytes * 8; ++bit) {
        auto changed = whole;
        changed[bit / 8] = static_cast<char>(changed[bit / 8] ^ (1 << bit % 8));
        INFO("bit " << bit << " of the first slot");
        REQUIRE(sidecar::decode(changed.substr(0, slot_bytes)).state == SlotState::damaged);
        REQUIRE(record_of(changed) == Source::begun);
        std::rotate(changed.begin(), changed.begin() + slot_bytes, changed.end());
        REQUIRE(record_of(changed) == Source::begun);
    }
}

TEST_CASE("journal: a write torn at any byte leaves the record before it") {
    auto const whole = two_records();
    std::string const before(slot_bytes, '\0');  // the previous contents of the first slot
    for (std::size_t torn = 1; torn < slot_bytes; ++torn) {
        auto const bytes = whole.substr(0, torn) + before.substr(torn) + whole.substr(slot_bytes);
        auto const text_end = whole.find('\n') + 1;
        INFO("torn at " << torn);
        REQUIRE(record_of(bytes) == (torn < text_end ? Source::begun : Source::committed));
        REQUIRE(record_of(whole.substr(0, slot_bytes + torn)) == Source::committed);
    }
    INFO("the first record of all: it goes into the second slot");
    auto const found = read(before + whole.substr(slot_bytes, 40) + std::string(100, '\0'));
    REQUIRE(found);
    CHECK(found->sequence == 0);
}

TEST_CASE("journal: when both slots are damaged it is refused, and never read as empty") {
    auto whole = two_records();
    whole[40] = '\x7f';
    whole[slot_bytes + 40] = '\x7f';
    auto const second_empty = whole.substr(0, slot_bytes) + std::string(slot_bytes, '\0');
    for (auto const& bytes : {whole, second_empty, whole.substr(0, 100)}) {
        Directory directory;
        directory.write(bytes);
        auto const opened = Journal::open(directory.guest());
        REQUIRE_FALSE(opened);
        CHECK(opened.error().code == core::Errc::refused);
        CHECK(opened.error().what.find(directory.file().string() + " is damaged") !=
              std::string::npos);
        CHECK_FALSE(Journal::peek(directory.guest()));
    }
    INFO("one that was allocated and not written yet is empty");
    Directory directory;
    directory.write(std::string(2 * slot_bytes, '\0'));
    CHECK(open(directory).last() == JournalEntry{});
}

TEST_CASE("journal: a record of a later version is refused, whatever the other slot says") {
    auto const body = std::string(R"({"sequence":9,"migration_id":"e9","role":"source",)"
                                  R"("record":"paused","outcome":"","peer":"","moves":[]})");
    auto const crc = crc32_z(0, reinterpret_cast<Bytef const*>(body.data()), body.size());
    auto slot = fmt::format("{:08x} {}\n", crc, body);
    slot.resize(slot_bytes, '\0');
    CHECK(sidecar::decode(slot).state == SlotState::unknown);
    auto const found = read(two_records().substr(0, slot_bytes) + slot);
    REQUIRE_FALSE(found);
    CHECK(found.error().code == core::Errc::refused);
}

TEST_CASE("journal: what is open, for each record") {
    using Destination = DestinationEntry::Record;
    auto const open = [](JournalEntry const& entry) {
        return std::pair{entry.source_unfinished(), entry.must_be_ended_first()};
    };
    auto const destination = [](Destination record) {
        return JournalEntry{"e1", DestinationEntry{record}};
    };
    CHECK(open({}) == std::pair{false, false});
    CHECK(open(source(Source::begun)) == std::pair{true, false});
    CHECK(open(source(Source::committed)) == std::pair{true, true});
    CHECK(open(source(Source::rolled_back)) == std::pair{true, true});
    CHECK(open(source(Source::ended)) == std::pair{false, false});
    CHECK(open(destination(Destination::owner)) == std::pair{false, true});
    CHECK(open(destination(Destination::aborted)) == std::pair{false, true});
    CHECK(open(destination(Destination::ended_owner)) == std::pair{false, false});
    CHECK(open(destination(Destination::ended_aborted)) == std::pair{false, false});
    CHECK(open({"e1", sidecar::FailedOverEntry{}}) == std::pair{false, false});
}

TEST_CASE("journal: every entry is read as it was written") {
    std::vector<JournalEntry> entries{{}, {"e1", sidecar::FailedOverEntry{}}};
    for (auto const record :
         {Source::begun, Source::committed, Source::rolled_back, Source::ended}) {
        using enum SourceEntry::Outcome;
        for (auto const outcome : {none, moved, failed, refused, cancelled, in_doubt}) {
            entries.push_back({"e1", SourceEntry{record, outcome, "[fd00::1]:4790"}, {1, 2}});
        }
    }
    using enum DestinationEntry::Record;
    for (auto const record : {owner, aborted, ended_owner, ended_aborted}) {
        entries.push_back({"e1", DestinationEntry{record}, {3}});
    }
    for (auto const& entry : entries) {
        auto const text = sidecar::encode({7, entry});
        REQUIRE(text);
        auto const decoded = sidecar::decode(*text);
        REQUIRE(decoded.state == SlotState::intact);
        CHECK(decoded.slot->sequence == 7);
        CHECK(decoded.slot->entry == entry);
    }
    CHECK_FALSE(sidecar::encode({1, source(Source::begun, std::string(slot_bytes, 'x'))}));
}

TEST_CASE("journal: one sidecar per guest") {
    Directory directory;
    auto const first = open(directory);
    auto const second = Journal::open(directory.guest());
    REQUIRE_FALSE(second);
    CHECK(second.error().code == core::Errc::refused);
    CHECK(second.error().what.find("another sidecar") != std::string::npos);
}

TEST_CASE("journal: a full disk is found when it is opened, with a sentence") {
    auto const journal = Journal::open("/dev/full/guest");
    REQUIRE_FALSE(journal);
    CHECK(journal.error().what.find("/dev/full") != std::string::npos);
}

TEST_CASE("journal: when the guest moved is carried from record to record") {
    Directory directory;
    std::int64_t const now = 1'800'000'000'000;
    {
        auto journal = open(directory);
        journal.note_move(now);
        REQUIRE(journal.record(source(Source::committed)));
        REQUIRE(journal.record(
            {"e1", SourceEntry{Source::ended, SourceEntry::Outcome::moved, "host:1"}}));
    }
    {
        auto journal = open(directory);
        CHECK(journal.last().moves == std::vector{now});
        journal.note_move(now + 90'000);
        REQUIRE(journal.record({"e2", DestinationEntry{DestinationEntry::Record::owner}}));
    }
    auto journal = open(directory);
    CHECK(journal.last().moves == std::vector{now, now + 90'000});
    journal.note_move(now + 180'000);
    CHECK(journal.last().moves == std::vector{now + 90'000, now + 180'000});
}

TEST_CASE("a sixth move within 180 s is one too many for an EVPN fabric") {
    using sidecar::why_too_soon;
    std::int64_t const now = 1'800'000'000'000;
    std::vector<std::int64_t> moves;
    for (int number = 0; number < 5; ++number) {
        CHECK(why_too_soon(moves, now).empty());
        moves.push_back(now - 100'000 + number * 1000);
    }
    CHECK(why_too_soon(moves, now).find("moved 5 times within 180 s") != std::string::npos);
    CHECK(why_too_soon(moves, now).find("wait 81 s") != std::string::npos);
    CHECK_FALSE(why_too_soon(moves, now + 79'999).empty());
    CHECK(why_too_soon(moves, now + 80'000).empty());
    CHECK(why_too_soon(moves, now - 200'000).empty());  // the clock was set back
    // Only as many as can matter are kept: a record has one block.
    for (int number = 0; number < 100; ++number) moves.push_back(now);
    sidecar::forget_old_moves(moves, now);
    CHECK(moves.size() == 5);
}

}  // namespace sidecar_journal_cases
