// ProgressView: a migration as a person sees it: one line per phase and a bar, or one JSON
// object per line. The fraction shown never decreases. The estimate grows only with a phase that
// gives the reason.
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
