// Json: a value of json-c behind a type. Copies share the value (json-c counts references); a copy
// that is to be changed on its own must be made with clone(). Parsing has limits on depth and
// length.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "core/result.hpp"

struct json_object;

namespace core {

class Json {
public:
    /// Deepest nesting accepted. QEMU's own schema replies need 8; 64 leaves room and bounds the
    /// stack.
    static constexpr int depth_max = 64;

    Json() = default;  ///< null
    Json(std::string_view text);
    Json(char const* text) : Json(std::string_view(text)) {}
    Json(std::string const& text) : Json(std::string_view(text)) {}
    Json(bool value);
    Json(int value) : Json(static_cast<std::int64_t>(value)) {}
    Json(unsigned value) : Json(static_cast<std::int64_t>(value)) {}
    Json(std::int64_t value);
    Json(std::uint64_t value);  ///< Above 2^63-1 as json-c's unsigned integer.
    Json(double value);
    using Member = std::pair<std::string_view, Json>;
    static Json object(std::initializer_list<Member> members = {});
    static Json array(std::initializer_list<Json> elements = {});
    Json(Json const& other);
    Json(Json&& other) noexcept : value_(std::exchange(other.value_, nullptr)) {}
    Json& operator=(Json other) noexcept {
        std::swap(value_, other.value_);
        return *this;
    }
    ~Json();

    /// Parses exactly one value; anything after it but white space is an error, as is nesting >
    /// depth_max.
    static Result<Json> parse(std::string_view text);
    [[nodiscard]] Json clone() const;
    [[nodiscard]] std::string dump() const;  ///< One line, no spaces.
    [[nodiscard]] std::string dump_pretty() const;  ///< For files that people read.

    [[nodiscard]] bool is_null() const;
    [[nodiscard]] bool is_object() const;
    [[nodiscard]] bool is_array() const;
    [[nodiscard]] bool is_string() const;
    [[nodiscard]] bool is_integer() const;
    [[nodiscard]] bool is_boolean() const;

    /// The member, or null when this is no object or has no such member. Never fails, so paths can
    /// be chained.
    Json operator[](std::string_view key) const;
    [[nodiscard]] bool has(std::string_view key) const;
    [[nodiscard]] std::vector<std::pair<std::string, Json>> members() const;
    [[nodiscard]] std::vector<Json> elements() const;  ///< Empty when this is no array.
    [[nodiscard]] std::size_t size() const;  ///< Of an array or object, else 0.

    /// The value when it is of that type, else the fallback.
    [[nodiscard]] std::string text_or(std::string_view fallback) const;
    [[nodiscard]] std::int64_t integer_or(std::int64_t fallback) const;
    [[nodiscard]] double number_or(double fallback) const;
    [[nodiscard]] bool boolean_or(bool fallback) const;
    /// A member that must be there and of that type: else an error that names it.
    [[nodiscard]] Result<std::string> text(std::string_view key) const;
    [[nodiscard]] Result<std::int64_t> integer(std::string_view key) const;
    [[nodiscard]] Result<bool> boolean(std::string_view key) const;

    Json& set(std::string_view key, Json value);  ///< On null: becomes an object.
    Json& add(Json element);  ///< On null: becomes an array.

private:
    explicit Json(json_object* owned) : value_(owned) {}
    json_object* value_ = nullptr;
};

}  // namespace core
