// Held: a migration whose source stands still at a moment of the test's choice. Used by the vm
// tests of faults. Invariant: when the constructor returns, the source's sidecar is stopped just
// before the action it was told.
#pragma once

#include <catch2/catch.hpp>

#include "tests/support/scene.hpp"

/// A scene whose source sidecar stands still just before `action`, and the migration it does.
/// Unless `more` says otherwise, its guest may be stopped for longer than a busy test machine
/// needs.
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
