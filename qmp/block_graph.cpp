#include "qmp/block_graph.hpp"

#include <algorithm>
#include <map>

#include "qmp/command.hpp"

namespace qmp {

BlockNode const* BlockGraph::find(std::string const& node) const {
    auto const found = std::ranges::find(nodes, node, &BlockNode::node_name);
    return found == nodes.end() ? nullptr : &*found;
}

std::string BlockGraph::child(std::string const& node, std::string_view name) const {
    auto const found = std::ranges::find_if(
        edges, [&](BlockEdge const& edge) { return edge.parent == node && edge.name == name; });
    return found == edges.end() ? "" : found->child;
}

Task<Result<BlockGraph>> query_block_graph(Client& client, Deadline deadline) {
    BlockGraph graph;
    CO_TRY(graph.nodes, co_await query_named_block_nodes(client, deadline));
    CO_TRY(auto const reply, co_await client.execute("x-debug-query-block-graph", {}, deadline));
    std::map<std::int64_t, std::string> names;
    for (auto const& node : reply["nodes"].elements()) {
        if (node["type"].text_or("") == "block-driver")
            names[node["id"].integer_or(-1)] = node["name"].text_or("");
    }
    for (auto const& edge : reply["edges"].elements()) {
        auto const parent = names.find(edge["parent"].integer_or(-1));
        auto const below = names.find(edge["child"].integer_or(-1));
        if (parent == names.end() || below == names.end()) continue;
        graph.edges.push_back({parent->second, edge["name"].text_or(""), below->second});
    }
    co_return graph;
}

}  // namespace qmp
