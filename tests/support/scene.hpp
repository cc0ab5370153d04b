// Scene: a lab with `sidecar serve` on both hosts and a guest started by `sidecar run`, ready to be
// migrated there and back. Used by the vm tests and the benchmarks. A scene starts, migrates and
// inspects; the tests state the expectations.
#pragma once

#include <functional>
#include <memory>
#include <optional>

#include "tests/support/certificates.hpp"
#include "tests/support/guest.hpp"
#include "tests/support/leftovers.hpp"

namespace lab {

struct SceneOptions {
    GuestOptions guest = {};
    std::uint64_t link_mbit = 0;  ///< As for Lab.
    bool hosts_ipv6 = true;  ///< As for Lab.
    bool certificates = false;  ///< The sidecars authenticate by x509, not by a shared key.
    std::vector<std::string> serve_environment = {};  ///< Added for `serve` on both hosts.
    bool start_guest = true;  ///< With `sidecar run` on host a.
    std::vector<std::string> run_environment = {};  ///< Added for the first sidecar of the guest.
    std::function<void(Lab const&)> furnish = {};  ///< Runs before all else on the hosts.
};

/// How a `sidecar migrate` ended.
struct Migration {
    int exit_status = -1;
    core::Json report;  ///< Null when it printed none.
    std::string err;
    [[nodiscard]] std::string text() const;  ///< For the messages of tests.
};

class Scene {
public:
    /// Longest that a migration in a test may take.
    static constexpr Milliseconds migration_limit = 180s;

    /// Starts everything, and waits until the guest is alive on host a and knows its disks.
    explicit Scene(SceneOptions options);
    ~Scene();

    [[nodiscard]] Lab& net() { return lab_; }
    [[nodiscard]] Host const& a() const { return lab_.a(); }
    [[nodiscard]] Host const& b() const { return lab_.b(); }
    [[nodiscard]] Guest const& guest() const { return guest_; }

    /// `sidecar migrate --with-storage` in the background, so that a test can interfere.
    Daemon start_migration(Host const& from, Argv const& more = {});
    /// `sidecar migrate --resume` in the background.
    Daemon follow_migration(Host const& from);
    /// Waits for its end.
    static Migration finish(Daemon& migration);
    /// The same; a sidecar that stops at a test hook meanwhile is continued.
    Migration finish_past_hooks(Daemon& migration) const;
    Migration migrate(Host const& from, Argv const& more = {});
    /// A command of the program on a host.
    [[nodiscard]] Output sidecar(Host const& host, Argv const& arguments) const;

    /// `migration` of `sidecar status`: the migration on that host; null: none.
    [[nodiscard]] core::Json migration_on(Host const& host) const;
    /// Waits until the migration from `host` has copied that share of the disks' bytes.
    void wait_copied(Host const& host, double share) const;

    /// The guest's own sidecar as this scene started it (`run`, or the last `attach`).
    [[nodiscard]] Daemon& first_sidecar() { return *guest_sidecar_; }
    /// `sidecar run` with that command line of QEMU. Does not wait for the guest.
    void start_run(Host const& host, Argv const& qemu,
                   std::vector<std::string> const& environment = {}, Argv const& more = {});
    /// Starts the guest afresh on `host` with `sidecar run`, and waits until it is alive.
    void run_guest(Host const& host, std::vector<std::string> const& environment = {},
                   Argv const& more = {});
    /// `sidecar attach GUEST` after its sidecar died; returns once it answers.
    void attach_guest(Host const& host, Argv const& more = {},
                      std::vector<std::string> const& environment = {});
    void start_serve(Host const& host, std::vector<std::string> const& environment = {},
                     Argv const& more = {});
    /// Starts a `serve` that sees the host's images on a file system of `mib` MiB.
    void start_serve_on_small_disk(Host const& host, int mib);
    void end_serve(Host const& host);
    void kill_serve(Host const& host);

    /// The guest's sidecar on that host: its pid and state (T: stopped at a test hook).
    [[nodiscard]] std::optional<Seen> guest_sidecar(Host const& host) const;
    /// Waits until that sidecar stops at a test hook; returns its pid.
    pid_t wait_stopped(Host const& host) const;

    /// The state of a host before any guest was there: only its `serve`.
    [[nodiscard]] Traces const& bare(Host const& host) const;
    [[nodiscard]] fs::path key_file() const { return lab_.directory() / "keys.psk"; }
    [[nodiscard]] CertificateAuthority const& authority() const { return *authority_; }
    /// With certificates: QEMU's layout, one directory for each host.
    [[nodiscard]] fs::path tls_directory(Host const& host) const {
        return lab_.directory() / ("tls-" + host.name);
    }

private:
    void make_key() const;
    [[nodiscard]] Argv credentials(Host const& host) const;
    [[nodiscard]] Argv serve_line(Host const& host, Argv const& more) const;
    void start_serve_line(Host const& host, Argv argv, std::vector<std::string> const& environment);

    SceneOptions options_;
    Lab lab_;
    Guest guest_;
    std::optional<CertificateAuthority> authority_;
    Traces bare_a_;
    Traces bare_b_;
    std::optional<Daemon> serve_a_;
    std::optional<Daemon> serve_b_;
    std::optional<Daemon> swtpm_;  ///< Of a guest with a TPM, where it starts.
    std::optional<Daemon> guest_sidecar_;
};

/// Sends SIGKILL by pidfd, and waits until the process is gone.
void kill_process(pid_t pid);
void signal_process(pid_t pid, int number);

}  // namespace lab
