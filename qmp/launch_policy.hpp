// What a host runs of a command line that another host sent. allow() works from an allow-list
// (allow_list.hpp): an option, device, backend or key that is not known to be safe is refused by
// name. Used by the destination of a migration. Pure: looks at no file; the caller resolves the
// files that it lists. Invariant: an allowed line is not changed.
#pragma once

#include <expected>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "core/result.hpp"
#include "qmp/command_line.hpp"

namespace qmp {

/// What a guest of another host may use on this one.
struct LaunchPolicy {
    /// Absolute. Empty: the distribution's QEMU, /usr/bin/qemu-system-* and its other names.
    std::vector<std::string> programs = {};
    /// Of images, logs and sockets; absolute.
    std::vector<std::string> directories = {};
    /// Of firmware: everyone may read them. For reading only.
    std::vector<std::string> public_directories = {"/usr/share", "/usr/lib/ipxe"};
    std::vector<std::string> bridges = {};  ///< Empty: each.
    std::vector<std::string> devices = {};  ///< Device kinds besides those of the allow-list.
    /// The images that are made here for this guest: the only ones that it may write.
    std::vector<std::string> images = {};
    /// Numbers under which QEMU inherits our monitor's socket and taps.
    std::vector<int> descriptors = {};
};

/// What QEMU does with a file.
enum class FileAccess {
    read,
    image,  ///< Reads and writes one of LaunchPolicy::images.
    create,  ///< Creates it, or overwrites it: a log, a pidfile.
    listen,  ///< Replaces it by a socket.
};

/// How QEMU reads a file. An image may name further files in its header.
enum class ImageFormat {
    none,  ///< It is no image.
    raw,
    qcow2,
    probed,  ///< QEMU finds out: whoever writes the image decides.
};

/// A file that an allowed option names. It is below a directory of the policy by its name; a
/// symbolic link may still lead elsewhere.
struct FileUse {
    std::string option;  ///< As written: for messages.
    std::string path;  ///< Absolute.
    FileAccess access = FileAccess::read;
    ImageFormat format = ImageFormat::none;
};

/// Why one option may not run.
struct RefusedOption {
    std::string option;  ///< As written; unprintable characters are replaced.
    std::string why;
    [[nodiscard]] std::string sentence() const;
};

struct AllowedLine {
    CommandLine line;
    std::vector<FileUse> files;
};

/// `line` as it is, if all of it is known to be safe; else every refusal, in the order of the
/// options. An option that is refused for several reasons occurs several times.
std::expected<AllowedLine, std::vector<RefusedOption>> allow(CommandLine const& line,
                                                             LaunchPolicy const& policy);

/// The refusals as one error of code refused. Names the first refusals_told of them.
core::Error refusal_error(std::vector<RefusedOption> const& refusals);
inline constexpr std::size_t refusals_told = 16;  ///< More than a person mends in one go.
/// Bytes of an option that a refusal quotes; -append may be long.
inline constexpr std::size_t refused_option_bytes_max = 240;

/// The program to run where the source ran `program`: that one, if the policy names it; else one
/// that the policy names with the same file name; else the first that the policy names. Without
/// names: the distribution's of that file name, or under its other names (/usr/bin/kvm). Fails with
/// refused.
Result<std::string> choose_program(LaunchPolicy const& policy, std::string const& program);

/// `path` as seen from `directory`; "." for the directory itself. None: it is not below it by its
/// name, or `..` leads out of it on the way.
std::optional<std::string> path_below(std::string_view directory, std::string_view path);

}  // namespace qmp
