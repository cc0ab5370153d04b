// LineNodes: the block nodes that the -drive and -blockdev options of a command line make, also
// those that are written inside another one, and which lies on which. Used where images are found,
// and where nodes are taken out of a line. Pure. Invariant: every walk over the nodes is bounded by
// their number, whatever a line says.
#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "qmp/option.hpp"

namespace qmp {

/// "file.backing.driver" is {"file.backing.", "driver"}: what stands before the key of a child.
std::pair<std::string, std::string> split_children(std::string_view key);

/// An absolute path without `.`, `..` and repeated slashes.
std::string plain_path(std::string_view path);

/// The name of an image without "file:", as QEMU takes it.
std::string_view without_file_protocol(std::string_view name);

/// The keys of a -drive. QEMU merges the object of file=json:{...} into them, and what is outside
/// of it counts more; here the same is done. An object that cannot be read stays as it is.
Settings drive_settings(Option const& option);

class LineNodes {
public:
    struct Node {
        std::size_t option = 0;  ///< Its place among the options.
        bool of_drive = false;
        std::string prefix = {};  ///< Of its keys there: "", or "file.backing." for a child.
        std::string name = {};  ///< node-name=; empty: others cannot name it.
        std::string driver = {};  ///< Empty: QEMU finds it out.
        std::string file_name = {};  ///< Of the host, as written; empty: it is not over a file.
        bool read_only = false;
        std::optional<std::size_t> file = {};  ///< Nodes below it.
        std::optional<std::size_t> backing = {};
    };

    /// Of the options of a command line.
    explicit LineNodes(std::vector<Option> const& options);
    [[nodiscard]] std::vector<Node> const& nodes() const { return nodes_; }
    [[nodiscard]] std::optional<std::size_t> named(std::string_view name) const;
    /// The first node whose `file` it is.
    [[nodiscard]] std::optional<std::size_t> over(std::size_t node) const;
    /// Whether it is the backing image of another node.
    [[nodiscard]] bool is_backing(std::size_t node) const;
    /// The next image of its chain; a filter has one, too.
    [[nodiscard]] std::optional<std::size_t> below(std::size_t node) const;

private:
    void add(std::size_t option, Settings const& settings, bool of_drive);
    void link();

    std::vector<Node> nodes_;
    /// What `file` and `backing` of a node name, while the links are made.
    std::vector<std::pair<std::string, std::string>> links_;
};

}  // namespace qmp
