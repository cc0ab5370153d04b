// Reviews of what names images: -hda and the like, -drive, -blockdev.
#include <algorithm>
#include <map>
#include <set>

#include "qmp/allow_list.hpp"
#include "qmp/line_nodes.hpp"
#include "qmp/reviewer.hpp"

namespace qmp::review {

namespace {

/// One node of -blockdev, or a child that is written in it.
struct Node {
    Option const* option;
    std::string name = {};  ///< Empty: others cannot name it.
    std::string file = {};  ///< Its `file`, if that is the name of a node.
    std::string file_name = {};
    bool read_only = false;
    bool is_qcow2 = false;
    bool is_written = false;  ///< By a device, itself or through nodes above it.
    std::vector<std::size_t> children = {};  ///< Written in it, without `backing`.
};

/// All nodes of the line, and which of them a device writes to.
class Graph {
public:
    explicit Graph(CommandLine const& line) {
        for (auto const& option : line.options()) {
            if (option.kind() == "blockdev") add(option);
            if (option.kind() == "device") add_users(option, {"drive", "driveA", "driveB"});
            if (option.kind() == "machine") add_users(option, {"pflash0", "pflash1"});
            if (option.kind() == "global") add_global(option);
        }
        find_written();
    }
    [[nodiscard]] std::vector<Node> const& nodes() const { return nodes_; }

private:
    void add(Option const& option) {
        auto const settings = option.settings();
        if (!settings) return;
        std::map<std::string, std::size_t> places{{"", nodes_.size()}};
        nodes_.push_back({.option = &option});
        for (auto const& [key, value] : settings->all()) {
            auto const [children, leaf] = split_children(key);
            auto& node = nodes_[place_of(option, places, children)];
            if (leaf == "node-name") node.name = value;
            if (leaf == "file") node.file = value;
            if (leaf == "filename") node.file_name = value;
            if (leaf == "read-only") node.read_only = is_on(value);
            if (leaf == "driver") node.is_qcow2 = value == "qcow2";
        }
    }
    /// Where the child with those keys is; it is made when it is new.
    std::size_t place_of(Option const& option, std::map<std::string, std::size_t>& places,
                         std::string const& children) {
        auto const found = places.find(children);
        if (found != places.end()) return found->second;
        auto const last = children.rfind('.', children.size() - 2);
        auto const above = last == std::string::npos ? "" : children.substr(0, last + 1);
        auto const parent = place_of(option, places, above);
        auto const place = nodes_.size();
        nodes_.push_back({.option = &option});
        if (!children.ends_with("backing.")) nodes_[parent].children.push_back(place);
        return places[children] = place;
    }
    void add_users(Option const& option, std::initializer_list<std::string_view> keys) {
        auto const settings = option.settings();
        if (!settings) return;
        for (auto const& [key, value] : settings->all()) {
            if (std::ranges::find(keys, key) != keys.end()) used_.insert(value);
        }
    }
    /// A default of a device may name a node: "isa-fdc.driveA=NODE", or value=NODE.
    void add_global(Option const& option) {
        auto const text = option.value.value_or("");
        used_.insert(text.substr(text.find('=') + 1));
        auto const settings = Settings::parse(text, "");
        if (settings) used_.insert(settings->get_or("value", ""));
    }
    /// From the nodes that devices name down to the files. Each node is visited once.
    void find_written() {
        std::multimap<std::string, std::size_t> by_name;
        std::vector<std::size_t> next;
        for (std::size_t place = 0; place < nodes_.size(); ++place) {
            auto const& name = nodes_[place].name;
            if (name.empty()) continue;
            by_name.emplace(name, place);
            if (used_.contains(name)) next.push_back(place);
        }
        while (!next.empty()) {
            auto& node = nodes_[next.back()];
            next.pop_back();
            if (node.read_only || node.is_written) continue;
            node.is_written = true;
            next.insert(next.end(), node.children.begin(), node.children.end());
            auto const [begin, end] = by_name.equal_range(node.file);
            for (auto at = begin; at != end; ++at) next.push_back(at->second);
        }
    }

