// Held: a migration whose source stops at a moment of the test's choice. Used by the vm tests of
// faults. Invariant: when the constructor returns, the source's sidecar is stopped just before the
// given action.
#pragma once

#include <catch2/catch.hpp>

#include "tests/support/scene.hpp"

/// A scene whose source sidecar stops just before `action`, and its migration. Unless `more` says
/// otherwise, its downtime limit is longer than a busy test machine needs.
struct Held {
    explicit Held(std::string const& action, lab::Argv const& more = {"--downtime-limit", "4000"},
                  lab::GuestOptions const& guest = {})
        : scene({.guest = guest, .run_environment = {"SIDECAR_TEST_STOP_AT=" + action}}),
          migration(scene.start_migration(scene.a(), more)) {
        try {
            source = scene.wait_stopped(scene.a());
        } catch (lab::Failure const& failure) {
            FAIL(failure.what() << "; " << migration.err() << migration.out());
        }
    }
    lab::Scene scene;
    lab::Daemon migration;
    pid_t source = -1;
};
