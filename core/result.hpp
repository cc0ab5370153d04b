// core/ is the ground every room stands on: it may be used by all, and uses no other room.
//
// Result<T>: how every function of this program fails. An Error is one sentence with the steps it
// happened in; the caller that does not return it prints it once. Exceptions of libraries end at
// the file that calls them.
#pragma once

#include <fmt/format.h>

#include <expected>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace core {

/// The kinds of failure a caller may want to tell apart. Everything else is in the sentence.
enum class Errc {
    io,            ///< The kernel refused or failed an operation; Error::os has errno.
    closed,        ///< The other side closed the connection, or the process is gone.
    timed_out,     ///< The Deadline passed. The operation may still have had its effect.
    cancelled,     ///< The stop token of the Deadline was triggered.
    protocol,      ///< The other side said something that its protocol does not allow.
    qemu_refused,  ///< QEMU answered a command with an error; its class and text are in the
                   ///< sentence.
    nbd,           ///< libnbd or the NBD server failed a request.
    netlink,       ///< The kernel's netlink refused a request.
    refused,       ///< A check said no before anything was touched.
    invalid,       ///< Bad input: a file, an option, a message.
};

/// What went wrong, in one sentence without a full stop, and in which steps (innermost first).
struct Error {
    Errc code = Errc::invalid;
    int os = 0;  ///< errno where the kernel was the one who refused, else 0.
    std::string what;
    std::vector<std::string> during;

    /// Adds the step in which it happened: "while <step>". Steps read from the inside out.
    Error&& while_doing(std::string step) &&;
    Error& while_doing(std::string step) &;

    /// The whole as one line: `What failed: text (while copying drive0; while migrating web1)`.
    [[nodiscard]] std::string sentence() const;
};

template <class T = void>
using Result = std::expected<T, Error>;

/// Makes the failing side of a Result.
template <class... Args>
[[nodiscard]] std::unexpected<Error> fail(Errc code, fmt::format_string<Args...> text,
                                          Args&&... args) {
    return std::unexpected(Error{code, 0, fmt::format(text, std::forward<Args>(args)...), {}});
}

/// As fail(), for a failed system call: the text of `os_errno` is appended after ": ".
[[nodiscard]] std::unexpected<Error> fail_os(Errc code, int os_errno, std::string what);

template <class... Args>
[[nodiscard]] std::unexpected<Error> fail_errno(int os_errno, fmt::format_string<Args...> text,
                                                Args&&... args) {
    return fail_os(Errc::io, os_errno, fmt::format(text, std::forward<Args>(args)...));
}

std::string_view name(Errc code);

}  // namespace core

#define SIDECAR_CONCAT_(a, b) a##b
#define SIDECAR_CONCAT(a, b) SIDECAR_CONCAT_(a, b)

// TRY(auto fd, open_socket(path));  leaves the function with the error, or binds the value.
#define TRY_IMPL_(leave, temporary, declaration, ...)                    \
    auto temporary = (__VA_ARGS__);                                      \
    if (!temporary) leave std::unexpected(std::move(temporary.error())); \
    declaration = std::move(*temporary)
#define TRY(declaration, ...) \
    TRY_IMPL_(return, SIDECAR_CONCAT(try_result_, __COUNTER__), declaration, __VA_ARGS__)
#define CO_TRY(declaration, ...) \
    TRY_IMPL_(co_return, SIDECAR_CONCAT(try_result_, __COUNTER__), declaration, __VA_ARGS__)

// TRY_VOID(write_all(...));  the same for a Result<>, or a Result whose value is not wanted.
#define TRY_VOID_IMPL_(leave, temporary, ...)                                \
    do {                                                                     \
        auto temporary = (__VA_ARGS__);                                      \
        if (!temporary) leave std::unexpected(std::move(temporary.error())); \
    } while (false)
#define TRY_VOID(...) TRY_VOID_IMPL_(return, SIDECAR_CONCAT(try_result_, __COUNTER__), __VA_ARGS__)
#define CO_TRY_VOID(...) \
    TRY_VOID_IMPL_(co_return, SIDECAR_CONCAT(try_result_, __COUNTER__), __VA_ARGS__)
