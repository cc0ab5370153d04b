// DebianGuest: Debian 12 under systemd with PostgreSQL (images/debian-guest), as a user starts it:
// with a boot loader of its own and QEMU's default devices. Used by the vm tests. Invariant: it is
// asked over its serial console and its database only; nothing for tests runs beside the database.
#pragma once

#include <string>

#include "tests/support/scene.hpp"

namespace lab {

class DebianGuest {
public:
    /// From power-on to the line on its console, emulated, on a busy machine.
    static constexpr Milliseconds boot_limit = 600s;
    /// From the power button to the end of QEMU; the guest reads its whole database meanwhile.
    static constexpr Milliseconds poweroff_limit = 300s;
    /// A statement that reads every row.
    static constexpr Milliseconds statement_limit = 120s;

    /// Why this machine has no such guest; empty if it has.
    static std::string why_missing();
    /// The options for a Scene that is to have this guest: without disks, which start() makes.
    static GuestOptions options(std::string const& qemu, std::string const& format);
    /// A program of its PostgreSQL, for clients.
    static fs::path client(std::string const& program);

    explicit DebianGuest(Scene& scene) : scene_(scene) {}

    /// Makes its disk on the host, runs it there, and waits until it has booted.
    void start(Host const& host);
    /// What systemd says that the system is: "running", or another word with the failed units.
    [[nodiscard]] std::string system_state() const;
    /// A statement's rows; columns are separated by '|'.
    [[nodiscard]] std::string sql(std::string const& statement) const;
    /// What it has printed on its console on that host.
    [[nodiscard]] std::string console(Host const& host) const;
    /// Presses the power button, and waits until QEMU has ended.
    void power_off(Host const& host) const;
    /// Throws unless the file system on its disk, of a guest that is off, is without fault.
    void check_file_system(Host const& host) const;

private:
    [[nodiscard]] Argv command_line(Host const& host) const;

    Scene& scene_;
};

/// Lines of a console by which a kernel reports a fault of its own or of its devices.
std::string kernel_faults(std::string const& console);

}  // namespace lab
