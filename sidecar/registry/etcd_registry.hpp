// EtcdRegistry: a registry in etcd 3.4 or later, through its HTTP gateway. One key for each guest,
// PREFIX/guests/GUEST, replaced by a transaction that compares the key's revision; one for each
// host, PREFIX/hosts/ID, under a lease. The servers are tried in turn. A write whose answer was
// lost is found by the next read, because commit() is idempotent.
#pragma once

#include "sidecar/registry/etcd_wire.hpp"
#include "sidecar/registry/registry.hpp"
#include "sidecar/registry/registry_url.hpp"

namespace sidecar::registry {

class EtcdRegistry : public Registry {
public:
    /// `text`: the URL, for messages.
    EtcdRegistry(core::Loop& loop, RegistryUrl url, std::string text)
        : loop_(loop), url_(std::move(url)), text_(std::move(text)) {}

    [[nodiscard]] std::string text() const override { return text_; }
    core::Task<core::Result<std::optional<Entry>>> read(std::string guest,
                                                        core::Deadline deadline) override;
    core::Task<core::Result<Committed>> commit(Entry entry, std::uint64_t expected,
                                               core::Deadline deadline) override;
    core::Task<void> watch(std::string guest, WatchEvents events, core::Deadline deadline) override;
    core::Task<void> hold_host(Host host, core::Deadline deadline) override;
    core::Task<core::Result<std::optional<HostLease>>> read_host(std::string id,
                                                                 core::Deadline deadline) override;

private:
    /// Where a watch is: what it reported last, and the revision that it has seen.
    struct Watched {
        bool begun = false;
        std::int64_t revision = 0;
        std::optional<Entry> last;
    };
    core::Task<core::Result<core::Json>> ask(std::string path, core::Json body,
                                             core::Deadline deadline);
    core::Task<core::Result<core::Json>> ask_one(std::size_t endpoint, std::string path,
                                                 core::Json body, core::Deadline deadline);
    core::Task<core::Result<etcd::RangeAnswer>> range(std::string key, core::Deadline deadline);
    core::Task<core::Result<>> watch_turn(std::string guest, WatchEvents const& events,
                                          Watched& watched, core::Deadline deadline);
    core::Task<core::Result<>> follow(std::string guest, WatchEvents const& events,
                                      Watched& watched, core::Deadline deadline);
    core::Task<core::Result<>> sign_of_life(Host const& host, std::int64_t& lease,
                                            core::Deadline deadline);
    [[nodiscard]] std::string key(std::string const& guest) const {
        return url_.prefix + "/guests/" + guest;
    }

    core::Loop& loop_;
    RegistryUrl url_;
    std::string text_;
    std::size_t endpoint_ = 0;  ///< The server that answered last.
};

}  // namespace sidecar::registry
