// Runs each fuzz target once on every input under tests/fuzz/corpus. A target aborts when its
// invariant is broken. The fuzzers themselves are built with -DSIDECAR_FUZZ=ON.
#include <catch2/catch.hpp>
#include <cstdint>
#include <string>

#include "tests/support/lab.hpp"

#define FUZZ_TARGETS(X) \
    X(caught)           \
    X(conntrack)        \
    X(dns)              \
    X(domain_xml)       \
    X(frame)            \
    X(journal)          \
    X(mobile_ipv6)      \
    X(peer)             \
    X(probe)            \
    X(qmp_command_line) \
    X(qmp_wire)         \
    X(registry)         \
    X(tunnel)

#define DECLARE(name) extern "C" int fuzz_##name(std::uint8_t const* data, std::size_t size);
FUZZ_TARGETS(DECLARE)

namespace {

struct Target {
    char const* name;
    int (*run)(std::uint8_t const*, std::size_t);
};

#define ENTRY(name) Target{#name, fuzz_##name},
constexpr Target targets[] = {FUZZ_TARGETS(ENTRY)};

}  // namespace

TEST_CASE("fuzz: each input of the corpus is accepted or refused") {
    for (auto const& target : targets) {
        auto const directory =
            lab::fs::path(LAB_SOURCE_DIRECTORY) / "tests/fuzz/corpus" / target.name;
        int inputs = 0;
        for (auto const& entry : lab::fs::directory_iterator(directory)) {
            INFO(entry.path().string());
            auto const input = lab::read_file(entry.path());
            (void)target.run(reinterpret_cast<std::uint8_t const*>(input.data()), input.size());
            ++inputs;
        }
        INFO(target.name);
        CHECK(inputs > 0);
    }
}
