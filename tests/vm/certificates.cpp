// `--tls-dir`: the two sidecars authenticate each other by certificates of one authority, in QEMU's
// directory layout.
#include <algorithm>

#include <catch2/catch.hpp>

#include "tests/support/certificates.hpp"
#include "tests/vm/expect.hpp"

using namespace lab;

namespace {

/// A migration that must be refused because of the source's or the destination's certificate; the
/// guest is not affected.
void refused(Scene& scene, fs::path const& tls_directory, std::string const& to,
             std::string const& words) {
    auto const before = traces_of(scene.a());
    auto const done = scene.sidecar(scene.a(), {"migrate", "--with-storage", "web1", to,
                                                "--progress=none", "--tls-dir", tls_directory});
    INFO(done.err);
    CHECK(done.exit_status == 3);
    CHECK(done.err.starts_with("error: "));
    CHECK(std::ranges::count(done.err, '\n') == 1);
    CHECK(done.err.find(words) != std::string::npos);
    CHECK(scene.guest().runs_on(scene.a()));
    CHECK(new_since(before, traces_of(scene.a()), {R"(state/.*)", R"(\d+ .*)"}) == "");
    expect::nothing_left_after_failure(scene, scene.a());
}

}  // namespace

TEST_CASE("certificates: there and back", "[vm][certificates]") {
    for (auto const& qemu : qemus("10.0")) {
        DYNAMIC_SECTION("QEMU " << qemu) {
            Scene scene({.guest = {.qemu = qemu}, .certificates = true});
            expect::moves(scene, scene.a());
            expect::moves(scene, scene.b());
        }
    }
}

TEST_CASE("certificates: those of a stranger, or for another host, are refused",
          "[vm][certificates]") {
    Scene scene({.certificates = true});
    auto const to = scene.b().address();
    auto const directory = scene.net().directory();

    // A separate authority: it trusts none of these hosts, and they do not trust it.
    CertificateAuthority const stranger(directory / "stranger");
    stranger.issue(directory / "tls-stranger", scene.a());
    refused(scene, directory / "tls-stranger", to, "certificate");

    // This host trusts the lab's authority, so that only the destination can refuse.
    auto const trusting = directory / "tls-trusting";
    fs::copy(directory / "tls-stranger", trusting);
    fs::copy_file(scene.tls_directory(scene.a()) / "ca-cert.pem", trusting / "ca-cert.pem",
                  fs::copy_options::overwrite_existing);
    refused(scene, trusting, to, "certificate");

    // The destination's certificate is of the right authority, but for a host other than the one
    // asked for.
    Host elsewhere = scene.b();
    elsewhere.ip4 = "10.99.0.2";
    elsewhere.ip6 = "fd99::2";
    scene.end_serve(scene.b());
    fs::remove_all(scene.tls_directory(scene.b()));
    scene.authority().issue(scene.tls_directory(scene.b()), elsewhere);
    scene.start_serve(scene.b());
    refused(scene, scene.tls_directory(scene.a()), to, "certificate");
}
