#include "qmp/schema.hpp"

#include "qmp/limits.hpp"

namespace qmp {

namespace {

// The next step of a path "a/b/c": cuts it off and returns it.
std::string_view step_of(std::string_view& path) {
    auto const slash = path.find('/');
    auto const step = path.substr(0, slash);
    path.remove_prefix(slash == std::string_view::npos ? path.size() : slash + 1);
    return step;
}

}  // namespace

Result<Schema> Schema::parse(Json const& reply) {
    if (!reply.is_array() || reply.size() == 0) {
        return core::fail(Errc::protocol, "query-qmp-schema gave no list");
    }
    Schema schema;
    for (auto const& entry : reply.elements()) {
        TRY(auto const name, entry.text("name"));
        TRY(auto const meta_type, entry.text("meta-type"));
        if (meta_type == "command") schema.commands_[name] = entry["arg-type"].text_or("");
        if (meta_type == "event") schema.events_.insert(name);
        Type type;
        for (auto const& member : entry["members"].elements()) {
            auto const member_name = member["name"].text_or("");
            auto const member_type = member["type"].text_or("");
            if (meta_type == "enum") {
                type.values.insert(member_name);
            } else if (meta_type == "alternate") {
                type.through.push_back(member_type);
            } else {
                type.members.emplace(member_name, member_type);
            }
        }
        for (auto const& value : entry["values"].elements()) type.values.insert(value.text_or(""));
        for (auto const& variant : entry["variants"].elements()) {
            type.through.push_back(variant["type"].text_or(""));
        }
        if (entry.has("element-type")) type.through.push_back(entry["element-type"].text_or(""));
        schema.types_[name] = std::move(type);
    }
    return schema;
}

bool Schema::has_command(std::string_view command) const { return commands_.contains(command); }
bool Schema::has_event(std::string_view event) const { return events_.contains(event); }

bool Schema::has_argument(std::string_view command, std::string_view path) const {
    return !path.empty() && !types_at(command, path).empty();
}

bool Schema::has_enum_value(std::string_view command, std::string_view path,
                            std::string_view value) const {
    for (auto const& name : types_at(command, path)) {
        auto const found = types_.find(name);
        if (found != types_.end() && found->second.values.contains(value)) return true;
    }
    return false;
}

bool Schema::has_migration_capability(std::string_view capability) const {
    return has_enum_value("migrate-set-capabilities", "capabilities/capability", capability);
}

// The types an argument may have; empty when there is no such argument.
std::set<std::string> Schema::types_at(std::string_view command, std::string_view path) const {
    auto const found = commands_.find(command);
    if (found == commands_.end()) return {};
    std::set<std::string> types{found->second};
    see_through(types);
    while (!path.empty() && !types.empty()) {
        auto const step = step_of(path);
        std::set<std::string> next;
        for (auto const& name : types) {
            auto const type = types_.find(name);
            if (type == types_.end()) continue;
            auto const [first, last] = type->second.members.equal_range(step);
            for (auto member = first; member != last; ++member) next.insert(member->second);
        }
        see_through(next);
        types = std::move(next);
    }
    return types;
}

// Adds the types that lists, alternatives and variants refer to. Ends: every type is added once.
void Schema::see_through(std::set<std::string>& types) const {
    std::vector<std::string> todo(types.begin(), types.end());
    while (!todo.empty()) {
        auto const found = types_.find(todo.back());
        todo.pop_back();
        if (found == types_.end()) continue;
        for (auto const& inner : found->second.through) {
            if (types.insert(inner).second) todo.push_back(inner);
        }
    }
}

Task<Result<Schema>> query_schema(Client& client, Deadline deadline) {
    CO_TRY(auto const reply, co_await client.execute("query-qmp-schema", {}, deadline));
    co_return Schema::parse(reply);
}

}  // namespace qmp
