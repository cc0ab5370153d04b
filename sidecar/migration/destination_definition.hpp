// DestinationDefinition: the guest's definition in this host's libvirt (`serve --libvirt-uri`), if
// it was a guest of libvirt at the source. QEMU here is not under libvirt; the definition is for
// the operator: `virsh list --all` shows the guest, and libvirt can start it after it has ended
// here.
#pragma once

#include "sidecar/guest/description.hpp"
#include "sidecar/libvirt/definition.hpp"
#include "sidecar/migration/destination_context.hpp"

namespace sidecar {

class DestinationDefinition {
public:
    explicit DestinationDefinition(DestinationContext context) : context_(context) {}

    /// Whether it can be defined here; why not is in `warnings`. Fails with refused if the guest
    /// runs under libvirt here, and with protocol if the definition is another guest's.
    core::Task<core::Result<>> check(Description description, std::vector<std::string>& warnings);
    /// For the guest's next move; empty: it has none.
    [[nodiscard]] std::string text() const;
    /// Defines it. What fails is logged: the guest runs.
    core::Task<void> define();

private:
    core::Result<libvirt::DomainXml> definition_of(Description const& description) const;

    DestinationContext context_;
};

}  // namespace sidecar
