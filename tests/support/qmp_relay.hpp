// QmpRelay: a relay between a sidecar and its QEMU's monitor, which can cut connections, be silent,
// and send garbage. Used by the vm tests of lost monitors. It takes the socket's name, so that new
// connections reach the relay; existing connections are not affected.
#pragma once

#include <atomic>
#include <string>
#include <string_view>
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

    /// Ends the connection. The next one is accepted.
    void cut();
    /// While it is on, nothing is passed on in either direction. A new connection is accepted but
    /// gets no answer.
    void silence(bool on);
    /// Sends the client bytes that are not QMP.
    void garbage();
    /// Once, when the client sends a command that contains `word` during a migration: QEMU's
    /// downtime limit is raised first, so that it stops the guest. From then on only events are
    /// passed to the client, until pass_answers().
    void stop_guest_during(std::string word);
    void pass_answers();
    [[nodiscard]] int connections() const { return connections_; }  ///< So far.

private:
    void run();
    void wake();
    void take_commands();
    void pass(int from, int to);
    void pass_with_descriptor();
    void hear_client(std::string_view bytes);
    void hear_qemu(std::string_view bytes);
    void send_to(int to, std::string_view bytes);
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
    // Of stop_guest_during(). The word is set before the thread can meet it.
    enum class Hold { none, armed, answers };
    std::atomic<Hold> hold_ = Hold::none;
    std::atomic<bool> released_ = false;
    std::string word_;
    std::string line_;  ///< The begin of a line of QEMU.
    std::string held_;  ///< Answers.
    std::thread thread_;
};

}  // namespace lab
