// The graph of block nodes: all nodes, and which other nodes each of them uses.
#pragma once

#include <string>
#include <vector>

#include "qmp/block.hpp"

namespace qmp {

/// One node uses another, as its "file", "backing", "data-file", ...
struct BlockEdge {
    std::string parent;  ///< By node-name.
    std::string name;
    std::string child;
};
struct BlockGraph {
    std::vector<BlockNode> nodes;
    std::vector<BlockEdge> edges;

    [[nodiscard]] BlockNode const* find(std::string const& node) const;  ///< Null: there is none.
    /// The node that `node` uses as `name`; empty: none.
    [[nodiscard]] std::string child(std::string const& node, std::string_view name) const;
};
/// query-named-block-nodes, and x-debug-query-block-graph: QEMU before 10.1 names the children of a
/// node nowhere else.
Task<Result<BlockGraph>> query_block_graph(Client& client, Deadline deadline);

}  // namespace qmp
