// Guest: one QEMU, as its sidecar holds it: process, QMP, command line, taps and the
// learned addresses. Made by launching, by attaching, or (destination) by preparing for
// an incoming migration.
//
// A restarted sidecar finds all this through the manifest, in the guest's state directory.
#pragma once

#include <signal.h>

#include <memory>
#include <optional>
#include <stop_token>
#include <string>
#include <vector>

#include "core/process.hpp"
#include "core/sync.hpp"
#include "netmove/mover.hpp"
#include "netmove/netlink.hpp"
#include "netmove/tap.hpp"
#include "netmove/watcher.hpp"
#include "qmp/client.hpp"
#include "qmp/command_line.hpp"
#include "qmp/launch.hpp"
#include "sidecar/guest/libvirt_guest.hpp"
#include "sidecar/host/paths.hpp"
#include "sidecar/host/settings.hpp"

namespace sidecar {

struct RunningLine;

/// One interface of the guest on this host.
struct Nic {
    netmove::GuestInterface interface;
    netmove::Tap tap;
    std::unique_ptr<netmove::AddressWatcher> watcher;
};

class Guest {
public:
    /// Starts QEMU with the options of `sidecar run`: opens the taps, adds the monitor.
    static core::Task<core::Result<std::unique_ptr<Guest>>> launch(core::Loop& loop, Paths paths,
                                                                   std::string name,
                                                                   RunOptions options);
    /// Joins a running QEMU: that of a socket, of a domain of libvirt, or of the manifest.
    static core::Task<core::Result<std::unique_ptr<Guest>>> attach(core::Loop& loop, Paths paths,
                                                                   std::string name,
                                                                   AttachOptions options);
    /// Made from what the destination prepared: a QEMU that waits for the guest.
    struct Prepared {
        qmp::Launched launched;
        qmp::CommandLine command_line;
        std::string working_directory;
        std::vector<std::unique_ptr<Nic>> nics;
        std::unique_ptr<netmove::Netlink> netlink;
    };
    Guest(core::Loop& loop, Paths paths, std::string name, Prepared prepared);
    ~Guest();

    core::Loop& loop;
    Paths paths;
    std::string name;
    core::Process process;
    core::Process swtpm;  ///< Of its TPM, if this sidecar started it: it ends with QEMU.
    std::unique_ptr<qmp::Client> client;
    qmp::CommandLine command_line;
    std::string working_directory;
    std::unique_ptr<netmove::Netlink> netlink;
    std::vector<std::unique_ptr<Nic>> nics;
    std::optional<LibvirtGuest> libvirt;  ///< It is a guest of libvirt on this host.
    /// The definition with which it was one on another host, with this host's images; empty: none.
    std::string domain_xml;

    /// Watches the guest's addresses until stopped; one task per interface inside.
    core::Task<void> watch(std::stop_token token);
    /// Copies the addresses that the watchers know into each interface, given addresses first. A
    /// routed interface has only given ones: a guest must not draw the traffic of others.
    void take_in_addresses();
    /// Takes in the taps that were plugged in or unplugged since QEMU's start.
    core::Task<core::Result<>> renew_nics(RunningLine running);
    /// Reconnects to QMP after the monitor's connection was lost while QEMU lives.
    core::Task<core::Result<>> reconnect(core::Deadline deadline);
    /// Ends our connection; QEMU continues.
    core::Task<void> close();

    core::Result<> write_manifest() const;
    /// Removes what this host keeps of the guest: manifest, run directory, and routes to its taps.
    void forget() const;

private:
    void stay_reachable(LibvirtGuest found);
    core::Task<core::Result<>> find_nics(AttachOptions options, core::Json manifest);
    void take_nics(std::vector<qmp::TapOption> const& options, RunningLine const& running,
                   std::vector<std::unique_ptr<Nic>> found);

    core::TaskGroup* watching_ = nullptr;  ///< Of watch(), while it runs.
    std::stop_token watch_stop_;
    /// Their watchers may be running; their taps are closed.
    std::vector<std::unique_ptr<Nic>> unplugged_;
};

/// Taps opened here for a QEMU that is to be started, and the descriptors that it gets.
struct OpenedTaps {
    /// `netdev`: QEMU's id for the tap.
    void add(netmove::Tap tap, std::string netdev);

    std::vector<netmove::Tap> taps;
    std::vector<qmp::TapDescriptors> numbers;  ///< For QEMU's command line.
    std::vector<std::pair<int, int>> descriptors;  ///< {ours, QEMU's}
};

/// The manifest of a guest on this host; null when there is none.
core::Result<core::Json> read_manifest(Paths const& paths, std::string const& guest);

/// Absolute path of `path` as a process in `working_directory` sees it.
std::string absolute(std::string const& path, std::string const& working_directory);

}  // namespace sidecar
