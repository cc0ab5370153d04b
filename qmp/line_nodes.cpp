#include "qmp/line_nodes.hpp"

#include <algorithm>
#include <array>
#include <map>

namespace qmp {

namespace {

/// They pass every request on.
bool is_filter_driver(std::string_view driver) {
    constexpr auto filters =
        std::to_array<std::string_view>({"throttle", "copy-on-read", "compress", "preallocate"});
    return is_one_of(filters, driver);
}

/// Of a child's keys, those of the node above it: "file.backing." is "file.".
std::string prefix_above(std::string const& prefix) {
    auto const dot = prefix.rfind('.', prefix.size() - 2);
    return dot == std::string::npos ? "" : prefix.substr(0, dot + 1);
}

}  // namespace

std::pair<std::string, std::string> split_children(std::string_view key) {
    std::string children;
    for (;;) {
        auto const child = key.starts_with("file.")      ? std::string_view("file.")
                           : key.starts_with("backing.") ? std::string_view("backing.")
                                                         : std::string_view();
        if (child.empty()) return {children, std::string(key)};
        children += child;
        key.remove_prefix(child.size());
    }
}

std::string plain_path(std::string_view path) {
    std::vector<std::string_view> parts;
    for (auto rest = path; !rest.empty();) {
        auto const end = std::min(rest.find('/'), rest.size());
        auto const part = rest.substr(0, end);
        if (part == ".." && !parts.empty()) parts.pop_back();
        if (!part.empty() && part != "." && part != "..") parts.push_back(part);
        rest.remove_prefix(std::min(end + 1, rest.size()));
    }
    return fmt::format("/{}", fmt::join(parts, "/"));
}

std::string_view without_file_protocol(std::string_view name) {
    return name.starts_with("file:") ? name.substr(5) : name;
}

Settings drive_settings(Option const& option) {
    auto settings = option.settings_or_empty();
    constexpr std::string_view protocol = "json:";
    auto const file = settings.get_or("file", "");
    if (!file.starts_with(protocol)) return settings;
    auto const object = Settings::parse(std::string_view(file).substr(protocol.size()), "");
    // A -drive itself has no key that names a node as its file.
    if (!object || object->has("file")) return settings;
    settings.erase("file");
    bool const has_format = settings.has("format");
    for (auto const& [key, value] : object->all()) {
        if (settings.has(key) || (key == "driver" && has_format)) continue;
        bool const none = value == "null" && split_children(key).second == "backing";
        settings.set(key, none ? "" : value);
    }
    return settings;
}

LineNodes::LineNodes(std::vector<Option> const& options) {
    for (std::size_t index = 0; index < options.size(); ++index) {
        auto const& option = options[index];
        if (option.kind() == "drive") add(index, drive_settings(option), true);
        if (option.kind() == "blockdev") add(index, option.settings_or_empty(), false);
    }
    link();
    links_.clear();
}

void LineNodes::add(std::size_t option, Settings const& settings, bool of_drive) {
    std::map<std::string, std::size_t> places;
    auto const place_of = [&](std::string const& prefix) {
        auto const [place, is_new] = places.emplace(prefix, nodes_.size());
        if (is_new) {
            nodes_.push_back({.option = option, .of_drive = of_drive, .prefix = prefix});
            links_.emplace_back();
        }
        return place->second;
    };
    place_of("");
    for (auto const& [key, value] : settings.all()) {
        auto const [prefix, leaf] = split_children(key);
        // A child is written in another one, which may have no keys of its own.
        for (auto above = prefix; !above.empty(); above = prefix_above(above)) place_of(above);
        auto const place = place_of(prefix);
        auto& node = nodes_[place];
        bool const top_of_drive = of_drive && prefix.empty();
        if (leaf == "node-name") node.name = value;
        if (leaf == "filename" || (leaf == "file" && top_of_drive)) node.file_name = value;
        if (leaf == "read-only" || (leaf == "readonly" && top_of_drive))
            node.read_only = is_on(value);
        if (leaf == "driver" || (leaf == "format" && top_of_drive)) node.driver = value;
        if (leaf == "file" && !top_of_drive) links_[place].first = value;
        if (leaf == "backing") links_[place].second = value;
    }
    for (auto const& [prefix, place] : places) {
        if (prefix.empty()) continue;
        auto& above = nodes_[places.at(prefix_above(prefix))];
        (prefix.ends_with("backing.") ? above.backing : above.file) = place;
    }
}

void LineNodes::link() {
    for (std::size_t place = 0; place < nodes_.size(); ++place) {
        auto& node = nodes_[place];
        auto const& [file, backing] = links_[place];
        if (!node.file) node.file = named(file);
        if (!node.backing) node.backing = named(backing);
    }
}

std::optional<std::size_t> LineNodes::named(std::string_view name) const {
    auto const found = std::ranges::find(nodes_, name, &Node::name);
    if (name.empty() || found == nodes_.end()) return std::nullopt;
    return static_cast<std::size_t>(found - nodes_.begin());
}

std::optional<std::size_t> LineNodes::over(std::size_t node) const {
    auto const found = std::ranges::find(nodes_, std::optional(node), &Node::file);
    if (found == nodes_.end()) return std::nullopt;
    return static_cast<std::size_t>(found - nodes_.begin());
}

bool LineNodes::is_backing(std::size_t node) const {
    return std::ranges::find(nodes_, std::optional(node), &Node::backing) != nodes_.end();
}

std::optional<std::size_t> LineNodes::below(std::size_t node) const {
    auto const& one = nodes_[node];
    return one.backing || !is_filter_driver(one.driver) ? one.backing : one.file;
}

}  // namespace qmp
