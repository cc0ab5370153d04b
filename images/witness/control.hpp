// What a test can ask of the witness: one JSON object in, one JSON object out, one line each.
// Used by the serial port and by TCP port 7003. Commands are described in images/build.
#pragma once

#include "disk.hpp"
#include "filesystem.hpp"
#include "network.hpp"
#include "ram.hpp"
#include "tpm.hpp"

#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace witness {

/// Everything that runs in this guest. Made by main, never destroyed.
struct Parts {
    std::unique_ptr<Ram> ram;
    std::vector<std::unique_ptr<Disk>> disks;
    std::unique_ptr<Services> services;
    std::unique_ptr<FileSystem> file_system; // none without witness.fs
    Agent agent;
    Tpm tpm;
};

/// Executes the command `line`: {"cmd":"report"}, or the bare word report. The answer has "ok", and
/// "error" with a sentence if ok is false.
std::string answer(Parts& parts, std::string_view line);

/// The liveness line with the number `count`.
std::string alive_line(const Parts& parts, std::uint64_t count);

}  // namespace witness
