// DelayLine: a long distance on one machine. A relay on 127.0.0.1 that holds every byte back for
// half a round trip, in both directions, for kernels without netem. Used by the benchmark of
// distances. Invariant: bytes keep their order and none is lost; TCP itself sees no distance, so
// connecting costs no round trip and no window limits what is under way.
#pragma once

#include <atomic>
#include <chrono>
#include <thread>

#include "core/fd.hpp"

namespace lab {

class DelayLine {
public:
    /// In front of whoever listens on `port_behind` of 127.0.0.1.
    DelayLine(int port_behind, std::chrono::microseconds round_trip);
    /// Cuts all connections.
    ~DelayLine();
    DelayLine(DelayLine const&) = delete;

    [[nodiscard]] int port() const { return port_; }
    /// Nothing leaves the line any more, at either end, until release(). What is sent into it
    /// waits, up to a limit.
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
