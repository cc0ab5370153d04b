// The image of a guest that has moved belongs to whom it belonged, there and back.
#include "tests/process/move_lab.hpp"

namespace image_access_cases {

using namespace move_lab;

namespace {

std::string access(MoveHost const& host) {
    return host.in("stat -c '%U %G %a' " + host.directory + "/d0");
}

}  // namespace

TEST_CASE("image access: owner, group and permissions go with the disk",
          "[migrate][image-access]") {
    MoveLab lab;
    (void)lab.a.in("chown nobody:disk " + lab.a.directory + "/d0; chmod 0640 " + lab.a.directory +
                   "/d0");
    auto const before = access(lab.a);
    REQUIRE(contains(before, "nobody disk 640"));
    for (auto const& [from, to] : {std::pair(&lab.a, &lab.b), std::pair(&lab.b, &lab.a)}) {
        auto const moved = from->migrate(*to, {"--network", "anchor"});
        INFO(moved.out << moved.err);
        REQUIRE(moved.exit_status == 0);
        CHECK(access(*to) == before);
    }
}

}  // namespace image_access_cases
