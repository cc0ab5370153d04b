// ProgressView: what a person sees of a migration: one line per phase and a bar, or one JSON object
// a line. The share shown never goes backwards, and neither does the estimate grow without a phase
// saying why.
#pragma once

#include <string>

#include "core/json.hpp"
#include "sidecar/cli/options.hpp"

namespace sidecar {

class ProgressView {
public:
    explicit ProgressView(ProgressStyle style) : style_(style) {}
    ~ProgressView() { clear(); }
    void show(core::Json const& line);
    /// Removes the bar, so that something else can be printed.
    void clear();

private:
    void draw(core::Json const& line);

    ProgressStyle style_;
    std::string phase_;
    double percent_ = 0;
    bool drawn_ = false;
};

/// "1.4 GiB", "312 KiB"
std::string human_bytes(std::int64_t bytes);

}  // namespace sidecar
