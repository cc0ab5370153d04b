#include "tests/support/debian_guest.hpp"

#include <algorithm>
#include <array>
#include <sstream>

namespace lab {

namespace {

constexpr char const* ready_line = "debian-guest: ready, the system is ";
constexpr int partition_at = 1 << 20;  // as in images/debian-guest/build
constexpr std::size_t last_words_bytes = 1500;
constexpr std::array faults{"Oops",
                            "BUG:",
                            "Call Trace",
                            "Kernel panic",
                            "I/O error",
                            "EXT4-fs error",
                            "EXT4-fs warning",
                            "Out of memory",
                            "blk_update_request",
                            "Remounting filesystem read-only"};

fs::path debian_guest() { return deps() / "debian-guest"; }

/// The rest of the line that begins with `begin`; empty if the console has no whole such line.
std::string line_after(std::string const& console, std::string const& begin) {
    auto const at = console.find(begin);
    if (at == std::string::npos) return {};
    auto const from = at + begin.size();
    auto const end = console.find_first_of("\r\n", from);
    return end == std::string::npos ? "" : console.substr(from, end - from);
}

}  // namespace

std::string DebianGuest::why_missing() {
    if (fs::exists(debian_guest() / "stamp")) return {};
    return "the Debian guest is not in " + debian_guest().string() +
           ": run scripts/setup --debian-guest";
}

GuestOptions DebianGuest::options(std::string const& qemu, std::string const& format) {
    return {.name = "db1", .qemu = qemu, .format = format, .disks = 0, .ram_mib = 512};
}

fs::path DebianGuest::client(std::string const& program) {
    return debian_guest() / "client" / program;
}

Argv DebianGuest::command_line(Host const& host) const {
    auto const& guest = scene_.guest();
    return {guest.qemu(),
            "-name",
            guest.name(),
            "-M",
            "q35",
            "-accel",
            "tcg",
            "-m",
            ram_size(guest.options()),
            "-smp",
            processors(guest.options()),
            "-display",
            "none",
            "-no-reboot",  // after a panic
            "-serial",
            "file:" + guest.serial(host).string(),
            "-qmp",
            "unix:" + guest.probe_socket(host).string() + ",server=on,wait=off",
            "-drive",
            fmt::format("file={},format={},if=virtio", guest.image(host, 0).string(),
                        guest.options().format),
            "-netdev",
            fmt::format("tap,id=n0,ifname={},script=no,downscript=no", guest.tap()),
            "-device",
            fmt::format("virtio-net-pci,netdev=n0,mac={}", guest_mac)};
}

void DebianGuest::start(Host const& host) {
    must_run({"qemu-img", "convert", "-f", "raw", "-O", scene_.guest().options().format,
              debian_guest() / "disk.raw", scene_.guest().image(host, 0)});
    scene_.start_run(host, command_line(host));
    auto const last_words = [&] {
        auto const all = console(host);
        return all.substr(all.size() - std::min(all.size(), last_words_bytes));
    };
    try {
        wait_until("the end of the guest's boot", boot_limit, [&] {
            if (auto const ended = scene_.first_sidecar().wait(0ms))
                throw Failure(fmt::format("`sidecar run` ended with {}: {}", *ended,
                                          scene_.first_sidecar().err()));
            return !line_after(console(host), ready_line).empty();
        });
    } catch (Failure const& failure) {
        throw Failure(failure.what() + ("; the guest's last words: " + last_words()));
    }
    if (auto const state = line_after(console(host), ready_line); state != "running")
        throw Failure("the guest's system is " + state + ": " + last_words());
}

// By a program that the database server runs: a guest needs no other service to be asked.
std::string DebianGuest::system_state() const {
    return sql(
        "CREATE TEMP TABLE said (line text);"
        "COPY said FROM PROGRAM 'systemctl is-system-running; systemctl list-units --failed"
        " --plain --no-legend';"
        "SELECT line FROM said");
}

std::string DebianGuest::sql(std::string const& statement) const {
    auto text =
        must_run({client("psql"), "--no-psqlrc", "--quiet", "--tuples-only", "--no-align", "-v",
                  "ON_ERROR_STOP=1", "-h", guest_ip4, "-U", "postgres", "-c", statement, "bench"},
                 {scene_.net().client_netns(), {}}, statement_limit);
    while (text.ends_with('\n')) text.pop_back();
    return text;
}

std::string DebianGuest::console(Host const& host) const {
    return read_file(scene_.guest().serial(host));
}

void DebianGuest::power_off(Host const& host) const {
    Qmp(scene_.guest().probe_socket(host)).execute("system_powerdown");
    wait_until("the end of a guest that is switched off", poweroff_limit,
               [&] { return scene_.guest().qemu_pid(host) < 0; });
}

void DebianGuest::check_file_system(Host const& host) const {
    auto const image = scene_.guest().image(host, 0);
    auto const raw = image.string() + ".check";
    must_run(
        {"qemu-img", "convert", "-f", scene_.guest().options().format, "-O", "raw", image, raw});
    must_run({"/sbin/e2fsck", "-f", "-n", fmt::format("{}?offset={}", raw, partition_at)});
    fs::remove(raw);
}

std::string kernel_faults(std::string const& console) {
    std::string found;
    std::istringstream lines(console);
    for (std::string line; std::getline(lines, line);) {
        if (std::ranges::any_of(faults, [&](char const* fault) { return line.contains(fault); }))
            found += line + "\n";
    }
    return found;
}

}  // namespace lab
