// What the tests of qmp/launch_policy.hpp share: a host's policy, and the refusals of a line.
#pragma once

#include <catch2/catch.hpp>

#include "qmp/launch_policy.hpp"

namespace launch_policy_test {

using namespace qmp;
using Words = std::vector<std::string>;

inline constexpr char const* program = "/usr/bin/qemu-system-x86_64";

inline LaunchPolicy policy() {
    LaunchPolicy policy;
    policy.directories = {"/srv/vm", "/run/guests"};
    policy.images = {"/srv/vm/d0.qcow2", "/srv/vm/vars.fd"};
    policy.descriptors = {3, 4, 5};
    return policy;
}

inline CommandLine line_of(Words words) {
    words.insert(words.begin(), program);
    auto line = CommandLine::parse(std::move(words));
    if (!line) FAIL(line.error().sentence());
    return std::move(*line);
}

/// The reasons of all refusals, one a line; empty: it is allowed.
inline std::string reasons(Words const& words, LaunchPolicy const& host = policy()) {
    auto const allowed = allow(line_of(words), host);
    if (allowed) return {};
    std::string text;
    for (auto const& refusal : allowed.error()) text += refusal.sentence() + "\n";
    return text;
}

inline constexpr char const* elsewhere = "is not in a directory that guests may use here";

}  // namespace launch_policy_test
