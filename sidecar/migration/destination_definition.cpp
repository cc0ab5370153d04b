#include "sidecar/migration/destination_definition.hpp"

#include <algorithm>

#include "core/log.hpp"
#include "sidecar/guest/destination_line.hpp"
#include "sidecar/host/limits.hpp"

namespace sidecar {

using core::Deadline;
using core::Errc;
using core::fail;
using core::Result;
using core::Task;
using libvirt::KnownDomain;

/// With the images and bridges of this host. It must be the definition of the guest that comes.
Result<libvirt::DomainXml> DestinationDefinition::definition_of(
    Description const& description) const {
    auto const xml = libvirt::DomainXml::parse(description.domain_xml);
    if (!xml && xml.error().code == Errc::invalid)
        return fail(Errc::protocol, "{}", xml.error().what);
    if (!xml) return std::unexpected(xml.error());
    TRY(auto const line, qmp::CommandLine::parse(description.argv));
    if (xml->name() != description.guest || xml->uuid() != line.uuid()) {
        return fail(Errc::protocol,
                    "the definition for libvirt is that of {} ({}), and not of the guest {} ({})",
                    xml->name(), xml->uuid(), description.guest, line.uuid());
    }
    auto const& maps = context_.options.maps;
    auto const image = [&](std::string const& path) {
        auto const disk = std::ranges::find(description.disks, path, &MovedDisk::path);
        return disk == description.disks.end() ? map_path(maps, path) : image_path(maps, *disk);
    };
    auto const bridge = [&](std::string const& name) { return map_bridge(maps, name); };
    return xml->with(image, bridge);
}

Task<Result<>> DestinationDefinition::check(Description description,
                                            std::vector<std::string>& warnings) {
    if (description.domain_xml.empty()) co_return Result<>{};
    auto const read = definition_of(description);
    if (!read && read.error().code == Errc::protocol) co_return std::unexpected(read.error());
    if (!read) {
        warnings.push_back("the guest's definition for libvirt is lost on the destination: " +
                           read.error().sentence());
        co_return Result<>{};
    }
    auto const& definition = *read;
    auto const& uri = context_.options.libvirt_uri;
    if (uri.empty()) {
        warnings.emplace_back(
            "the guest will not be defined in libvirt on the destination: its `serve` has no "
            "--libvirt-uri");
        co_return Result<>{};
    }
    auto const known =
        co_await libvirt::look_up(context_.loop, uri, definition.name(), definition.uuid(),
                                  Deadline::after(limits::libvirt_timeout));
    if (!known) {
        warnings.push_back("the guest will not be defined in libvirt on the destination: " +
                           known.error().sentence());
    } else if (*known == KnownDomain::running) {
        co_return fail(Errc::refused, "libvirt on the destination runs a guest {} already",
                       definition.name());
    } else if (*known == KnownDomain::same) {
        warnings.emplace_back(
            "libvirt on the destination has a definition of the guest, and keeps it as it is");
    }
    co_return Result<>{};
}

std::string DestinationDefinition::text() const {
    if (context_.description.domain_xml.empty()) return {};
    auto const definition = definition_of(context_.description);
    return definition ? definition->text() : "";
}

Task<void> DestinationDefinition::define() {
    auto const& description = context_.description;
    auto const& uri = context_.options.libvirt_uri;
    if (uri.empty() || description.domain_xml.empty()) co_return;
    auto definition = definition_of(description);
    auto done = definition ? co_await libvirt::define(context_.loop, context_.paths, uri,
                                                      std::move(*definition),
                                                      Deadline::after(limits::libvirt_timeout))
                           : std::unexpected(definition.error());
    if (done) {
        core::log::info("guest={} libvirt at {} has its definition", context_.name, uri);
    } else {
        core::log::warning("guest={} it is not defined in libvirt: {}", context_.name,
                           done.error().sentence());
    }
}

}  // namespace sidecar
