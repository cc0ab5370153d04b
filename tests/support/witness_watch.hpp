// Watches a test guest from a client: numbered UDP probes, a TCP echo session and a TCP source
// session, in each family at once. Used by witness-client; independent of the project's code.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

namespace witness_client {

struct WatchOptions {
    std::string ip4;  // empty: do not watch this family
    std::string ip6;
    std::optional<double> seconds;  // none: until stdin closes, SIGINT or SIGTERM
    std::uint64_t udp_hz = 1000;
    std::uint64_t tcp_hz = 100;           // records a second on the echo session
    bool json = false;
    bool progress = false;
};

/// Runs to its end and prints the counts on stdout. Writes the line "watching" to stderr once every
/// probe and session has had its first answer. Returns the exit status.
int watch(const WatchOptions& options);

}  // namespace witness_client
