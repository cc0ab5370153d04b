// Fuzzing of qmp/wire.hpp with libFuzzer: any bytes in any pieces. Invariant: messages do not
// depend on how the bytes were cut, and returned or quoted text is within its limits.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string>
#include <vector>

#include "qmp/limits.hpp"
#include "qmp/wire.hpp"

namespace {

void must(bool holds) {
    if (!holds) std::abort();
}

struct Cut {
    std::vector<std::string> messages;
    bool failed = false;
};

Cut cut(std::string_view bytes, std::size_t piece) {
    qmp::Framer framer;
    Cut result;
    while (!bytes.empty() && !result.failed) {
        framer.feed(bytes.substr(0, piece));
        bytes.remove_prefix(std::min(piece, bytes.size()));
        while (true) {
            auto message = framer.next();
            result.failed = !message;
            if (!message || !*message) break;
            result.messages.push_back(std::move(**message));
        }
        must(framer.rest().size() <= qmp::message_bytes_max + piece);
        must(qmp::quoted(framer.rest()).size() <= qmp::quote_bytes_max + 3);
    }
    return result;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(std::uint8_t const* data, std::size_t size) {
    if (size == 0) return 0;
    std::string_view const bytes(reinterpret_cast<char const*>(data + 1), size - 1);
    auto const whole = cut(bytes, std::max<std::size_t>(1, bytes.size()));
    auto const pieces = cut(bytes, std::size_t{data[0]} + 1);
    must(whole.messages == pieces.messages && whole.failed == pieces.failed);
    for (auto const& text : whole.messages) {
        must(text.front() == '{' && (text.back() == '}' || text.back() == ']'));
        auto const message = qmp::decode(text);
        if (!message) {
            must(message.error().code == qmp::Errc::protocol && !message.error().what.empty());
        } else if (auto const* event = std::get_if<qmp::Occurrence>(&*message)) {
            must(event->timestamp_us >= -1);
            // An event from QEMU is unchanged when printed and read again.
            auto const again = qmp::Json::parse(event->data.dump());
            must(again.has_value() && again->dump() == event->data.dump());
        }
    }
    return 0;
}
