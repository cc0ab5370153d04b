// `migrate --disk`: the command line, and how it travels.
#include <catch2/catch.hpp>

#include "sidecar/cli/options.hpp"
#include "sidecar/guest/description.hpp"

namespace disk_options_cases {

using namespace sidecar;

namespace {

/// `migrate` with these options, or the status of a usage error.
std::variant<Options, int> migrate_with(std::vector<std::string> const& options) {
    std::vector<std::string> words{"sidecar", "migrate", "--with-storage", "web1", "hostb",
                                   "--key",   "k"};
    words.insert(words.end(), options.begin(), options.end());
    std::vector<char*> pointers;
    for (auto& word : words) pointers.push_back(word.data());
    return parse_options(static_cast<int>(pointers.size()), pointers.data());
}

bool is_refused(std::vector<std::string> const& options) {
    auto const parsed = migrate_with(options);
    auto const* status = std::get_if<int>(&parsed);
    return status != nullptr && *status == 2;
}

}  // namespace

TEST_CASE("options: migrate --disk may be given for each disk", "[device]") {
    auto const parsed = migrate_with({"--disk", "d0=/dev/vg//lv", "--disk", "d1=/srv/vm/a=b.raw"});
    auto const* options = std::get_if<Options>(&parsed);
    REQUIRE(options != nullptr);
    auto const again = MigrateOptions::from_json(options->migrate.to_json());
    REQUIRE(again);
    REQUIRE(again->disks.size() == 2);
    CHECK(again->disks[0].disk == "d0");
    CHECK(again->disks[0].path == "/dev/vg/lv");
    CHECK(again->disks[1].path == "/srv/vm/a=b.raw");
}

TEST_CASE("options: migrate --disk that cannot be meant is a usage error", "[device]") {
    CHECK(is_refused({"--disk", "d0"}));
    CHECK(is_refused({"--disk", "=/srv/x"}));
    CHECK(is_refused({"--disk", "d0="}));
    CHECK(is_refused({"--disk", "d0=srv/x"}));
    CHECK(is_refused({"--disk", "d0=/srv/x", "--disk", "d0=/srv/y"}));
    CHECK(is_refused({"--disk", "d0=/srv/x", "--disk", "d1=/srv/./x"}));
}

TEST_CASE("description: the target of a disk travels, and must be absolute", "[device]") {
    MovedDisk disk;
    disk.name = disk.device = disk.node = "d0";
    disk.path = "/srv/d0";
    disk.format = "raw";
    disk.target = "/dev/vg/lv";
    auto const again = MovedDisk::from_json(disk.to_json());
    REQUIRE(again);
    CHECK(again->target == "/dev/vg/lv");
    auto relative = disk.to_json();
    relative.set("target", "vg/lv");
    CHECK_FALSE(MovedDisk::from_json(relative));
    auto older = disk.to_json();
    older.set("target", core::Json());
    CHECK(MovedDisk::from_json(older)->target.empty());
}

}  // namespace disk_options_cases
