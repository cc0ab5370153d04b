#include "sidecar/cli/disk_options.hpp"

#include <CLI/CLI.hpp>

#include <algorithm>
#include <filesystem>

namespace sidecar {

using core::Errc;
using core::fail;
using core::Result;

void DiskFlags::add_to(CLI::App& app) {
    app.add_option("--disk", disks_,
                   "ID=TARGET: where a disk goes on the destination: a file to be created, or a "
                   "block device, which is overwritten")
        ->allow_extra_args(false);
}

Result<std::vector<DiskTarget>> DiskFlags::finish() const {
    std::vector<DiskTarget> made;
    for (auto const& text : disks_) {
        auto const sign = text.find('=');
        if (sign == 0 || sign == std::string::npos || sign + 1 == text.size())
            return fail(Errc::invalid, "--disk {} is not ID=TARGET", text);
        DiskTarget one{text.substr(0, sign), text.substr(sign + 1)};
        if (one.path.front() != '/') {
            return fail(Errc::invalid, "--disk {}: {} is not an absolute path of the destination",
                        text, one.path);
        }
        one.path = std::filesystem::path(one.path).lexically_normal().string();
        for (auto const& other : made) {
            if (other.disk == one.disk)
                return fail(Errc::invalid, "--disk names the disk {} twice", one.disk);
            if (other.path == one.path)
                return fail(Errc::invalid, "--disk names the target {} twice", one.path);
        }
        made.push_back(std::move(one));
    }
    if (made.size() > limits::disk_targets_max) {
        return fail(Errc::invalid, "{} times --disk is too often: a guest has at most {} disks",
                    made.size(), limits::disk_targets_max);
    }
    return made;
}

}  // namespace sidecar
