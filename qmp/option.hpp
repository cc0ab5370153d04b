// One option of QEMU's command line and its value, in either of QEMU's forms: `key=value,key=value`
// (commas in values doubled, first key implied) or JSON. Used by command_line.*. Invariant: what
// was not changed is printed exactly as it was read.
#pragma once

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

/// Whether QEMU's option `name` (without dashes) is known, and whether it takes a value.
enum class Arity { unknown, flag, value };
Arity arity_of(std::string_view name);

/// The value of an option as keys. Nested values have dotted keys in both forms: "file.filename".
class Settings {
public:
    /// `implied_key`: what QEMU calls the first element when it has no "="; empty: it is a flag.
    /// Fails with invalid when a JSON value is not valid JSON.
    static Result<Settings> parse(std::string_view text, std::string_view implied_key);

    /// The last value given for `key`.
    [[nodiscard]] std::optional<std::string> get(std::string_view key) const;
    [[nodiscard]] std::string get_or(std::string_view key, std::string_view fallback) const;
    /// on/off, yes/no, true/false, y/n, the bare `key` and `nokey`.
    [[nodiscard]] bool flag(std::string_view key, bool fallback) const;
    void set(std::string_view key, std::string_view value);
    void erase(std::string_view key);
    /// Every leaf as {key, value}.
    [[nodiscard]] std::vector<std::pair<std::string, std::string>> all() const;
    [[nodiscard]] bool is_json() const { return json_.has_value(); }
    [[nodiscard]] std::string print() const;

private:
    struct Entry {
        std::string key;
        std::optional<std::string> value;  ///< Nothing: a bare flag.
        bool implied = false;              ///< Printed without its key.
    };
    std::vector<Entry> entries_;
    std::optional<Json> json_;
};

/// One option as it stands in argv.
struct Option {
    std::string dashes;  ///< "-" or "--"; empty: a bare image name, which QEMU takes as -hda.
    std::string name;    ///< As written; kind() is the canonical one.
    std::optional<std::string> value;

    /// `name` with aliases resolved: "machine" for "M", "hda" for a bare image.
    [[nodiscard]] std::string_view kind() const;
    /// Fails with invalid when the value is JSON and broken; the sentence names the option.
    [[nodiscard]] Result<Settings> settings() const;
    void replace(Settings const& settings) { value = settings.print(); }
};

}  // namespace qmp
