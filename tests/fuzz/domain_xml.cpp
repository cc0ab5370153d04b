// Fuzzing of the definition of a domain that came from another host:
// sidecar/libvirt/domain_xml.hpp. Run as `fuzz-domain_xml tests/fuzz/corpus/domain_xml`. Invariant,
// besides memory safety: what is accepted has a name and a UUID, and stays the same domain when its
// images and bridges are replaced, whatever they are replaced by.
#include <cstdlib>
#include <string>

#include "sidecar/libvirt/domain_xml.hpp"

namespace {

using sidecar::libvirt::DomainXml;

void require(bool holds) {
    if (!holds) std::abort();
}

void check_replaced(DomainXml const& read, std::string const& image, std::string const& bridge) {
    auto const changed =
        read.with([&](auto const&) { return image; }, [&](auto const&) { return bridge; });
    // With entities instead of characters it may be longer than what is accepted.
    if (!changed) return;
    require(changed->name() == read.name());
    require(changed->uuid() == read.uuid());
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(std::uint8_t const* data, std::size_t size) {
    auto const read = DomainXml::parse({reinterpret_cast<char const*>(data), size});
    if (!read) return 0;
    require(!read->name().empty());
    require(!read->uuid().empty());
    check_replaced(*read, "/srv/vm/web1.qcow2", "br0");
    check_replaced(*read, "'/><name>other</name>", "\"&<>'");
    return 0;
}
