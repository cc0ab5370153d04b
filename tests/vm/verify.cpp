// `migrate --verify`: identical disks are reported as identical. A byte that another process
// changes at the destination is found before the guest leaves, whether it was copied while the
// guest ran or in the last delta. The guest then stays, whole.
#include <fcntl.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <regex>

#include "core/fd.hpp"
#include "tests/vm/expect.hpp"
#include "tests/vm/held.hpp"

using namespace lab;

namespace {

constexpr std::uint64_t block_bytes = 4096;

void verified(core::Json const& report, GuestOptions const& guest) {
    INFO(report.dump());
    auto const verify = report["verify"];
    auto const bytes = static_cast<std::int64_t>(guest.disk_mib << 20);
    CHECK(verify["identical"].boolean_or(false));
    CHECK(verify["bytes"].integer_or(0) == guest.disks * bytes);
    CHECK(verify["full_ms"].integer_or(-1) > 0);
    CHECK(verify["final_ms"].number_or(-1) >= 0);
    CHECK_FALSE(verify.has("differs"));
    std::string hashes;
    for (auto const& disk : report["disks"].elements()) {
        hashes += (hashes.empty() ? "" : " ") + disk["hash"].text_or("");
    }
    CHECK(verify["hash"].text_or("") == hashes);
    CHECK(hashes.size() == static_cast<std::size_t>(33 * guest.disks - 1));
}

void moves_verified(Scene& scene, Host const& from) {
    Host const& to = scene.net().other(from);
    auto running = scene.start_migration(from, {"--verify"});
    auto const ended = scene.finish_past_hooks(running);
    INFO(ended.text());
    REQUIRE(ended.exit_status == 0);
    expect::report_of_a_move(ended.report, scene.guest().options());
    verified(ended.report, scene.guest().options());
    expect::guest_whole(scene, to);
    expect::nothing_left_after_move(scene, from, to);
}

/// The migration ends with 1 and names the offset, which is returned.
std::uint64_t fails_and_says_where(Held& held) {
    signal_process(held.source, SIGCONT);
    auto const ended = Scene::finish(held.migration);
    INFO(ended.text());
    CHECK(ended.exit_status == 1);
    CHECK_FALSE(ended.report["verify"]["identical"].boolean_or(true));
    auto const said = ended.report["error"].text_or("");
    std::smatch found;
    REQUIRE(
        std::regex_search(said, found,
                          std::regex("^[^;]*disk (\\S+) is not at the destination what was sent "
                                     "there.* at byte (\\d+);")));
    CHECK(found[1] == ended.report["disks"].elements()[0]["name"].text_or(""));
    auto const offset = std::stoull(found[2]);
    CHECK(ended.report["verify"]["differs"]["offset"].integer_or(-1) ==
          static_cast<std::int64_t>(offset));
    return offset;
}

void stays_and_moves_later(Held& held) {
    expect::guest_whole(held.scene, held.scene.a());
    expect::nothing_left_after_failure(held.scene, held.scene.a());
    moves_verified(held.scene, held.scene.a());
}

/// The change to a held migration does not keep it from succeeding.
void ends_verified(Held& held) {
    signal_process(held.source, SIGCONT);
    auto const ended = Scene::finish(held.migration);
    INFO(ended.text());
    REQUIRE(ended.exit_status == 0);
    verified(ended.report, held.scene.guest().options());
    CHECK(ended.report["link_cuts"].integer_or(0) >= 1);
    expect::guest_whole(held.scene, held.scene.b());
    expect::nothing_left_after_move(held.scene, held.scene.a(), held.scene.b());
}

/// Changes one byte of each block in [begin, end).
void change(fs::path const& image, std::uint64_t begin, std::uint64_t end) {
    core::Fd const file(open(image.c_str(), O_RDWR | O_CLOEXEC));
    REQUIRE(file);
    for (std::uint64_t at = begin; at < end; at += block_bytes) {
        char byte = 0;
        REQUIRE(pread(file.get(), &byte, 1, static_cast<off_t>(at)) == 1);
        byte = static_cast<char>(byte ^ 4);
        REQUIRE(pwrite(file.get(), &byte, 1, static_cast<off_t>(at)) == 1);
    }
}

}  // namespace

