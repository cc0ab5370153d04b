// Shared by the qmp_*.cpp tests: a temporary directory, real QEMUs by version, and a scripted
// server for replies that no QEMU gives. Every QEMU is ended by its pidfd, also when a test fails.
#pragma once

#include <catch2/catch.hpp>

#include <fcntl.h>
#include <signal.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <functional>
#include <iostream>
#include <thread>

#include "core/stream.hpp"
#include "qmp/launch.hpp"
#include "qmp/vm.hpp"

namespace qmp_test {

using namespace std::chrono_literals;
using core::Deadline;
using core::Errc;
using core::Json;
using core::Loop;
using core::Result;
using core::Task;

/// Long enough for QEMU to start on a busy machine; a test that takes this long has failed.
inline Deadline soon() { return Deadline::after(30s); }

inline std::unique_ptr<Loop> make_loop() {
    auto loop = Loop::create();
    REQUIRE(loop);
    return std::move(*loop);
}

/// The value of a Result; an error fails the test.
template <class T>
T get(Result<T> result) {
    if (!result) FAIL(result.error().sentence());
    return std::move(*result);
}
inline void must(Result<> result) {
    if (!result) FAIL(result.error().sentence());
}

class Directory {
public:
    Directory() {
        char name[] = "/tmp/sidecar-qmp-XXXXXX";
        REQUIRE(mkdtemp(name) != nullptr);
        path_ = name;
    }
    ~Directory() {
        std::error_code ignored;
        std::filesystem::remove_all(path_, ignored);
    }
    Directory(Directory const&) = delete;
    Directory& operator=(Directory const&) = delete;
    [[nodiscard]] std::string file(std::string const& name) const { return path_ + "/" + name; }

private:
    std::string path_;
};

/// The QEMUs of this machine, "7.2" first. Prints the reason when 10.0 is skipped. Only one QEMU
/// when SIDECAR_TEST_QEMU names it (scripts/test without --all).
inline std::vector<std::string> qemus() {
    std::vector<std::string> found;
    std::vector<std::string> named_one;
    char const* const only = std::getenv("SIDECAR_TEST_QEMU");
    auto const beside = std::filesystem::path(__FILE__).parent_path() / "../../.deps/bin";
    for (auto const& [version, variable] :
         {std::pair{"7.2", "SIDECAR_QEMU_7_2"}, std::pair{"10.0", "SIDECAR_QEMU_10_0"}}) {
        auto const* named = std::getenv(variable);
        std::string path = named != nullptr
                               ? named
                               : (beside / ("qemu-system-x86_64-" + std::string(version))).string();
        if (named == nullptr && !std::filesystem::exists(path) && std::string(version) == "7.2") {
            path = "/usr/bin/qemu-system-x86_64";
        }
        if (std::filesystem::exists(path)) {
            found.push_back(std::filesystem::canonical(path).string());
            if (only != nullptr && std::string(only) == version) named_one = {found.back()};
        } else {
            std::cout << "skipped: QEMU " << version << " is not at " << path << ": set "
                      << variable << " or run scripts/setup\n";
        }
    }
    REQUIRE_FALSE(found.empty());
    return named_one.empty() ? found : named_one;
}

/// A QEMU launched by qmp::launch(), and its client.
class Qemu {
public:
    explicit Qemu(std::string const& program, std::vector<std::string> const& options = {})
        : Qemu(get(get(qmp::CommandLine::parse(words(program, options)))
                       .for_launch({qmp::qmp_fd_in_qemu}))) {}
    /// From a command line that has already been rewritten.
    explicit Qemu(qmp::CommandLine const& line) : loop_(make_loop()) {
        auto launched = get(
            loop_->run(qmp::launch(*loop_, {line, {}, socket(), file("log"), "", false}, soon())));
        process_ = std::move(launched.process);
        client_ = std::move(launched.client);
    }
    /// A small machine, stopped, with `options`.
    static std::vector<std::string> words(std::string const& program,
                                          std::vector<std::string> const& options = {}) {
        std::vector<std::string> argv{program,        "-nodefaults", "-display", "none", "-machine",
                                      "pc,accel=tcg", "-m",          "64",       "-S"};
        argv.insert(argv.end(), options.begin(), options.end());
        return argv;
    }
    ~Qemu() {
        if (client_) loop_->run(client_->close());
        (void)process_.signal(SIGKILL);
        (void)loop_->run(core::wait_exit(*loop_, process_, soon()));
    }
    Qemu(Qemu const&) = delete;
    Qemu& operator=(Qemu const&) = delete;

