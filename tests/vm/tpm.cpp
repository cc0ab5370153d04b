// A guest seals a text in its TPM, and unseals it on the other host, and back at home. What its
// platform configuration registers hold moves too.
#include <catch2/catch.hpp>

#include "tests/vm/expect.hpp"

using namespace lab;

namespace {

std::string const sealed_text = "only this TPM can read it";

void unseals(Scene const& scene) {
    auto const found = scene.guest().ask(core::Json::object({{"cmd", "tpm-unseal"}}));
    INFO(found.dump());
    CHECK(found["text"].text_or("") == sealed_text);
    CHECK(found["same_pcr"].boolean_or(false));
}

void seals_and_moves(std::string const& qemu, std::string const& tpm) {
    GuestOptions const guest{.qemu = qemu, .tpm = tpm, .rate = 100};
    Scene scene({.guest = guest});
    (void)scene.guest().ask(core::Json::object({{"cmd", "tpm-seal"}, {"text", sealed_text}}));
    unseals(scene);
    for (auto const* const from : {&scene.a(), &scene.b()}) {
        INFO("from " << from->name);
        auto const moved = scene.migrate(*from);
        INFO(moved.text());
        REQUIRE(moved.exit_status == 0);
        expect::guest_whole(scene, scene.net().other(*from));
        unseals(scene);
    }
}

}  // namespace

TEST_CASE("TPM: a sealed secret is readable after the move: QEMU 7.2, CRB", "[vm][tpm]") {
    seals_and_moves("7.2", "tpm-crb");
}
TEST_CASE("TPM: a sealed secret is readable after the move: QEMU 10.0, TIS", "[vm][tpm]") {
    seals_and_moves("10.0", "tpm-tis");
}
