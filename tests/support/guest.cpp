#include "tests/support/guest.hpp"

#include <fcntl.h>
#include <poll.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>

#include "tests/support/swtpm.hpp"

namespace lab {

using core::Json;

namespace {

constexpr int control_port = 7003;
constexpr std::size_t random_chunk = 1 << 20;
constexpr Milliseconds evidence_limit = 5s;

// Sends one line to the control port and returns the answer; empty when the guest does not answer.
std::string converse(core::Fd const& socket, std::string const& line, Milliseconds limit) {
    auto const until = std::chrono::steady_clock::now() + limit;
    std::string const request = line + "\n";
    if (send(socket.get(), request.data(), request.size(), MSG_NOSIGNAL) < 0) return {};
    std::string answer;
    while (answer.find('\n') == std::string::npos) {
        auto const left =
            std::chrono::duration_cast<Milliseconds>(until - std::chrono::steady_clock::now());
        pollfd entry{socket.get(), POLLIN, 0};
        if (::poll(&entry, 1, static_cast<int>(std::max(left, 0ms).count())) != 1) return {};
        char buffer[8192];
        auto const got = recv(socket.get(), buffer, sizeof buffer, 0);
        if (got <= 0) return {};
        answer.append(buffer, static_cast<std::size_t>(got));
    }
    return answer;
}

}  // namespace

// QEMU 7.2 under TCG loses dirty pages of a RAM block whose size is a multiple of 256 KiB: its fast
// path does not flush the TLB (fixed in 9.0, "physmem: Fix migration dirty bitmap coherency with
// TCG memory access"). Its own plain migration corrupts a guest now and then. A size that is 8 KiB
// larger takes the other path. KVM is not affected.
std::string ram_size(GuestOptions const& options) {
    std::uint64_t const more_kib = options.qemu == "7.2" && !options.kvm ? 8 : 0;
    return fmt::format("{}K", options.ram_mib * 1024 + more_kib);
}

Guest::Guest(Lab const& lab, GuestOptions options) : lab_(lab), options_(std::move(options)) {}

fs::path Guest::qemu() const { return deps() / "bin" / ("qemu-system-x86_64-" + options_.qemu); }

fs::path Guest::image(Host const& host, int disk) const {
    if (disk == 0 && !options_.device.empty()) return options_.device;
    return host.images / fmt::format("{}-{}.{}", options_.name, disk, options_.format);
}

fs::path Guest::base(Host const& host, int disk) const {
    return host.images / fmt::format("{}-{}-base.{}", options_.name, disk, options_.base);
}

fs::path Guest::middle(Host const& host, int disk) const {
    return host.images / fmt::format("{}-{}-middle.qcow2", options_.name, disk);
}

fs::path Guest::probe_socket(Host const& host) const {
    return host.directory / (options_.name + "-probe.sock");
}

fs::path Guest::agent_socket(Host const& host) const {
    return host.directory / (options_.name + "-agent.sock");
}

fs::path Guest::tpm_socket(Host const& host) const {
    return host.directory / (options_.name + "-swtpm.sock");
}

fs::path Guest::serial(Host const& host) const {
    return host.logs / (options_.name + "-serial.log");
}

void Guest::make_disks(Host const& host) const {
    for (int disk = options_.device.empty() ? 0 : 1; disk < options_.disks; ++disk) {
        fs::path const raw = image(host, disk).string() + ".new";
        write_file(raw, "");
        fs::resize_file(raw, options_.disk_mib << 20);
        if (options_.agent) {
            must_run({"/sbin/mkfs.ext4", "-q", "-F", raw});
        } else {
            write_random(raw, 0, options_.random_mib << 20);
        }
        auto const& format = options_.base.empty() ? options_.format : options_.base;
        auto const made_of = options_.base.empty() ? image(host, disk) : base(host, disk);
        if (format == "raw") {
            fs::rename(raw, made_of);
        } else {
            must_run({"qemu-img", "convert", "-f", "raw", "-O", format, raw, made_of});
            fs::remove(raw);
        }
        if (!options_.base.empty()) make_overlay(host, disk);
        // Otherwise the guest's first flush would write the whole disk.
        core::Fd const made(open(image(host, disk).c_str(), O_RDONLY | O_CLOEXEC));
        if (fsync(made.get()) < 0) throw Failure("cannot sync " + image(host, disk).string());
    }
}

// The backing file is given relative to the image's own directory, as in most images.
void Guest::make_overlay(Host const& host, int disk) const {
    auto below = base(host, disk);
    auto format = options_.base;
    if (options_.middle) {
        must_run({"qemu-img", "create", "-q", "-f", "qcow2", "-b", below.filename(), "-F", format,
                  middle(host, disk)});
        below = middle(host, disk);
        format = "qcow2";
        // In the middle layer, 16 clusters of the base's random part hold other data.
        for (int cluster = 0; cluster < 16; ++cluster) {
            must_run({"qemu-io", "-f", "qcow2", "-c",
                      fmt::format("write -P {} {}M 64k", cluster + 1, 20 + 2 * cluster), below});
        }
    }
    must_run({"qemu-img", "create", "-q", "-f", "qcow2", "-b", below.filename(), "-F", format,
              image(host, disk)});
}

std::string Guest::add_layers(Argv& argv, Host const& disks_of, int disk) const {
    if (options_.base.empty() || !options_.blockdev) return {};
    auto const add = [&](std::string const& name, std::string const& format, fs::path const& path,
                         std::string const& more) {
        argv.emplace_back("-blockdev");
        argv.push_back(fmt::format("driver=file,node-name={}-file,filename={},read-only=on", name,
                                   path.string()));
        argv.emplace_back("-blockdev");
        argv.push_back(fmt::format("driver={},node-name={},file={}-file,read-only=on{}", format,
                                   name, name, more));
    };
    auto const name = fmt::format("base{}", disk);
    add(name, options_.base, base(disks_of, disk), "");
    if (!options_.middle) return ",backing=" + name;
    add(fmt::format("middle{}", disk), "qcow2", middle(disks_of, disk), ",backing=" + name);
    return fmt::format(",backing=middle{}", disk);
}

void Guest::add_agent(Argv& argv, Host const& host) const {
    auto const socket =
        fmt::format("socket,id=ga0,path={},server=on,wait=off", agent_socket(host).string());
    Argv const options{"-device",  "virtio-serial-pci",
                       "-chardev", socket,
                       "-device",  "virtserialport,chardev=ga0,name=org.qemu.guest_agent.0"};
    argv.insert(argv.end(), options.begin(), options.end());
}

// TCG before 8.1 leaves out a guest's memory barriers where there can be one processor only, and
// a virtio queue then misses a notification (docs/qemu-bugs.md): so there can be one more.
std::string processors(GuestOptions const& options) {
    bool const barriers = options.kvm || options.qemu != "7.2";
    return barriers ? std::to_string(options.queues)
                    : fmt::format("{},maxcpus={}", options.queues, options.queues + 1);
}

Argv Guest::command_line(Host const& host, Host const& disks_of) const {
    // no_timer_check: on a busy machine an emulated timer may be too late for the kernel's timer
    // check at boot, and the kernel panics. edd, cryptomgr: shorter boot.
    std::string append = fmt::format(
        "console=ttyS0 quiet panic=-1 no_timer_check edd=off cryptomgr.notests"
        " witness.ram_rate={} witness.alive_ms={}",
        options_.ram_rate, options_.alive_ms);
    Argv argv{qemu(),
              "-name",
              options_.name,
              "-M",
              "q35",
              "-accel",
              options_.kvm ? "kvm" : "tcg",
              "-m",
              ram_size(options_),
              "-smp",
              processors(options_),
              "-nodefaults",
              "-nographic",
              "-no-reboot",
              "-kernel",
              deps() / "guest" / "vmlinuz",
              "-initrd",
              deps() / "guest" / (options_.agent ? "initramfs-agent.cpio.gz" : "initramfs.cpio.gz"),
              "-serial",
              "file:" + serial(host).string(),
              "-qmp",
              "unix:" + probe_socket(host).string() + ",server=on,wait=off"};
    auto const add = [&](std::string option, std::string value) {
        argv.push_back(std::move(option));
        argv.push_back(std::move(value));
    };
    if (options_.kvm) add("-cpu", "host");
    if (options_.iothread) add("-object", "iothread,id=io0");
    if (options_.hot_slot || options_.plugged) add("-device", "pcie-root-port,id=rp0,chassis=1");
    if (options_.plugged) {
        add("-device", "pcie-root-port,id=rp1,chassis=2");
        argv.emplace_back("-S");
    }
    std::string const discard = !options_.discard   ? ""
                                : options_.blockdev ? ",discard=unmap,file.discard=unmap"
                                                    : ",discard=unmap";
    for (int disk = 0; disk < options_.disks; ++disk) {
        std::string const id = fmt::format("d{}", disk);
        append += witness_disk(disk);
        if (options_.plugged && disk == options_.disks - 1) continue;  // by plug()
        auto const layers = add_layers(argv, disks_of, disk);
        if (options_.blockdev) {
            add("-blockdev",
                fmt::format("driver={},node-name={},file.driver=file,file.filename={}{}{}",
                            options_.format, id, image(disks_of, disk).string(), discard, layers));
        } else {
            add("-drive", fmt::format("if=none,id={},file={},format={}{}", id,
                                      image(disks_of, disk).string(), options_.format, discard));
        }
        add("-device", fmt::format("virtio-blk-pci,drive={},serial=disk{}{}", id, disk,
                                   options_.iothread ? ",iothread=io0" : ""));
    }
    if (options_.agent) add_agent(argv, host);
    if (!options_.tpm.empty()) {
        auto const tpm = tpm_options(tpm_socket(host), options_.tpm);
        argv.insert(argv.end(), tpm.begin(), tpm.end());
    }
    append += add_interfaces(argv);
    add("-append", append);
    return argv;
}

std::string Guest::witness_disk(int disk) const {
    auto const letter = static_cast<char>('a' + disk);
    if (options_.agent) return fmt::format(" witness.fs=vd{}", letter);
    return fmt::format(" witness.disk=vd{},rate={},span_mib={},read_rate={}", letter, options_.rate,
                       options_.span_mib, options_.read_rate);
}

void Guest::plug(Host const& host) const {
    wait_until("the guest's QEMU", boot_limit, [&] { return fs::exists(probe_socket(host)); });
    Qmp qemu(probe_socket(host));
    auto const disk = options_.disks - 1;
    qemu.execute("blockdev-add", Json::object({{"driver", "file"},
                                               {"node-name", "plugged-file"},
                                               {"filename", image(host, disk).string()}}));
    qemu.execute("blockdev-add", Json::object({{"driver", options_.format},
                                               {"node-name", "plugged-disk"},
                                               {"file", "plugged-file"}}));
    qemu.execute("device_add", Json::object({{"driver", "virtio-blk-pci"},
                                             {"id", "plugged0"},
                                             {"bus", "rp0"},
                                             {"drive", "plugged-disk"},
                                             {"serial", fmt::format("disk{}", disk)}}));
    qemu.execute("netdev_add", Json::object({{"type", "tap"},
                                             {"id", "plugged-tap"},
                                             {"ifname", tap()},
                                             {"script", "no"},
                                             {"downscript", "no"}}));
    must_run({"ip", "-n", host.netns, "link", "set", tap(), "addrgenmode", "none", "master", bridge,
              "up"});
    qemu.execute("device_add", Json::object({{"driver", "virtio-net-pci"},
                                             {"bus", "rp1"},
                                             {"netdev", "plugged-tap"},
                                             {"mac", guest_mac},
                                             {"romfile", ""}}));
    qemu.execute("cont");
}

std::string Guest::add_interfaces(Argv& argv) const {
    // Vectors: one for each direction of each queue, one for configuration, one for control.
    bool const many = options_.queues > 1;
    auto const tap_more = std::string(options_.vhost ? ",vhost=on" : "") +
                          (many ? fmt::format(",queues={}", options_.queues) : "");
    auto const mq = many ? fmt::format(",mq=on,vectors={}", 2 * options_.queues + 2) : "";
    auto const add = [&](std::string const& id, std::string const& tap_options,
                         std::string const& mac) {
        argv.insert(
            argv.end(),
            {"-netdev",
             fmt::format("tap,id={},{}{},script=no,downscript=no", id, tap_options, tap_more),
             "-device", fmt::format("virtio-net-pci,netdev={},mac={},romfile={}", id, mac, mq)});
    };
    auto const ip4 = fmt::format(",ip4={}/24", guest_ip4);
    auto const ip6 = fmt::format(",ip6={}/64", guest_ip6);
    if (!options_.networks) {
        if (!options_.plugged) add("n0", "ifname=" + tap(), guest_mac);
        return " witness.net=eth0" + (options_.ipv4 ? ip4 : "") + (options_.ipv6 ? ip6 : "");
    }
    std::string append;
    if (options_.ipv4) {
        add("n0", fmt::format("ifname={},br=v4", tap()), guest_mac);
        append += fmt::format(" witness.net=mac={}{}", guest_mac, ip4);
    }
    if (options_.ipv6) {
        add("n1", fmt::format("ifname={},br=v6", tap_ipv6()), guest_mac_ipv6);
        append += fmt::format(" witness.net=mac={}{}", guest_mac_ipv6, ip6);
    }
    return append;
}

void Guest::make_tap(Host const& host) const {
    must_run({"ip", "-n", host.netns, "tuntap", "add", "dev", tap(), "mode", "tap", "vnet_hdr"});
    must_run({"ip", "-n", host.netns, "link", "set", tap(), "addrgenmode", "none", "master", bridge,
              "up"});
}

Daemon Guest::start_plainly(Host const& host, Argv const& more) const {
    auto argv = command_line(host);
    argv.insert(argv.end(), more.begin(), more.end());
    return Daemon(options_.name + "-qemu", std::move(argv), host.place(), host.logs);
}

Json Guest::ask(Json const& command, Milliseconds limit) const {
    std::string const address = options_.ipv4 ? guest_ip4 : guest_ip6;
    std::string answer;
    try {
        wait_until("an answer of the guest to " + command.dump(), limit, [&] {
            auto const socket = connect_in(lab_.client_netns(), address, control_port);
            if (!socket) return false;
            answer = converse(socket, command.dump(), limit);
            return !answer.empty();
        });
    } catch (Failure const& failure) {
        throw Failure(failure.what() + evidence());
    }
    auto parsed = parse_json(answer);
    if (!parsed["ok"].boolean_or(false))
        throw Failure("the guest refused " + command.dump() + ": " + answer);
    return parsed;
}

namespace {

/// What the guest's RAM has of a virtqueue (virtio 1.2, 2.7): the indexes, and when each side wants
/// to be notified. With them it can be told whether a notification was lost, and on which side.
std::string rings_of(Qmp& qemu, Json const& state) {
    auto const size = state["vring-num"].integer_or(0);
    auto const avail = state["vring-avail"].integer_or(0);
    auto const used = state["vring-used"].integer_or(0);
    std::string text;
    auto const show = [&](char const* what, std::int64_t address, int words) {
        auto const line = fmt::format("xp /{}hx {:#x}", words, address);
        text += fmt::format(
            "\n{}: {}", what,
            qemu.execute("human-monitor-command", Json::object({{"command-line", line}}))
                .text_or(""));
    };
    show("avail flags, idx", avail, 2);
    show("used_event", avail + 4 + 2 * size, 1);
    show("used flags, idx", used, 2);
    show("avail_event", used + 4 + 8 * size, 1);
    return text;
}

}  // namespace

/// For a guest that does not answer: what its QEMU, its tap and the switch say.
std::string Guest::evidence() const {
    std::string text;
    auto const add = [&text](std::string const& netns, Argv argv) {
        argv.insert(argv.begin(), {"ip", "netns", "exec", netns});
        auto const done = run(argv);
        text += fmt::format("\n{}:\n{}{}", fmt::join(argv, " "), done.out, done.err);
    };
    for (Host const* host : {&lab_.a(), &lab_.b()}) {
        if (!fs::exists(probe_socket(*host))) continue;
        try {
            Qmp qemu(probe_socket(*host), evidence_limit);
            text += fmt::format("\nQEMU on host {}: {}", host->name, qemu.status());
            auto const devices = qemu.execute("x-query-virtio");
            for (auto const& device : devices.elements()) {
                if (device["name"].text_or("") != "virtio-net") continue;
                for (int queue = 0; queue < 2; ++queue) {
                    auto const state =
                        qemu.execute("x-query-virtio-queue-status",
                                     Json::object({{"path", device["path"]}, {"queue", queue}}));
                    text += "\n" + state.dump() + rings_of(qemu, state);
                }
            }
        } catch (Failure const& failure) {
            text += fmt::format("\nQEMU on host {}: {}", host->name, failure.what());
            continue;
        }
        add(host->netns, {"tc", "-s", "filter", "show", "dev", tap(), "ingress"});
        add(host->netns, {"tc", "-s", "filter", "show", "dev", tap(), "egress"});
        add(host->netns, {"ip", "-s", "link", "show", "dev", tap()});
        add(host->netns, {"bridge", "fdb", "show", "br", bridge});
    }
    add(lab_.switch_netns(), {"bridge", "fdb", "show"});
    add(lab_.client_netns(), {"ip", "neigh", "show"});
    return text;
}

bool Guest::answers() const {
    auto const over = [&](char const* address) {
        auto const socket = connect_in(lab_.client_netns(), address, control_port);
        return socket && !converse(socket, "report", answer_limit).empty();
    };
    return (!options_.ipv4 || over(guest_ip4)) && (!options_.ipv6 || over(guest_ip6));
}

void Guest::wait_alive() const { (void)ask(Json::object({{"cmd", "report"}}), boot_limit); }

void Guest::learn() const { (void)ask(Json::object({{"cmd", "verify"}}), boot_limit); }

void Guest::must_be_whole() const {
    auto const verified = ask(Json::object({{"cmd", "verify"}}), boot_limit);
    if (verified["wrong"].integer_or(-1) != 0 || verified["errors"].integer_or(-1) != 0) {
        throw Failure("the guest found errors: " + verified.dump());
    }
    auto const report = ask(Json::object({{"cmd", "report"}}));
    if (report["errors"].integer_or(-1) != 0)
        throw Failure("the guest found errors: " + report.dump());
}

void Guest::must_be_alive() const {
    auto const counted = [&] {
        auto const report = ask(Json::object({{"cmd", "report"}}));
        std::int64_t writes = report["file_writes"].integer_or(0);
        for (auto const& disk : report["disks"].elements()) writes += disk["writes"].integer_or(0);
        return std::pair(report["uptime_ms"].integer_or(0), writes);
    };
    auto const before = counted();
    wait_until("the guest's next write", answer_limit, [&] {
        auto const now = counted();
        return now.first > before.first && (options_.disks == 0 || now.second > before.second);
    });
}

pid_t Guest::qemu_pid(Host const& host) const {
    for (auto const& seen : processes_in(host.netns)) {
        bool const is_qemu = seen.argv[0].find("qemu-system") != std::string::npos;
        if (is_qemu && std::ranges::find(seen.argv, options_.name) != seen.argv.end())
            return seen.pid;
    }
    return -1;
}

bool Guest::runs_on(Host const& host) const {
    return qemu_pid(host) > 0 && Qmp(probe_socket(host)).status() == "running";
}

void write_random(fs::path const& file, std::uint64_t offset, std::uint64_t length) {
    core::Fd const fd(open(file.c_str(), O_WRONLY | O_CLOEXEC));
    if (!fd) throw Failure("cannot write " + file.string());
    std::string chunk(random_chunk, '\0');
    for (std::uint64_t done = 0; done < length; done += chunk.size()) {
        chunk.resize(std::min<std::uint64_t>(random_chunk, length - done));
        for (std::size_t at = 0; at < chunk.size();) {
            auto const got = getrandom(chunk.data() + at, chunk.size() - at, 0);
            if (got > 0) at += static_cast<std::size_t>(got);
        }
        if (pwrite(fd.get(), chunk.data(), chunk.size(), static_cast<off_t>(offset + done)) !=
            static_cast<ssize_t>(chunk.size())) {
            throw Failure("cannot write " + file.string() + ": " + std::strerror(errno));
        }
    }
}

void compare_images(fs::path const& one, std::string const& format, fs::path const& other) {
    must_run({"qemu-img", "compare", "-U", "-f", format, "-F", format, one, other});
}

void compare_images(fs::path const& one, std::string const& format, fs::path const& other,
                    std::uint64_t from) {
    auto const opened = [&](fs::path const& image) {
        auto const info =
            must_run({"qemu-img", "info", "-U", "-f", format, "--output=json", image});
        if (info.find("backing-filename") != std::string::npos)
            throw Failure(image.string() +
                          " has a backing file: cannot be compared from an offset on");
        return fmt::format("driver=raw,offset={},file.driver={},file.file.filename={}", from,
                           format, image.string());
    };
    must_run({"qemu-img", "compare", "-U", "--image-opts", opened(one), opened(other)});
}

fs::path image_left(fs::path const& image) {
    if (fs::exists(image)) return image;
    for (auto const& entry : fs::directory_iterator(image.parent_path())) {
        auto const path = entry.path().string();
        if (path.starts_with(image.string() + ".leaving-") ||
            path.starts_with(image.string() + ".moved-")) {
            return entry.path();
        }
    }
    throw Failure("the source's image " + image.string() + " is gone");
}

fs::path moved_image(fs::path const& image) {
    for (auto const& entry : fs::directory_iterator(image.parent_path())) {
        if (entry.path().string().starts_with(image.string() + ".moved-")) return entry.path();
    }
    throw Failure("the source's image was not set aside");
}

}  // namespace lab
