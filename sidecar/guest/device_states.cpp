#include "sidecar/guest/device_states.hpp"

#include <fmt/ranges.h>

#include <algorithm>
#include <charconv>
#include <compare>
#include <optional>

#include "core/process.hpp"
#include "sidecar/guest/destination_line.hpp"

namespace sidecar {

using core::Deadline;
using core::Errc;
using core::fail;
using core::Result;
using core::Task;

namespace {

/// `qemu-system-x86_64 -version` prints 150 bytes.
constexpr std::size_t version_bytes_max = 1 << 16;

/// A device whose state got another form without another version of it.
struct StateBreak {
    std::string_view device;
    int since;  ///< The first major version of QEMU with the new form.
};

constexpr StateBreak state_breaks[] = {
    // hw/scsi/esp.c: drq_state is in each state since 9.0, and in none before.
    {"am53c974", 9},
    {"dc390", 9},
};

struct QemuVersion {
    int major = 0;
    int minor = 0;
    auto operator<=>(QemuVersion const&) const = default;
};

/// From "QEMU emulator version 10.0.2 (Debian ...)", or "7.2.22 (Debian ...)".
std::optional<QemuVersion> version_in(std::string_view text) {
    auto const first = text.find_first_of("0123456789");
    if (first == text.npos) return std::nullopt;
    auto const* const end = text.data() + text.size();
    QemuVersion version;
    auto const [dot, wrong] = std::from_chars(text.data() + first, end, version.major);
    if (wrong != std::errc() || dot == end || *dot != '.') return std::nullopt;
    std::from_chars(dot + 1, end, version.minor);
    return version;
}

}  // namespace

std::vector<std::string> unreadable_devices(qmp::CommandLine const& line, int source,
                                            int destination) {
    std::vector<std::string> names;
    for (auto const& option : line.options()) {
        if (option.kind() != "device") continue;
        auto const settings = option.settings_or_empty();
        auto const driver = settings.get_or("driver", "");
        bool const breaks = std::ranges::any_of(state_breaks, [&](auto const& one) {
            return one.device == driver && (source < one.since) != (destination < one.since);
        });
        if (breaks) names.push_back(settings.get_or("id", driver));
    }
    return names;
}

bool has_version(std::string const& machine_type) {
    return machine_type.find('-') != std::string::npos;
}

Task<Result<>> check_device_states(core::Loop& loop, HostMaps maps, Description const& description,
                                   Deadline deadline) {
    CO_TRY(auto const line, qmp::CommandLine::parse(description.argv));
    auto const source = version_in(description.qemu_version);
    bool const has_one = std::ranges::any_of(state_breaks, [&](auto const& one) {
        return !unreadable_devices(line, one.since - 1, one.since).empty();
    });
    bool const varies = !has_version(description.machine_type);
    if (!source || (!has_one && !varies)) co_return Result<>{};
    CO_TRY(auto const program, map_program(maps, line.program()));
    CO_TRY(auto const said,
           co_await core::output_of(loop, {program, "-version"}, version_bytes_max, deadline));
    auto const here = version_in(said).value_or(*source);
    auto const first_line = said.substr(0, said.find('\n'));
    if (varies && here != *source) {
        co_return fail(Errc::refused,
                       "the machine type {} has no version, so it is another machine in the "
                       "destination's QEMU ({}) than in QEMU {}: use a QEMU of the same version "
                       "there",
                       description.machine_type, first_line, description.qemu_version);
    }
    auto const names = unreadable_devices(line, source->major, here.major);
    if (names.empty()) co_return Result<>{};
    co_return fail(Errc::refused,
                   "QEMU on the destination ({}) cannot read the state of {} that QEMU {} writes, "
                   "a fault of QEMU: use a QEMU of the same version there, or give the guest a "
                   "device of another kind (virtio-scsi-pci)",
                   first_line, fmt::join(names, ", "), description.qemu_version);
}

}  // namespace sidecar
