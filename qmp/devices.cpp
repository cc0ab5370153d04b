#include "qmp/devices.hpp"

#include <algorithm>
#include <cstdlib>
#include <sstream>

#include "qmp/command.hpp"

namespace qmp {

Task<Result<std::vector<DeviceProperty>>> device_list_properties(Client& client, std::string kind,
                                                                 Deadline deadline) {
    CO_TRY(auto const reply, co_await client.execute("device-list-properties",
                                                     Json::object({{"typename", kind}}), deadline));
    std::vector<DeviceProperty> properties;
    for (auto const& property : reply.elements()) {
        properties.push_back({property["name"].text_or(""), property["type"].text_or(""),
                              property["default-value"]});
    }
    co_return properties;
}

Task<Result<std::string>> human_monitor_command(Client& client, std::string line,
                                                Deadline deadline) {
    auto const arguments = Json::object({{"command-line", line}});
    CO_TRY(auto const reply, co_await client.execute("human-monitor-command", arguments, deadline));
    co_return reply.text_or("");
}

Task<Result<std::vector<NetClient>>> info_network(Client& client, Deadline deadline) {
    CO_TRY(auto const text, co_await human_monitor_command(client, "info network", deadline));
    co_return detail::parse_info_network(text);
}

Task<Result<std::map<std::string, std::string>>> info_usb(Client& client, Deadline deadline) {
    CO_TRY(auto const text, co_await human_monitor_command(client, "info usb", deadline));
    co_return detail::parse_info_usb(text);
}

namespace detail {

/// "NAME: index=0,type=tap,ifname=tap1,script=no,downscript=no": one line for each queue; that of a
/// backend follows its card's, after " \ ".
std::vector<NetClient> parse_info_network(std::string const& text) {
    std::vector<NetClient> clients;
    std::string last_card;
    std::istringstream lines(text);
    for (std::string line; std::getline(lines, line);) {
        auto const begin = line.find_first_not_of(" \\");
        auto const colon = line.find(": index=");
        if (begin == std::string::npos || colon == std::string::npos || colon < begin) continue;
        auto const value_of = [&](std::string const& key) {
            auto const at = line.find("," + key + "=", colon);
            if (at == std::string::npos) return std::string();
            auto const from = at + key.size() + 2;
            return line.substr(from, line.find_first_of(",\r", from) - from);
        };
        auto const name = line.substr(begin, colon - begin);
        auto const known = std::ranges::find(clients, name, &NetClient::name);
        if (known != clients.end()) {
            ++known->queues;
            continue;
        }
        NetClient client{name, value_of("type"), value_of("ifname"), value_of("model")};
        bool const below = line.find('\\') < begin;
        if (below) client.card = last_card;
        if (!below) last_card = name;
        auto const fd = value_of("fd");
        if (!fd.empty()) client.fd = std::atoi(fd.c_str());
        clients.push_back(std::move(client));
    }
    return clients;
}

/// "  Device 0.1, Port 2.1, Speed 480 Mb/s, Product QEMU USB Tablet, ID: tablet0"
std::map<std::string, std::string> parse_info_usb(std::string const& text) {
    std::map<std::string, std::string> ports;
    std::istringstream lines(text);
    for (std::string line; std::getline(lines, line);) {
        constexpr std::string_view port = ", Port ";
        constexpr std::string_view id = ", ID: ";
        auto const at = line.find(port);
        auto const named = line.rfind(id);
        if (at == std::string::npos || named == std::string::npos) continue;
        auto const from = at + port.size();
        auto const last = line.find_last_not_of(" \r\n");
        auto const name = named + id.size();
        ports[line.substr(name, last + 1 - name)] = line.substr(from, line.find(',', from) - from);
    }
    return ports;
}

}  // namespace detail

}  // namespace qmp
