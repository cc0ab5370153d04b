// DomainXml: the definition of a domain, as libvirt prints it, that came from another host. Pure:
// no libvirt and no file. It reads only what libvirt itself writes: elements, attributes, text.
// Invariant: name() and uuid() are what libvirt reads in it, so that no definition passes for
// another's.
#pragma once

#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "core/result.hpp"

namespace sidecar::libvirt {

/// A domain with a hundred disks has 60 KiB. A part of a message between sidecars.
inline constexpr std::size_t domain_xml_bytes_max = 256 * 1024;

class DomainXml {
public:
    /// Fails with invalid: comments, declarations, CDATA, entities besides the five of XML, and
    /// more than one name or UUID are refused, too.
    static core::Result<DomainXml> parse(std::string text);

    [[nodiscard]] std::string const& text() const { return text_; }
    [[nodiscard]] std::string const& name() const { return name_; }
    [[nodiscard]] std::string const& uuid() const { return uuid_; }

    using Map = std::function<std::string(std::string const& value)>;
    /// The same with other images of disks, and other bridges of interfaces.
    [[nodiscard]] DomainXml with(Map const& image, Map const& bridge) const;

private:
    friend class DomainXmlReader;
    struct Place {
        std::size_t begin = 0;
        std::size_t end = 0;
    };

    std::string text_;
    std::string name_;
    std::string uuid_;
    std::vector<Place> images_;  ///< Values of attributes, in the order of the text.
    std::vector<Place> bridges_;
};

}  // namespace sidecar::libvirt
