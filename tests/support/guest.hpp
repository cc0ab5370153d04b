// Guest: the witness (images/) as a QEMU command line, started through the program or plainly, and
// asked over the network from the client how it is. Used by the vm tests and the benchmarks.
// Invariant: a guest knows nothing of where it runs; whoever asks for its QEMU names the host.
#pragma once

#include <string>
#include <vector>

#include "tests/support/lab.hpp"
#include "tests/support/qmp_probe.hpp"

namespace lab {

struct GuestOptions {
    std::string name = "web1";
    std::string qemu = "7.2";       ///< "7.2" or "10.0"
    std::string format = "raw";     ///< "raw" or "qcow2"
    int disks = 1;
    bool iothread = false;          ///< Disks are served by an iothread.
    bool blockdev = false;          ///< -blockdev instead of -drive.
    std::string base = {};  ///< Format of a base that each disk is an overlay of; empty:
                            ///< none. Then `format` is qcow2, and the random part is its.
    bool middle = false;  ///< A layer between disk and base.
    bool discard = false;  ///< What the guest discards is a hole in the image.
    bool agent = false;  ///< The disk is an ext4 that the guest writes files to, and qemu-ga runs.
    bool hot_slot = false;  ///< A PCIe port, rp0, that takes a device while it runs.
    bool ipv4 = true;
    bool ipv6 = true;
    /// Not on the lab's bridge: one interface for each family that it has, on the bridges v4 and
    /// v6.
    bool networks = false;
    bool kvm = false;  ///< Real KVM, which scripts/kvm-ring has; else emulation.
    bool vhost = false;  ///< Frames between its interface and the tap are the kernel's (vhost-net).
    int queues = 1;  ///< Of its interface, and so many processors, of which each uses one.
    std::uint64_t disk_mib = 128;
    std::uint64_t random_mib = 24;  ///< So much of each disk, from its start, holds random bytes.
    std::uint64_t span_mib = 16;  ///< The guest writes there, at the start of the disk...
    std::uint64_t rate = 200;  ///< ...so many 4 KiB blocks a second, to each disk.
    std::uint64_t read_rate = 50;  ///< Blocks it reads back and checks a second, of each disk.
    std::uint64_t ram_mib = 192;
    /// Pages it rewrites a second. Low: TCG may lose a store under load (docs/architecture.md).
    std::uint64_t ram_rate = 200;
    /// How often it says on the serial port that it is alive: an emulated port takes it some ms.
    std::uint64_t alive_ms = 100;
};

class Guest {
public:
    /// Longest that the guest may take from power-on to its first answer, beside other guests on a
    /// busy machine.
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

    /// Makes the disks on that host: sparse, with their random part.
    void make_disks(Host const& host) const;
    /// The guest's command line on that host, QEMU first; with a QMP socket of the tests' own.
    [[nodiscard]] Argv command_line(Host const& host) const { return command_line(host, host); }
    /// The same with the disks of another host: a disk that two hosts share.
    [[nodiscard]] Argv command_line(Host const& host, Host const& disks_of) const;
    /// A persistent tap on the host's bridge, as an administrator makes one.
    void make_tap(Host const& host) const;
    /// Starts QEMU without the program, on a tap made by make_tap. `more`: appended to the command
    /// line.
    Daemon start_plainly(Host const& host, Argv const& more = {}) const;

    /// One command to the guest's control port, from the client, over IPv4, or over IPv6 where it
    /// has only that.
    [[nodiscard]] core::Json ask(core::Json const& command,
                                 Milliseconds limit = answer_limit) const;
    /// Whether it answers at this moment, in each family that it has.
    [[nodiscard]] bool answers() const;
    void wait_alive() const;
    /// Reads everything once, so that the guest knows what each block must hold from now on.
    void learn() const;
    /// Throws unless the guest finds nothing wrong: everything read again, and every count of
    /// errors.
    void must_be_whole() const;
    /// Whether the guest goes on: its uptime and its writes advance.
    void must_be_alive() const;

    /// The QEMU of this guest on that host; -1 when there is none.
    [[nodiscard]] pid_t qemu_pid(Host const& host) const;
    [[nodiscard]] bool runs_on(Host const& host) const;  ///< Its QEMU says "running".

private:
    /// Its interfaces: the options for them, and what its kernel is told.
    [[nodiscard]] std::string add_interfaces(Argv& argv) const;
    void make_overlay(Host const& host, int disk) const;
    /// The options for its layers, and what the disk's own option says of them.
    std::string add_layers(Argv& argv, Host const& disks_of, int disk) const;
    void add_agent(Argv& argv, Host const& host) const;
    Lab const& lab_;
    GuestOptions options_;
};

/// Fills [offset, offset + length) of a file with random bytes.
void write_random(fs::path const& file, std::uint64_t offset, std::uint64_t length);
/// Throws unless the guest-visible content of two images is the same (qemu-img compare).
void compare_images(fs::path const& one, std::string const& format, fs::path const& other);
/// The same from byte `from` on: a guest that runs still writes before that. Only images without a
/// backing file: behind an offset qemu-img takes what an overlay lacks for zeros.
void compare_images(fs::path const& one, std::string const& format, fs::path const& other,
                    std::uint64_t from);
/// An image of the source while its guest leaves: under its name, or already set aside.
fs::path image_left(fs::path const& image);
/// Where the source set an image of a guest that has left it aside, by whatever migration_id.
fs::path moved_image(fs::path const& image);

}  // namespace lab
