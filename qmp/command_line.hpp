// CommandLine: QEMU's argv understood: what it says about disks, taps, sockets and files, and how
// it reads for a launch by us and for the destination of a migration. Used by `run`, `attach` and
// `serve`. Pure: looks at no file. Invariant: options that a rewrite does not concern come out byte
// for byte.
#pragma once

#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "core/result.hpp"
#include "qmp/option.hpp"

namespace qmp {

/// An image the command line names.
struct DiskOption {
    std::string id;  ///< -drive id=, the format's node-name, or "hda", "cdrom", "pflash0", ...
    std::string file_name;  ///< As written; "nbd://..." and the like when `local` is false.
    std::string format;  ///< Empty: QEMU probes.
    bool local = true;  ///< A file or device of this host.
    bool read_only = false;
    bool cdrom = false;
    bool firmware = false;  ///< if=pflash, -pflash, -machine pflash0=
    bool backing = false;  ///< Named as another image's backing file.
};

/// A tap interface the command line uses, by -netdev tap|bridge, -nic tap|bridge or -net
/// tap|bridge.
struct TapOption {
    std::string id;  ///< netdev id; made from its place for -nic and -net without one ("#net0").
    std::string ifname;  ///< Empty: QEMU or the kernel would choose.
    std::string bridge;  ///< br= of the bridge helper; empty: none given.
    std::vector<int> fds;  ///< Given by descriptor (fd=, fds=), as libvirt does.
    unsigned queues = 1;
    bool vhost = false;
    bool vnet_hdr = true;  ///< QEMU's default.
    /// As written: "" when not given (QEMU then runs /etc/qemu-ifup), "no": none.
    std::string script;
    /// Of the guest devices on it, as far as the command line says.
    std::vector<std::string> macs;
};

/// What replaces a tap's own options: descriptors the QEMU inherits under these numbers.
struct TapDescriptors {
    std::string id;  ///< TapOption::id
    std::vector<int> fds;
};

/// The guest's TPM, by -tpmdev. QEMU has one at most.
struct TpmOption {
    std::string type;  ///< "emulator", "passthrough"
    std::string chardev;  ///< Of an emulator: the id of its -chardev.
    /// Of the Unix socket on which swtpm listens; empty: QEMU got the connection by descriptor.
    std::string socket;
};

/// What replaces the listening socket of a character device that another process opened: a
/// descriptor that the QEMU inherits under this number.
struct SocketDescriptor {
    std::string id;  ///< Of the -chardev.
    int fd = -1;
};

/// A monitor, serial line or other socket, or a file QEMU makes.
struct PathOption {
    std::string option;  ///< "-qmp unix:/run/x.sock,server=on": for messages.
    std::string path;
    /// The guest gets its content: it is no firmware, and no secret of the host.
    bool for_guest = false;
};

struct LaunchOptions {
    int qmp_fd = -1;  ///< Number under which QEMU inherits the listening socket of its monitor.
    std::vector<TapDescriptors> taps = {};
};

/// Where the image of a disk is at the destination.
struct ImagePlace {
    enum class Kind { file, device };
    std::string from;  ///< At the source, absolute.
    std::string to;  ///< Absolute.
    Kind kind = Kind::file;
    /// Of the disk, if the image is larger: QEMU shows the guest so many bytes of it. 0: it is not.
    std::uint64_t size_bytes = 0;
};

/// The images of a disk that become one.
struct ImageChain {
    std::string disk;  ///< For messages.
    std::string node;  ///< The node-name of the top image at the source.
    std::string path;  ///< Of its file at the source, absolute.
    unsigned layers = 0;  ///< So many become one, from the top; 0: all of them.
};

/// How the source's command line is to read at the destination.
struct Mapping {
    std::string qemu;  ///< Binary to start; empty: the source's argv[0].
    /// Full, versioned type the source runs ("pc-i440fx-7.2"); required.
    std::string machine_type;
    int qmp_fd = -1;  ///< As LaunchOptions::qmp_fd.
    /// The source QEMU's, for its relative paths; empty: they stay.
    std::string working_directory;
    /// Each for exactly its path. Goes before `prefixes`.
    std::vector<ImagePlace> images;
    /// {FROM, TO}: this directory and everything below it, the longest FROM first.
    std::vector<std::pair<std::string, std::string>> prefixes;
    /// {OLD, NEW}: addresses on which QEMU listens, see bound_address.hpp.
    std::vector<std::pair<std::string, std::string>> addresses = {};
    std::vector<TapDescriptors> taps = {};
    /// Number under which QEMU inherits its connection to the guest's swtpm.
    int tpm_fd = -1;
    std::vector<SocketDescriptor> sockets = {};  ///< One for each of inherited_sockets().
    bool incoming = true;  ///< It waits for a migration; else it just waits to be continued.
};

/// `prefixes` as Mapping::prefixes, applied to an absolute path; unchanged if none covers it.
std::string map_path(std::vector<std::pair<std::string, std::string>> const& prefixes,
                     std::string const& path);

namespace detail {
// How taps are recognised and counted, for command_line.cpp and rewrite.cpp alike.
bool may_be_tap(std::string_view kind);
bool is_tap(Settings const& net);
std::string unnamed_tap(std::string_view kind, std::size_t number);
/// The ids of the -chardev that are monitors.
std::set<std::string> monitor_chardevs(std::vector<Option> const& options);
}  // namespace detail

struct PlainLine;

class CommandLine {
public:
    /// Fails with invalid for an option without its value and for broken JSON. An option that
    /// neither QEMU 7.2 nor 10.0 has is passed on, with the next word as its value when that has no
    /// dash: QEMU itself is the judge of it.
    static Result<CommandLine> parse(std::vector<std::string> argv);
    /// Exactly what was parsed, or the rewritten form.
    [[nodiscard]] std::vector<std::string> argv() const;
    [[nodiscard]] std::string const& program() const { return program_; }
    /// The words before QEMU: a program that runs it in its own place, such as `taskset -c 0,1
    /// nice`. Empty: none.
    [[nodiscard]] std::vector<std::string> const& wrapper() const { return wrapper_; }
    /// QEMU's own line, for a host that places its processes otherwise.
    [[nodiscard]] CommandLine without_wrapper() const;
    [[nodiscard]] std::vector<Option> const& options() const { return options_; }

