#include "sidecar/host/host_identity.hpp"

#include <fcntl.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "core/fd.hpp"
#include "core/tls.hpp"

namespace sidecar {

using core::Errc;
using core::fail;
using core::fail_errno;
using core::Result;

namespace {

constexpr std::size_t id_bytes = 8;
constexpr std::size_t file_bytes_max = 64;
constexpr std::size_t name_bytes_max = 64;  ///< As of Linux's HOST_NAME_MAX.

bool is_id(std::string const& text) {
    return text.size() == 2 * id_bytes && std::ranges::all_of(text, [](char digit) {
               return (digit >= '0' && digit <= '9') || (digit >= 'a' && digit <= 'f');
           });
}

/// link(2) does not replace a file: of several processes one decides.
Result<> make_id(Paths const& paths, std::string const& path) {
    TRY_VOID(make_directory(paths.state_directory));
    auto const own = path + "-" + core::random_hex(id_bytes);
    TRY_VOID(write_durably(own, core::random_hex(id_bytes)));
    int const linked = link(own.c_str(), path.c_str()) < 0 ? errno : 0;
    unlink(own.c_str());
    if (linked != 0 && linked != EEXIST) return fail_errno(linked, "cannot write {}", path);
    return sync_directory(paths.state_directory);
}

}  // namespace

Result<HostIdentity> checked_identity(std::string id, std::string name) {
    bool const plain = std::ranges::all_of(name, [](char one) { return one > 0x20 && one < 0x7f; });
    if ((!id.empty() && !is_id(id)) || name.size() > name_bytes_max || !plain) {
        return fail(Errc::protocol, "the other host's identity is none of ours");
    }
    return HostIdentity{std::move(id), std::move(name)};
}

Result<HostIdentity> host_identity(Paths const& paths) {
    auto const path = paths.host_id();
    auto text = read_file(path, file_bytes_max);
    if (!text && text.error().os == ENOENT) {
        TRY_VOID(make_id(paths, path));
        text = read_file(path, file_bytes_max);
    }
    if (!text) return std::unexpected(std::move(text.error()));
    if (!is_id(*text)) return fail(Errc::invalid, "{} does not have the id of a host", path);
    utsname system{};
    if (uname(&system) < 0) return fail_errno(errno, "the host's name is not known");
    return HostIdentity{std::move(*text), system.nodename};
}

}  // namespace sidecar
