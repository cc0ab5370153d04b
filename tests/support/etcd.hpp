// Etcd: one real etcd server of a test, with its own data directory. It can be killed and started
// again with its data. Used by the registry tests. Invariant: it listens only in the network
// namespace of its place, where its ports are free.
#pragma once

#include <optional>

#include "tests/support/command.hpp"

namespace lab {

struct EtcdOptions {
    std::string address = "127.0.0.1";
    int port = 2379;  ///< Of clients; port + 1 is for its peers, of which it has none.
    /// Server certificates in QEMU's layout; clients need one of that authority. Empty: no TLS.
    fs::path tls_directory = {};
};

class Etcd {
public:
    /// Starts it, and waits until it answers. `directory`: for its data and log; created.
    Etcd(fs::path directory, Place place, EtcdOptions options = {});

    void start();
    /// SIGKILL
    void kill();
    [[nodiscard]] std::string url() const;
    /// `etcdctl ARGUMENTS` for this server: its stdout. Throws when it fails.
    [[nodiscard]] std::string ctl(Argv const& arguments) const;

    /// Why this machine cannot run it, or an empty string.
    static std::string why_impossible();

private:
    [[nodiscard]] std::string endpoint() const;
    [[nodiscard]] Argv ctl_line(Argv const& arguments) const;

    fs::path directory_;
    Place place_;
    EtcdOptions options_;
    std::optional<Daemon> daemon_;
};

}  // namespace lab
