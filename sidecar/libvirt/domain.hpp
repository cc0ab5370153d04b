// Domain: a guest of libvirt, through libvirt's API. Used by the processes that the sidecar starts
// to talk to libvirt: monitor_process.hpp and definition.hpp. Its calls block.
#pragma once

#include <memory>
#include <string>

#include "core/json.hpp"
#include "core/result.hpp"
#include "sidecar/libvirt/library.hpp"

namespace sidecar::libvirt {

struct CloseConnection {
    void operator()(virConnectPtr connection) const { virConnectClose(connection); }
};
using Connection = std::unique_ptr<virConnect, CloseConnection>;

struct FreeDomain {
    void operator()(virDomainPtr domain) const { virDomainFree(domain); }
};
using DomainHandle = std::unique_ptr<virDomain, FreeDomain>;
/// Fails with io.
core::Result<std::string> uuid_of(virDomainPtr domain);

/// Loads the library and connects. Fails with refused, in libvirt's words.
core::Result<Connection> connect(std::string const& uri);

/// What libvirt said last in this thread.
std::string last_error();

class Domain {
public:
    /// The domain of that name. Fails with refused if there is none.
    static core::Result<Domain> open(std::string const& uri, std::string const& name);

    [[nodiscard]] core::Result<std::string> uuid() const { return uuid_of(domain_.get()); }
    /// Whether QEMU of the domain runs.
    [[nodiscard]] bool is_running() const;
    [[nodiscard]] bool is_connected() const;
    /// Its definition, as it would be started again; without passwords.
    [[nodiscard]] core::Result<std::string> xml() const;
    /// One QMP command without an id, and QEMU's whole answer. `fd`: passed beside it; -1: none.
    /// Fails with io if libvirt has no answer of QEMU.
    [[nodiscard]] core::Result<core::Json> command(core::Json const& command, int fd) const;
    /// The id of QEMU's process. Fails with io, and with protocol.
    [[nodiscard]] core::Result<pid_t> qemu_pid() const;

    [[nodiscard]] virConnectPtr connection() const { return connection_.get(); }
    [[nodiscard]] virDomainPtr domain() const { return domain_.get(); }

private:
    Connection connection_;
    DomainHandle domain_;
};

}  // namespace sidecar::libvirt
