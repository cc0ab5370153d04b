// The options of `sidecar anchor` and its commands: what the command line says, checked for shape.
#pragma once

#include <string>
#include <vector>

#include "core/json.hpp"
#include "core/result.hpp"

namespace CLI {
class App;
}

namespace sidecar {

struct AnchorOptions {
    enum class Action { list, show, release };
    Action action = Action::list;
    std::string guest;  ///< Empty: all guests.
    bool force = false;
    bool json = false;
};

/// What people read of the local addresses of a far end, `local` of protocol::AnchorList's answer;
/// empty: it has none.
std::vector<std::string> local_lines(core::Json const& local);

/// The values that CLI11 fills in; finish() makes AnchorOptions of them.
class AnchorFlags {
public:
    void add_to(CLI::App& anchor);
    core::Result<AnchorOptions> finish() const;

private:
    CLI::App* list_ = nullptr;
    CLI::App* show_ = nullptr;
    CLI::App* release_ = nullptr;
    AnchorOptions options_;
};

}  // namespace sidecar