    [[nodiscard]] std::vector<DiskOption> disks() const;
    [[nodiscard]] std::vector<TapOption> taps() const;
    [[nodiscard]] std::optional<TpmOption> tpm() const;
    /// Unix sockets QEMU would listen on or connect to: monitors, serial lines, character devices,
    /// VNC. Not that of swtpm: see tpm().
    [[nodiscard]] std::vector<PathOption> sockets() const;
    /// Files QEMU reads at its start besides disks: kernel, initrd, firmware, option ROMs, keys.
    [[nodiscard]] std::vector<PathOption> files() const;
    /// The socket of the first QMP monitor that can be reached by path; empty: none.
    [[nodiscard]] std::string qmp_socket() const;
    /// The ids of the -chardev that listen on a socket of another process (fd=), as libvirt gives
    /// them; monitors are not among them.
    [[nodiscard]] std::vector<std::string> inherited_sockets() const;
    /// The socket on which QEMU accepts a client of the guest's agent: a
    /// virtserialport of the name org.qemu.guest_agent.0. Empty: none that is found by path.
    [[nodiscard]] std::string guest_agent_socket() const;
    [[nodiscard]] std::optional<std::string> incoming() const;
    [[nodiscard]] bool stopped_at_start() const;  ///< -S
    [[nodiscard]] bool daemonize() const;  ///< -daemonize
    [[nodiscard]] std::string pidfile() const;  ///< Empty: none.
    [[nodiscard]] std::string guest_name() const;  ///< -name guest=; empty: none.
    [[nodiscard]] std::string uuid() const;  ///< Empty: none.
    [[nodiscard]] std::string user()
        const;  ///< -runas, -run-with user=: a name or UID:GID; empty: none.
    [[nodiscard]] std::string machine_type() const;  ///< As written ("pc"); empty: QEMU's default.
    [[nodiscard]] std::string accelerator()
        const;  ///< The first named ("kvm"); empty: QEMU's default.

    /// This command line with a monitor of ours and the taps by descriptor. Fails with invalid for
    /// -daemonize and -incoming, for a tap that another process opened (fd=), and for a
    /// number of descriptors that is not the tap's number of queues.
    [[nodiscard]] Result<CommandLine> for_launch(LaunchOptions const& launch) const;
    /// This command line, which libvirt has made, without what is libvirt's own: libvirt_line.cpp.
    /// `user`: as which libvirt started QEMU; empty: root. Fails with refused for a secret that
    /// only libvirt knows.
    [[nodiscard]] Result<PlainLine> without_libvirt(std::string const& user) const;
    /// The same user in QEMU's other form: -runas USER, or since QEMU 9.1 -run-with user=USER.
    void name_user_by(std::string_view kind);
    /// Takes out the nodes that the options put below the images of disks whose chains become one
    /// image. Where there are no such nodes nothing happens: the images themselves name what is
    /// below them. Fails with refused, naming it, if a node is needed elsewhere.
    [[nodiscard]] Result<> flatten(std::vector<ImageChain> const& chains,
                                   std::string const& working_directory);
    /// This command line for a QEMU that waits for the migration (-S -incoming defer) with the
    /// destination's paths, taps, swtpm, machine type and binary. -daemonize, -loadvm, -preconfig
    /// and monitors given by descriptor are left out. Fails with refused for what cannot be made
    /// again there: -snapshot, -readconfig, foreign descriptors, a tap or a socket without ours, an
    /// option that cannot name a block device.
    [[nodiscard]] Result<CommandLine> for_destination(Mapping const& mapping) const;

private:
    [[nodiscard]] std::vector<Option const*> all_of(std::string_view kind) const;
    [[nodiscard]] Option const* last_of(std::string_view kind) const;
    /// The socket that `user` names as its chardev; without settings when it is none.
    [[nodiscard]] Settings chardev_of(Settings const& user) const;
    /// The value of `key` in the last option of that kind that has it; empty: none.
    [[nodiscard]] std::string setting_of(std::string_view kind, std::string_view key) const;

    std::vector<std::string> wrapper_;
    std::string program_;
    std::vector<Option> options_;

    friend class Rewrite;
    friend class LibvirtLine;
};

struct PlainLine {
    CommandLine line;
    std::vector<std::string> lost =
        {};  ///< What the guest does not have without libvirt: sentences.
};

}  // namespace qmp
