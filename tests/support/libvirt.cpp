#include "tests/support/libvirt.hpp"

#include <fmt/format.h>
#include <unistd.h>

#include "tests/support/lab.hpp"

namespace lab {

namespace {

constexpr auto libvirt_start_limit = 60s;  // it asks each QEMU of the machine what it can do

fs::path libvirt_program(std::string const& name) { return deps() / "bin" / name; }

/// Runs "$@" with empty directories where libvirt has its own. They are in `directory`, so that
/// both daemons, and a restarted one, see the same. /etc has what is in `directory`/etc besides.
std::string in_own_directories(fs::path const& directory) {
    auto script = fmt::format("set -e\nmount -t overlay overlay -o lowerdir={}/etc:/etc /etc\n",
                              directory.string());
    for (auto const* const place : {"/var/lib", "/var/cache", "/var/log", "/run", "/etc/libvirt"}) {
        auto const own = directory / ("root" + std::string(place));
        script += fmt::format("mkdir -p {0}; mount --bind {0} {1}\n", own.string(), place);
    }
    // libvirt starts QEMU to ask what it can do. Where root may open /dev/kvm and QEMU's user may
    // not, it asks again each time. So there is no /dev/kvm here.
    script += R"(
new=$(mktemp -d /tmp/sidecar-dev-XXXXXX); mount -t tmpfs tmpfs $new; mkdir $new/net
for one in null zero full random urandom tty ptmx net/tun; do cp -a /dev/$one $new/$one; done
for place in $(awk '$2 ~ "^/dev/" { print $2 }' /proc/self/mounts | sort -u); do
    mkdir $new/${place#/dev/}; mount --move $place $new/${place#/dev/}
    while umount -l $place 2>/dev/null; do :; done
done
mount --move $new /dev; rmdir $new
)";
    return script + "exec \"$@\"\n";
}

}  // namespace

std::string why_no_libvirt() {
    if (access(libvirt_program("libvirtd").c_str(), X_OK) != 0)
        return "libvirt is missing: run scripts/setup";
    return "";
}

Libvirt::Libvirt(std::string netns, fs::path directory, std::string const& hook)
    : netns_(std::move(netns)), directory_(std::move(directory)) {
    auto const settings = directory_ / "root/etc/libvirt";
    fs::create_directories(settings / "hooks");
    write_file(
        settings / "libvirtd.conf",
        fmt::format("unix_sock_dir = \"{}\"\nauth_unix_rw = \"none\"\n", directory_.string()));
    // What its package makes.
    fs::create_directories(directory_ / "etc/libvirt");
    write_file(directory_ / "etc/passwd",
               read_file("/etc/passwd") + "libvirt-qemu:x:64055:64055::/nonexistent:/bin/false\n");
    write_file(directory_ / "etc/group", read_file("/etc/group") + "libvirt-qemu:x:64055:\n");
    // AppArmor and cgroups are the machine's.
    write_file(settings / "qemu.conf",
               "user = \"nobody\"\ngroup = \"nogroup\"\nsecurity_driver = \"none\"\n"
               "cgroup_controllers = [ ]\n");
    if (!hook.empty()) {
        auto const file = settings / "hooks/qemu";
        write_file(file, "#!/bin/sh\nexec " + hook + " \"$@\"\n");
        fs::permissions(file, fs::perms::owner_all);
    }
    start();
}

void Libvirt::start() {
    auto const at_home = [&](std::string const& name) {
        return Argv{"unshare",
                    "--mount",
                    "sh",
                    "-c",
                    in_own_directories(directory_),
                    "sh",
                    libvirt_program(name).string()};
    };
    Place const place{netns_, {}};
    if (!log_daemon_) log_daemon_.emplace("virtlogd", at_home("virtlogd"), place, directory_);
    daemon_.emplace("libvirtd", at_home("libvirtd"), place, directory_);
    wait_until("libvirtd to answer", libvirt_start_limit, [&] {
        if (!daemon_->running()) throw Failure("libvirtd ended: " + daemon_->err());
        return virsh({"list"}).exit_status == 0;
    });
}

void Libvirt::restart() {
    daemon_->kill();
    start();
}

std::string Libvirt::uri() const {
    return "qemu:///system?mode=legacy&socket=" + (directory_ / "libvirt-sock").string();
}

Output Libvirt::virsh(Argv const& words) const {
    Argv argv{libvirt_program("virsh"), "--connect", uri()};
    argv.insert(argv.end(), words.begin(), words.end());
    return run(argv);
}

std::string Libvirt::must_virsh(Argv const& words) const {
    auto const done = virsh(words);
    if (done.exit_status == 0) return done.out;
    throw Failure(fmt::format("virsh {}: {}{}", words.front(), done.err, daemon_->err()));
}

std::string Libvirt::state(std::string const& domain) const {
    auto text = must_virsh({"domstate", domain});
    return text.substr(0, text.find('\n'));
}

void Libvirt::define(std::string const& xml) const {
    auto const file = directory_ / "define.xml";
    write_file(file, xml);
    must_virsh({"define", file.string()});
}

}  // namespace lab
