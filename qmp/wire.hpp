// The wire form of QMP: bytes to messages. Pure: no descriptor, no clock; used by Client, explored
// by the fuzzer. QEMU ends a message with its closing brace, not with a newline (`pretty=on`
// spreads one over many lines), so messages are found by nesting. Invariant: memory held never
// exceeds message_bytes_max + one feed.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "core/json.hpp"
#include "core/result.hpp"

namespace qmp {

using core::Errc;
using core::Json;
using core::Result;

/// {"QMP": {"version": ..., "capabilities": [...]}}
struct Greeting {
    std::string version;  ///< As QEMU prints it, for messages only: never decide by it, ask Schema.
    std::vector<std::string> capabilities;
};

/// {"return": ..., "id": N}
struct Return {
    std::uint64_t id = 0;
    Json value;
};

/// {"error": {"class": ..., "desc": ...}, "id": N}
struct Refusal {
    std::optional<std::uint64_t> id;  ///< Missing when QEMU could not even read the command.
    std::string error_class;
    std::string description;
};

/// {"event": NAME, "data": ..., "timestamp": {"seconds": S, "microseconds": U}}
struct Occurrence {
    std::string name;
    Json data;
    std::int64_t timestamp_us =
        -1;  ///< QEMU's clock since the migration_id; -1: QEMU could not tell.
};

using Message = std::variant<Greeting, Return, Refusal, Occurrence>;

/// Cuts a stream of bytes into JSON texts. After an error the stream is of no more use.
class Framer {
public:
    /// Appends what was read.
    void feed(std::string_view bytes);
    /// The next whole object as text, nothing when more bytes are needed, or protocol: something
    /// else than an object, too long, too deep.
    Result<std::optional<std::string>> next();
    /// What has been read and not yet been handed out, for quoting.
    [[nodiscard]] std::string_view rest() const { return std::string_view(buffer_).substr(start_); }

private:
    std::string buffer_;
    std::size_t start_ = 0;  ///< First byte of the message being read.
    std::size_t scanned_ = 0;  ///< First byte not yet looked at.
    int depth_ = 0;
    bool in_string_ = false;
    bool escaped_ = false;
};

/// What a JSON text means in QMP. Fails with protocol when it means nothing.
Result<Message> decode(std::string_view text);

/// The text of one command, ended by a newline.
std::string encode(std::string_view command, Json const& arguments, std::uint64_t id);

/// At most quote_bytes_max bytes of `text` with everything unprintable replaced, for error
/// messages.
std::string quoted(std::string_view text);

}  // namespace qmp
