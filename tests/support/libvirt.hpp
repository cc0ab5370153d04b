// Libvirt: libvirt's daemons on a host of the tests: libvirtd and virtlogd of Debian 12, which
// scripts/setup has unpacked, with directories of their own (a mount namespace), so that they touch
// nothing of the machine. QEMU runs as nobody there. Invariant: it ends with this object.
#pragma once

#include <optional>
#include <string>

#include "tests/support/command.hpp"

namespace lab {

/// Why it cannot run here; empty: it can.
std::string why_no_libvirt();

class Libvirt {
public:
    /// `hook`: a shell command that libvirt runs as its hook for QEMU, with the words after it;
    /// empty: none.
    Libvirt(std::string netns, fs::path directory, std::string const& hook = "");

    [[nodiscard]] std::string uri() const;
    [[nodiscard]] Output virsh(Argv const& words) const;
    /// Its output; throws if it fails.
    std::string must_virsh(Argv const& words) const;
    /// "running", "paused", "shut off", ...
    [[nodiscard]] std::string state(std::string const& domain) const;
    void define(std::string const& xml) const;
    /// As after a crash of the daemon, or its upgrade: QEMU runs on.
    void restart();

private:
    void start();

    std::string netns_;
    fs::path directory_;
    std::optional<Daemon> log_daemon_;
    std::optional<Daemon> daemon_;
};

}  // namespace lab
