// The part of a guest's sidecar that records who owns the guest, where that is not one line of the
// session.
#include "sidecar/daemon/session.hpp"

namespace sidecar {

using core::Result;
using core::Task;

Task<Result<>> Session::claim_joined() {
    return ownership_.claim({.kind = registry::Claim::Kind::join,
                             .fenced = options_.fenced,
                             .addresses = options_.attach.addresses});
}

void Session::note_arrival() {
    auto const& description = destination_->description();
    ownership_.arrived(description.owner, destination_->migration_id(), description.addresses());
}

}  // namespace sidecar
