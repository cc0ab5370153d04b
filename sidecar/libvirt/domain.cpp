#include "sidecar/libvirt/domain.hpp"

#include <array>
#include <cstdlib>
#include <sstream>

#include "sidecar/host/limits.hpp"
#include "sidecar/host/paths.hpp"

namespace sidecar::libvirt {

using core::Errc;
using core::fail;
using core::Json;
using core::Result;

namespace {

struct FreeText {
    void operator()(char* text) const { std::free(text); }
};
using Text = std::unique_ptr<char, FreeText>;

/// A libvirtd that hangs is given up after some 20 seconds.
constexpr int keepalive_interval_s = 5;
constexpr unsigned keepalive_count = 3;

}  // namespace

std::string last_error() { return virGetLastErrorMessage(); }

Result<std::string> uuid_of(virDomainPtr domain) {
    std::array<char, VIR_UUID_STRING_BUFLEN> text{};
    if (virDomainGetUUIDString(domain, text.data()) < 0)
        return fail(Errc::io, "libvirt does not say the domain's UUID: {}", last_error());
    return std::string(text.data());
}

Result<Connection> connect(std::string const& uri) {
    TRY_VOID(load_libvirt());
    Connection connection(virConnectOpen(uri.c_str()));
    if (!connection)
        return fail(Errc::refused, "cannot connect to libvirt at {}: {}", uri, last_error());
    return connection;
}

Result<Domain> Domain::open(std::string const& uri, std::string const& name) {
    Domain made;
    TRY(made.connection_, connect(uri));
    // Works only while the event loop runs; without one the calls may block for longer.
    (void)virConnectSetKeepAlive(made.connection_.get(), keepalive_interval_s, keepalive_count);
    made.domain_.reset(virDomainLookupByName(made.connection_.get(), name.c_str()));
    if (!made.domain_) {
        return fail(Errc::refused, "libvirt at {} has no domain `{}`: {}", uri, name, last_error());
    }
    return made;
}

bool Domain::is_running() const { return virDomainIsActive(domain_.get()) == 1; }

bool Domain::is_connected() const { return virConnectIsAlive(connection_.get()) == 1; }

Result<std::string> Domain::xml() const {
    Text const text(virDomainGetXMLDesc(domain_.get(), VIR_DOMAIN_XML_INACTIVE));
    if (!text)
        return fail(Errc::io, "libvirt does not say the domain's definition: {}", last_error());
    return std::string(text.get());
}

Result<Json> Domain::command(Json const& command, int fd) const {
    char* raw = nullptr;
    int const failed =
        virDomainQemuMonitorCommandWithFiles(domain_.get(), command.dump().c_str(), fd < 0 ? 0 : 1,
                                             fd < 0 ? nullptr : &fd, nullptr, nullptr, &raw, 0);
    Text const answer(raw);
    if (failed < 0 || !answer) return fail(Errc::io, "libvirt: {}", last_error());
    return Json::parse(answer.get());
}

Result<pid_t> Domain::qemu_pid() const {
    TRY(auto const answer, command(Json::object({{"execute", "query-cpus-fast"}}), -1));
    auto const cpus = answer["return"].elements();
    auto const thread = cpus.empty() ? 0 : cpus.front()["thread-id"].integer_or(0);
    TRY(auto const status,
        read_file(fmt::format("/proc/{}/status", thread), limits::manifest_bytes_max));
    std::istringstream lines(status);
    for (std::string word; lines >> word;) {
        pid_t process = 0;
        if (word == "Tgid:" && lines >> process) return process;
    }
    return fail(Errc::protocol, "the process of thread {} is not known", thread);
}

}  // namespace sidecar::libvirt
