#include "sidecar/libvirt/definition.hpp"

#include <unistd.h>

#include <cstdio>

#include "core/json.hpp"
#include "core/process.hpp"
#include "sidecar/host/limits.hpp"
#include "sidecar/libvirt/domain.hpp"

namespace sidecar::libvirt {

using core::Deadline;
using core::Errc;
using core::fail;
using core::Json;
using core::Result;
using core::Task;

namespace {

/// "absent", "same" or "running".
Result<Json> look_up_here(virConnectPtr connection, DefinitionProcess const& wanted) {
    DomainHandle const by_uuid(virDomainLookupByUUIDString(connection, wanted.uuid.c_str()));
    DomainHandle const by_name(virDomainLookupByName(connection, wanted.guest.c_str()));
    if (by_name) {
        TRY(auto const uuid, uuid_of(by_name.get()));
        if (uuid != wanted.uuid) {
            return fail(Errc::refused,
                        "libvirt has another domain of the name {}, with the UUID {}", wanted.guest,
                        uuid);
        }
    }
    if (by_uuid && !by_name)
        return fail(Errc::refused, "libvirt has the UUID {} under another name", wanted.uuid);
    auto const* const word = !by_name                                ? "absent"
                             : virDomainIsActive(by_name.get()) == 1 ? "running"
                                                                     : "same";
    return Json::object({{"known", word}});
}

Result<Json> define_here(virConnectPtr connection, DefinitionProcess const& wanted) {
    TRY(auto const text, read_file(wanted.xml_file, domain_xml_bytes_max));
    TRY(auto const xml, DomainXml::parse(text));
    if (xml.name() != wanted.guest || xml.uuid() != wanted.uuid)
        return fail(Errc::refused, "the definition is another domain's");
    DomainHandle const made(
        virDomainDefineXMLFlags(connection, xml.text().c_str(), VIR_DOMAIN_DEFINE_VALIDATE));
    if (!made) return fail(Errc::refused, "libvirt refuses the definition: {}", last_error());
    return Json::object({{"known", "absent"}});
}

Result<Json> run(DefinitionProcess const& settings) {
    if (settings.uuid.empty()) {
        TRY(auto const domain, Domain::open(settings.uri, settings.guest));
        TRY(auto const xml, domain.xml());
        return Json::object({{"xml", xml}});
    }
    TRY(auto const connection, connect(settings.uri));
    TRY(auto const known, look_up_here(connection.get(), settings));
    bool const define = !settings.xml_file.empty() && known["known"].text_or("") == "absent";
    return define ? define_here(connection.get(), settings) : known;
}

/// Runs the process, and returns what it prints.
Task<Result<Json>> ask_process(core::Loop& loop, DefinitionProcess settings, Deadline deadline) {
    std::vector<std::string> argv{own_program(), "libvirt-definition", settings.guest,
                                  "--libvirt-uri", settings.uri};
    if (!settings.uuid.empty()) argv.insert(argv.end(), {"--uuid", settings.uuid});
    if (!settings.xml_file.empty()) argv.insert(argv.end(), {"--xml", settings.xml_file});
    CO_TRY(auto const text,
           co_await core::output_of(loop, argv, limits::message_bytes_max, deadline));
    CO_TRY(auto const said, Json::parse(text));
    if (said.has("error")) co_return fail(Errc::refused, "{}", said["error"].text_or(""));
    co_return said;
}

KnownDomain known_from(Json const& said) {
    auto const word = said["known"].text_or("");
    return word == "running" ? KnownDomain::running
           : word == "same"  ? KnownDomain::same
                             : KnownDomain::absent;
}

}  // namespace

int run_definition(DefinitionProcess const& settings) {
    auto const done = run(settings);
    auto const said = done ? *done : Json::object({{"error", done.error().sentence()}});
    std::puts(said.dump().c_str());
    return 0;
}

Task<Result<std::string>> read_definition(core::Loop& loop, std::string uri, std::string guest,
                                          Deadline deadline) {
    CO_TRY(auto const said, co_await ask_process(loop, {guest, uri, "", ""}, deadline));
    CO_TRY(auto xml, said.text("xml"));
    CO_TRY_VOID(DomainXml::parse(xml));
    co_return xml;
}

Task<Result<KnownDomain>> look_up(core::Loop& loop, std::string uri, std::string name,
                                  std::string uuid, Deadline deadline) {
    CO_TRY(auto const said, co_await ask_process(loop, {name, uri, uuid, ""}, deadline));
    co_return known_from(said);
}

Task<Result<KnownDomain>> define(core::Loop& loop, Paths paths, std::string uri,
                                 DomainXml definition, Deadline deadline) {
    auto const file = paths.run(definition.name()) + "/domain.xml";
    CO_TRY_VOID(write_replacing(file, definition.text()));
    auto const said =
        co_await ask_process(loop, {definition.name(), uri, definition.uuid(), file}, deadline);
    ::unlink(file.c_str());
    if (!said) co_return std::unexpected(said.error());
    co_return known_from(*said);
}

}  // namespace sidecar::libvirt
