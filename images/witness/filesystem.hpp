// A file system of this guest that is written all the time, and the guest agent that can freeze it.
// Used by main, and by control for its counters. Both are the real ones: the kernel's ext4, and
// qemu-ga. Invariant: nothing else of the witness touches the file system, so that everything else
// continues while it is frozen.
#pragma once

#include <sys/types.h>

#include <atomic>
#include <cstdint>
#include <string>

namespace witness {

class FileSystem {
public:
    /// `disk`: vda, ... with an ext4 on it.
    explicit FileSystem(std::string disk) : disk_(std::move(disk)) {}

    /// Mounts it, waiting a bounded time for the disk. False (and a setup error) if it fails.
    bool mount();
    /// Makes, fills, renames and removes files, and never returns: the journal is never empty for
    /// long.
    [[noreturn]] void run();

    std::atomic<std::uint64_t> writes = 0;  ///< Of 4 KiB.

private:
    void write_file(std::uint64_t number);
    std::string disk_;
};

/// The image's qemu-ga, on the port org.qemu.guest_agent.0.
class Agent {
public:
    /// False (and a setup error) if the image has none, or if there is no such port.
    bool start();
    /// SIGSTOP or SIGCONT: an agent that does not answer. An empty string, or what failed.
    std::string signal(int number) const;

private:
    pid_t pid_ = -1;
};

}  // namespace witness
