// Under real KVM, whose kernel has thin volumes: a disk goes from LVM thin to LVM thin and stays
// thin, there and back. device-mapper itself says which chunks of a volume are mapped.
#include "tests/vm/kvm.hpp"

#include <catch2/catch.hpp>

#include <iostream>
#include <regex>
#include <set>

#include "tests/support/loop_device.hpp"
#include "tests/support/routed.hpp"
#include "tests/vm/expect.hpp"

using namespace lab;

namespace {

constexpr std::uint64_t mib_bytes = 1 << 20;
constexpr std::uint64_t volume_mib = 256;
constexpr std::uint64_t written_mib = 48;  ///< From the volume's start...
constexpr std::uint64_t discarded_from_mib = 36;
constexpr std::uint64_t discarded_mib = 8;  ///< ...of which this was discarded again.
/// Single blocks after that, each in a chunk of its own.
constexpr std::uint64_t islands_apart_mib = 16;
constexpr std::uint64_t islands = (volume_mib - written_mib - 1) / islands_apart_mib;
constexpr std::uint64_t chunk_bytes = 64 << 10;  ///< What LVM takes for a pool of this size.

/// A volume group with a thin pool, over a file that both hosts of the lab see as a device.
class ThinPool {
public:
    ThinPool(fs::path const& directory, std::string group)
        : group_(std::move(group)), backing_(directory / (group_ + ".pool")) {
        write_file(backing_, {});
        fs::resize_file(backing_, 512 * mib_bytes);
        loop_.emplace(backing_);
        must_run({"vgcreate", "--quiet", group_, loop_->path()});
        must_run({"lvcreate", "--quiet", "--yes", "--type", "thin-pool", "--size", "400M", "--name",
                  "pool", group_});
    }
    ~ThinPool() { run({"vgremove", "--quiet", "--yes", "--force", "--force", group_}); }
    ThinPool(ThinPool const&) = delete;

    /// A new volume, of which nothing is mapped.
    std::string make(std::string const& name) const {
        must_run({"lvcreate", "--quiet", "--yes", "--virtualsize", fmt::format("{}M", volume_mib),
                  "--thinpool", "pool", "--name", name, group_});
        return path(name);
    }
    [[nodiscard]] std::string path(std::string const& name) const {
        return fmt::format("/dev/{}/{}", group_, name);
    }
    [[nodiscard]] std::string directory() const { return "/dev/" + group_; }
    void deactivate_and_activate(std::string const& name) const {
        for (auto const* how : {"n", "y"})
            must_run({"lvchange", "--quiet", "--activate", how, group_ + "/" + name});
    }
    /// What LVM tells the administrator, in percent of the volume.
    [[nodiscard]] double data_percent(std::string const& name) const {
        return std::stod(field("data_percent", name));
    }
    /// The chunks of the volume that are mapped.
    [[nodiscard]] std::set<std::uint64_t> mapped(std::string const& name) const {
        auto const tpool = fmt::format("{}-pool-tpool", group_);
        must_run({"dmsetup", "message", tpool, "0", "reserve_metadata_snap"});
        auto const dump = must_run({"thin_dump", "--metadata-snap", "--dev-id",
                                    std::to_string(std::stoi(field("thin_id", name))),
                                    fmt::format("/dev/mapper/{}-pool_tmeta", group_)});
        must_run({"dmsetup", "message", tpool, "0", "release_metadata_snap"});
        std::set<std::uint64_t> chunks;
        std::regex const mapping(
            R"re(origin_(?:begin|block)="(\d+)" data_(?:begin|block)="\d+"(?: length="(\d+)")?)re");
        for (std::sregex_iterator at(dump.begin(), dump.end(), mapping), end; at != end; ++at) {
            auto const first = std::stoull((*at)[1]);
            auto const count = (*at)[2].matched ? std::stoull((*at)[2]) : 1;
            for (std::uint64_t chunk = first; chunk < first + count; ++chunk) chunks.insert(chunk);
        }
        return chunks;
    }

private:
    [[nodiscard]] std::string field(std::string const& which, std::string const& name) const {
        return must_run({"lvs", "--noheadings", "-o", which, group_ + "/" + name});
    }
    std::string group_;
    fs::path backing_;
    std::optional<LoopDevice> loop_;
};

void write_blocks(std::string const& device, std::uint64_t from, std::uint64_t bytes) {
    write_random(device, from, bytes);
    must_run({"sync", device});
}

/// A disk with a discarded part, and single blocks far from any other.
void write_thin_disk(std::string const& device) {
    write_blocks(device, 0, written_mib * mib_bytes);
    must_run({"blkdiscard", "--offset", std::to_string(discarded_from_mib * mib_bytes), "--length",
              std::to_string(discarded_mib * mib_bytes), device});
    for (std::uint64_t island = 1; island <= islands; ++island)
        write_blocks(device, (written_mib + island * islands_apart_mib) * mib_bytes, 4096);
}

/// Nothing that the source has not mapped is mapped at the destination: a chunk is mapped when it
/// is written to, and the copy writes only blocks that are not zero. Here each chunk of the source
/// has such a block, so the two are the same.
void must_be_as_thin(ThinPool const& there, std::string const& copy, ThinPool const& here,
                     std::string const& original) {
    auto const source = here.mapped(original);
    auto const destination = there.mapped(copy);
    std::cout << "mapped: " << source.size() << " chunks at the source ("
              << here.data_percent(original) << " %), " << destination.size() << " of the copy ("
              << there.data_percent(copy) << " %)" << std::endl;
    auto const chunks = (written_mib - discarded_mib) * mib_bytes / chunk_bytes + islands;
    CHECK(source.size() == chunks);
    CHECK((destination == source));
    CHECK(there.data_percent(copy) == here.data_percent(original));
}

void must_move(Scene& scene, Host const& from, Argv const& more, std::string const& target) {
    auto const moved = scene.migrate(from, more);
    if (moved.exit_status != 0) FAIL(moved.text() << kvm::last_words(scene.net()));
    CHECK(moved.report["disks"].elements()[0]["target"].text_or(target) == target);
    expect::guest_whole(scene, scene.net().other(from));
    std::cout << "moved to " << target << ": downtime " << moved.report["downtime_ms"].number_or(-1)
              << " ms" << std::endl;
}

/// `sidecar run` refuses the disk that a guest left, as does a QEMU while it is read-only.
void must_be_refused(Scene& scene, Host const& host, std::string const& device, bool read_only) {
    auto const started = scene.sidecar(
        host, {"run", "other", "--", scene.guest().qemu(), "-M", "none", "-nodefaults",
               "-nographic", "-drive", "if=none,id=d0,format=raw,file=" + device});
    INFO(started.err);
    CHECK(started.exit_status == 3);
    CHECK(started.err.find("is the stale disk of web1") != std::string::npos);
    if (!read_only) return;
    // By itself QEMU would open a drive that it may only read: a device wants to write to it.
    auto const plain =
        run({scene.guest().qemu(), "-M", "q35", "-S", "-nodefaults", "-nographic", "-drive",
             "if=none,id=d0,format=raw,file=" + device, "-device", "virtio-blk-pci,drive=d0"});
    INFO(plain.err);
    CHECK(plain.exit_status == 1);
    CHECK(plain.err.find("not writable") != std::string::npos);
}

}  // namespace

