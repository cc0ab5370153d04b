// Schema's walk through types. tests/process/qmp_commands.cpp asks real QEMUs for their schema.
#include <catch2/catch.hpp>

#include "qmp/schema.hpp"

namespace qmp_schema_cases {

using namespace qmp;

namespace {

// Masked names, as QEMU gives them: a command with a list of an alternate (a string or an object),
// an enumeration, a union, and an object that contains itself.
constexpr auto reply_text = R"([
    {"name": "export", "meta-type": "command", "arg-type": "1", "ret-type": "0"},
    {"name": "bare", "meta-type": "command", "arg-type": "0", "ret-type": "0"},
    {"name": "HAPPENED", "meta-type": "event", "arg-type": "0"},
    {"name": "0", "meta-type": "object", "members": []},
    {"name": "1", "meta-type": "object", "tag": "type", "members": [
        {"name": "type", "type": "5"}, {"name": "bitmaps", "type": "[2]", "default": null}],
        "variants": [{"case": "nbd", "type": "6"}, {"case": "fuse", "type": "0"}]},
    {"name": "[2]", "meta-type": "array", "element-type": "2"},
    {"name": "2", "meta-type": "alternate", "members": [{"type": "str"}, {"type": "3"}]},
    {"name": "3", "meta-type": "object", "members": [
        {"name": "node", "type": "str"}, {"name": "self", "type": "3"}]},
    {"name": "5", "meta-type": "enum", "members": [{"name": "nbd"}, {"name": "fuse"}]},
    {"name": "6", "meta-type": "object", "members": [{"name": "old", "type": "7"}]},
    {"name": "7", "meta-type": "enum", "values": ["a", "b"]},
    {"name": "str", "meta-type": "builtin", "json-type": "string"}])";

Schema schema_of(std::string_view text) {
    auto const json = Json::parse(text);
    REQUIRE(json);
    auto schema = Schema::parse(*json);
    REQUIRE(schema);
    return std::move(*schema);
}

}  // namespace

TEST_CASE("a schema answers by path", "[qmp][schema]") {
    auto const schema = schema_of(reply_text);
    CHECK(schema.has_command("export"));
    CHECK_FALSE(schema.has_command("HAPPENED"));
    CHECK_FALSE(schema.has_command("1"));
    CHECK(schema.has_event("HAPPENED"));
    CHECK_FALSE(schema.has_event("export"));

    CHECK(schema.has_argument("export", "bitmaps"));
    CHECK(schema.has_argument("export", "bitmaps/node"));
    CHECK(schema.has_argument("export", "bitmaps/self/self/node"));
    CHECK(schema.has_argument("export", "old"));  // of a union's variant
    CHECK_FALSE(schema.has_argument("export", "node"));
    CHECK_FALSE(schema.has_argument("export", "bitmaps/none"));
    CHECK_FALSE(schema.has_argument("export", ""));
    CHECK_FALSE(schema.has_argument("bare", "bitmaps"));
    CHECK_FALSE(schema.has_argument("none", "bitmaps"));

    CHECK(schema.has_enum_value("export", "type", "fuse"));
    CHECK(schema.has_enum_value("export", "old", "b"));
    CHECK_FALSE(schema.has_enum_value("export", "type", "vhost"));
    CHECK_FALSE(schema.has_enum_value("export", "bitmaps", "nbd"));
}

TEST_CASE("what is no schema is refused", "[qmp][schema]") {
    for (auto const* text :
         {"{}", "[]", "[1]", "[{\"name\": 1, \"meta-type\": \"event\"}]", "[{\"name\": \"x\"}]"}) {
        INFO(text);
        auto const json = Json::parse(text);
        REQUIRE(json);
        auto const schema = Schema::parse(*json);
        REQUIRE_FALSE(schema);
        CHECK(schema.error().code == Errc::protocol);
    }
}

}  // namespace qmp_schema_cases
