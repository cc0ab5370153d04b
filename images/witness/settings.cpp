// Parses the kernel command line: words, then comma separated key=value pairs.
#include "settings.hpp"

#include "errors.hpp"

#include <charconv>
#include <optional>

namespace witness {
namespace {

std::vector<std::string_view> split(std::string_view text, char at) {
    std::vector<std::string_view> parts;
    while (true) {
        const std::size_t end = text.find(at);
        if (end != 0 && !text.empty()) parts.push_back(text.substr(0, end));
        if (end == std::string_view::npos) return parts;
        text.remove_prefix(end + 1);
    }
}

void complain(std::string_view word) {
    errors().add(Kind::setup,
                 "kernel command line: cannot understand \"" + std::string(word) + "\"");
}

template <class T>
void read_number(std::string_view text, T& into, std::string_view word) {
    T value = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
    if (error == std::errc{} && end == text.data() + text.size()) {
        into = value;
    } else {
        complain(word);
    }
}

void read_flag(std::string_view text, bool& into, std::string_view word) {
    if (text == "1" || text == "0") {
        into = text == "1";
    } else {
        complain(word);
    }
}

struct Pair {
    std::string_view key;
    std::string_view value;
};

Pair take_apart(std::string_view word) {
    const std::size_t equals = word.find('=');
    if (equals == std::string_view::npos) return {word, {}};
    return {word.substr(0, equals), word.substr(equals + 1)};
}

DiskSettings parse_disk(std::string_view text) {
    DiskSettings disk;
    for (const std::string_view part : split(text, ',')) {
        const auto [key, value] = take_apart(part);
        if (disk.name.empty() && value.empty())
            disk.name = key;
        else if (key == "rate")
            read_number(value, disk.rate, part);
        else if (key == "read_rate")
            read_number(value, disk.read_rate, part);
        else if (key == "span_mib")
            read_number(value, disk.span_mib, part);
        else if (key == "offset_mib")
            read_number(value, disk.offset_mib, part);
        else if (key == "flush_every")
            read_number(value, disk.flush_every, part);
        else if (key == "depth")
            read_number(value, disk.depth, part);
        else if (key == "scan")
            read_flag(value, disk.scan, part);
        else if (key == "pattern" && (value == "hot" || value == "random"))
            disk.hot = value == "hot";
        else
            complain(part);
    }
    return disk;
}

NetSettings parse_net(std::string_view text) {
    NetSettings net;
    for (const std::string_view part : split(text, ',')) {
        const auto [key, value] = take_apart(part);
        if (net.name.empty() && value.empty())
            net.name = key;
        else if (key == "mac")
            net.mac = value;
        else if (key == "ip4")
            net.ip4.emplace_back(value);
        else if (key == "ip6")
            net.ip6.emplace_back(value);
        else if (key == "gw4")
            net.gw4 = value;
        else if (key == "gw6")
            net.gw6 = value;
        else if (key == "mtu")
            read_number(value, net.mtu, part);
        else if (key == "ra")
            read_flag(value, net.ra, part);
        else
            complain(part);
    }
    return net;
}

} // namespace

Settings parse_settings(std::string_view command_line) {
    Settings settings;
    while (!command_line.empty() && command_line.back() == '\n') command_line.remove_suffix(1);
    for (const std::string_view word : split(command_line, ' ')) {
        if (!word.starts_with("witness.")) continue;
        const auto [key, value] = take_apart(word.substr(std::string_view("witness.").size()));
        if (key == "ram_mib")
            read_number(value, settings.ram_mib, word);
        else if (key == "ram_rate")
            read_number(value, settings.ram_rate, word);
        else if (key == "alive_ms")
            read_number(value, settings.alive_ms, word);
        else if (key == "tcp_rate")
            read_number(value, settings.tcp_rate, word);
        else if (key == "disk")
            settings.disks.push_back(parse_disk(value));
        else if (key == "fs")
            settings.fs = value;
        else if (key == "net")
            settings.nets.push_back(parse_net(value));
        else
            complain(word);
    }
    return settings;
}

} // namespace witness
