// The graph of block nodes: how each was opened, and which other nodes it uses.
#pragma once

#include <string>
#include <vector>

#include "qmp/client.hpp"

namespace qmp {

/// How a node was opened, as far as QEMU says it.
struct OpenedNode {
    std::string name;
    std::string driver;
    bool cache_direct = false;
    bool cache_no_flush = false;
    std::string detect_zeroes;  ///< "off", "on", "unmap"
};
/// One node uses another, as its "file", "backing", "data-file", ...
struct BlockEdge {
    std::string parent;  ///< By node-name.
    std::string name;
    std::string child;
};
struct BlockGraph {
    std::vector<OpenedNode> nodes;
    std::vector<BlockEdge> edges;

    [[nodiscard]] OpenedNode const* find(std::string const& node) const;  ///< Null: there is none.
    /// The node that `node` uses as `name`; empty: none.
    [[nodiscard]] std::string child(std::string const& node, std::string_view name) const;
};
/// query-named-block-nodes, and x-debug-query-block-graph: QEMU before 10.1 names the children of a
/// node nowhere else.
Task<Result<BlockGraph>> query_block_graph(Client& client, Deadline deadline);

}  // namespace qmp
