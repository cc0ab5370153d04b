#include "qmp/block_graph.hpp"

#include <algorithm>
#include <map>

#include "qmp/command.hpp"

namespace qmp {

OpenedNode const* BlockGraph::find(std::string const& node) const {
    auto const found = std::ranges::find(nodes, node, &OpenedNode::name);
    return found == nodes.end() ? nullptr : &*found;
}

std::string BlockGraph::child(std::string const& node, std::string_view name) const {
    auto const found = std::ranges::find_if(
        edges, [&](BlockEdge const& edge) { return edge.parent == node && edge.name == name; });
    return found == edges.end() ? "" : found->child;
}

Task<Result<BlockGraph>> query_block_graph(Client& client, Deadline deadline) {
    BlockGraph graph;
    CO_TRY(auto const nodes, co_await client.execute("query-named-block-nodes",
                                                     Json::object({{"flat", true}}), deadline));
    for (auto const& node : nodes.elements()) {
        graph.nodes.push_back({node["node-name"].text_or(""), node["drv"].text_or(""),
                               node["cache"]["direct"].boolean_or(false),
                               node["cache"]["no-flush"].boolean_or(false),
                               node["detect_zeroes"].text_or("off")});
    }
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
