// DelayLine: a long distance on one machine, for kernels without netem. A relay on 127.0.0.1 that
// delays every byte by half a round trip, in both directions. Used by the benchmark of distances.
// Invariant: bytes keep their order and none is lost. TCP itself sees no distance: connecting costs
// no round trip, and no window limits the bytes in flight.
#pragma once

#include <atomic>
#include <chrono>
#include <thread>

#include "core/fd.hpp"

namespace lab {

class DelayLine {
public:
    /// In front of the server that listens on `port_behind` of 127.0.0.1.
    DelayLine(int port_behind, std::chrono::microseconds round_trip);
    /// Cuts all connections.
    ~DelayLine();
    DelayLine(DelayLine const&) = delete;

    [[nodiscard]] int port() const { return port_; }
    /// No byte leaves the line at either end until release(). Data sent into it waits (limited).
    void hold();
    void release();

private:
    void wake();
    void run(int port_behind, std::chrono::microseconds one_way);

    core::Fd listener_;
    core::Fd wake_;
    int port_ = 0;
    std::atomic<bool> held_ = false;
    std::atomic<bool> over_ = false;
    std::thread thread_;
};

}  // namespace lab
