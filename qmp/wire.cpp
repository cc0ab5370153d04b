#include "qmp/wire.hpp"

#include "qmp/limits.hpp"

namespace qmp {

namespace {

constexpr std::string_view white_space = " \t\r\n";

bool is_white_space(char c) { return white_space.find(c) != std::string_view::npos; }

Result<std::optional<std::uint64_t>> id_of(Json const& message) {
    if (!message.has("id")) return std::nullopt;
    auto const id = message["id"];
    if (!id.is_integer() || id.integer_or(-1) < 0) {
        return core::fail(Errc::protocol, "QEMU answered with the id {}, which was never used",
                          quoted(id.dump()));
    }
    return static_cast<std::uint64_t>(id.integer_or(0));
}

Greeting greeting_of(Json const& message) {
    auto const version = message["QMP"]["version"];
    auto const number = version["qemu"];
    Greeting greeting{fmt::format("{}.{}.{}", number["major"].integer_or(0),
                                  number["minor"].integer_or(0), number["micro"].integer_or(0)),
                      {}};
    auto const package = version["package"].text_or("");
    if (!package.empty()) greeting.version += fmt::format(" ({})", package);
    for (auto const& capability : message["QMP"]["capabilities"].elements()) {
        greeting.capabilities.push_back(capability.text_or(""));
    }
    return greeting;
}

Occurrence occurrence_of(Json const& message) {
    auto const timestamp = message["timestamp"];
    auto const s = timestamp["seconds"].integer_or(-1);
    auto const us = timestamp["microseconds"].integer_or(-1);
    // QEMU says -1 for both when its clock failed. The bound keeps a nonsense value from
    // overflowing.
    constexpr std::int64_t seconds_max = std::int64_t{1} << 40;
    bool const known = s >= 0 && s < seconds_max && us >= 0 && us < 1'000'000;
    return {message["event"].text_or(""), message["data"], known ? s * 1'000'000 + us : -1};
}

}  // namespace

void Framer::feed(std::string_view bytes) {
    if (start_ > 0) {  // forget what has been handed out; a partial message moves to the front
        buffer_.erase(0, start_);
        scanned_ -= start_;
        start_ = 0;
    }
    buffer_ += bytes;
}

Result<std::optional<std::string>> Framer::next() {
    for (; scanned_ < buffer_.size(); ++scanned_) {
        char const c = buffer_[scanned_];
        if (depth_ == 0) {
            start_ = scanned_;
            if (is_white_space(c)) continue;
            if (c != '{') {
                return core::fail(Errc::protocol, "not a QMP message: `{}`", quoted(rest()));
            }
            depth_ = 1;
        } else if (in_string_) {
            if (escaped_) {
                escaped_ = false;
            } else if (c == '\\') {
                escaped_ = true;
            } else if (c == '"') {
                in_string_ = false;
            }
        } else if (c == '"') {
            in_string_ = true;
        } else if (c == '{' || c == '[') {
            if (++depth_ > Json::depth_max) {
                return core::fail(Errc::protocol, "a QMP message nested deeper than {}: `{}`",
                                  Json::depth_max, quoted(rest()));
            }
        } else if ((c == '}' || c == ']') && --depth_ == 0) {
            ++scanned_;
            auto text = buffer_.substr(start_, scanned_ - start_);
            start_ = scanned_;
            return text;
        }
        if (scanned_ - start_ >= message_bytes_max) {
            return core::fail(Errc::protocol, "a QMP message longer than {} bytes: `{}`",
                              message_bytes_max, quoted(rest()));
        }
    }
    if (depth_ == 0) start_ = scanned_;
    return std::nullopt;
}

Result<Message> decode(std::string_view text) {
    TRY(auto const message, Json::parse(text));
    if (message.has("QMP")) return greeting_of(message);
    if (message["event"].is_string()) return occurrence_of(message);
    TRY(auto const id, id_of(message));
    if (message.has("return")) {
        if (!id) return core::fail(Errc::protocol, "QEMU answered without an id: {}", quoted(text));
        return Return{*id, message["return"]};
    }
    if (message["error"].is_object()) {
        return Refusal{id, message["error"]["class"].text_or("GenericError"),
                       message["error"]["desc"].text_or("no reason given")};
    }
    return core::fail(Errc::protocol, "not a QMP message: `{}`", quoted(text));
}

std::string encode(std::string_view command, Json const& arguments, std::uint64_t id) {
    auto message = Json::object({{"execute", command}});
    if (!arguments.is_null()) message.set("arguments", arguments);
    message.set("id", id);
    return message.dump() + "\n";
}

std::string quoted(std::string_view text) {
    auto const first = text.find_first_not_of(white_space);
    if (first == std::string_view::npos) return {};
    text.remove_prefix(first);
    bool const whole = text.size() <= quote_bytes_max;
    std::string out;
    for (char const c : text.substr(0, quote_bytes_max)) {
        out += c >= ' ' && c < 127 ? c : (is_white_space(c) ? ' ' : '?');
    }
    while (whole && !out.empty() && out.back() == ' ') out.pop_back();
    return whole ? out : out + "...";
}

}  // namespace qmp
