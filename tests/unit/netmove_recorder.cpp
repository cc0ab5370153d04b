// Frames that QEMU read and then dropped: netmove/recorder.hpp, over a fifo into which this test
// writes what QEMU's filter-dump would write.
#include <fcntl.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <filesystem>

#include "core/fd.hpp"
#include "netmove/recorder.hpp"

namespace netmove_recorder_cases {

namespace {

using namespace netmove;

/// filter-dump's end: a pcap stream (its global header, then records) with the guest's clock.
class FilterDump {
public:
    FilterDump()
        : directory_(std::filesystem::temp_directory_path() /
                     ("sidecar-recorder-" + std::to_string(::getpid()))),
          recorder_((std::filesystem::create_directory(directory_),
                     ReadRecorder::make((directory_ / "frames.pcap").string()).value())),
          fifo_(::open((directory_ / "frames.pcap").c_str(), O_WRONLY | O_NONBLOCK | O_CLOEXEC)) {
        REQUIRE(fifo_);
        REQUIRE(recorder_.opened());
        put32(0xa1b2c3d4);
        for (int rest = 0; rest < 5; ++rest) put32(0);
    }
    ~FilterDump() { std::filesystem::remove_all(directory_); }
    FilterDump(FilterDump const&) = delete;
    FilterDump& operator=(FilterDump const&) = delete;

    /// QEMU reads the frame `which` when the guest's clock is at `at_us`.
    void reads(int which, std::uint32_t at_us) {
        auto const bytes = frame(which);
        put32(0);
        put32(at_us);
        put32(static_cast<std::uint32_t>(bytes.size()));
        put32(static_cast<std::uint32_t>(bytes.size()));
        REQUIRE(::write(fifo_.get(), bytes.data(), bytes.size()) ==
                static_cast<ssize_t>(bytes.size()));
    }
    static Bytes frame(int which) { return Bytes(60, static_cast<std::uint8_t>(which)); }

    [[nodiscard]] std::vector<int> thrown_away() {
        REQUIRE(recorder_.take_in());
        std::vector<int> out;
        for (auto const& bytes : recorder_.thrown_away()) {
            CHECK(bytes.size() == 60);
            out.push_back(bytes.front());
        }
        return out;
    }
    ReadRecorder& recorder() { return recorder_; }

private:
    void put32(std::uint32_t value) {
        REQUIRE(::write(fifo_.get(), &value, sizeof value) == sizeof value);
    }
    std::filesystem::path directory_;
    ReadRecorder recorder_;
    core::Fd fifo_;
};

}  // namespace

// In all sections frame 1 was delivered to the guest, and the guest's clock stopped at 200.
TEST_CASE("recorder: what QEMU dropped at the stop is known when the guest runs again") {
    FilterDump qemu;
    qemu.reads(1, 100);
    SECTION("thrown away, and the next one kept before anybody was told of the stop") {
        qemu.reads(2, 200);
        qemu.reads(3, 200);
        REQUIRE(qemu.recorder().note_stop());
        CHECK(qemu.thrown_away() == std::vector{2});
    }
    SECTION("the next one kept afterwards") {
        qemu.reads(2, 200);
        REQUIRE(qemu.recorder().note_stop());
        qemu.reads(3, 200);
        CHECK(qemu.thrown_away() == std::vector{2});
    }
    SECTION("nothing was; one was kept") {
        qemu.reads(3, 200);
        REQUIRE(qemu.recorder().note_stop());
        CHECK(qemu.thrown_away().empty());
    }
    SECTION("nothing was; one was kept afterwards") {
        REQUIRE(qemu.recorder().note_stop());
        qemu.reads(3, 200);
        CHECK(qemu.thrown_away().empty());
    }
    SECTION("nothing was read at all") {
        REQUIRE(qemu.recorder().note_stop());
        CHECK(qemu.thrown_away().empty());
    }
    // The guest resumes by itself, and more frames arrive than are kept before they are looked at.
    auto const before = qemu.thrown_away();
    for (int more = 0; more < 2 * static_cast<int>(reads_kept_max); ++more) {
        qemu.reads(9, 300 + static_cast<std::uint32_t>(more));
    }
    CHECK(qemu.thrown_away() == before);
    REQUIRE(qemu.recorder().note_stop());  // reported again: it is the same stop
    CHECK(qemu.thrown_away() == before);
}

TEST_CASE("recorder: what a full receive queue held is the one before those of the stop") {
    FilterDump qemu;
    auto const before = [&]() {
        REQUIRE(qemu.recorder().take_in());
        auto const read = qemu.recorder().before_last();
        return read ? int{read->front()} : 0;
    };
    qemu.reads(1, 100);
    CHECK(before() == 0);  // the guest is not stopped
    qemu.reads(2, 150);  // QEMU holds it, and drops it at the stop
    REQUIRE(qemu.recorder().note_stop());
    qemu.reads(3, 200);
    CHECK(before() == 2);
    qemu.reads(4, 300);  // the guest resumes
    CHECK(before() == 0);
}

TEST_CASE("recorder: what was read first at the stop is known if nothing was read before") {
    FilterDump qemu;
    auto const first = [&]() {
        REQUIRE(qemu.recorder().take_in());
        auto const read = qemu.recorder().first_at_stop();
        return read ? int{read->front()} : 0;
    };
    SECTION("QEMU held a frame that it read before its record began") {
        REQUIRE(qemu.recorder().note_stop());
        CHECK(first() == 0);
        qemu.reads(2, 200);
        CHECK(first() == 2);
        qemu.reads(3, 300);  // the guest resumes
        CHECK(first() == 0);
    }
    SECTION("both were read before the stop was known") {
        qemu.reads(2, 200);
        qemu.reads(3, 200);
        CHECK(first() == 0);
        REQUIRE(qemu.recorder().note_stop());
        CHECK(first() == 2);
    }
    SECTION("something was read before") {
        qemu.reads(1, 100);
        REQUIRE(qemu.recorder().note_stop());
        qemu.reads(2, 200);
        CHECK(first() == 0);
    }
}

TEST_CASE("recorder: a guest that nothing was sent to has lost nothing") {
    FilterDump qemu;
    REQUIRE(qemu.recorder().note_stop());
    CHECK(qemu.thrown_away().empty());
}

}  // namespace netmove_recorder_cases