TEST_CASE("kvm: a disk on a thin volume stays thin, there and back", "[.][kvm]") {
    std::optional<ThinPool> here;
    std::optional<ThinPool> there;
    auto options = kvm::guest();
    options.disk_mib = volume_mib;
    options.rate = 20;
    options.read_rate = 10;
    options.device = "/dev/thina/web1";
    Scene scene({.guest = options, .furnish = [&](Lab const& lab) {
                     here.emplace(lab.directory(), "thina");
                     there.emplace(lab.directory(), "thinb");
                     write_thin_disk(here->make("web1"));
                     // Of another guest: it must not show, and must not stay mapped.
                     write_blocks(there->make("web1"), 30 * mib_bytes, 100 * mib_bytes);
                 }});
    auto const serve = [&](Host const& host, ThinPool const& own, ThinPool const& other,
                           Argv more = {}) {
        more.insert(more.end(), {"--allow-path", own.directory(), "--map-path",
                                 other.directory() + "=" + own.directory()});
        scene.start_serve(host, {}, more);
    };
    serve(scene.a(), *here, *there);
    serve(scene.b(), *there, *here);
    std::cout << "the guest runs" << std::endl;

    must_move(scene, scene.a(), {"--disk", "d0=" + there->path("web1")}, there->path("web1"));
    must_be_as_thin(*there, "web1", *here, "web1");
    compare_images(here->path("web1"), "raw", there->path("web1"), options.span_mib * mib_bytes);
    must_be_refused(scene, scene.a(), here->path("web1"), true);

    // Home, to the device that it left.
    must_move(scene, scene.b(), {}, here->path("web1"));
    must_be_as_thin(*here, "web1", *there, "web1");
    must_be_refused(scene, scene.b(), there->path("web1"), true);
    there->deactivate_and_activate("web1");  // device-mapper: it is writable again
    must_be_refused(scene, scene.b(), there->path("web1"), false);

    // To a volume that a program makes.
    auto const program = scene.net().directory() / "disk-command";
    write_file(program, recipe("disk-command-thin", {{"guests", "thinb"}}));
    fs::permissions(program, fs::perms::owner_all);
    serve(scene.b(), *there, *here, {"--disk-command", program});
    must_move(scene, scene.a(), {}, there->path("web1-d0"));
    must_be_as_thin(*there, "web1-d0", *here, "web1");
    compare_images(here->path("web1"), "raw", there->path("web1-d0"), options.span_mib * mib_bytes);
}
