// QmpRelay: a relay between a sidecar and the monitor of its QEMU, which can cut connections, be
// silent, and send garbage. Used by the vm tests of lost monitors. It takes the socket's name, so
// that whoever connects meets the relay; connections from before are not affected.
#pragma once

#include <atomic>
#include <thread>

#include "tests/support/command.hpp"

namespace lab {

class QmpRelay {
public:
    /// Renames `socket` and listens in its place.
    explicit QmpRelay(fs::path socket);
    ~QmpRelay();
    QmpRelay(QmpRelay const&) = delete;
    QmpRelay& operator=(QmpRelay const&) = delete;

    /// Ends the connection. The next one is taken.
    void cut();
    /// Nothing is passed on in either direction, and a new connection is accepted and gets no
    /// answer; until it is switched off.
    void silence(bool on);
    /// Sends the client what is no QMP.
    void garbage();
    [[nodiscard]] int connections() const { return connections_; }  ///< So far.

private:
    void run();
    void wake();
    void take_commands();
    void pass(int from, int to);
    void pass_with_descriptor();
    void hang_up();

    fs::path socket_;
    fs::path monitor_;
    core::Fd listener_;
    core::Fd client_;
    core::Fd qemu_;
    core::Fd wake_read_;
    core::Fd wake_write_;
    std::atomic<bool> stop_ = false;
    std::atomic<bool> cut_ = false;
    std::atomic<bool> silent_ = false;
    std::atomic<bool> garbage_ = false;
    std::atomic<int> connections_ = 0;
    std::thread thread_;
};

}  // namespace lab
