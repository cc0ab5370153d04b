// The directories of a host: created for our user only, and refused if others could change them.
#include <catch2/catch.hpp>

#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>

#include "sidecar/host/paths.hpp"

namespace sidecar_paths_cases {

namespace fs = std::filesystem;

TEST_CASE("paths: a directory that others may write in, or that is another user's, is refused") {
    std::string pattern = fs::temp_directory_path() / "paths-XXXXXX";
    fs::path const top = mkdtemp(pattern.data());
    auto const path = (top / "state").string();
    REQUIRE(sidecar::make_directory(path + "/web1"));
    CHECK((fs::status(path).permissions() & fs::perms::all) == fs::perms::owner_all);
    auto const refused = [&](std::string const& words) {
        auto const made = sidecar::make_directory(path);
        REQUIRE_FALSE(made);
        CHECK(made.error().code == core::Errc::refused);
        INFO(made.error().what);
        CHECK(made.error().what.find(words) != std::string::npos);
    };
    REQUIRE(chmod(path.c_str(), 0707) == 0);
    refused("chmod go-w " + path);
    REQUIRE(chmod(path.c_str(), 01777) == 0);
    CHECK(sidecar::make_directory(path));
    REQUIRE(chmod(path.c_str(), 0755) == 0);
    CHECK(sidecar::make_directory(path));
    if (geteuid() == 0) {
        constexpr uid_t nobody = 65534;
        REQUIRE(chown(path.c_str(), nobody, 0) == 0);
        refused("belongs to user 65534");
    }
    fs::remove_all(top);
}

}  // namespace sidecar_paths_cases
