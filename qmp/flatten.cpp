// CommandLine::flatten: what a line says of a chain of images that becomes one image. The image at
// the destination names nothing below itself; the nodes below it must leave the line with it.
#include <algorithm>
#include <array>
#include <map>
#include <set>

#include "qmp/command_line.hpp"
#include "qmp/line_nodes.hpp"

namespace qmp {

namespace {

using Node = LineNodes::Node;

/// Whether the setting of an option names a node.
bool names_a_node(std::string_view kind, std::string_view key) {
    constexpr auto of_devices = std::to_array<std::string_view>(
        {"drive", "driveA", "driveB", "pflash0", "pflash1", "value"});
    auto const leaf = split_children(key).second;
    if (kind == "blockdev" || kind == "drive")
        return leaf == "backing" || leaf == "data-file" || (leaf == "file" && kind != "drive");
    return is_one_of(of_devices, key);
}

/// The node of the disk's image: that of the name, else the one over its file.
std::optional<std::size_t> image_of(LineNodes const& line, ImageChain const& chain,
                                    std::string const& working_directory) {
    if (auto const node = line.named(chain.node)) return node;
    auto const path = [&](std::string_view name) {
        std::string given(without_file_protocol(name));
        return plain_path(given.starts_with('/') ? given : working_directory + "/" + given);
    };
    for (std::size_t place = 0; place < line.nodes().size(); ++place) {
        auto const& node = line.nodes()[place];
        if (node.file_name.empty() || path(node.file_name) != path(chain.path)) continue;
        bool const is_image = node.of_drive && node.prefix.empty();
        auto const image = is_image ? std::optional(place) : line.over(place);
        if (image && !line.is_backing(*image)) return image;
    }
    return std::nullopt;
}

/// The nodes that leave a line.
class Cut {
public:
    Cut(std::vector<Option>& options, std::string const& working_directory)
        : options_(options), nodes_(options), working_directory_(working_directory) {}

    Result<> cut(ImageChain const& chain) {
        auto const top = image_of(nodes_, chain, working_directory_);
        if (!top) return {};  // of -hda and the like: the image itself names those below it
        auto below = nodes_.below(*top);
        std::vector<std::size_t> gone;
        unsigned layer = 1;
        for (; below && (chain.layers == 0 || layer < chain.layers); ++layer) {
            gone.push_back(*below);
            below = gone.size() <= nodes_.nodes().size() ? nodes_.below(*below) : std::nullopt;
        }
        // The images themselves name their base.
        if (gone.empty() || (chain.layers > 0 && !below)) return {};
        if (below && !nodes_.nodes()[*below].prefix.empty()) {
            return core::fail(Errc::refused,
                              "the base of disk {} is written in `{}`: write it as a -blockdev of "
                              "its own",
                              chain.disk, options_[nodes_.nodes()[*below].option].print());
        }
        // Those of the base first, so that they stay.
        std::set<std::size_t> kept;
        if (below) visit(*below, [&](std::size_t node) { return kept.insert(node).second; });
        visit(gone.front(), [&](std::size_t node) {
            return !kept.contains(node) && gone_.emplace(node, chain.disk).second;
        });
        end_chain(nodes_.nodes()[*top], below ? nodes_.nodes()[*below].name : "");
        return {};
    }

    /// Takes them out. Fails with refused if one is needed elsewhere.
    Result<> finish() {
        std::set<std::size_t> without;
        for (auto const& [place, disk] : gone_) {
            if (nodes_.nodes()[place].prefix.empty()) without.insert(nodes_.nodes()[place].option);
        }
        for (auto const& [place, disk] : gone_) {
            auto const& node = nodes_.nodes()[place];
            bool const goes = without.contains(node.option) || ended_.contains(node.option);
            if (!goes) return is_used(node, disk, options_[node.option]);
            for (std::size_t index = 0; index < options_.size(); ++index) {
                if (!without.contains(index) && uses(options_[index], node.name))
                    return is_used(node, disk, options_[index]);
            }
        }
        std::vector<Option> left;
        for (std::size_t index = 0; index < options_.size(); ++index) {
            if (!without.contains(index)) left.push_back(std::move(options_[index]));
        }
        options_ = std::move(left);
        return {};
    }

private:
    /// The node and all that it is over. `enter`: false for a node that is not visited.
    void visit(std::size_t node, auto const& enter) const {
        std::vector<std::size_t> next{node};
        while (!next.empty()) {
            auto const at = next.back();
            next.pop_back();
            if (!enter(at)) continue;
            for (auto const below : {nodes_.nodes()[at].file, nodes_.nodes()[at].backing}) {
                if (below) next.push_back(*below);
            }
        }
    }

    /// `base`: the node that is the next image now; empty: none.
    void end_chain(Node const& top, std::string const& base) {
        auto& option = options_[top.option];
        auto settings = top.of_drive ? drive_settings(option) : option.settings_or_empty();
        auto const key = top.prefix + "backing";
        for (auto const& [name, value] : settings.all()) {
            if (name.starts_with(key + ".")) settings.erase(name);
        }
        if (base.empty()) {
            settings.erase(key);
        } else {
            settings.set(key, base);
        }
        option.replace(settings);
        ended_.insert(top.option);
    }

    static bool uses(Option const& option, std::string const& node) {
        if (node.empty()) return false;
        auto const kind = option.kind();
        if (kind == "global") return option.value.value_or("").ends_with("=" + node);
        if (option.form() != Form::settings) return false;
        auto const settings = kind == "drive" ? drive_settings(option) : option.settings_or_empty();
        return std::ranges::any_of(settings.all(), [&](auto const& leaf) {
            return leaf.second == node && names_a_node(kind, leaf.first);
        });
    }

    static std::unexpected<core::Error> is_used(Node const& node, std::string const& disk,
                                                Option const& user) {
        return core::fail(Errc::refused,
                          "the node {} is in the backing chain of disk {}, which becomes one image "
                          "at the destination, and `{}` uses it too: give that a node of its own, "
                          "or name the backing file with --base",
                          node.name, disk, user.print());
    }

    std::vector<Option>& options_;
    LineNodes const nodes_;
    std::string const& working_directory_;
    std::map<std::size_t, std::string> gone_;  ///< Nodes, and the disk of each.
    std::set<std::size_t> ended_;  ///< Options in which a chain ends now.
};

}  // namespace

Result<> CommandLine::flatten(std::vector<ImageChain> const& chains,
                              std::string const& working_directory) {
    Cut cut(options_, working_directory);
    for (auto const& chain : chains) TRY_VOID(cut.cut(chain));
    return cut.finish();
}

}  // namespace qmp
