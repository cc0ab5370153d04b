#include "sidecar/cli/serve_options.hpp"

#include <CLI/CLI.hpp>

namespace sidecar {

using core::Errc;
using core::fail;
using core::Result;

namespace {

Result<std::vector<std::pair<std::string, std::string>>> pairs(
    std::vector<std::string> const& texts) {
    std::vector<std::pair<std::string, std::string>> all;
    for (auto const& text : texts) {
        auto const equals = text.find('=');
        if (equals == std::string::npos || equals == 0 || equals + 1 == text.size()) {
            return fail(Errc::invalid, "`{}` is not FROM=TO", text);
        }
        all.emplace_back(text.substr(0, equals), text.substr(equals + 1));
    }
    return all;
}

}  // namespace

void ServeFlags::add_to(CLI::App& app) {
    app.add_option("--map-path", paths_,
                   "FROM=TO: a path prefix of the source has another name here")
        ->allow_extra_args(false);
    app.add_option("--map-bridge", bridges_,
                   "FROM=TO: a bridge of the source has another name here")
        ->allow_extra_args(false);
    app.add_option("--data-ports", data_ports_,
                   "FIRST-LAST: TCP ports on which disks and RAM arrive, two for each guest that "
                   "moves; 0: the kernel chooses")
        ->capture_default_str();
    app.add_option("--qemu", qemu_, "QEMU to start (default: the source's name for it)");
}

Result<> ServeFlags::finish(ServeOptions& into) const {
    TRY(into.maps.paths, pairs(paths_));
    TRY(into.maps.bridges, pairs(bridges_));
    TRY(into.data_ports, core::PortRange::parse(data_ports_));
    into.maps.qemu = qemu_;
    return {};
}

}  // namespace sidecar
