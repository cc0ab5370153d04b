// Schema: what this QEMU can do, as it says itself (query-qmp-schema). Features are asked of it,
// never of the version: distributions backport. Used wherever 7.2 and 10.0 differ.
#pragma once

#include <map>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "core/json.hpp"
#include "core/result.hpp"
#include "qmp/client.hpp"

namespace qmp {

class Schema {
public:
    /// Reads the reply of query-qmp-schema. Fails with protocol when it is not one.
    static Result<Schema> parse(Json const& reply);

    [[nodiscard]] bool has_command(std::string_view command) const;
    [[nodiscard]] bool has_event(std::string_view event) const;
    /// `path` walks into nested arguments by "/", through lists, alternatives and every variant of
    /// a union: has_argument("block-export-add", "bitmaps/node").
    [[nodiscard]] bool has_argument(std::string_view command, std::string_view path) const;
    /// Whether the enumeration at `path` knows `value`:
    /// has_enum_value("migrate-set-capabilities", "capabilities/capability", "return-path").
    [[nodiscard]] bool has_enum_value(std::string_view command, std::string_view path,
                                      std::string_view value) const;
    /// A capability of migrate-set-capabilities.
    [[nodiscard]] bool has_migration_capability(std::string_view capability) const;

private:
    struct Type {
        std::string meta_type;
        std::multimap<std::string, std::string, std::less<>>
            members;  ///< Name to type; variants included.
        std::set<std::string, std::less<>> values;  ///< Of an enumeration.
        std::vector<std::string>
            through;  ///< Element of an array, branches of an alternate or a union.
    };
    [[nodiscard]] std::set<std::string> types_at(std::string_view command,
                                                 std::string_view path) const;
    void see_through(std::set<std::string>& types) const;

    std::map<std::string, Type, std::less<>> types_;
    std::map<std::string, std::string, std::less<>> commands_;  ///< Name to argument type.
    std::set<std::string, std::less<>> events_;
};

/// query-qmp-schema
Task<Result<Schema>> query_schema(Client& client, Deadline deadline);

}  // namespace qmp
