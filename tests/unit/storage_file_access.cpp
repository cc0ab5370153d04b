// Who may use an image, as one host says it and another one understands it.
#include <catch2/catch.hpp>

#include <sys/stat.h>
#include <unistd.h>

#include <cstdlib>

#include "core/fd.hpp"
#include "storage/file_access.hpp"

namespace storage_file_access_cases {

using core::Json;
using storage::FileAccess;

TEST_CASE("file access: names go before numbers, and what a host does not have is root's",
          "[storage]") {
    // Root and nobody are accounts of every Debian.
    CHECK(storage::local_access({"root", "root", 0, 0, 0600}).missing.empty());
    auto const renumbered = storage::local_access({"nobody", "nogroup", 12345, 12346, 0640});
    CHECK(renumbered.missing.empty());
    CHECK(renumbered.uid == 65534);
    CHECK(renumbered.gid == 65534);
    auto const unknown = storage::local_access({"no-such-user", "no-such-group", 65534, 0, 0600});
    CHECK(unknown.uid == 0);
    CHECK(unknown.gid == 0);
    CHECK(unknown.missing == std::vector<std::string>{"user no-such-user", "group no-such-group"});
    // Of a directory service; and a number that this host has given to someone else.
    CHECK(storage::local_access({"", "", 400'000'000, 400'000'000, 0600}).uid == 400'000'000);
    CHECK(storage::local_access({"", "root", 65534, 0, 0600}).missing ==
          std::vector<std::string>{"user 65534"});
}

TEST_CASE("file access: it is read from a file and given to another one", "[storage]") {
    std::string path = "/tmp/sidecar-access-XXXXXX";
    core::Fd const file(::mkstemp(path.data()));
    REQUIRE(file);
    auto access = storage::access_of(path);
    REQUIRE(access);
    CHECK(access->mode == 0600);
    CHECK(access->uid == ::getuid());
    access->mode = 0444;
    CHECK(storage::give_access(file.get(), *access));
    CHECK(storage::access_of(path)->mode == 0444);
    ::unlink(path.c_str());
    CHECK_FALSE(storage::access_of(path));
}

TEST_CASE("file access: what a peer sends is checked", "[storage]") {
    FileAccess const access{"libvirt-qemu", "kvm", 64055, 103, 0640};
    auto const back = FileAccess::from_json(access.to_json());
    REQUIRE(back);
    CHECK(*back == access);
    std::pair<char const*, Json> const wrong[] = {{"uid", Json(std::int64_t{-1})},
                                                  {"uid", Json(std::int64_t{0xffffffff})},
                                                  {"gid", Json("x")},
                                                  {"mode", Json(std::int64_t{04755})},
                                                  {"mode", Json(std::int64_t{-1})},
                                                  {"user", Json(std::string(300, 'x'))}};
    for (auto const& [key, value] : wrong) {
        auto changed = access.to_json();
        changed.set(key, value);
        INFO(changed.dump());
        CHECK_FALSE(FileAccess::from_json(changed));
    }
}

}  // namespace storage_file_access_cases
