// The limits that slow a guest down, derived from the user's own limits.
#include <catch2/catch.hpp>

#include "sidecar/migration/throttle.hpp"

namespace sidecar_throttle_cases {

using core::Json;
using sidecar::with_write_limit;

namespace {
constexpr std::uint64_t limit = 1'000'000;
}

TEST_CASE("throttle: a disk without limits gets one for its writes", "[sidecar][throttle]") {
    auto const limits = with_write_limit(Json::object({{"bps", 0}, {"bps_wr", 0}}), limit);
    CHECK(limits["bps_wr"].integer_or(0) == 1'000'000);
    CHECK(limits["bps"].integer_or(-1) == 0);
}

TEST_CASE("throttle: the user's other limits stay", "[sidecar][throttle]") {
    auto const found = Json::object({{"bps", 0},
                                     {"bps_wr", 0},
                                     {"bps_rd", 7},
                                     {"iops", 100},
                                     {"iops_max", 200},
                                     {"group", "g"}});
    auto const limits = with_write_limit(found, limit);
    CHECK(limits["bps_rd"].integer_or(0) == 7);
    CHECK(limits["iops"].integer_or(0) == 100);
    CHECK(limits["iops_max"].integer_or(0) == 200);
    CHECK(limits["group"].text_or("") == "g");
    CHECK(found["bps_wr"].integer_or(-1) == 0);  // the saved limits stay as they were
}

TEST_CASE("throttle: a limit of the user that is lower holds, with its bursts",
          "[sidecar][throttle]") {
    auto const found =
        Json::object({{"bps", 0}, {"bps_wr", 500}, {"bps_wr_max", 900}, {"bps_wr_max_length", 2}});
    auto const limits = with_write_limit(found, limit);
    CHECK(limits["bps_wr"].integer_or(0) == 500);
    CHECK(limits["bps_wr_max"].integer_or(0) == 900);
    CHECK(limits["bps_wr_max_length"].integer_or(0) == 2);
}

TEST_CASE("throttle: a limit of the user that is higher is lowered, without its bursts",
          "[sidecar][throttle]") {
    auto const found = Json::object({{"bps", 0}, {"bps_wr", 5'000'000}, {"bps_wr_max", 9'000'000}});
    auto const limits = with_write_limit(found, limit);
    CHECK(limits["bps_wr"].integer_or(0) == 1'000'000);
    CHECK_FALSE(limits.has("bps_wr_max"));
}

TEST_CASE("throttle: where reads and writes have one limit, that is lowered",
          "[sidecar][throttle]") {
    auto const limits = with_write_limit(
        Json::object({{"bps", 5'000'000}, {"bps_max", 6'000'000}, {"bps_wr", 0}}), limit);
    CHECK(limits["bps"].integer_or(0) == 1'000'000);
    CHECK(limits["bps_wr"].integer_or(-1) == 0);
    CHECK_FALSE(limits.has("bps_max"));
}

}  // namespace sidecar_throttle_cases
