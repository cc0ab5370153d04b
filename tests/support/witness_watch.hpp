// Watches a test guest from a client's place: numbered UDP probes, a TCP echo session and a TCP
// source session, in each family at once. Used by witness-client; knows nothing of the project.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

namespace witness_client {

struct WatchOptions {
    std::string ip4;                      // empty: this family is not watched
    std::string ip6;
    std::optional<double> seconds;        // without: until stdin closes, or SIGINT or SIGTERM
    std::uint64_t udp_hz = 1000;
    std::uint64_t tcp_hz = 100;           // records a second on the echo session
    bool json = false;
    bool progress = false;
};

/// Runs to its end and prints the counts on stdout. Writes the line "watching" to stderr as soon as
/// every probe and session has had its first answer. Returns the exit status.
int watch(const WatchOptions& options);

}  // namespace witness_client
