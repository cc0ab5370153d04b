// The journal: what was recorded last is what is read, whatever happened to the write after it.
#include <catch2/catch.hpp>

#include <fcntl.h>

#include <filesystem>
#include <fstream>

#include "sidecar/host/journal.hpp"
#include "sidecar/host/mac_moves.hpp"

using sidecar::Journal;

namespace {

struct Directory {
    std::filesystem::path path;
    Directory() {
        std::string pattern = std::filesystem::temp_directory_path() / "journal-XXXXXX";
        path = mkdtemp(pattern.data());
    }
    ~Directory() { std::filesystem::remove_all(path); }
    [[nodiscard]] std::string guest() const { return path / "guest"; }
    void damage(std::streamoff at) const {
        std::fstream file(path / "guest" / "journal",
                          std::ios::in | std::ios::out | std::ios::binary);
        file.seekp(at);
        file.put('\x7f');
    }
};

Journal open(Directory const& directory) {
    auto journal = Journal::open(directory.guest());
    REQUIRE(journal);
    return std::move(*journal);
}

}  // namespace

TEST_CASE("journal: the last entry is found again by the next sidecar") {
    Directory directory;
    {
        auto journal = open(directory);
        CHECK(journal.last().migration_id.empty());
        REQUIRE(journal.record({"e1", "source", "begun", "", "host:1"}));
        REQUIRE(journal.record({"e1", "source", "committed", "", "host:1"}));
    }
    auto journal = open(directory);
    CHECK(journal.last().record == "committed");
    CHECK(journal.last().peer == "host:1");
    auto const peeked = Journal::peek(directory.guest());
    REQUIRE(peeked);
    CHECK(peeked->migration_id == "e1");
}

TEST_CASE("journal: a torn write leaves the word before it") {
    Directory directory;
    {
        auto journal = open(directory);
        REQUIRE(journal.record({"e1", "source", "begun", "", ""}));  // sequence 1: second slot
        REQUIRE(journal.record({"e1", "source", "committed", "", ""}));  // sequence 2: first slot
    }
    directory.damage(40);
    CHECK(open(directory).last().record == "begun");
    directory.damage(4096 + 40);
    CHECK(open(directory).last().record.empty());
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
        REQUIRE(journal.record({"e1", "source", "committed", "", "host:1"}));
        REQUIRE(journal.record({"e1", "source", "ended", "moved", "host:1"}));
    }
    {
        auto journal = open(directory);
        CHECK(journal.last().moves == std::vector{now});
        journal.note_move(now + 90'000);
        REQUIRE(journal.record({"e2", "destination", "owner", "", ""}));
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
    // More than ever count are not kept: a record has one block.
    for (int number = 0; number < 100; ++number) moves.push_back(now);
    sidecar::forget_old_moves(moves, now);
    CHECK(moves.size() == 5);
}
