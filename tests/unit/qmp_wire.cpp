// QMP's wire form: where a message ends, what it means, and which bytes are not QMP.
#include <catch2/catch.hpp>

#include "qmp/limits.hpp"
#include "qmp/wire.hpp"

namespace qmp_wire_cases {

using namespace qmp;

namespace {

// Feeds `bytes` in pieces of `piece` bytes and collects the whole messages.
Result<std::vector<std::string>> cut(std::string_view bytes, std::size_t piece) {
    Framer framer;
    std::vector<std::string> messages;
    for (; !bytes.empty(); bytes.remove_prefix(std::min(piece, bytes.size()))) {
        framer.feed(bytes.substr(0, piece));
        while (true) {
            TRY(auto message, framer.next());
            if (!message) break;
            messages.push_back(std::move(*message));
        }
    }
    return messages;
}

core::Error error_of(std::string_view bytes) {
    auto const messages = cut(bytes, bytes.size());
    REQUIRE_FALSE(messages);
    return messages.error();
}

}  // namespace

TEST_CASE("messages end with their closing brace, however they are cut", "[qmp][wire]") {
    std::string const stream =
        "{\"return\": {}, \"id\": 1}\r\n{\"event\": \"STOP\", \"data\": {\"a\": [1, {\"b\": "
        "2}]}}\r\n"
        "{\n    \"return\": {\n        \"text\": \"} ] \\\" { \\\\\"\n    },\n    \"id\": 2\n}\n";
    for (std::size_t piece = 1; piece <= stream.size(); ++piece) {
        auto const messages = cut(stream, piece);
        REQUIRE(messages);
        REQUIRE(messages->size() == 3);
        REQUIRE((*messages)[0] == "{\"return\": {}, \"id\": 1}");
        auto const last = decode((*messages)[2]);
        REQUIRE(last);
        REQUIRE(std::get<Return>(*last).value["text"].text_or("") == "} ] \" { \\");
    }
}

TEST_CASE("what is not QMP is reported with what it said", "[qmp][wire]") {
    CHECK(error_of("HTTP/1.1 400 Bad Request\r\n").what ==
          "not a QMP message: `HTTP/1.1 400 Bad Request`");
    CHECK(error_of("[1,2]").code == Errc::protocol);
    CHECK(error_of(std::string("\xff\x00\x01", 3)).what == "not a QMP message: `???`");
}

TEST_CASE("depth and length are limited", "[qmp][wire]") {
    auto const depth = static_cast<std::size_t>(Json::depth_max);
    std::string deep = "{\"a\":";
    for (std::size_t i = 0; i < depth; ++i) deep += "[";
    CHECK(error_of(deep).what.starts_with("a QMP message nested deeper than 64"));

    std::string long_one = "{\"a\":\"" + std::string(message_bytes_max, 'x');
    CHECK(error_of(long_one).what.starts_with("a QMP message longer than"));
    // Just below the limit it is an ordinary message.
    std::string const fits =
        "{\"return\":\"" + std::string(message_bytes_max - 100, 'x') + "\",\"id\":1}";
    auto const messages = cut(fits, read_bytes);
    REQUIRE(messages);
    REQUIRE(messages->size() == 1);
    REQUIRE(decode(messages->front()));
}

TEST_CASE("a message means what QMP says", "[qmp][wire]") {
    auto const greeting = decode(
        R"({"QMP": {"version": {"qemu": {"micro": 22, "minor": 2, "major": 7},
            "package": "Debian 1:7.2"}, "capabilities": ["oob"]}})");
    REQUIRE(greeting);
    CHECK(std::get<Greeting>(*greeting).version == "7.2.22 (Debian 1:7.2)");
    CHECK(std::get<Greeting>(*greeting).capabilities == std::vector<std::string>{"oob"});

    auto const refusal =
        decode(R"({"id": 7, "error": {"class": "DeviceNotFound", "desc": "no such"}})");
    REQUIRE(refusal);
    CHECK(std::get<Refusal>(*refusal).id == 7U);
    CHECK(std::get<Refusal>(*refusal).error_class == "DeviceNotFound");
    CHECK(std::get<Refusal>(*refusal).description == "no such");

    auto const event = decode(
        R"({"timestamp": {"seconds": 12, "microseconds": 34}, "event": "MIGRATION",
            "data": {"status": "active"}})");
    REQUIRE(event);
    CHECK(std::get<Occurrence>(*event).name == "MIGRATION");
    CHECK(std::get<Occurrence>(*event).timestamp_us == 12'000'034);
    CHECK(std::get<Occurrence>(*event).data["status"].text_or("") == "active");
    auto const clockless =
        decode(R"({"timestamp":{"seconds":-1,"microseconds":-1},"event":"STOP"})");
    REQUIRE(clockless);
    CHECK(std::get<Occurrence>(*clockless).timestamp_us == -1);

    auto const nothing = decode(R"({"return": null, "id": 0})");
    REQUIRE(nothing);
    CHECK(std::get<Return>(*nothing).value.is_null());
}

TEST_CASE("a message that means nothing is an error", "[qmp][wire]") {
    for (auto const* text :
         {"{}", "{\"id\": 3}", "{\"return\": {}}", "{\"return\": {}, \"id\": \"x\"}",
          "{\"return\": {}, \"id\": -4}", "{\"error\": \"x\", \"id\": 1}", "{\"event\": 5}", "{,}",
          "{\"return\": {} \"id\": 1}", "{\"return\": [}], \"id\": 1}"}) {
        INFO(text);
        auto const decoded = decode(text);
        REQUIRE_FALSE(decoded);
        CHECK(decoded.error().code == Errc::protocol);
    }
    // The late error for a command that QEMU could not parse has no id; it is still a message.
    CHECK(decode(R"({"error": {"class": "GenericError", "desc": "JSON parse error"}})"));
}

TEST_CASE("a command is one line", "[qmp][wire]") {
    CHECK(encode("query-status", {}, 5) == "{\"execute\":\"query-status\",\"id\":5}\n");
    CHECK(encode("migrate", Json::object({{"uri", "tcp:[::1]:4444"}}), 6) ==
          "{\"execute\":\"migrate\",\"arguments\":{\"uri\":\"tcp:[::1]:4444\"},\"id\":6}\n");
    auto const text = encode("x", Json::object({{"line", "a\nb\tc\""}}), 1);
    CHECK(text.find('\n') == text.size() - 1);
}

TEST_CASE("quotes are short and printable", "[qmp][wire]") {
    CHECK(quoted("  \r\n ") == "");
    CHECK(quoted(" a\nb\x01 ") == "a b?");
    CHECK(quoted(std::string(200, 'a')) == std::string(quote_bytes_max, 'a') + "...");
}

}  // namespace qmp_wire_cases