    std::vector<Node> nodes_;
    std::set<std::string> used_;
};

void check_driver(Reviewer& reviewer, Option const& option, std::string const& driver) {
    if (allow_list::is_block_driver(driver)) return;
    reviewer.refuse(option, "the block driver " + driver + " is not known to be safe");
}

ImageFormat format_of(Settings const& drive) {
    auto const format = drive.get("format").value_or(drive.get_or("driver", ""));
    if (format == "raw") return ImageFormat::raw;
    return format == "qcow2" ? ImageFormat::qcow2 : ImageFormat::probed;
}

}  // namespace

void image_option(Reviewer& reviewer, Option const& option) {
    bool const read_only = option.kind() == "cdrom";
    reviewer.use(option, std::string(without_file_protocol(option.value.value_or(""))),
                 read_only ? FileAccess::read : FileAccess::image, ImageFormat::probed);
}

void drive(Reviewer& reviewer, Option const& option) {
    std::vector<std::pair<std::string, FileAccess>> files;
    bool snapshot = false;
    auto const known = [](std::string_view key) {
        auto const [children, leaf] = split_children(key);
        return allow_list::is_block_key(leaf) ||
               (children.empty() && allow_list::is_drive_key(leaf));
    };
    auto const special = [&](std::string const& key, std::string const& value) {
        auto const [children, leaf] = split_children(key);
        bool const top = children.empty();
        if (leaf == "driver" || (top && leaf == "format")) check_driver(reviewer, option, value);
        if (top && leaf == "snapshot") snapshot = snapshot || value != "off";
        if (leaf == "backing") return true;  // the name of a node
        bool const is_file = leaf == "filename" || (top && leaf == "file");
        if (is_file && !(top && value.empty())) {  // "file=": an empty drive
            bool const is_backing = children.find("backing.") != std::string::npos;
            files.emplace_back(top ? std::string(without_file_protocol(value)) : value,
                               is_backing ? FileAccess::read : FileAccess::image);
        }
        return is_file || leaf == "file" || (top && leaf == "snapshot");
    };
    auto const settings = reviewer.check_keys(option, known, special, false);
    if (snapshot) {
        reviewer.refuse(option, "it keeps the guest's writes in a temporary file");
    }
    bool const read_only = settings.flag("readonly", settings.flag("read-only", false)) ||
                           settings.get_or("media", "") == "cdrom";
    auto const format = format_of(settings);
    for (auto const& [name, access] : files) {
        reviewer.use(option, name, read_only ? FileAccess::read : access, format);
    }
}

void blockdev(Reviewer& reviewer, Option const& option) {
    auto const known = [](std::string_view key) {
        auto const leaf = split_children(key).second;
        return allow_list::is_block_key(leaf) || allow_list::is_throttle_key(leaf);
    };
    auto const special = [&](std::string const& key, std::string const& value) {
        auto const leaf = split_children(key).second;
        if (leaf == "driver") check_driver(reviewer, option, value);
        return leaf == "filename" || leaf == "file" || leaf == "backing";
    };
    reviewer.check_keys(option, known, special, true);
    for (auto const& file : reviewer.block_files()) {
        if (file.option != &option) continue;
        reviewer.use(option, file.name, file.is_written ? FileAccess::image : FileAccess::read,
                     file.format);
    }
}

std::vector<BlockFile> block_files(CommandLine const& line) {
    std::vector<BlockFile> files;
    Graph const graph(line);
    // Through filters and references, any of them may be over any file.
    bool const qcow2 = std::ranges::any_of(graph.nodes(), &Node::is_qcow2);
    auto const format = qcow2 ? ImageFormat::qcow2 : ImageFormat::raw;
    for (auto const& node : graph.nodes()) {
        if (!node.file_name.empty())
            files.push_back({node.option, node.file_name, node.is_written, format});
    }
    return files;
}

}  // namespace qmp::review
