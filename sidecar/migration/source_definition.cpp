// A guest of libvirt on the source: its definition goes along, and the report says what is
// different at the destination.
#include "sidecar/libvirt/definition.hpp"
#include "sidecar/migration/source_migration.hpp"

namespace sidecar {

using core::Deadline;
using core::Task;

Task<void> SourceMigration::look_at_libvirt() {
    description_.domain_xml = guest_.domain_xml;
    if (!guest_.libvirt) co_return;
    auto const& uri = guest_.libvirt->uri;
    warn(
        "on the destination the guest runs under its sidecar, and libvirt does not control it "
        "there");
    for (auto const& line : guest_.libvirt->lost) warn(line);
    auto definition = co_await libvirt::read_definition(loop_, uri, guest_.name,
                                                        Deadline::after(limits::libvirt_timeout));
    if (definition) {
        description_.domain_xml = std::move(*definition);
    } else {
        warn("libvirt on the destination will not know the guest: " +
             definition.error().sentence());
    }
}

}  // namespace sidecar
