// Shared by the process tests of netmove/: network namespaces made by the test thread itself, and a
// "guest", which is a tap whose descriptor the test reads and writes as QEMU would. Invariant:
// nothing has a name outside its namespace, and a namespace lives only as long as the test.
#pragma once

#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <sys/types.h>
#include <unistd.h>

#include <catch2/catch.hpp>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstdio>
#include <functional>
#include <string>
#include <vector>

#include "core/fd.hpp"
#include "netmove/frame.hpp"
#include "netmove/netlink.hpp"
#include "netmove/tap.hpp"

namespace netmove_lab {

using namespace netmove;
using namespace std::chrono_literals;

inline MacAddress mac(std::string const& text) { return MacAddress::parse(text).value(); }
inline Address ip(std::string const& text) { return Address::parse(text).value(); }

/// The value of a Result; an error fails the test with its sentence.
template <class T>
T must(core::Result<T> result) {
    if (!result) FAIL(result.error().sentence());
    if constexpr (!std::is_void_v<T>) return std::move(*result);
}
/// The sentence of an expected error.
template <class T>
std::string sentence(core::Result<T> const& result) {
    REQUIRE_FALSE(result);
    return result.error().sentence();
}
inline bool contains(std::string const& text, std::string const& part) {
    return text.find(part) != std::string::npos;
}

/// The output of a shell command in the thread's namespace; a command that fails, fails the test.
inline std::string sh(std::string const& command) {
    INFO(command);
    std::FILE* pipe = ::popen((command + " 2>&1").c_str(), "r");
    REQUIRE(pipe != nullptr);
    std::string out;
    std::array<char, 4096> buffer;
    while (auto const got = std::fread(buffer.data(), 1, buffer.size(), pipe)) {
        out.append(buffer.data(), got);
    }
    int const status = ::pclose(pipe);
    INFO(out);
    REQUIRE(status == 0);
    return out;
}

/// A bridge that sends no frames itself, so that only the test's frames are on it.
inline void make_bridge(std::string const& name, std::string const& options = "mcast_snooping 0") {
    sh(
        fmt::format("ip link add {0} type bridge {1}; ip link set {0} addrgenmode none; "
                    "ip link set {0} up",
                    name, options));
}

/// True as soon as `holds` is true; false if it is not within `limit`.
inline bool soon(std::function<bool()> const& holds, std::chrono::milliseconds limit = 5s) {
    auto const end = std::chrono::steady_clock::now() + limit;
    while (!holds()) {
        if (std::chrono::steady_clock::now() > end) return false;
        ::poll(nullptr, 0, 2);
    }
    return true;
}

/// A network namespace of its own; the thread is in it from its construction on.
class Space {
public:
    Space() {
        REQUIRE(::unshare(CLONE_NEWNET) == 0);
        fd_.reset(::open("/proc/thread-self/ns/net", O_RDONLY | O_CLOEXEC));
        REQUIRE(fd_);
        sh("ip link set lo up");
    }
    void enter() const { REQUIRE(::setns(fd_.get(), CLONE_NEWNET) == 0); }
    /// For `ip link set ... netns`.
    [[nodiscard]] std::string path() const {
        return fmt::format("/proc/{}/fd/{}", ::getpid(), fd_.get());
    }

private:
    core::Fd fd_;
};

/// Makes the namespace that the thread is in a station on bridge br0 of `host`, with one address of
/// each family, derived from `number`. Leaves the thread in `host`.
void plug_station(Space const& host, int number);
/// Sends a UDP datagram from the namespace that the thread is in.
void send_datagram(Address const& to);

/// Returns the thread to its own namespace. First member of every lab.
class Home {
public:
    Home() : fd_(::open("/proc/thread-self/ns/net", O_RDONLY | O_CLOEXEC)) { REQUIRE(fd_); }
    ~Home() { (void)::setns(fd_.get(), CLONE_NEWNET); }
    Home(Home const&) = delete;
    Home& operator=(Home const&) = delete;

private:
    core::Fd fd_;
};

/// One namespace with the thread in it, and a Netlink.
struct OneHost {
    Home home;
    Space space;
    Netlink netlink = must(Netlink::open());
};

/// The frames that a tap's guest has received since the last call, without vnet headers.
inline std::vector<Bytes> received(Tap const& tap) {
    std::vector<Bytes> out;
    auto const header = static_cast<std::ptrdiff_t>(must(tap.vnet_hdr_size()));
    Bytes buffer(tap_frame_max);
    for (int queue = 0; queue < tap.queues(); ++queue) {
        while (auto const got = must(tap.read_raw(queue, buffer))) {
            out.emplace_back(buffer.begin() + header,
                             buffer.begin() + static_cast<std::ptrdiff_t>(got));
        }
    }
    return out;
}

/// A UDP datagram in an IPv4 or IPv6 frame, as a station sends it.
Bytes udp_frame(MacAddress const& from, MacAddress const& to, Address const& source,
                Address const& destination, std::uint8_t hops = 64, std::size_t size = 20);

}  // namespace netmove_lab