    [[nodiscard]] Loop& loop() { return *loop_; }
    [[nodiscard]] qmp::Client& client() { return *client_; }
    [[nodiscard]] core::Process const& process() const { return process_; }
    [[nodiscard]] std::string socket() const { return file("qmp.sock"); }
    [[nodiscard]] std::string file(std::string const& name) const { return directory_.file(name); }
    /// Ends our connection and releases it.
    void disconnect() {
        loop_->run(client_->close());
        client_.reset();
    }
    template <class T>
    T run(Task<T> task) {
        return loop_->run(std::move(task));
    }
    Json execute(std::string command, Json arguments = {}) {
        return get(run(client_->execute(std::move(command), std::move(arguments), soon())));
    }

private:
    Directory directory_;
    std::unique_ptr<Loop> loop_;
    core::Process process_;
    std::unique_ptr<qmp::Client> client_;
};

/// A client of ours that is closed when the test ends, in whatever way.
class Connected {
public:
    Connected(Loop& loop, std::string const& socket) : loop_(loop) {
        client_ = get(loop.run(qmp::Client::connect(loop, socket, soon())));
    }
    ~Connected() { loop_.run(client_->close()); }
    Connected(Connected const&) = delete;
    Connected& operator=(Connected const&) = delete;
    qmp::Client* operator->() { return client_.get(); }
    qmp::Client& operator*() { return *client_; }

private:
    Loop& loop_;
    std::unique_ptr<qmp::Client> client_;
};

/// Plays a script to each client that it accepts, one client after the other, on a thread with
/// blocking calls.
class ScriptedServer {
public:
    /// What the script may do with its client.
    class Peer {
    public:
        explicit Peer(int fd) : fd_(fd) {}
        void say(std::string const& text) const {
            std::size_t sent = 0;
            while (sent < text.size()) {
                auto const n = ::send(fd_, text.data() + sent, text.size() - sent, MSG_NOSIGNAL);
                if (n <= 0) return;  // the client closed, which may be the purpose of the test
                sent += static_cast<std::size_t>(n);
            }
        }
        /// The next line the client sent; empty at its end.
        [[nodiscard]] std::string hear() {
            for (char c = 0; ::recv(fd_, &c, 1, 0) == 1;) {
                heard_ += c;
                if (c == '\n') return std::exchange(heard_, {});
            }
            return {};
        }
        /// Greeting and capabilities negotiation, as QEMU does them.
        void greet() {
            say("{\"QMP\": {\"version\": {\"qemu\": {\"micro\": 1, \"minor\": 2, \"major\": 7}, "
                "\"package\": \"\"}, \"capabilities\": [\"oob\"]}}\r\n");
            (void)hear();
            say("{\"return\": {}, \"id\": 1}\r\n");
        }
        /// Waits until the client has closed.
        void wait_end() {
            while (!hear().empty()) continue;
        }

    private:
        int fd_;
        std::string heard_;
    };

    explicit ScriptedServer(std::function<void(Peer&)> script, int clients = 1) {
        listener_ = get(core::listen_unix(path(), 0600));
        // The thread blocks; the loop's sockets do not.
        fcntl(listener_.get(), F_SETFL, fcntl(listener_.get(), F_GETFL) & ~O_NONBLOCK);
        thread_ = std::thread([this, clients, script = std::move(script)] {
            for (int i = 0; i < clients; ++i) {
                core::Fd const client(::accept(listener_.get(), nullptr, nullptr));
                if (!client) return;
                Peer peer(client.get());
                script(peer);
            }
        });
    }
    ~ScriptedServer() {
        ::shutdown(listener_.get(), SHUT_RDWR);  // ends an accept(2) without a client
        thread_.join();
    }
    ScriptedServer(ScriptedServer const&) = delete;
    ScriptedServer& operator=(ScriptedServer const&) = delete;
    [[nodiscard]] std::string path() const { return directory_.file("server.sock"); }

private:
    Directory directory_;
    core::Fd listener_;
    std::thread thread_;
};

}  // namespace qmp_test
