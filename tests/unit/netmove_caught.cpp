// Caught frames as one sidecar sends them to the other: netmove/caught.hpp and core/base64.hpp.
#include <catch2/catch.hpp>

#include "core/base64.hpp"
#include "netmove/caught.hpp"

namespace netmove_caught_cases {

namespace {

using namespace netmove;

CaughtFrame frame_of(std::size_t size, std::uint8_t fill) { return CaughtFrame(size, fill); }

bool refused(Bytes const& bytes) {
    auto const parsed = from_wire(bytes);
    return !parsed && parsed.error().code == core::Errc::protocol;
}

}  // namespace

TEST_CASE("caught frames arrive as they were sent, in order") {
    std::vector<CaughtFrame> const frames = {frame_of(24, 1), frame_of(1524, 2),
                                             frame_of(tap_frame_max, 3)};
    auto const wire = to_wire(frames);
    CHECK(wire.size() == 24 + 1524 + tap_frame_max + 3 * 4);
    CHECK(Bytes(wire.begin(), wire.begin() + 5) == Bytes{0, 0, 0, 24, 1});
    auto const text = core::to_base64(wire);
    auto const bytes = core::from_base64(text);
    REQUIRE(bytes);
    CHECK(*bytes == wire);
    CHECK(from_wire(*bytes).value() == frames);
    CHECK(from_wire({}).value().empty());
    CHECK(core::from_base64(core::to_base64({})).value().empty());
}

TEST_CASE("caught frames: lengths that cannot be are refused") {
    auto const wire = to_wire(std::vector<CaughtFrame>{frame_of(24, 1)});
    for (std::size_t cut = 1; cut < wire.size(); ++cut) {
        CHECK(refused(Bytes(wire.begin(), wire.begin() + static_cast<std::ptrdiff_t>(cut))));
    }
    CHECK(refused(to_wire(std::vector<CaughtFrame>{frame_of(23, 1)})));
    CHECK(refused(to_wire(std::vector<CaughtFrame>{frame_of(tap_frame_max + 1, 1)})));
    CHECK(refused({0xff, 0xff, 0xff, 0xff, 0}));
    for (auto const* text : {"====", "AAA", "A A", "\xff\xff\xff\xff", "AAAA=AAA"}) {
        CHECK_FALSE(core::from_base64(text));
    }
}

TEST_CASE("as many caught frames go into a message as it has room for, at least one") {
    std::vector<CaughtFrame> const frames(5, frame_of(96, 0));
    CHECK(frames_within(frames, 1000) == 5);
    CHECK(frames_within(frames, 500) == 5);
    CHECK(frames_within(frames, 499) == 4);
    CHECK(frames_within(frames, 1) == 1);
    CHECK(frames_within({}, 1000) == 0);
}

}  // namespace netmove_caught_cases
