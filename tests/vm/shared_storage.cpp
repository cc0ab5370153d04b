// Disks on storage that both hosts see: they are not copied, and the guest finds in them what it
// wrote at its other host. Host b's directory of images is host a's.
#include <sys/stat.h>

#include <catch2/catch.hpp>
#include <set>

#include "tests/vm/expect.hpp"

using namespace lab;

namespace {

void share_images(Lab const& lab) {
    fs::remove(lab.b().images);
    fs::create_symlink(lab.a().images, lab.b().images);
}

/// The images, with their inodes.
std::set<std::pair<std::string, ino_t>> images_of(Host const& host) {
    std::set<std::pair<std::string, ino_t>> found;
    for (auto const& entry : fs::directory_iterator(host.images)) {
        struct stat file{};
        REQUIRE(stat(entry.path().c_str(), &file) == 0);
        found.emplace(entry.path().filename(), file.st_ino);
    }
    return found;
}

}  // namespace

TEST_CASE("shared storage: disks that both hosts see stay there, there and back",
          "[vm][shared-storage]") {
    auto const qemu = GENERATE(from_range(qemus("7.2")));
    auto const format = GENERATE(from_range(formats("qcow2")));
    INFO("QEMU " << qemu << ", " << format);
    Scene scene({.guest = {.qemu = qemu, .format = format, .disks = 2, .rate = 100},
                 .furnish = share_images});
    // The directory is a link, so it is named itself.
    scene.start_serve(scene.b(), {}, {"--allow-path", scene.b().images});
    auto const images = images_of(scene.a());
    for (auto const* from : {&scene.a(), &scene.b()}) {
        auto const moved = scene.migrate(*from);
        INFO(moved.text());
        REQUIRE(moved.exit_status == 0);
        CHECK(moved.report["disks"].size() == 0);
        CHECK(moved.report["shared_disks"].size() == 2);
        expect::guest_whole(scene, scene.net().other(*from));
        CHECK(images_of(scene.a()) == images);
    }
}
