// Guest: the witness (images/) as a QEMU command line, started through the program or directly, and
// queried over the network from the client. Used by the vm tests and the benchmarks. Invariant: a
// guest does not know where it runs; callers that ask for its QEMU name the host.
#pragma once

#include <string>
#include <vector>

#include "tests/support/lab.hpp"
#include "tests/support/qmp_probe.hpp"

namespace lab {

struct GuestOptions {
    std::string name = "web1";
    std::string qemu = "7.2";  ///< "7.2" or "10.0"
    std::string format = "raw";  ///< "raw" or "qcow2"
    int disks = 1;
    /// Its first disk is this block device, with the content that the test has written to it.
    std::string device = {};
    bool iothread = false;  ///< Disks are served by an iothread.
    bool blockdev = false;  ///< -blockdev instead of -drive.
    std::string base = {};  ///< Format of the base under each disk; empty: no base.
    bool middle = false;  ///< A layer between disk and base.
    bool discard = false;  ///< Discarded blocks become holes in the image.
    bool agent = false;  ///< The disk is an ext4 to which the guest writes files; qemu-ga runs.
    std::string tpm = {};  ///< "tpm-crb", "tpm-tis": a TPM 2.0; empty: none.
    bool hot_slot = false;  ///< A PCIe port, rp0, for hot-plug.
    /// Its last disk (with an id) and its interface (without one) are plugged in by plug(), in the
    /// PCIe ports rp0 and rp1. Before that it does not run.
    bool plugged = false;
    bool ipv4 = true;
    bool ipv6 = true;
    /// One interface for each family, on the bridges v4 and v6, instead of the lab's bridge.
    bool networks = false;
    bool kvm = false;  ///< Real KVM, as in scripts/kvm-ring; otherwise emulation.
    bool vhost = false;  ///< vhost-net: the kernel moves frames between the interface and the tap.
    int queues = 1;  ///< Queues of its interface, and as many processors, each of which uses one.
    std::uint64_t disk_mib = 128;
    std::uint64_t random_mib = 24;  ///< This much of each disk, from its start, holds random bytes.
    std::uint64_t span_mib = 16;  ///< The guest writes to this much of the disk, from its start...
    std::uint64_t rate = 200;  ///< ...this many 4 KiB blocks a second, on each disk.
    std::uint64_t read_rate = 50;  ///< Blocks that it reads back and checks a second, on each disk.
    std::uint64_t ram_mib = 192;
    /// Pages that it rewrites a second. Few: TCG may lose a store under load (docs/qemu-bugs.md).
    std::uint64_t ram_rate = 200;
    /// How often it reports on the serial port that it is alive: that takes an emulated port some
    /// ms.
    std::uint64_t alive_ms = 100;
};

class Guest {
public:
    /// The longest time from power-on to the first answer, with other guests on a busy machine.
    static constexpr Milliseconds boot_limit = 120s;
    static constexpr Milliseconds answer_limit = 20s;

    Guest(Lab const& lab, GuestOptions options);

    [[nodiscard]] std::string const& name() const { return options_.name; }
    [[nodiscard]] GuestOptions const& options() const { return options_; }
    [[nodiscard]] fs::path qemu() const;  ///< The binary.
    [[nodiscard]] std::string tap() const { return "tap-" + options_.name; }
    [[nodiscard]] std::string tap_ipv6() const { return tap() + "-6"; }  ///< With `networks`.
    [[nodiscard]] fs::path image(Host const& host, int disk) const;
    [[nodiscard]] fs::path base(Host const& host, int disk) const;
    [[nodiscard]] fs::path middle(Host const& host, int disk) const;
    [[nodiscard]] fs::path probe_socket(Host const& host) const;
    [[nodiscard]] fs::path serial(Host const& host) const;
    [[nodiscard]] fs::path agent_socket(Host const& host) const;
    [[nodiscard]] fs::path tpm_socket(Host const& host) const;  ///< Of a swtpm started for it.

    /// Makes the disks on that host: sparse, with their random part.
    void make_disks(Host const& host) const;
    /// The guest's command line on that host, QEMU first; with a QMP socket of the tests' own.
    [[nodiscard]] Argv command_line(Host const& host) const { return command_line(host, host); }
    /// The same with the disks of another host: a disk that two hosts share.
    [[nodiscard]] Argv command_line(Host const& host, Host const& disks_of) const;
    /// A persistent tap on the host's bridge, as an administrator creates it.
    void make_tap(Host const& host) const;
    /// Starts QEMU without the program, on a tap made by make_tap. `more` is appended to the
    /// command line.
    Daemon start_plainly(Host const& host, Argv const& more = {}) const;

    /// With `plugged`: plugs in what is missing on that host, and lets the guest run.
    void plug(Host const& host) const;

    /// Sends one command to the guest's control port from the client, over IPv4, or over IPv6 if
    /// the guest has no IPv4.
    [[nodiscard]] core::Json ask(core::Json const& command,
                                 Milliseconds limit = answer_limit) const;
    /// Whether it answers now, in each family that it has.
    [[nodiscard]] bool answers() const;
    void wait_alive() const;
    /// Reads everything once, so that the guest knows the expected content of each block.
    void learn() const;
    /// Throws if the guest finds an error: it reads everything again, and checks every error count.
    void must_be_whole() const;
    /// Throws unless the guest runs: its uptime and its writes advance.
    void must_be_alive() const;

    /// The QEMU of this guest on that host; -1 when there is none.
    [[nodiscard]] pid_t qemu_pid(Host const& host) const;
    [[nodiscard]] bool runs_on(Host const& host) const;  ///< Its QEMU says "running".

private:
    [[nodiscard]] std::string evidence() const;
    /// Adds the options of its interfaces to `argv`; returns the kernel parameters for them.
    [[nodiscard]] std::string add_interfaces(Argv& argv) const;
    void make_overlay(Host const& host, int disk) const;
    /// Adds the options of its layers; returns the part of the disk's own option that names them.
    std::string add_layers(Argv& argv, Host const& disks_of, int disk) const;
    void add_agent(Argv& argv, Host const& host) const;
    /// The kernel parameter for a disk.
    [[nodiscard]] std::string witness_disk(int disk) const;
    Lab const& lab_;
    GuestOptions options_;
};

/// The values of -m and -smp with which QEMU emulates a guest of these options without the faults
/// of its TCG.
std::string ram_size(GuestOptions const& options);
std::string processors(GuestOptions const& options);

/// Fills [offset, offset + length) of a file with random bytes.
void write_random(fs::path const& file, std::uint64_t offset, std::uint64_t length);
/// Throws unless the guest-visible content of two images is the same (qemu-img compare).
void compare_images(fs::path const& one, std::string const& format, fs::path const& other);
/// The same from byte `from` on, because a running guest still writes before that. Only for images
/// without a backing file: with an offset, qemu-img reads zeroes where an overlay has no data.
void compare_images(fs::path const& one, std::string const& format, fs::path const& other,
                    std::uint64_t from);
/// A source image while its guest leaves: under its own name, or already set aside.
fs::path image_left(fs::path const& image);
/// Where the source has set aside an image of a guest that has left, for any migration_id.
fs::path moved_image(fs::path const& image);

}  // namespace lab
