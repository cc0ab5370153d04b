#include "tests/support/leftovers.hpp"

#include <regex>
#include <sstream>

namespace lab {

using core::Json;

namespace {

void add_missing(std::string& text, std::string const& kind, std::set<std::string> const& from,
                 std::set<std::string> const& in, std::vector<std::string> const& allowed) {
    for (auto const& item : from) {
        if (in.contains(item)) continue;
        bool fine = false;
        for (auto const& pattern : allowed)
            fine = fine || std::regex_match(item, std::regex(pattern));
        if (!fine) text += kind + ": " + item + "\n";
    }
}

std::string differences(Traces const& one, Traces const& other,
                        std::vector<std::string> const& allowed) {
    std::string text;
    add_missing(text, "link", one.links, other.links, allowed);
    add_missing(text, "port", one.ports, other.ports, allowed);
    add_missing(text, "file", one.files, other.files, allowed);
    add_missing(text, "process", one.processes, other.processes, allowed);
    return text;
}

}  // namespace

Traces traces_of(Host const& host) {
    Traces seen;
    for (auto const& link :
         parse_json(must_run({"ip", "-j", "-n", host.netns, "link"})).elements()) {
        seen.links.insert(link["ifname"].text_or("?"));
    }
    std::istringstream sockets(must_run({"ss", "-Hltn"}, {host.netns, {}}));
    for (std::string state, received, sent, local, rest;
         sockets >> state >> received >> sent >> local && std::getline(sockets, rest);) {
        seen.ports.insert(local);
    }
    std::error_code changing;  // files may disappear meanwhile
    for (fs::recursive_directory_iterator at(host.directory, changing), end; at != end;
         at.increment(changing)) {
        if (!at->is_directory(changing)) {
            seen.files.insert(fs::relative(at->path(), host.directory).string());
        }
    }
    for (auto const& process : processes_in(host.netns)) {
        seen.processes.insert(fmt::format("{} {} {}", process.pid,
                                          fs::path(process.argv[0]).filename().string(),
                                          process.argv.size() > 1 ? process.argv[1] : ""));
    }
    return seen;
}

std::string new_since(Traces const& before, Traces const& after,
                      std::vector<std::string> const& allowed) {
    return differences(after, before, allowed);
}

std::string lost_since(Traces const& before, Traces const& after,
                       std::vector<std::string> const& allowed) {
    return differences(before, after, allowed);
}

namespace {

// Only settings that the program changes for a migration; it started with QEMU's defaults.
std::string left_in_settings(Qmp& qemu) {
    std::string left;
    for (auto const& one : qemu.execute("query-migrate-capabilities").elements()) {
        auto const name = one["capability"].text_or("");
        bool const ours = name == "events" || name == "return-path" ||
                          name == "pause-before-switchover" || name == "late-block-activate" ||
                          name == "auto-converge";
        if (ours && one["state"].boolean_or(false)) left += "capability: " + name + "\n";
    }
    auto const found = qemu.execute("query-migrate-parameters");
    auto const defaults = Json::object({{"max-bandwidth", std::int64_t{128} << 20},
                                        {"downtime-limit", 300},
                                        {"cpu-throttle-initial", 20},
                                        {"cpu-throttle-increment", 10},
                                        {"max-cpu-throttle", 99},
                                        {"throttle-trigger-threshold", 50},
                                        {"tls-creds", ""}});
    for (auto const& [name, value] : defaults.members()) {
        if (found[name].dump() != value.dump()) {
            left += fmt::format("parameter: {} is {}\n", name, found[name].dump());
        }
    }
    return left;
}

}  // namespace

std::string left_in_qemu(Guest const& guest, Host const& host) {
    Qmp qemu(guest.probe_socket(host));
    std::string left;
    for (auto const& one : qemu.execute("query-block-exports").elements()) {
        left += "export: " + one.dump() + "\n";
    }
    for (auto const& one : qemu.execute("query-block-jobs").elements()) {
        left += "job: " + one.dump() + "\n";
    }
    auto const nodes = qemu.execute("query-named-block-nodes", Json::object({{"flat", true}}));
    for (auto const& node : nodes.elements()) {
        auto const name = node["node-name"].text_or("?");
        for (auto const& bitmap : node["dirty-bitmaps"].elements()) {
            left += "bitmap of " + name + ": " + bitmap.dump() + "\n";
        }
        auto const driver = node["drv"].text_or("?");
        auto const& options = guest.options();
        bool const ours = name.starts_with("sidecar-");
        if (ours || (driver != "file" && driver != options.format && driver != options.base)) {
            left += "node: " + name + ", " + driver + "\n";
        }
    }
    for (auto const& object :
         qemu.execute("qom-list", Json::object({{"path", "/objects"}})).elements()) {
        auto const type = object["type"].text_or("?");
        if (type.find("tls-creds") != std::string::npos ||
            type.find("secret") != std::string::npos) {
            left += "object: " + object.dump() + "\n";
        }
    }
    if (qemu.refusal("nbd-server-stop").empty()) left += "an NBD server\n";
    left += left_in_settings(qemu);
    return left;
}

}  // namespace lab
