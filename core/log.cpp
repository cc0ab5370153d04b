#include "core/log.hpp"

#include <unistd.h>

#include <cstdlib>
#include <ctime>
#include <string>

namespace core::log {

namespace {

Level least = Level::warning;

/// What a peer or a guest wrote may be part of a line: it must not begin a line of its own, nor
/// speak to the terminal.
std::string escaped(std::string_view line) {
    std::string text;
    text.reserve(line.size());
    for (char const c : line) {
        auto const byte = static_cast<unsigned char>(c);
        constexpr unsigned char delete_character = 0x7f;
        if (byte < ' ' || byte == delete_character) {
            text += c == '\n' ? "\\n" : fmt::format("\\x{:02x}", byte);
        } else {
            text += c;
        }
    }
    return text;
}

}  // namespace

void set_level(Level level) { least = level; }

void write(Level level, std::string_view line) {
    if (level > least) return;
    constexpr std::string_view names[] = {"error", "warning", "info", "debug"};
    constexpr int priorities[] = {3, 4, 6, 7};  // sd-daemon(3)
    auto const index = static_cast<std::size_t>(level);
    std::string text;
    if (std::getenv("JOURNAL_STREAM") != nullptr) {
        text = fmt::format("<{}>{}\n", priorities[index], escaped(line));
    } else {
        timespec now{};
        clock_gettime(CLOCK_REALTIME, &now);
        tm parts{};
        gmtime_r(&now.tv_sec, &parts);
        text = fmt::format("{:02}:{:02}:{:02}.{:03}Z {} {}\n", parts.tm_hour, parts.tm_min,
                           parts.tm_sec, now.tv_nsec / 1'000'000, names[index], escaped(line));
    }
    // One write(2) a line, so that lines of several processes do not mix. A failure cannot be
    // reported anywhere.
    [[maybe_unused]] auto written = ::write(STDERR_FILENO, text.data(), text.size());
}

}  // namespace core::log
