// The witness: the only program of the test guest, run by the kernel as /init. It proves that a
// guest which was moved is the same guest: its RAM, its disks, its sessions (see images/build for
// use). Invariant: it never ends; if it cannot continue, the kernel panics, and QEMU ends because
// of -no-reboot.
#include "base.hpp"
#include "control.hpp"
#include "disk.hpp"
#include "errors.hpp"
#include "filesystem.hpp"
#include "network.hpp"
#include "ram.hpp"
#include "serial.hpp"
#include "settings.hpp"

#include <fcntl.h>
#include <linux/random.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>
#include <cerrno>
#include <csignal>
#include <cstring>
#include <fstream>
#include <iterator>
#include <string>
#include <thread>

namespace witness {
namespace {

void mount_all() {
    struct Mount {
        const char* type;
        const char* where;
    };
    for (const Mount& m :
         {Mount{"proc", "/proc"}, Mount{"sysfs", "/sys"}, Mount{"devtmpfs", "/dev"}}) {
        mkdir(m.where, 0755);
        if (mount(m.type, m.where, m.type, 0, nullptr) != 0 && errno != EBUSY)
            errors().add(Kind::setup, std::string(m.where) + ": " + std::strerror(errno));
    }
}

// /modules/order lists the files in the order of their dependencies; images/build made it.
void load_modules() {
    std::ifstream order("/modules/order");
    std::string name;
    while (std::getline(order, name)) {
        const int fd = open(("/modules/" + name).c_str(), O_RDONLY | O_CLOEXEC);
        const bool loaded = fd >= 0 && syscall(SYS_finit_module, fd, "", 0) == 0;
        if (!loaded && errno != EEXIST)
            errors().add(Kind::setup, "module " + name + ": " + std::strerror(errno));
        if (fd >= 0) close(fd);
    }
}

// The kernel would collect randomness for a second when a library first asks for some. Nothing here
// needs a secret, so the clock counts as enough randomness.
void spare_the_wait_for_randomness() {
    struct {
        int entropy_bits = 256;
        int bytes = 32;
        std::uint64_t words[4] = {now_ns(), mix(now_ns()), mix(mix(now_ns())), 0};
    } pool;
    const int fd = open("/dev/random", O_RDWR | O_CLOEXEC);
    if (fd < 0 || ioctl(fd, RNDADDENTROPY, &pool) != 0)
        errors().add(Kind::setup, std::string("/dev/random: ") + std::strerror(errno));
    if (fd >= 0) close(fd);
}

Settings read_settings() {
    std::ifstream file("/proc/cmdline");
    return parse_settings(std::string(std::istreambuf_iterator<char>(file), {}));
}

[[noreturn]] void run() {
    mount_all();
    std::ofstream("/proc/sys/kernel/printk") << "1";  // the serial port is ours, but for a panic
    spare_the_wait_for_randomness();
    load_modules();
    const Settings settings = read_settings();
    configure_loopback();
    for (const NetSettings& net : settings.nets) configure(net);

    static Parts parts;  // used by every thread, for ever
    parts.services = std::make_unique<Services>(settings.tcp_rate);
    parts.ram = std::make_unique<Ram>(settings.ram_mib, settings.ram_rate);
    for (const DiskSettings& wanted : settings.disks) {
        auto disk = std::make_unique<Disk>(wanted);
        if (disk->open()) parts.disks.push_back(std::move(disk));
    }
    if (!settings.fs.empty()) {
        parts.file_system = std::make_unique<FileSystem>(settings.fs);
        if (parts.file_system->mount() && parts.agent.start())
            std::thread([] { parts.file_system->run(); }).detach();
    }
    std::thread([] { parts.services->run_traffic(); }).detach();
    std::thread([] {
        parts.services->run_control([](std::string_view line) { return answer(parts, line); });
    }).detach();
    std::thread([] { parts.ram->run(); }).detach();
    for (const auto& disk : parts.disks)
        for (std::size_t worker = 0; worker < disk->depth(); ++worker)
            std::thread([](Disk* of, std::size_t index) { of->run(index); }, disk.get(), worker)
                .detach();
    run_serial(parts, settings.alive_ms);
}

}  // namespace
}  // namespace witness

int main() {
    std::signal(SIGPIPE, SIG_IGN);
    witness::run();
}
