#include "tests/process/routed_lab.hpp"

#include <arpa/inet.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>

#include "tests/support/routed.hpp"

namespace routed_lab {

namespace fs = std::filesystem;

namespace {

constexpr std::uint16_t stream_port = 5000;
constexpr int poll_ms = 20;
constexpr auto start_limit = 60s;
/// Room for what comes while a busy machine does not let a thread run: nothing may be lost here.
constexpr int socket_buffer_bytes = 16 << 20;
using Clock = std::chrono::steady_clock;

sockaddr_in6 socket_address(Address const& address, std::uint16_t port) {
    // An IPv4 address as a mapped one would not show what a guest sees: each family has its socket.
    sockaddr_in6 out{};
    if (address.is_ipv6()) {
        out.sin6_family = AF_INET6;
        out.sin6_port = htons(port);
        std::ranges::copy(address.bytes(), reinterpret_cast<std::uint8_t*>(&out.sin6_addr));
    } else {
        auto* ipv4 = reinterpret_cast<sockaddr_in*>(&out);
        ipv4->sin_family = AF_INET;
        ipv4->sin_port = htons(port);
        std::ranges::copy(address.bytes(), reinterpret_cast<std::uint8_t*>(&ipv4->sin_addr));
    }
    return out;
}

/// A part of a millisecond, as exactly as the kernel can.
void pause_for(Clock::duration time) {
    timespec const left{0, std::chrono::nanoseconds(time).count()};
    (void)::ppoll(nullptr, 0, &left, nullptr);
}

core::Fd udp_socket(bool ipv6) {
    core::Fd socket(::socket(ipv6 ? AF_INET6 : AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
    REQUIRE(socket);
    for (int const which : {SO_RCVBUFFORCE, SO_SNDBUFFORCE}) {
        REQUIRE(::setsockopt(socket.get(), SOL_SOCKET, which, &socket_buffer_bytes,
                             sizeof socket_buffer_bytes) == 0);
    }
    return socket;
}

}  // namespace

void forward(bool ipv4, bool ipv6) {
    sh(
        fmt::format("cd /proc/sys/net; echo {} >ipv4/ip_forward; echo {} >ipv6/conf/all/forwarding;"
                    "echo 0 >ipv6/conf/default/accept_dad",
                    ipv4 ? 1 : 0, ipv6 ? 1 : 0));
}

Router::Router() { forward(); }

Stub::Stub(Router const& router, std::string const& name, int subnet, int host) {
    forward();
    sh(
        fmt::format("ip link add up0 type veth peer name to-{0} netns {1}; ip link set up0 up;"
                    "ip addr add 10.{2}.0.{3}/24 dev up0; ip addr add fd0{2}::{3}/64 dev up0 nodad",
                    name, router.space.path(), subnet, host));
    router.space.enter();
    sh(
        fmt::format("ip link set to-{0} up; ip addr add 10.{1}.0.254/24 dev to-{0};"
                    "ip addr add fd0{1}::254/64 dev to-{0} nodad",
                    name, subnet));
    space.enter();
    sh(fmt::format("ip route add default via 10.{0}.0.254; ip -6 route add default via fd0{0}::254",
                   subnet));
}

GuestInterface guest_interface() {
    GuestInterface out;
    out.netdev = "net0";
    out.tap = "tap0";
    out.routed = true;
    out.mac = mac("52:54:00:12:34:56");
    out.vnet_hdr = false;
    out.addresses = {{ip(guest_ipv4), 0}, {ip(guest_ipv6), 0}};
    return out;
}

RelayedGuest::RelayedGuest() : tap_(must(Tap::open(netlink_, "eth0", {1, false, true}))) {
    // Gateways as a guest in the field has them: any IPv4 address, and the IPv6 one that is fixed.
    sh(
        fmt::format("echo 0 >/proc/sys/net/ipv6/conf/eth0/accept_dad;"
                    "ip link set eth0 address {} txqueuelen 20000 up; ip addr add {}/24 dev eth0;"
                    "ip addr add {}/128 dev eth0 nodad; ip route add default via 10.9.0.254;"
                    "ip -6 route add default via {} dev eth0",
                    guest_interface().mac.text(), guest_ipv4, guest_ipv6, routed_gateway_ipv6));
    thread_ = std::thread([this] { relay(); });
}

RelayedGuest::~RelayedGuest() {
    over_ = true;
    thread_.join();
}

void RelayedGuest::runs_on(Tap const* tap) {
    std::scoped_lock const lock(mutex_);
    at_ = tap;
}

/// One frame at a time and under the lock: after runs_on() no frame is still in the relay.
void RelayedGuest::relay() {
    std::vector<std::uint8_t> buffer(tap_frame_max);
    while (!over_) {
        bool any = false;
        {
            std::scoped_lock const lock(mutex_);
            Tap const* const pairs[][2] = {{at_, &tap_}, {&tap_, at_}};
            for (auto const& [from, to] : pairs) {
                if (at_ == nullptr) break;
                auto const got = from->read_raw(0, buffer);
                if (!got || *got == 0) continue;
                (void)to->write_raw(0, std::span(buffer).first(*got));
                any = true;
            }
        }
        if (!any) ::poll(nullptr, 0, 1);
    }
}

struct Stream::Flow {
    bool ipv6 = false;
    std::atomic<unsigned> sent = 0;
    std::atomic<unsigned> received = 0;
    std::vector<unsigned> arrived;
    std::chrono::microseconds longest_gap{};
};

Stream::Stream(Space const& from, Space const& to, std::string const& to_ipv4,
               std::string const& to_ipv6) {
    for (auto const& text : {to_ipv4, to_ipv6}) {
        auto const address = ip(text);
        auto& flow = *flows_.emplace_back(std::make_unique<Flow>());
        flow.ipv6 = address.is_ipv6();
        to.enter();
        auto receiver = udp_socket(flow.ipv6);
        auto const where = socket_address(address, stream_port);
        auto const size =
            static_cast<socklen_t>(flow.ipv6 ? sizeof(sockaddr_in6) : sizeof(sockaddr_in));
        REQUIRE(::bind(receiver.get(), reinterpret_cast<sockaddr const*>(&where), size) == 0);
        from.enter();
        auto sender = udp_socket(flow.ipv6);
        receivers_.emplace_back([this, &flow, socket = std::move(receiver)] {
            auto last = Clock::now();
            while (receiving_) {
                pollfd entry{socket.get(), POLLIN, 0};
                if (::poll(&entry, 1, poll_ms) <= 0) continue;
                unsigned number = 0;
                if (::recv(socket.get(), &number, sizeof number, 0) != sizeof number) continue;
                auto const now = Clock::now();
                if (!flow.arrived.empty()) {
                    flow.longest_gap =
                        std::max(flow.longest_gap,
                                 std::chrono::duration_cast<std::chrono::microseconds>(now - last));
                }
                last = now;
                flow.arrived.push_back(number);
                ++flow.received;
            }
        });
        senders_.emplace_back([this, &flow, where, size, socket = std::move(sender)] {
            auto next = Clock::now();
            while (sending_) {
                unsigned const number = flow.sent;
                // A host that has no way for a moment says so: that datagram is lost too.
                (void)::sendto(socket.get(), &number, sizeof number, 0,
                               reinterpret_cast<sockaddr const*>(&where), size);
                ++flow.sent;
                next += 1ms;
                auto const left = next - Clock::now();
                if (left > 0ns) pause_for(left);
            }
        });
    }
}

Stream::~Stream() {
    sending_ = false;
    receiving_ = false;
    for (auto* threads : {&senders_, &receivers_}) {
        for (auto& thread : *threads) {
            if (thread.joinable()) thread.join();
        }
    }
}

std::string Stream::Seen::text() const {
    auto const first = lost == 0 ? "" : fmt::format(" (the first is number {})", first_lost);
    return fmt::format("{} sent, {} lost{}, {} duplicated, {} reordered, longest gap {:.1f} ms",
                       sent, lost, first, duplicated, reordered,
                       static_cast<double>(longest_gap.count()) / 1000);
}

std::array<Stream::Seen, 2> Stream::finish() {
    sending_ = false;
    for (auto& thread : senders_) thread.join();
    (void)soon(
        [this] {
            return std::ranges::all_of(
                flows_, [](auto const& flow) { return flow->received >= flow->sent; });
        },
        2s);
    receiving_ = false;
    for (auto& thread : receivers_) thread.join();
    std::array<Seen, 2> out;
    for (auto const& flow : flows_) {
        auto& seen = out[flow->ipv6 ? 1 : 0];
        seen.sent = flow->sent;
        seen.longest_gap = flow->longest_gap;
        std::vector<unsigned> counts(seen.sent, 0);
        unsigned highest = 0;
        for (auto const number : flow->arrived) {
            if (number < highest) ++seen.reordered;
            highest = std::max(highest, number);
            if (number < counts.size()) ++counts[number];
        }
        for (unsigned number = 0; number < counts.size(); ++number) {
            auto const count = counts[number];
            if (count == 0 && seen.lost++ == 0) seen.first_lost = number;
            if (count > 1) seen.duplicated += count - 1;
        }
    }
    return out;
}

Bird::Bird(std::string const& name, std::string const& recipe, lab::Changes const& changes) {
    std::string pattern = (fs::temp_directory_path() / "sidecar-bird-XXXXXX").string();
    REQUIRE(::mkdtemp(pattern.data()) != nullptr);
    directory_ = pattern;
    auto const path = directory_ / (name + ".conf");
    lab::write_file(path, lab::recipe(recipe, changes));
    auto const program = (lab::deps() / "bin" / "bird").string();
    INFO("scripts/setup unpacks BIRD");
    REQUIRE(fs::exists(program));
    auto const control = (directory_ / "bird.ctl").string();
    auto const log = (directory_ / "bird.log").string();
    pid_ = ::fork();
    REQUIRE(pid_ >= 0);
    if (pid_ == 0) {
        (void)::prctl(PR_SET_PDEATHSIG, SIGKILL);
        int const to = ::open(log.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
        ::dup2(to, 1);
        ::dup2(to, 2);
        ::execl(program.c_str(), "bird", "-f", "-c", path.c_str(), "-s", control.c_str(), nullptr);
        ::_exit(127);
    }
    REQUIRE(soon([&] { return fs::exists(control); }, start_limit));
}

Bird::~Bird() {
    if (pid_ > 0) {
        (void)::kill(pid_, SIGKILL);  // our own child, not waited for yet
        (void)::waitpid(pid_, nullptr, 0);
    }
    std::error_code ignored;
    fs::remove_all(directory_, ignored);
}

std::string Bird::ask(std::string const& command) const {
    return sh(fmt::format("{} -s {} {}", (lab::deps() / "bin" / "birdc").string(),
                          (directory_ / "bird.ctl").string(), command));
}

bool Bird::established(int sessions) const {
    auto const text = ask("show protocols");
    int count = 0;
    for (auto at = text.find("Established"); at != std::string::npos;
         at = text.find("Established", at + 1)) {
        ++count;
    }
    return count >= sessions;
}

}  // namespace routed_lab
