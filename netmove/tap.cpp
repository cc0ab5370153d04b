#include "netmove/tap.hpp"

#include <fcntl.h>
#include <linux/if_tun.h>
#include <linux/major.h>
#include <net/if.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/uio.h>

#include <algorithm>
#include <array>
#include <cassert>
#include <cerrno>
#include <charconv>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <map>

#include "core/process.hpp"
#include "netmove/ipv6_setting.hpp"
#include "netmove/network.hpp"

namespace netmove {

using core::Errc;
using core::fail;
using core::fail_errno;
using core::Result;

namespace {

constexpr char const* tun_device = "/dev/net/tun";
constexpr unsigned tun_minor = 200;  // <linux/miscdevice.h> is the kernel's own
// The vnet header QEMU begins with, before the guest's driver has chosen one: struct virtio_net_hdr
// (linux/virtio_net.h cannot be included in C++).
constexpr int vnet_hdr_first = 10;
// No version of the header is longer; virtio 1.2 with a hash report has 20.
constexpr std::size_t vnet_hdr_max = 64;

ifreq request_for(std::string const& name, unsigned flags) {
    ifreq request{};
    assert(name.size() < sizeof request.ifr_name);
    std::ranges::copy(name, request.ifr_name);
    request.ifr_flags = static_cast<short>(flags);
    return request;
}

std::unexpected<core::Error> open_failed(int os) {
    switch (os) {
        case ENOENT:
        case ENODEV:
        case ENXIO:
            return core::fail_os(
                Errc::netlink, os,
                fmt::format("there are no taps on this host: load the kernel module "
                            "tun (modprobe tun), or give this container {}",
                            tun_device));
        case EPERM:
        case EACCES:
            return core::fail_os(
                Errc::netlink, os,
                fmt::format("no privilege: cannot open {} to open taps; run as root "
                            "or give read and write permission to it",
                            tun_device));
        default:
            return core::fail_os(Errc::netlink, os, fmt::format("cannot open {}", tun_device));
    }
}

std::unexpected<core::Error> attach_failed(std::string const& name, int os) {
    switch (os) {
        case EPERM:
        case EACCES:
            return core::fail_os(
                Errc::netlink, os,
                fmt::format("no privilege: CAP_NET_ADMIN is needed to open the tap {} (or a "
                            "persistent tap that belongs to this user)",
                            name));
        case EBUSY:
            return fail(Errc::refused,
                        "the tap {} is in use by another program: give the guest another one, or "
                        "end what holds it",
                        name);
        default:
            return core::fail_os(Errc::netlink, os, fmt::format("cannot open the tap {}", name));
    }
}

/// The existing link can be attached to as asked, or a sentence.
Result<> check_existing(Link const& link, TapOptions const& options) {
    if (!link.tun || !link.tun->tap) {
        return fail(Errc::refused,
                    "{} is not a tap device but {}: give the guest's tap another name", link.name,
                    link.kind.empty() ? "hardware" : "a " + link.kind);
    }
    if (link.tun->multi_queue != (options.queues > 1)) {
        return fail(
            Errc::refused,
            "the tap {} is {}-queue, the guest needs {} queue(s): make it again (ip tuntap add "
            "{} mode tap{})",
            link.name, link.tun->multi_queue ? "multi" : "single", options.queues, link.name,
            options.queues > 1 ? " multi_queue" : "");
    }
    // A second program would simply get queues of its own, and with them half of the frames.
    if (link.tun->multi_queue && link.tun->queues + link.tun->disabled_queues > 0) {
        return attach_failed(link.name, EBUSY);
    }
    return {};
}

Result<core::Fd> open_queue(std::string const& name, unsigned flags) {
    core::Fd fd(::open(tun_device, O_RDWR | O_NONBLOCK | O_CLOEXEC));
    if (!fd) return open_failed(errno);
    auto request = request_for(name, flags);
    if (ioctl(fd.get(), TUNSETIFF, &request) < 0) return attach_failed(name, errno);
    return fd;
}

/// Name and IFF_* of a descriptor's tap; none when it was never attached to one, or that
/// one is gone.
Result<std::optional<std::pair<std::string, unsigned>>> ask_descriptor(int fd) {
    ifreq request{};
    if (ioctl(fd, TUNGETIFF, &request) < 0) {
        if (errno == EBADFD) return std::nullopt;
        return fail_errno(errno, "a descriptor given as a tap is not a tap");
    }
    std::string name(request.ifr_name, strnlen(request.ifr_name, sizeof request.ifr_name));
    return std::pair(std::move(name),
                     static_cast<unsigned>(static_cast<unsigned short>(request.ifr_flags)));
}

/// fe:ff:ff:..., random: a bridge takes the lowest MAC of its ports as its own, and must not change
/// it for a tap. When it did, the other hosts sent to the old one until their neighbour entries
/// ended, some 30 s. Of a veth, the kernel chooses fe:... now and then.
MacAddress high_mac() {
    MacAddress mac;
    arc4random_buf(mac.bytes.data(), mac.bytes.size());
    mac.bytes[0] = 0xfe;
    mac.bytes[1] = 0xff;
    mac.bytes[2] = 0xff;
    return mac;
}

/// The numbers of a process's descriptors of /dev/net/tun, ascending.
Result<std::vector<int>> tun_descriptors(pid_t pid) {
    namespace fs = std::filesystem;
    std::vector<int> numbers;
    std::error_code error;
    fs::directory_iterator entry(fmt::format("/proc/{}/fd", pid), error);
    for (; !error && entry != fs::directory_iterator(); entry.increment(error)) {
        // Not by its name: libvirt opens it in a mount namespace that may be gone.
        struct stat device{};
        bool const found = ::stat(entry->path().c_str(), &device) == 0;  // or closed meanwhile
        if (!found || !S_ISCHR(device.st_mode) || device.st_rdev != makedev(MISC_MAJOR, tun_minor))
            continue;
        std::string const text = entry->path().filename();
        int number = -1;
        std::from_chars(text.data(), text.data() + text.size(), number);
        numbers.push_back(number);
    }
    if (error) return fail_errno(error.value(), "cannot list the descriptors of process {}", pid);
    std::ranges::sort(numbers);
    return numbers;
}

}  // namespace

Result<> check_interface_name(std::string const& name) {
    bool const good = !name.empty() && name.size() < IFNAMSIZ && name != "." && name != ".." &&
                      std::ranges::none_of(
                          name,
                          [](unsigned char c) {
                              return c <= ' ' || c == '/' || c == ':' || c == '%' || c >= 0x7f;
                          });
    if (!good) {
        return fail(
            Errc::invalid,
            "'{}' is not a name for a network interface: 1 to 15 characters, no spaces, none of "
            "/ : %",
            name);
    }
    return {};
}

Result<Tap> Tap::open(Netlink& netlink, std::string const& name, TapOptions const& options) {
    TRY_VOID(check_interface_name(name));
    if (options.queues < 1 || options.queues > tap_queues_max) {
        return fail(Errc::invalid, "the tap {} cannot have {} queues: 1 to {} are possible", name,
                    options.queues, tap_queues_max);
    }
    TRY(auto const existing, netlink.find_link(name));
    if (existing) {
        TRY_VOID(check_existing(*existing, options));
    } else if (!options.create) {
        return fail(Errc::refused,
                    "there is no tap {} on this host: make it first (ip tuntap add {} "
                    "mode tap)",
                    name, name);
    }
    unsigned flags = IFF_TAP | IFF_NO_PI;
    if (options.vnet_hdr) flags |= IFF_VNET_HDR;
    if (options.queues > 1) flags |= IFF_MULTI_QUEUE;
    Tap tap;
    tap.name_ = name;
    tap.vnet_hdr_ = options.vnet_hdr;
    tap.created_ = !existing;
    for (int queue = 0; queue < options.queues; ++queue) {
        TRY(auto fd, open_queue(name, flags));
        tap.descriptors_.push_back(std::move(fd));
    }
    if (options.vnet_hdr) {
        // A persistent tap may still have what an earlier QEMU's guest chose.
        int size = vnet_hdr_first;
        if (ioctl(tap.descriptor(0), TUNSETVNETHDRSZ, &size) < 0) {
            return fail_errno(errno, "cannot set the vnet header of the tap {}", name);
        }
    }
    if (tap.created_) TRY_VOID(netlink.set_mac(name, high_mac()));
    return tap;
}

Result<std::vector<Tap>> Tap::duplicate_from(pid_t pid) {
    TRY(auto const process, core::Process::open(pid));
    TRY(auto const numbers, tun_descriptors(pid));
    std::map<std::string, std::vector<core::Fd>> by_name;
    std::vector<std::string> order;
    for (int const number : numbers) {
        core::Fd copy(static_cast<int>(syscall(SYS_pidfd_getfd, process.pidfd(), number, 0)));
        if (!copy) {
            if (errno == EBADF) continue;  // closed meanwhile
            if (errno == EPERM) {
                return core::fail_os(
                    Errc::io, errno,
                    fmt::format(
                        "no privilege: cannot take a copy of the taps of process {}; run as "
                        "the same user, or with CAP_SYS_PTRACE",
                        pid));
            }
            return fail_errno(errno, "cannot take a copy of descriptor {} of process {}", number,
                              pid);
        }
        TRY(auto const asked, ask_descriptor(copy.get()));
        if (!asked || (asked->second & IFF_TAP) == 0) continue;
        auto& descriptors = by_name[asked->first];
        if (descriptors.empty()) order.push_back(asked->first);
        descriptors.push_back(std::move(copy));
    }
    std::vector<Tap> taps;
    for (auto const& name : order) {
        TRY(auto tap, adopt(std::move(by_name[name])));
        taps.push_back(std::move(tap));
    }
    return taps;
}

Result<Tap> Tap::adopt(std::vector<core::Fd> descriptors) {
    Tap tap;
    for (auto const& fd : descriptors) {
        TRY(auto const asked, ask_descriptor(fd.get()));
        if (!asked || (asked->second & IFF_TAP) == 0) {
            return fail(Errc::invalid, "a descriptor given as a tap belongs to none");
        }
        if (!tap.name_.empty() && tap.name_ != asked->first) {
            return fail(Errc::invalid, "descriptors of two taps, {} and {}, were given as one",
                        tap.name_, asked->first);
        }
        tap.name_ = asked->first;
        tap.vnet_hdr_ = (asked->second & IFF_VNET_HDR) != 0;
    }
    if (descriptors.empty()) return fail(Errc::invalid, "a tap was given without a descriptor");
    tap.descriptors_ = std::move(descriptors);
    return tap;
}

Result<std::size_t> Tap::vnet_hdr_size() const {
    if (!vnet_hdr_) return std::size_t{0};
    int size = 0;
    if (ioctl(descriptor(0), TUNGETVNETHDRSZ, &size) < 0) {
        return fail_errno(errno, "cannot ask for the vnet header of the tap {}", name_);
    }
    if (size < 0 || static_cast<std::size_t>(size) > vnet_hdr_max) {
        return fail(Errc::io, "the vnet header of the tap {} has an unknown size: {} bytes", name_,
                    size);
    }
    return static_cast<std::size_t>(size);
}

Result<> Tap::set_persistent(bool on) const {
    if (ioctl(descriptor(0), TUNSETPERSIST, on ? 1 : 0) == 0) return {};
    return fail_errno(errno, "cannot make the tap {} {}", name_, on ? "stay" : "go with its users");
}

Result<> Tap::write_frame(std::span<std::uint8_t const> frame) const {
    TRY(auto const header_size, vnet_hdr_size());
    // All zeroes: no offload is asked for, the checksums are in place.
    std::array<std::uint8_t, vnet_hdr_max> header{};
    iovec parts[2] = {{header.data(), header_size},
                      {const_cast<std::uint8_t*>(frame.data()), frame.size()}};
    // Any queue does, also one that QEMU switched off because the guest does not use it.
    auto const written = ::writev(descriptor(0), parts, 2);
    if (written == static_cast<ssize_t>(header_size + frame.size())) return {};
    int const os = written < 0 ? errno : EMSGSIZE;
    return fail_errno(os, "cannot send a frame through the tap {}{}", name_,
                      os == EIO      ? ", which is down"
                      : os == EBADFD ? ", which is gone"
                                     : "");
}

Result<std::size_t> Tap::read_raw(int queue, std::span<std::uint8_t> buffer) const {
    auto const got = ::read(descriptor(queue), buffer.data(), buffer.size());
    if (got >= 0) return static_cast<std::size_t>(got);
    if (errno == EAGAIN || errno == EBADFD) return std::size_t{0};
    return fail_errno(errno, "cannot read what waits in the tap {}", name_);
}

Result<> Tap::write_raw(int queue, std::span<std::uint8_t const> frame) const {
    if (::write(descriptor(queue), frame.data(), frame.size()) ==
        static_cast<ssize_t>(frame.size())) {
        return {};
    }
    return fail_errno(errno, "cannot send a frame through the tap {}", name_);
}

Result<std::size_t> Tap::drain() const {
    // The kernel cuts a frame to the buffer, and it is not looked at.
    std::array<std::uint8_t, vnet_hdr_max> scratch;
    std::size_t drained = 0;
    for (int queue = 0; queue < queues(); ++queue) {
        for (int frame = 0; frame < ring_frames_max; ++frame) {
            TRY(auto const got, read_raw(queue, scratch));
            if (got == 0) break;
            ++drained;
        }
    }
    return drained;
}

Result<> make_quiet(Netlink& netlink, std::string const& tap) {
    bool const disabled = write_ipv6_setting(tap, "disable_ipv6", "1");
    (void)write_ipv6_setting(tap, "accept_ra",
                             "0");  // has no effect until IPv6 is enabled
    auto const no_addresses = netlink.set_address_generation_none(tap);
    // EAFNOSUPPORT: the host has no IPv6 at all.
    if (no_addresses || disabled || no_addresses.error().os == EAFNOSUPPORT) return {};
    return no_addresses;
}

Result<> place_tap(Netlink& netlink, std::string const& tap, TapPlace const& place) {
    TRY(auto const link, netlink.link(tap));
    TRY_VOID(make_quiet(netlink, tap));
    if (place.mtu != 0 && link.mtu != place.mtu) TRY_VOID(netlink.set_mtu(tap, place.mtu));
    if (place.queue_length > link.queue_length) {
        TRY_VOID(netlink.set_queue_length(tap, place.queue_length));
    }
    if (!place.bridge.empty()) {
        TRY(auto const bridge, netlink.link(place.bridge));
        if (link.master != 0 && link.master != bridge.index) {
            TRY(auto const other, netlink.link(link.master));
            return fail(Errc::refused,
                        "the tap {} is in {}, not in {}: take it out first (ip link set "
                        "{} nomaster)",
                        tap, other.name, place.bridge, tap);
        }
        // Before it can be heard there, the rules of that network are to hold for it.
        TRY_VOID(admit(bridge, link));
        if (link.master == 0) TRY_VOID(netlink.set_master(tap, place.bridge));
    }
    if (!link.up) TRY_VOID(netlink.set_up(tap));
    return {};
}

}  // namespace netmove
