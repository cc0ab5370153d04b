// DomainXml: the definition of a domain, as libvirt prints it, that came from another host. It is
// read with libvirt's own parser, libxml2, which is loaded when it is first needed.
// Invariant: name() and uuid() are what libvirt reads in it, so that no definition passes for
// another's.
#pragma once

#include <functional>
#include <string>

#include "core/result.hpp"

namespace sidecar::libvirt {

/// A domain with a hundred disks has 60 KiB. A part of a message between sidecars.
inline constexpr std::size_t domain_xml_bytes_max = 256 * 1024;

class DomainXml {
public:
    /// Fails with invalid if it is not a domain with one name and one UUID, has entities or other
    /// declarations, or is too long; with refused if libxml2 is missing.
    static core::Result<DomainXml> parse(std::string text);

    [[nodiscard]] std::string const& text() const { return text_; }
    [[nodiscard]] std::string const& name() const { return name_; }
    [[nodiscard]] std::string const& uuid() const { return uuid_; }

    using Map = std::function<std::string(std::string const& value)>;
    /// The same with other images of disks, and other bridges of interfaces.
    [[nodiscard]] core::Result<DomainXml> with(Map const& image, Map const& bridge) const;

private:
    std::string text_;
    std::string name_;
    std::string uuid_;
};

}  // namespace sidecar::libvirt
