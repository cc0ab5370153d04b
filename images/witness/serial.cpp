// One thread, one port: waits for input until the next liveness line is due.
#include "serial.hpp"

#include "errors.hpp"

#include <fcntl.h>
#include <poll.h>
#include <termios.h>
#include <unistd.h>
#include <array>
#include <cerrno>
#include <cstring>
#include <string>

namespace witness {
namespace {

constexpr std::size_t line_bytes_max = 65536;

int open_port() {
    const int fd = open("/dev/ttyS0", O_RDWR | O_NOCTTY | O_CLOEXEC);
    if (fd < 0) return fd;
    termios settings{};
    tcgetattr(fd, &settings);
    cfmakeraw(&settings);
    cfsetspeed(&settings, B115200);
    settings.c_cflag |= CLOCAL;
    tcsetattr(fd, TCSANOW, &settings);
    return fd;
}

void write_line(int fd, std::string line) {
    line += "\n";
    for (std::size_t done = 0; done < line.size();) {
        const ssize_t written = write(fd, line.data() + done, line.size() - done);
        if (written < 0 && errno != EINTR) return;
        if (written > 0) done += static_cast<std::size_t>(written);
    }
}

} // namespace

void run_serial(Parts& parts, std::uint64_t alive_ms) {
    const int fd = open_port();
    if (fd < 0) errors().add(Kind::setup, std::string("/dev/ttyS0: ") + std::strerror(errno));
    write_line(fd, ""); // the firmware left its last line unfinished
    std::string input;
    std::uint64_t count = 0;
    std::uint64_t due_ns = now_ns();
    while (true) {
        if (now_ns() >= due_ns) {
            write_line(fd, alive_line(parts, ++count));
            due_ns += alive_ms * ns_per_ms;
            if (due_ns < now_ns()) due_ns = now_ns() + alive_ms * ns_per_ms;
        }
        const std::uint64_t left_ns = due_ns > now_ns() ? due_ns - now_ns() : 0;
        pollfd port{fd, POLLIN, 0};
        const int ready = poll(&port, 1, static_cast<int>(left_ns / ns_per_ms) + 1);
        if (ready <= 0) continue;
        std::array<char, 512> data;
        const ssize_t got = read(fd, data.data(), data.size());
        if (got <= 0) {
            sleep_until_ns(due_ns); // the port hung up: do not turn in circles
            continue;
        }
        input.append(data.data(), static_cast<std::size_t>(got));
        std::size_t end = 0;
        while ((end = input.find('\n')) != std::string::npos) {
            if (end > 0) write_line(fd, "{\"answer\":" + answer(parts, input.substr(0, end)) + "}");
            input.erase(0, end + 1);
        }
        if (input.size() > line_bytes_max) input.clear();
    }
}

} // namespace witness
