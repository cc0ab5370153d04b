// Mounting, writing files, starting the agent.
#include "filesystem.hpp"

#include "base.hpp"
#include "errors.hpp"

#include <fcntl.h>
#include <spawn.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>
#include <array>
#include <cerrno>
#include <csignal>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <vector>

namespace witness {
namespace {

constexpr const char* where = "/fs";
constexpr const char* agent_program = "/usr/sbin/qemu-ga";
constexpr const char* agent_port = "org.qemu.guest_agent.0";
constexpr std::uint64_t patience_ns = 10 * ns_per_s;
constexpr std::uint64_t look_ns = 10 * ns_per_ms;
constexpr std::uint64_t files = 32;          // that exist at once
constexpr std::uint64_t blocks_of_file = 8;  // of 4 KiB
constexpr std::uint64_t pause_ns = 20 * ns_per_ms;  // between two files

std::string file_name(std::uint64_t number) {
    return std::string(where) + "/file-" + std::to_string(number);
}

// devtmpfs names ports by their number; sysfs has their names.
std::string find_port() {
    std::error_code ignored;
    const char* const ports = "/sys/class/virtio-ports";
    for (const auto& entry : std::filesystem::directory_iterator(ports, ignored)) {
        std::ifstream file(entry.path() / "name");
        std::string name;
        if (std::getline(file, name) && name == agent_port)
            return "/dev/" + entry.path().filename().string();
    }
    return {};
}

} // namespace

bool FileSystem::mount() {
    const std::string device = "/dev/" + disk_;
    const std::uint64_t until = now_ns() + patience_ns;
    while (access(device.c_str(), F_OK) != 0 && now_ns() < until)
        sleep_until_ns(now_ns() + look_ns);
    mkdir(where, 0755);
    if (::mount(device.c_str(), where, "ext4", 0, nullptr) == 0) return true;
    errors().add(Kind::setup, device + " as ext4: " + std::strerror(errno));
    return false;
}

void FileSystem::write_file(std::uint64_t number) {
    const std::string name = file_name(number % files);
    const std::string fresh = name + ".new";
    const int fd = open(fresh.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    std::array<char, 4096> block;
    block.fill(static_cast<char>('a' + number % 26));
    for (std::uint64_t i = 0; i < blocks_of_file; ++i) {
        if (write(fd, block.data(), block.size()) != static_cast<ssize_t>(block.size())) {
            errors().add(Kind::disk_io, fresh + ": " + std::strerror(errno));
            break;
        }
        ++writes;
    }
    if (number % files == 0) fdatasync(fd);
    close(fd);
    if (rename(fresh.c_str(), name.c_str()) != 0)
        errors().add(Kind::disk_io, name + ": " + std::strerror(errno));
}

void FileSystem::run() {
    for (std::uint64_t number = 0;; ++number) {
        write_file(number);
        sleep_until_ns(now_ns() + pause_ns);
    }
}

bool Agent::start() {
    const std::uint64_t until = now_ns() + patience_ns;
    std::string port = find_port();
    while (port.empty() && now_ns() < until) {
        sleep_until_ns(now_ns() + look_ns);
        port = find_port();
    }
    mkdir("/run", 0755);
    std::vector<std::string> words{agent_program, "-m", "virtio-serial",   "-p", port, "-t",
                                   "/run",        "-l", "/run/qemu-ga.log"};
    std::vector<char*> argv;
    for (std::string& word : words) argv.push_back(word.data());
    argv.push_back(nullptr);
    const int failed =
        port.empty() ? ENODEV
                     : posix_spawn(&pid_, agent_program, nullptr, nullptr, argv.data(), nullptr);
    if (failed == 0) return true;
    errors().add(Kind::setup, std::string(agent_program) + ": " + std::strerror(failed));
    return false;
}

std::string Agent::signal(int number) const {
    if (pid_ > 0 && kill(pid_, number) == 0) return {};
    return "no guest agent runs here";
}

} // namespace witness
