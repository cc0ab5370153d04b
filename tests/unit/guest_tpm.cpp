// A guest with a TPM: what a source may say of it, and what the destination makes of its line.
#include <catch2/catch.hpp>

#include "sidecar/guest/description.hpp"
#include "sidecar/guest/destination_line.hpp"

namespace guest_tpm_cases {

using namespace sidecar;
using core::Json;

namespace {

Description described() {
    Description guest;
    guest.guest = "web1";
    guest.migration_id = "0123456789abcdef";
    guest.argv = {"qemu-system-x86_64", "-chardev", "socket,id=c,path=/run/swtpm.sock", "-tpmdev",
                  "emulator,id=t,chardev=c"};
    guest.working_directory = "/";
    guest.machine_type = "pc-q35-7.2";
    return guest;
}

}  // namespace

TEST_CASE("a description has the version of the TPM, and nothing else as one",
          "[description][tpm]") {
    CHECK_FALSE(Description::from_json(described().to_json())->tpm);
    auto with_tpm = described();
    with_tpm.tpm = Tpm{qmp::TpmVersion::tpm_1_2, "/var/lib/swtpm"};
    auto const made = Description::from_json(with_tpm.to_json());
    REQUIRE(made);
    REQUIRE(made->tpm);
    CHECK(made->tpm->version == qmp::TpmVersion::tpm_1_2);
    CHECK(made->tpm->state == "/var/lib/swtpm");
    for (auto const& [version, state] :
         {std::pair("3", ""), std::pair("", ""), std::pair("2.0", "swtpm")}) {
        INFO(version << " " << state);
        auto const bad = Json::object({{"version", version}, {"state", state}});
        CHECK_FALSE(Description::from_json(described().to_json().set("tpm", bad)));
    }
}

TEST_CASE("a TPM runs here only if the source describes it, and its line has it", "[tpm]") {
    Description guest;
    guest.argv = {"qemu-system-x86_64", "-chardev", "socket,id=c,path=/run/swtpm.sock", "-tpmdev",
                  "emulator,id=t,chardev=c"};
    guest.working_directory = "/";
    guest.machine_type = "pc-q35-7.2";
    auto const of_older_release = map_command_line({}, guest, {});
    REQUIRE_FALSE(of_older_release);
    CHECK(of_older_release.error().sentence().find("too old to move it") != std::string::npos);
    guest.tpm = Tpm{};
    auto const allowed = map_command_line({}, guest, {{"n0", {4, 5}}, {"n1", {6}}});
    CHECK_FALSE(allowed);  // it has no such taps
    auto const alone = map_command_line({}, guest, {});
    if (!alone) FAIL(alone.error().sentence());
    CHECK(alone->line.options()[0].value == "socket,id=c,fd=4");
    CHECK(tpm_descriptor({{"n0", {4, 5}}, {"n1", {6}}}, 0) == 7);
    guest.argv.resize(1);
    auto const without = map_command_line({}, guest, {});
    REQUIRE_FALSE(without);
    CHECK(without.error().code == core::Errc::protocol);
    // Its number is no descriptor of a guest without a TPM.
    guest.tpm.reset();
    guest.argv.insert(guest.argv.end(), {"-chardev", "socket,id=c,fd=4", "-mon", "chardev=c"});
    auto const dropped = map_command_line({}, guest, {});
    REQUIRE(dropped);
    CHECK(dropped->line.options()[0].kind() != "chardev");
}

}  // namespace guest_tpm_cases
