// Media that were changed go with the guest. What a move would lose is refused by name: a medium
// that the destination does not have, and what an image has besides the guest's data.
#include "tests/process/move_lab.hpp"
#include "tests/support/qmp_probe.hpp"

namespace media_cases {

using namespace move_lab;

namespace {

constexpr std::size_t medium_bytes = 64 * 1024;

/// Outside the hosts' directories, so under the same path on both.
struct Media {
    Media() {
        for (auto const& path : {one, two}) {
            lab::write_file(path, std::string(medium_bytes, 'm'));
        }
    }
    storage_lab::Directory directory;
    std::string one = directory.path("one.iso");
    std::string two = directory.path("two.iso");
    std::string socket = directory.path("qmp");
};

lab::Output check(MoveLab const& lab) {
    return lab.a.migrate(lab.b, {"--network", "anchor", "--check"});
}

}  // namespace

TEST_CASE("media: one that was changed or ejected since the start goes with the guest",
          "[migrate][media]") {
    Media const media;
    MoveLab const lab(
        {"-drive", "if=none,id=cd0,media=cdrom,format=raw,file=" + media.one, "-device",
         "ide-cd,drive=cd0,id=drive0", "-qmp", "unix:" + media.socket + ",server=on,wait=off"},
        {"--allow-path", media.directory.text(), "--map-path",
         media.socket + "=" + media.directory.path("there")});
    auto const must_pass = [&] {
        auto const checked = check(lab);
        INFO(checked.out << checked.err);
        CHECK(checked.exit_status == 0);
    };
    must_pass();

    lab::Qmp qmp(media.socket);
    auto const insert = [&](std::string const& file) {
        qmp.execute("blockdev-change-medium",
                    core::Json::object({{"id", "drive0"}, {"filename", file}, {"format", "raw"}}));
    };
    insert(media.two);
    must_pass();
    qmp.execute("eject", core::Json::object({{"id", "drive0"}, {"force", true}}));
    must_pass();

    auto const only_here = lab.a.directory + "/three.iso";
    lab::write_file(only_here, std::string(medium_bytes, 't'));
    insert(only_here);
    auto const missing = check(lab);
    INFO(missing.out << missing.err);
    CHECK(missing.exit_status == 0);
    CHECK(contains(missing.out, "three.iso is missing at the destination, and is copied"));
}

TEST_CASE("media: an image with internal snapshots or another program's bitmap is refused by name",
          "[migrate][media]") {
    storage_lab::Directory const directory;
    auto const image = directory.path("d1.qcow2");
    auto const img = [&](Argv words) {
        words.insert(words.begin(), "qemu-img");
        words.push_back(image);
        lab::must_run(words);
    };
    auto const refused = [&] {
        MoveLab const lab({"-drive", "if=none,id=d1,format=qcow2,file=" + image, "-device",
                           "virtio-blk-pci,drive=d1"});
        auto const checked = check(lab);
        INFO(checked.out << checked.err);
        CHECK(checked.exit_status == 3);
        return checked.err;
    };
    lab::must_run({"qemu-img", "create", "-q", "-f", "qcow2", image, "1M"});
    img({"snapshot", "-c", "before"});
    CHECK(contains(refused(), "disk d1 has 1 internal snapshots"));
    img({"snapshot", "-d", "before"});
    lab::must_run({"qemu-img", "bitmap", "--add", image, "backup"});
    CHECK(contains(refused(), "the persistent dirty bitmap backup of another program"));
}

}  // namespace media_cases
