// Files that a guest only reads, as the source describes and sends them.
#include <catch2/catch.hpp>

#include "sidecar/channel/protocol.hpp"
#include "sidecar/guest/guest_files.hpp"

namespace guest_files_cases {

using namespace sidecar;
using core::Json;

namespace {

GuestFile cd() {
    GuestFile file{.what = "the read-only image of cd0", .path = "/srv/vm/cd.iso"};
    file.bytes = 4096;
    file.allocated_bytes = 2048;
    file.copied = true;
    file.sha256 = std::string(64, 'a');
    file.access = {"nobody", "disk", 65534, 6, 0640};
    return file;
}

}  // namespace

TEST_CASE("guest files: a description arrives as it was sent, and others are refused") {
    auto const again = GuestFile::from_json(cd().to_json());
    REQUIRE(again);
    CHECK(again->kind == GuestFile::Kind::image);
    CHECK(again->path == "/srv/vm/cd.iso");
    CHECK(again->bytes == 4096);
    CHECK(again->allocated_bytes == 2048);
    CHECK(again->copied);
    CHECK(again->access == cd().access);
    auto loaded = cd();
    loaded.kind = GuestFile::Kind::loaded;
    CHECK(GuestFile::from_json(loaded.to_json())->kind == GuestFile::Kind::loaded);
    for (auto const& [key, value] :
         {std::pair("path", Json("cd.iso")), std::pair("path", Json("")),
          std::pair("path", Json(std::string(5000, '/'))), std::pair("bytes", Json(-1)),
          std::pair("bytes", Json("1")), std::pair("allocated_bytes", Json(-1)),
          std::pair("kind", Json("device")), std::pair("copied", Json("yes")),
          std::pair("what", Json(std::string(5000, 'w'))), std::pair("access", Json())}) {
        INFO(key << " " << value.dump().substr(0, 40));
        auto json = cd().to_json();
        json.set(key, value);
        CHECK_FALSE(GuestFile::from_json(json));
    }
}

TEST_CASE("guest files: a piece has bytes, and the end has none") {
    using protocol::SendFile;
    protocol::Bytes const bytes(10, 'x');
    auto const piece = SendFile::from_json(SendFile{.file = 1, .offset = 4096}.to_json(), bytes);
    REQUIRE(piece);
    CHECK(piece->file == 1);
    CHECK(piece->offset == 4096);
    CHECK(piece->bytes == bytes);
    SendFile const end{.file = 0, .offset = 10, .sha256 = std::string(64, '0')};
    REQUIRE(SendFile::from_json(end.to_json(), {}));
    CHECK_FALSE(SendFile::from_json(end.to_json(), bytes));
    CHECK_FALSE(SendFile::from_json(SendFile{}.to_json(), {}));
    for (auto const* const text :
         {R"({"file":32,"offset":0,"sha256":"x"})", R"({"file":-1,"offset":0,"sha256":"x"})",
          R"({"file":0,"offset":-1,"sha256":"x"})", R"({"file":0,"sha256":"x"})", "{}", "[]"}) {
        INFO(text);
        CHECK_FALSE(SendFile::from_json(*Json::parse(text), {}));
    }
}

TEST_CASE("guest files: --no-copy reaches the guest's sidecar") {
    MigrateOptions options;
    options.destination = "hostb";
    options.no_copy = true;
    auto const again = MigrateOptions::from_json(options.to_json());
    REQUIRE(again);
    CHECK(again->no_copy);
}

}  // namespace guest_files_cases
