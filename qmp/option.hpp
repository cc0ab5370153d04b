// One option of QEMU's command line and its value, in either of QEMU's forms: `key=value,key=value`
// (commas in values doubled, first key implied) or JSON. Used by command_line.*. Invariant: what
// was not changed is printed exactly as it was read.
#pragma once

#include <algorithm>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "core/json.hpp"
#include "core/result.hpp"

namespace qmp {

using core::Errc;
using core::Json;
using core::Result;

/// Whether `word` is in `list`, a range of words.
bool is_one_of(auto const& list, std::string_view word) {
    return std::ranges::find(list, word) != list.end();
}

/// What QEMU takes for a true value.
bool is_on(std::string_view value);

/// Whether QEMU's option `name` (without dashes) takes a value. As of QEMU 7.2 and 10.0.
enum class Arity { unknown, flag, value };
Arity arity_of(std::string_view name);

/// The value of an option as keys. Nested values have dotted keys in both forms: "file.filename".
class Settings {
public:
    /// `implied_key`: what QEMU calls a first element without "="; empty: such an element is a
    /// flag. Fails with invalid when a JSON value is not a JSON object.
    static Result<Settings> parse(std::string_view text, std::string_view implied_key);

    /// The last value given for `key`.
    [[nodiscard]] std::optional<std::string> get(std::string_view key) const;
    [[nodiscard]] std::string get_or(std::string_view key, std::string_view fallback) const;
    [[nodiscard]] bool has(std::string_view key) const { return get(key).has_value(); }
    /// on/off, yes/no, true/false, y/n, the bare `key` and `nokey`.
    [[nodiscard]] bool flag(std::string_view key, bool fallback) const;
    void set(std::string_view key, std::string_view value);
    void set_flag(std::string_view key, bool on);
    void set_number(std::string_view key, std::uint64_t number);
    void erase(std::string_view key);
    /// Every leaf as {key, value}; a bare `key` has the value "on", and `nokey` is {key, "off"}.
    [[nodiscard]] std::vector<std::pair<std::string, std::string>> all() const;
    /// Replaces each value by what `to` makes of it. Bare flags have none.
    void replace_values(
        std::function<std::string(std::string_view key, std::string_view value)> const& to);
    [[nodiscard]] std::string print() const;

private:
    struct Entry {
        std::string key;
        std::optional<std::string> value;  ///< Nothing: a bare flag.
        bool implied = false;  ///< Printed without its key.
    };
    std::vector<Entry> entries_;
    std::optional<Json> json_;
};

/// What an option's value is.
enum class Form {
    none,  ///< A flag.
    text,  ///< Taken whole, and neither a path nor a list: -append, -cpu, -uuid.
    path,  ///< A file name: -kernel, -hda, -pidfile.
    character,  ///< A character device as -serial takes it: "unix:PATH,server=on", "file:PATH",
                ///< "stdio".
    settings,  ///< Keys and values, or JSON.
};

/// One option as it stands in argv.
struct Option {
    std::string dashes;  ///< "-" or "--"; empty: a bare image name, which QEMU takes as -hda.
    std::string name;  ///< As written; kind() is the canonical one.
    std::optional<std::string> value;

    /// `name` with aliases resolved: "machine" for "M", "hda" for a bare image.
    [[nodiscard]] std::string_view kind() const;
    [[nodiscard]] Form form() const;
    /// The value as keys; a character device has its first element under "address".
    /// Fails with invalid when the value is JSON and broken; the sentence names the option.
    [[nodiscard]] Result<Settings> settings() const;
    /// Empty where settings() fails: for the options of a CommandLine, whose parse() has read them.
    [[nodiscard]] Settings settings_or_empty() const { return settings().value_or(Settings()); }
    void replace(Settings const& settings) { value = settings.print(); }
    /// As on a command line, for messages.
    [[nodiscard]] std::string print() const;
};

}  // namespace qmp