TEST_CASE("verify: a raw disk moves and is identical", "[vm][verify][move]") {
    auto const version = GENERATE(from_range(qemus("7.2")));
    Scene scene({.guest = {.qemu = version}});
    moves_verified(scene, scene.a());
    moves_verified(scene, scene.b());
}

TEST_CASE("verify: the source's sidecar is killed while it copies, and another continues",
          "[vm][verify][cut]") {
    auto const format = GENERATE(as<std::string>(), "raw", "qcow2");
    Scene scene({.guest = {.format = format, .disk_mib = 64, .random_mib = 60, .rate = 20}});
    auto migration = scene.start_migration(scene.a(), {"--verify", "--bandwidth", "6M"});
    wait_until("the middle of the copy", Scene::migration_limit, [&] {
        auto const noted = core::Json::parse(read_file(scene.a().run_dir / "web1/copying.json"));
        if (!noted || (*noted)["disks"].size() != 1) return false;
        return (*noted)["disks"].elements()[0]["offset"].integer_or(0) > 30 << 20;
    });
    scene.first_sidecar().kill();
    CHECK(Scene::finish(migration).exit_status == 1);
    scene.attach_guest(scene.a());
    auto following = scene.follow_migration(scene.a());
    CHECK(scene.sidecar(scene.a(), {"set", "web1", "bandwidth=0"}).exit_status == 0);
    auto const moved = Scene::finish(following);
    INFO(moved.text() << "; its sidecar: " << scene.first_sidecar().err());
    REQUIRE(moved.exit_status == 0);
    CHECK(moved.report["recovered"].boolean_or(false));
    CHECK(moved.report["disks"].elements().at(0)["resumed_at_bytes"].integer_or(0) > 0);
    verified(moved.report, scene.guest().options());
    expect::guest_whole(scene, scene.b());
    expect::nothing_left_after_move(scene, scene.a(), scene.b());
}

TEST_CASE("verify: three qcow2 disks move and are identical", "[vm][verify]") {
    auto const version = GENERATE(from_range(qemus("10.0")));
    Scene scene({.guest = {.qemu = version, .format = "qcow2", .disks = 3}});
    moves_verified(scene, scene.a());
}

TEST_CASE("verify: the destination's sidecar is killed in the middle of it, and another continues",
          "[vm][verify][fault]") {
    Held held("verify_whole", {"--verify"}, {.format = GENERATE("raw", "qcow2")});
    auto const destination = held.scene.guest_sidecar(held.scene.b());
    REQUIRE(destination);
    kill_process(destination->pid);
    ends_verified(held);
}

TEST_CASE("verify: the link is cut in the middle of it, and it continues", "[vm][verify][cut]") {
    Held held("verify_whole", {"--verify"});
    // -K destroys sockets: both ends get a reset or an abort, as after a router's restart.
    auto const cut = run({"ss", "-t", "-K", "state", "established"}, held.scene.a().place());
    REQUIRE(cut.out.find(':') != std::string::npos);
    ends_verified(held);
}

TEST_CASE("verify: a byte changed at the destination while it is copied is found", "[vm][verify]") {
    Held held("verify_whole", {"--verify"});
    constexpr std::uint64_t offset = 20 << 20;  // random bytes that the guest never writes
    change(held.scene.guest().image(held.scene.b(), 0), offset + 77, offset + 78);
    CHECK(fails_and_says_where(held) == offset);
    stays_and_moves_later(held);
}

TEST_CASE("verify: a byte changed in the last delta is found", "[vm][verify]") {
    GuestOptions const guest{.rate = 500};
    Held held("verify_final", {"--verify", "--downtime-limit", "4000"}, guest);
    // The blocks of the last delta are not known beforehand; all are where the guest writes.
    auto const end = guest.span_mib << 20;
    change(held.scene.guest().image(held.scene.b(), 0), 5, end);
    CHECK(fails_and_says_where(held) < end);
    stays_and_moves_later(held);
}
