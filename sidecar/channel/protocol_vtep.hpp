// The requests about VTEPs: a source asks the `serve` of a host that is another VTEP of its guest's
// network. Used by handover/vteps.cpp, daemon/vtep_service.cpp.
#pragma once

#include "netmove/vxlan_mover.hpp"
#include "sidecar/channel/protocol.hpp"

namespace sidecar::protocol {

// Both requests name everything they need and may be repeated.

struct VtepPrepareAnswer {
    std::string devices;  ///< For people. Empty: the host is one of the two.
    [[nodiscard]] Json to_json() const;
    static Result<VtepPrepareAnswer> from_json(Json const& json);
};

struct VtepPrepare {
    static constexpr Verb verb = Verb::vtep_prepare;
    using Answer = VtepPrepareAnswer;
    std::vector<netmove::VxlanMove> moves;
    [[nodiscard]] Json to_json() const;
    static Result<VtepPrepare> from_json(Json const& json);
};

struct VtepRepointFdbAnswer {
    bool changed = false;
    [[nodiscard]] Json to_json() const;
    static Result<VtepRepointFdbAnswer> from_json(Json const& json);
};

struct VtepRepointFdb {
    static constexpr Verb verb = Verb::vtep_repoint_fdb;
    using Answer = VtepRepointFdbAnswer;
    std::vector<netmove::VxlanMove> moves;
    Owner to = Owner::source;
    [[nodiscard]] Json to_json() const;
    static Result<VtepRepointFdb> from_json(Json const& json);
};

using FromVtepSource = std::variant<VtepPrepare, VtepRepointFdb>;

}  // namespace sidecar::protocol
