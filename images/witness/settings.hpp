// The settings of the witness on the kernel command line: every word that begins with "witness.".
// Used by main once, at start. The words and their defaults are described in images/build.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace witness {

struct DiskSettings {
    std::string name;              // vda, sda, ...
    std::uint64_t rate = 200;      // writes per second
    std::uint64_t read_rate = 50;  // checked reads per second
    std::uint64_t span_mib = 64;   // how much of the disk is written
    std::uint64_t offset_mib = 0;  // where that begins
    std::uint64_t flush_every = 0; // fdatasync after so many writes; 0: never
    std::uint64_t depth = 1;       // writers at once
    bool hot = false;              // nine of ten writes go to the first sixteenth of the span
    bool scan = false;             // learn the whole span before the guest says it is alive
};

struct NetSettings {
    std::string name;             // eth0, ...; or
    std::string mac;              // the interface with this address, as 52:54:00:...
    std::vector<std::string> ip4; // 10.0.0.10/24
    std::vector<std::string> ip6; // fd00::10/64
    std::string gw4;
    std::string gw6;
    std::uint32_t mtu = 0; // 0: as the device says
    bool ra = false;       // accept router advertisements
};

struct Settings {
    std::uint64_t ram_mib = 32;
    std::uint64_t ram_rate = 2000;  // pages per second
    std::uint64_t alive_ms = 100;   // one line on the serial port each
    std::uint64_t tcp_rate = 1000;  // records per second to each client of the TCP source
    std::vector<DiskSettings> disks;
    std::vector<NetSettings> nets;
    std::string fs;  // a disk with an ext4: vda, ...; empty: none
};

/// Reads /proc/cmdline's text. An unknown word is reported as a setup error and ignored.
Settings parse_settings(std::string_view command_line);

} // namespace witness
