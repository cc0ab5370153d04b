// Fuzzing of qmp/command_line.hpp with libFuzzer: QEMU command lines, which `serve` gets from its
// peer. Words are separated by newlines. Invariant: a parsed line is printed as it was read, a
// rewritten line can be read and rewritten again, and an allowed line stays as it is.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string>
#include <vector>

#include "qmp/launch_policy.hpp"

namespace {

void must(bool holds) {
    if (!holds) std::abort();
}

/// What `serve` runs of a line is decided by what was parsed: so it must be parsed alike again.
void check_allowed(qmp::CommandLine const& line) {
    qmp::LaunchPolicy policy;
    policy.programs = {line.program()};
    policy.directories = {"/srv", "/w"};
    policy.images = {"/srv/d0"};
    policy.descriptors = {3, 4, 5, 6, 7};
    auto const allowed = qmp::allow(line, policy);
    if (!allowed) {
        must(!allowed.error().empty());
        for (auto const& refusal : allowed.error()) must(!refusal.why.empty());
        return;
    }
    must(allowed->line.argv() == line.argv());
    for (auto const& use : allowed->files) {
        must(qmp::path_below("/srv", use.path) || qmp::path_below("/w", use.path) ||
             (use.access == qmp::FileAccess::read && (qmp::path_below("/usr/share", use.path) ||
                                                      qmp::path_below("/usr/lib/ipxe", use.path))));
        must(use.access != qmp::FileAccess::image || qmp::path_below("/srv/d0", use.path) == ".");
    }
    auto const again = qmp::CommandLine::parse(allowed->line.argv());
    must(again.has_value() && qmp::allow(*again, policy).has_value());
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(std::uint8_t const* data, std::size_t size) {
    std::vector<std::string> argv{"qemu"};
    std::string_view rest(reinterpret_cast<char const*>(data), size);
    while (!rest.empty()) {
        auto const end = std::min(rest.find('\n'), rest.size());
        argv.emplace_back(rest.substr(0, end));
        rest.remove_prefix(std::min(end + 1, rest.size()));
    }
    auto const line = qmp::CommandLine::parse(argv);
    if (!line) return 0;
    must(line->argv() == argv);
    (void)line->disks();
    (void)line->sockets();
    (void)line->files();
    (void)line->qmp_socket();
    (void)line->accelerator();
    check_allowed(*line);
    qmp::Mapping mapping;
    mapping.machine_type = "pc-i440fx-7.2";
    mapping.qmp_fd = 3;
    mapping.working_directory = "/w";
    mapping.prefixes = {{"/", "/root"}, {"/a", "/b,c"}};
    int fd = 4;
    for (auto const& tap : line->taps()) {
        qmp::TapDescriptors descriptors{tap.id, {}};
        for (unsigned i = 0; i < std::min(tap.queues, 8U); ++i) descriptors.fds.push_back(fd++);
        mapping.taps.push_back(descriptors);
    }
    auto const moved = line->for_destination(mapping);
    if (!moved) return 0;
    auto const again = qmp::CommandLine::parse(moved->argv());
    must(again.has_value() && again->argv() == moved->argv());
    must(again->incoming() == "defer" && again->stopped_at_start() && !again->daemonize());
    must(again->machine_type() == mapping.machine_type);
    return 0;
}
