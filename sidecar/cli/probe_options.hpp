// The options of `sidecar probe`: what the command line says, checked for shape.
#pragma once

#include <chrono>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "core/result.hpp"

namespace CLI {
class App;
}

namespace sidecar {

/// `probe`: what a client of the guest sees, or the echo at the other end.
struct ProbeOptions {
    std::vector<std::string> addresses;  ///< IPv4 or IPv6.
    std::chrono::nanoseconds period{20'000'000};
    std::size_t bytes = 210;
    std::optional<std::chrono::nanoseconds> duration;  ///< None: until interrupted.
    std::uint16_t port = 4798;
    bool tcp = true;
    std::string json_file;  ///< "-": stdout, instead of the text.
    std::string svg_file;
    std::string migration_report;  ///< Of `migrate --report`: the report marks its moments.
    bool echo = false;
    std::string listen;  ///< The echo's address; empty: all addresses.
};

/// The values that CLI11 fills in; finish() makes ProbeOptions of them.
class ProbeFlags {
public:
    void add_to(CLI::App& probe);
    core::Result<ProbeOptions> finish() const;

private:
    ProbeOptions options_;
    double period_ms_ = 20;
    double duration_s_ = 0;
    bool without_tcp_ = false;
};

}  // namespace sidecar
