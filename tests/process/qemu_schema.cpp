// The schema of a guest's QEMU is read without that QEMU: sidecar/guest/qemu_schema.hpp, next to a
// real QEMU that is stopped and cannot answer.
#include <zlib.h>

#include "sidecar/guest/qemu_schema.hpp"
#include "tests/process/qmp_support.hpp"
#include "tests/support/command.hpp"

namespace qemu_schema_cases {

namespace {

using namespace qmp_test;

/// A guest whose QEMU is stopped by SIGSTOP.
class StoppedGuest {
public:
    explicit StoppedGuest(std::string const& program) : loop_(make_loop()) {
        auto line = get(
            get(qmp::CommandLine::parse(Qemu::words(program))).for_launch({qmp::qmp_fd_in_qemu}));
        auto launched = get(loop_->run(qmp::launch(
            *loop_, {.command_line = line, .qmp_socket = file("qmp.sock"), .log_file = file("log")},
            soon())));
        guest_ = std::make_unique<sidecar::Guest>(
            *loop_, sidecar::Paths{file("run"), file("state")}, "g1",
            sidecar::Guest::Prepared{std::move(launched), line, "/", {}, nullptr});
        must(guest_->process.signal(SIGSTOP));
    }
    ~StoppedGuest() {
        loop_->run(guest_->close());
        (void)guest_->process.signal(SIGKILL);
        (void)loop_->run(core::wait_exit(*loop_, guest_->process, soon()));
    }
    StoppedGuest(StoppedGuest const&) = delete;
    StoppedGuest& operator=(StoppedGuest const&) = delete;

    Result<qmp::Schema> schema() { return loop_->run(sidecar::schema_of(*guest_, soon())); }
    /// The one file in the cache.
    [[nodiscard]] std::filesystem::path kept() const {
        std::vector<std::filesystem::path> all;
        for (auto const& entry : std::filesystem::directory_iterator(file("state/.qemu-schemas"))) {
            all.push_back(entry.path());
        }
        REQUIRE(all.size() == 1);
        return all.front();
    }
    [[nodiscard]] std::string file(std::string const& name) const { return directory_.file(name); }

private:
    Directory directory_;
    std::unique_ptr<Loop> loop_;
    std::unique_ptr<sidecar::Guest> guest_;
};

std::string with_digest(std::string const& text) {
    auto const* const bytes = reinterpret_cast<Bytef const*>(text.data());
    return fmt::format("{:08x}\n{}", crc32_z(0, bytes, text.size()), text);
}

}  // namespace

TEST_CASE("schema: another process of the same binary answers for a guest's QEMU") {
    for (auto const& program : qemus()) {
        CAPTURE(program);
        StoppedGuest guest(program);
        auto const schema = guest.schema();
        REQUIRE(schema);
        CHECK(schema->has_command("block-export-add"));
        CHECK(std::filesystem::is_empty(guest.file("run")));
    }
}

TEST_CASE("schema: what is kept is used, unless it is not what was written") {
    StoppedGuest guest(qemus().front());
    REQUIRE(guest.schema());
    auto const path = guest.kept();
    auto const whole = lab::read_file(path);
    auto const mine = with_digest(R"([{"name": "mine", "meta-type": "command", "arg-type": "0"}])");
    lab::write_file(path, mine);
    CHECK(get(guest.schema()).has_command("mine"));

    auto const heals = [&] {
        CHECK_FALSE(get(guest.schema()).has_command("mine"));
        CHECK(lab::read_file(guest.kept()) == whole);
    };
    for (auto const& text : {mine.substr(0, mine.size() - 1), with_digest("[]"), std::string()}) {
        CAPTURE(text);
        lab::write_file(path, text);
        heals();
    }
    lab::write_file(path, mine);
    std::filesystem::permissions(path, std::filesystem::perms::group_write,
                                 std::filesystem::perm_options::add);
    heals();
}

}  // namespace qemu_schema_cases
