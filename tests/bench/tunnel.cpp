// The tunnel beside the same stations without one: a TCP stream, frames of 1,400 bytes, round trip,
// the processor time of each end, and memory. See bench.hpp.
#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <functional>
#include <thread>

#include "tests/bench/bench.hpp"
#include "tests/bench/tunnel_line.hpp"
#include "tests/support/command.hpp"

namespace bench {

namespace {

using Clock = std::chrono::steady_clock;
using std::chrono::milliseconds;

constexpr std::uint16_t tcp_port = 7100;
constexpr std::uint16_t udp_port = 7101;
constexpr milliseconds warm_up{500};
constexpr milliseconds measured{3'000};
constexpr milliseconds measured_quick{1'000};
constexpr int pings = 2'000;
// Ethernet, IPv4 and UDP headers: frames of 1,400 bytes.
constexpr std::size_t datagram = 1'400 - 14 - 20 - 8;
constexpr unsigned datagrams_at_once = 32;
/// TCP at this rate: the measurement of the papers (Kagemusha: 84.4 of 87.9 Mbit/s at 14 %).
constexpr std::uint64_t paced_bytes = 88'000'000 / 8;

sockaddr_in address(std::string const& text, std::uint16_t port) {
    sockaddr_in out{AF_INET, htons(port), {}, {}};
    inet_pton(AF_INET, text.c_str(), &out.sin_addr);
    return out;
}

template <class Call>
void must(Call call, char const* what) {
    if (call < 0) throw lab::Failure(fmt::format("cannot {}", what));
}

/// What a measurement saw.
struct Flow {
    double mbit_s = 0;
    double cpu_a = 0;  ///< Percent of a core.
    double cpu_b = 0;
};

/// Lets time pass: what is measured is a rate.
void pass(milliseconds span) {
    auto const end = Clock::now() + span;
    lab::wait_until("the end of a measurement", 2 * span, [&] { return Clock::now() >= end; });
}

/// Counts what `bytes` grows by, and what the ends use meanwhile.
Flow watch(TunnelLine const& line, std::atomic<std::uint64_t> const& bytes, milliseconds span) {
    pass(warm_up);
    auto const begin = Clock::now();
    auto const first = bytes.load();
    double const a = line.cpu_seconds('a');
    double const b = line.cpu_seconds('b');
    pass(span);
    double const took = std::chrono::duration<double>(Clock::now() - begin).count();
    return {static_cast<double>(bytes.load() - first) * 8 / took / 1e6,
            (line.cpu_seconds('a') - a) / took * 100, (line.cpu_seconds('b') - b) / took * 100};
}

/// A TCP stream from home to the guest. `pace`: bytes per second; 0: as fast as it goes.
Flow tcp(TunnelLine const& line, Way way, milliseconds span, std::uint64_t pace) {
    auto const listener = line.socket_at_guest(SOCK_STREAM);
    int const on = 1;
    setsockopt(listener.get(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    auto const to = address(TunnelLine::guest(way), tcp_port);
    must(::bind(listener.get(), reinterpret_cast<sockaddr const*>(&to), sizeof to), "bind");
    must(::listen(listener.get(), 1), "listen");
    auto const from = line.socket_at_home(SOCK_STREAM);
    if (pace != 0) {
        must(setsockopt(from.get(), SOL_SOCKET, SO_MAX_PACING_RATE, &pace, sizeof pace), "pace");
    }
    must(::connect(from.get(), reinterpret_cast<sockaddr const*>(&to), sizeof to), "connect");
    core::Fd const at(::accept(listener.get(), nullptr, nullptr));
    std::atomic<std::uint64_t> received = 0;
    std::thread sender([&] {
        std::vector<char> const block(256 * 1024);
        while (::send(from.get(), block.data(), block.size(), MSG_NOSIGNAL) > 0) {
        }
    });
    std::thread receiver([&] {
        std::vector<char> room(1024 * 1024);
        while (true) {
            auto const got = ::recv(at.get(), room.data(), room.size(), 0);
            if (got <= 0) break;
            received += static_cast<std::uint64_t>(got);
        }
    });
    auto const flow = watch(line, received, span);
    ::shutdown(from.get(), SHUT_RDWR);
    ::shutdown(at.get(), SHUT_RDWR);
    sender.join();
    receiver.join();
    return flow;
}

/// Frames of 1,400 bytes from home to the guest, as many as go; counted where they arrive.
Flow frames(TunnelLine const& line, Way way, milliseconds span) {
    auto const at = line.socket_at_guest(SOCK_DGRAM);
    auto const to = address(TunnelLine::guest(way), udp_port);
    must(::bind(at.get(), reinterpret_cast<sockaddr const*>(&to), sizeof to), "bind");
    auto const from = line.socket_at_home(SOCK_DGRAM);
    must(::connect(from.get(), reinterpret_cast<sockaddr const*>(&to), sizeof to), "connect");
    std::atomic<bool> over = false;
    std::atomic<std::uint64_t> received = 0;
    std::array<char, datagram> block{};
    std::array<mmsghdr, datagrams_at_once> messages{};
    iovec part{block.data(), block.size()};
    for (auto& one : messages) one.msg_hdr = {nullptr, 0, &part, 1, nullptr, 0, 0};
    std::thread sender([&] {
        while (!over) (void)::sendmmsg(from.get(), messages.data(), datagrams_at_once, 0);
    });
    std::thread receiver([&] {
        timeval const limit{0, 50'000};
        setsockopt(at.get(), SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
        std::array<char, datagram> room{};
        std::array<mmsghdr, datagrams_at_once> into{};
        iovec where{room.data(), room.size()};
        for (auto& one : into) one.msg_hdr = {nullptr, 0, &where, 1, nullptr, 0, 0};
        while (!over) {
            int const got =
                ::recvmmsg(at.get(), into.data(), datagrams_at_once, MSG_WAITFORONE, nullptr);
            if (got > 0) received += static_cast<std::uint64_t>(got) * (datagram + 42);
        }
    });
    auto const flow = watch(line, received, span);
    over = true;
    sender.join();
    receiver.join();
    return flow;
}

/// The median round trip of a datagram, in microseconds.
double round_trip(TunnelLine const& line, Way way) {
    auto const at = line.socket_at_guest(SOCK_DGRAM);
    auto const to = address(TunnelLine::guest(way), udp_port);
    must(::bind(at.get(), reinterpret_cast<sockaddr const*>(&to), sizeof to), "bind");
    auto const from = line.socket_at_home(SOCK_DGRAM);
    must(::connect(from.get(), reinterpret_cast<sockaddr const*>(&to), sizeof to), "connect");
    timeval const limit{1, 0};
    setsockopt(from.get(), SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
    std::atomic<bool> over = false;
    std::thread echo([&] {
        std::array<char, 64> room{};
        while (!over) {
            sockaddr_in peer{};
            socklen_t length = sizeof peer;
            auto* const name = reinterpret_cast<sockaddr*>(&peer);
            auto const got = ::recvfrom(at.get(), room.data(), room.size(), 0, name, &length);
            if (got > 1) (void)::sendto(at.get(), room.data(), 56, 0, name, length);
        }
    });
    std::vector<double> samples;
    std::array<char, 56> ping{};
    for (int i = 0; i < pings; ++i) {
        auto const begin = Clock::now();
        if (::send(from.get(), ping.data(), ping.size(), 0) < 0) continue;
        if (::recv(from.get(), ping.data(), ping.size(), 0) < 0) continue;
        samples.push_back(std::chrono::duration<double, std::micro>(Clock::now() - begin).count());
    }
    over = true;
    (void)::send(from.get(), ping.data(), 1, 0);
    echo.join();
    if (samples.empty()) throw lab::Failure("no datagram came back");
    std::ranges::nth_element(samples, samples.begin() + static_cast<long>(samples.size() / 2));
    return samples[samples.size() / 2];
}

/// Rows of one situation: the throughput on both ways, and what the ends take for it.
void add_flows(Result& result, std::string const& name, int runs,
               std::function<Flow(Way way)> const& measure) {
    Row rate{name, "throughput", "Mbit/s", {}, {}, {}};
    Row a{name, "end a", "% of a core", {}, {}, {}};
    Row b{name, "end b", "% of a core", {}, {}, {}};
    Row core{name, "per core", "Mbit/s", {}, {}, {}};
    for (int run = 0; run < runs; ++run) {
        auto const direct = measure(Way::direct);
        auto const ours = measure(Way::tunnel);
        rate.peer.push_back(direct.mbit_s);
        rate.ours.push_back(ours.mbit_s);
        a.ours.push_back(ours.cpu_a);
        b.ours.push_back(ours.cpu_b);
        core.ours.push_back(ours.mbit_s * 100 / std::max({ours.cpu_a, ours.cpu_b, 0.1}));
    }
    for (auto& row : {rate, a, b, core}) result.rows.push_back(row);
}

void measure_rate(Result& result, std::uint64_t mbit, milliseconds span) {
    TunnelLine const line(mbit);
    auto const name = mbit == 0 ? std::string("unlimited") : fmt::format("{} Mbit/s", mbit);
    add_flows(result, name, result.runs, [&](Way way) { return tcp(line, way, span, 0); });
    if (mbit != 0) return;
    add_flows(result, "88 Mbit/s paced", result.runs,
              [&](Way way) { return tcp(line, way, span, paced_bytes); });
    add_flows(result, "1,400 B frames", result.runs,
              [&](Way way) { return frames(line, way, span); });
    Row trip{"round trip", "median", "us", {}, {}, {}};
    for (int run = 0; run < result.runs; ++run) {
        trip.peer.push_back(round_trip(line, Way::direct));
        trip.ours.push_back(round_trip(line, Way::tunnel));
    }
    result.rows.push_back(trip);
    result.rows.push_back({"memory", "end a", "MiB", {line.resident_mib('a')}, {}, {}});
    result.rows.push_back({"memory", "end b", "MiB", {line.resident_mib('b')}, {}, {}});
}

}  // namespace

Result tunnel(Options const& options) {
    Result result{options.runs(runs_full, runs_quick), {}};
    auto const span = options.quick ? measured_quick : measured;
    for (std::uint64_t const mbit : {100U, 1'000U, 0U}) {
        if (options.wants(mbit == 0 ? "unlimited" : fmt::format("{} Mbit/s", mbit))) {
            measure_rate(result, mbit, span);
        }
    }
    return result;
}

}  // namespace bench
