// Lab: two hosts that share only a network, and a client, made of network namespaces in a directory
// of their own. Used by the vm tests and the benchmarks.
//
//   host a: br0 --- up0 ---+                       +--- up0 --- br0 :host b
//                          +--- bridge of switch --+
//   client: up0 -----------+
//
// Invariant: its processes, namespaces and files are removed even if the test fails or is killed. A
// reaper process, which is not a child of the test, cleans up when the test's end of a pipe closes.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "tests/support/command.hpp"

namespace lab {

/// One host of the lab. Paths are of this machine; a host uses only its own directory.
struct Host {
    std::string name;  ///< "a" or "b"
    std::string netns;
    fs::path directory;  ///< All files of this host are under it.
    fs::path images;  ///< Disks of guests.
    fs::path run_dir;  ///< SIDECAR_RUN_DIR
    fs::path state_dir;  ///< SIDECAR_STATE_DIR
    fs::path logs;
    std::string ip4;  ///< The address of its bridge; sidecars reach each other by it.
    std::string ip6;  ///< Empty on a host without IPv6.

    /// How a sidecar on another host names this host: by its IPv6 address if it has one.
    [[nodiscard]] std::string address() const { return ip6.empty() ? ip4 : "[" + ip6 + "]"; }
    /// The place of a process on this host, with the program's directories in its environment.
    [[nodiscard]] Place place(std::vector<std::string> more_environment = {}) const;
};

/// A guest's addresses: the same in every lab, because each lab is a separate network.
inline constexpr char const* guest_ip4 = "10.77.0.10";
inline constexpr char const* guest_ip6 = "fd77::10";
inline constexpr char const* guest_mac = "52:54:00:77:00:10";
inline constexpr char const* guest_mac_ipv6 = "52:54:00:77:00:11";  ///< With two interfaces.
inline constexpr char const* bridge = "br0";

class Lab {
public:
    /// `link_mbit`: the rate of the hosts' links in each direction; 0: as fast as the machine can.
    /// `hosts_ipv6`: if false, IPv6 is disabled in the kernels of both hosts. Guests still have it,
    /// because a bridge does not look at it.
    explicit Lab(std::uint64_t link_mbit = 0, bool hosts_ipv6 = true);
    ~Lab();
    Lab(Lab const&) = delete;
    Lab& operator=(Lab const&) = delete;

    [[nodiscard]] Host const& a() const { return a_; }
    [[nodiscard]] Host const& b() const { return b_; }
    [[nodiscard]] Host const& other(Host const& host) const { return &host == &a_ ? b_ : a_; }
    [[nodiscard]] std::string const& client_netns() const { return client_; }
    /// The namespace of the switch, whose ports are named host-a, host-b and client.
    [[nodiscard]] std::string const& switch_netns() const { return switch_; }
    [[nodiscard]] fs::path const& directory() const { return directory_; }

    /// Changes the rate of the hosts' links; 0 removes the limit.
    void shape(std::uint64_t link_mbit);
    /// Adds a wire from a host to the switch, where its end is NAME-HOST. Its end at the host is in
    /// no bridge, and sends nothing.
    void add_wire(Host const& host, std::string const& name) const;
    /// Takes the link between a host and the switch down or up.
    void link(Host const& host, bool up);

private:
    void make_directories();
    void make_network(bool hosts_ipv6);
    void make_host(Host& host, int number, bool ipv6);

    std::string tag_;
    fs::path directory_;
    std::string switch_;
    std::string client_;
    Host a_;
    Host b_;
    core::Fd alive_;  ///< Closing it tells the reaper that the lab has ended.
    core::Fd gone_;  ///< End of file: the reaper has cleaned up.
};

/// The QEMU versions ("7.2", "10.0") of a test that is the same with each: both in a full run
/// (SIDECAR_TEST_ALL is set: scripts/test --all), otherwise only `usual`. For Catch2's GENERATE.
std::vector<std::string> qemus(std::string const& usual);
/// The same for the formats of a disk, "raw" and "qcow2".
std::vector<std::string> formats(std::string const& usual);

/// Why this machine cannot run the lab (no root, no namespaces, no guest), or an empty string.
std::string why_impossible();

/// The program under test, and what scripts/setup made.
fs::path program(std::string const& name);  ///< build/bin/NAME, beside the running executable.
fs::path deps();  ///< SIDECAR_DEPS, or .deps of the checkout.
fs::path docs();  ///< SIDECAR_DOCS, or docs of the checkout.

/// Options of `serve` with which it runs the guests of tests: with the QEMUs of scripts/setup and
/// of the distribution, and with the test guest's kernel. Without the QEMUs if `more` names one.
Argv allow_guests(Argv const& more = {});

}  // namespace lab
