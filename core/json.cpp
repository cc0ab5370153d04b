#include "core/json.hpp"

#include <json-c/json.h>

#include <cassert>
#include <limits>
#include <memory>

namespace core {

Json::Json(std::string_view text)
    : value_(json_object_new_string_len(text.data(), static_cast<int>(text.size()))) {}
Json::Json(bool value) : value_(json_object_new_boolean(value)) {}
Json::Json(std::int64_t value) : value_(json_object_new_int64(value)) {}
Json::Json(std::uint64_t value) : value_(json_object_new_uint64(value)) {}
// json-c prints 17 digits of its own accord; fmt the fewest that read back as the same number.
Json::Json(double value)
    : value_(json_object_new_double_s(value, fmt::format("{}", value).c_str())) {}
Json::Json(Json const& other) : value_(json_object_get(other.value_)) {}
Json::~Json() { json_object_put(value_); }

Json Json::object(std::initializer_list<Member> members) {
    Json made(json_object_new_object());
    for (auto const& [key, value] : members) made.set(key, value);
    return made;
}

Json Json::array(std::initializer_list<Json> elements) {
    Json made(json_object_new_array());
    for (auto const& element : elements) made.add(element);
    return made;
}

Result<Json> Json::parse(std::string_view text) {
    if (text.size() > static_cast<std::size_t>(std::numeric_limits<int>::max())) {
        return fail(Errc::protocol, "JSON text of {} bytes is too long", text.size());
    }
    std::unique_ptr<json_tokener, void (*)(json_tokener*)> tokener(json_tokener_new_ex(depth_max),
                                                                   json_tokener_free);
    json_tokener_set_flags(tokener.get(), JSON_TOKENER_STRICT);
    // json-c wants the terminating NUL to end a bare number; std::string has one.
    std::string const terminated(text);
    json_object* value = json_tokener_parse_ex(tokener.get(), terminated.c_str(),
                                               static_cast<int>(terminated.size()) + 1);
    auto const error = json_tokener_get_error(tokener.get());
    Json parsed(value);
    if (error != json_tokener_success) {
        return fail(Errc::protocol, "not valid JSON: {} at byte {}", json_tokener_error_desc(error),
                    json_tokener_get_parse_end(tokener.get()));
    }
    auto const end = json_tokener_get_parse_end(tokener.get());
    if (end < text.size() && text.find_first_not_of(" \t\r\n", end) != std::string_view::npos) {
        return fail(Errc::protocol, "not valid JSON: something follows the value at byte {}", end);
    }
    return parsed;
}

Json Json::clone() const {
    json_object* copy = nullptr;
    if (value_ != nullptr) json_object_deep_copy(value_, &copy, nullptr);
    return Json(copy);
}

std::string Json::dump() const {
    return json_object_to_json_string_ext(value_,
                                          JSON_C_TO_STRING_PLAIN | JSON_C_TO_STRING_NOSLASHESCAPE);
}
std::string Json::dump_pretty() const {
    return json_object_to_json_string_ext(
        value_, JSON_C_TO_STRING_PRETTY | JSON_C_TO_STRING_SPACED | JSON_C_TO_STRING_NOSLASHESCAPE);
}

bool Json::is_null() const { return value_ == nullptr; }
bool Json::is_object() const { return json_object_is_type(value_, json_type_object) != 0; }
bool Json::is_array() const { return json_object_is_type(value_, json_type_array) != 0; }
bool Json::is_string() const { return json_object_is_type(value_, json_type_string) != 0; }
bool Json::is_integer() const { return json_object_is_type(value_, json_type_int) != 0; }
bool Json::is_boolean() const { return json_object_is_type(value_, json_type_boolean) != 0; }

Json Json::operator[](std::string_view key) const {
    if (!is_object()) return {};
    json_object* found = nullptr;
    json_object_object_get_ex(value_, std::string(key).c_str(), &found);
    return Json(json_object_get(found));
}

bool Json::has(std::string_view key) const {
    return is_object() && json_object_object_get_ex(value_, std::string(key).c_str(), nullptr) != 0;
}

std::vector<std::pair<std::string, Json>> Json::members() const {
    std::vector<std::pair<std::string, Json>> all;
    if (!is_object()) return all;
    json_object_object_foreach(value_, key, value)
        all.emplace_back(key, Json(json_object_get(value)));
    return all;
}

std::vector<Json> Json::elements() const {
    std::vector<Json> all;
    if (!is_array()) return all;
    auto const count = json_object_array_length(value_);
    all.reserve(count);
    for (std::size_t i = 0; i < count; ++i) {
        all.push_back(Json(json_object_get(json_object_array_get_idx(value_, i))));
    }
    return all;
}

std::size_t Json::size() const {
    if (is_array()) return json_object_array_length(value_);
    if (is_object()) return static_cast<std::size_t>(json_object_object_length(value_));
    return 0;
}

std::string Json::text_or(std::string_view fallback) const {
    if (!is_string()) return std::string(fallback);
    return {json_object_get_string(value_),
            static_cast<std::size_t>(json_object_get_string_len(value_))};
}
std::int64_t Json::integer_or(std::int64_t fallback) const {
    return is_integer() ? json_object_get_int64(value_) : fallback;
}
double Json::number_or(double fallback) const {
    if (is_integer()) return static_cast<double>(json_object_get_int64(value_));
    return json_object_is_type(value_, json_type_double) != 0 ? json_object_get_double(value_)
                                                              : fallback;
}
bool Json::boolean_or(bool fallback) const {
    return is_boolean() ? json_object_get_boolean(value_) != 0 : fallback;
}

Result<std::string> Json::text(std::string_view key) const {
    Json const member = (*this)[key];
    if (!member.is_string()) return fail(Errc::protocol, "`{}` is missing or not a string", key);
    return member.text_or("");
}
Result<std::int64_t> Json::integer(std::string_view key) const {
    Json const member = (*this)[key];
    if (!member.is_integer()) return fail(Errc::protocol, "`{}` is missing or not an integer", key);
    return member.integer_or(0);
}
Result<bool> Json::boolean(std::string_view key) const {
    Json const member = (*this)[key];
    if (!member.is_boolean())
        return fail(Errc::protocol, "`{}` is missing or not true or false", key);
    return member.boolean_or(false);
}

Json& Json::set(std::string_view key, Json value) {
    if (value_ == nullptr) value_ = json_object_new_object();
    assert(is_object());
    json_object_object_add(value_, std::string(key).c_str(), std::exchange(value.value_, nullptr));
    return *this;
}

Json& Json::add(Json element) {
    if (value_ == nullptr) value_ = json_object_new_array();
    assert(is_array());
    json_object_array_add(value_, std::exchange(element.value_, nullptr));
    return *this;
}

}  // namespace core
