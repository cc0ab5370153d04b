// FileRegistry: a registry in a directory, one JSON file for each guest: DIR/GUEST.json. Each host
// keeps one in its state directory; with `--registry file:DIR` hosts share one on a file system
// with locks, such as NFS. A file is replaced whole, so a reader needs no lock.
#pragma once

#include "core/fd.hpp"
#include "sidecar/registry/registry.hpp"

namespace sidecar::registry {

class FileRegistry : public Registry {
public:
    /// The directory is created by the first write.
    FileRegistry(core::Loop& loop, std::string directory)
        : loop_(loop), directory_(std::move(directory)) {}

    [[nodiscard]] std::string text() const override { return "file:" + directory_; }
    core::Task<core::Result<std::optional<Entry>>> read(std::string guest,
                                                        core::Deadline deadline) override;
    core::Task<core::Result<Committed>> commit(Entry entry, std::uint64_t expected,
                                               core::Deadline deadline) override;
    core::Task<void> watch(std::string guest, WatchEvents events, core::Deadline deadline) override;
    core::Task<void> hold_host(Host host, core::Deadline deadline) override;
    core::Task<core::Result<std::optional<HostLease>>> read_host(std::string id,
                                                                 core::Deadline deadline) override;

    /// As read(), without a loop: one read of a small file.
    [[nodiscard]] core::Result<std::optional<Entry>> read_now(std::string const& guest) const;
    /// Stores the entry whatever is there, durably: for a registry that only this host uses. Its
    /// directory must exist.
    [[nodiscard]] core::Result<> replace(Entry const& entry) const;

private:
    [[nodiscard]] std::string path(std::string const& guest) const {
        return directory_ + "/" + guest + ".json";
    }
    [[nodiscard]] std::string host_path(std::string const& id) const {
        return directory_ + "/hosts/" + id + ".json";
    }
    core::Task<core::Result<core::Fd>> lock(core::Deadline deadline);
    core::Result<> sign_of_life(Host const& host) const;

    core::Loop& loop_;
    std::string directory_;
};

}  // namespace sidecar::registry
