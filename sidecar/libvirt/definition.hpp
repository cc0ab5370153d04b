// The definitions of domains in libvirt: read on the source, written on the destination. Each call
// of libvirt is made by a process of its own (`sidecar libvirt-definition`), because it blocks.
// Invariant: a definition that libvirt has is never changed.
#pragma once

#include <string>

#include "core/deadline.hpp"
#include "core/loop.hpp"
#include "core/result.hpp"
#include "sidecar/host/paths.hpp"
#include "sidecar/libvirt/domain_xml.hpp"

namespace sidecar::libvirt {

/// What the process does.
struct DefinitionProcess {
    std::string guest;  ///< The domain's name.
    std::string uri;
    std::string uuid;  ///< Of the domain that is to be defined; empty: print that of `guest`.
    std::string xml_file;  ///< To be defined; empty: only look whether it can be.
};

/// Prints one line of JSON; returns the exit status.
int run_definition(DefinitionProcess const& settings);

/// The definition of a domain; without passwords. Fails with refused.
core::Task<core::Result<std::string>> read_definition(core::Loop& loop, std::string uri,
                                                      std::string guest, core::Deadline deadline);

/// What libvirt on this host has of that name and UUID.
enum class KnownDomain { absent, same, running };
/// Fails with refused if another domain has the name or the UUID, and if libvirt does not answer.
core::Task<core::Result<KnownDomain>> look_up(core::Loop& loop, std::string uri, std::string name,
                                              std::string uuid, core::Deadline deadline);
/// Defines it, unless libvirt has it. Fails with refused.
core::Task<core::Result<KnownDomain>> define(core::Loop& loop, Paths paths, std::string uri,
                                             DomainXml definition, core::Deadline deadline);

}  // namespace sidecar::libvirt
