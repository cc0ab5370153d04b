// Log lines: events, not chatter. `info` means that a state changed. One line each on stderr, as
// `phase=copying disk=drive0 ...`, with the journal's priority prefix when stderr goes to it.
#pragma once

#include <fmt/format.h>

#include <string_view>

namespace core::log {

enum class Level { error, warning, info, debug };

/// Lines less important than this are dropped. Default: warning for commands, info for daemons.
void set_level(Level level);
void write(Level level, std::string_view line);

template <class... Args>
void error(fmt::format_string<Args...> text, Args&&... args) {
    write(Level::error, fmt::format(text, std::forward<Args>(args)...));
}
template <class... Args>
void warning(fmt::format_string<Args...> text, Args&&... args) {
    write(Level::warning, fmt::format(text, std::forward<Args>(args)...));
}
template <class... Args>
void info(fmt::format_string<Args...> text, Args&&... args) {
    write(Level::info, fmt::format(text, std::forward<Args>(args)...));
}
template <class... Args>
void debug(fmt::format_string<Args...> text, Args&&... args) {
    write(Level::debug, fmt::format(text, std::forward<Args>(args)...));
}

}  // namespace core::log
