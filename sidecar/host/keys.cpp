#include "sidecar/host/keys.hpp"

#include <filesystem>

#include "qmp/vm.hpp"
#include "sidecar/host/limits.hpp"
#include "sidecar/host/paths.hpp"

namespace sidecar {

using core::Deadline;
using core::Json;
using core::Result;
using core::Task;

namespace {

// Left to itself GnuTLS takes the first cipher of the client's list, libnbd's and QEMU's being
// "NORMAL", that a key for SHA-256 can be used with: CHACHA20-POLY1305, which it does at 0.28 GB/s
// on a processor that does AES at 3.7.
constexpr char const* server_priority =
    "NORMAL:-CIPHER-ALL:+AES-128-GCM:+CHACHA20-POLY1305:%SERVER_PRECEDENCE";

}  // namespace

bool is_key(std::string const& hex) {
    constexpr std::size_t key_digits = 64;
    return hex.size() == key_digits &&
           hex.find_first_not_of("0123456789abcdef") == std::string::npos;
}

std::string key_file(std::string const& directory) { return directory + "/keys.psk"; }

Result<> write_key(std::string const& directory, std::string const& hex) {
    TRY_VOID(make_directory(directory));
    return write_durably(key_file(directory), fmt::format("{}:{}\n", key_user, hex));
}

std::string read_key(std::string const& directory) {
    auto const text = read_file(key_file(directory), limits::manifest_bytes_max);
    auto const prefix = std::string(key_user) + ":";
    if (!text || !text->starts_with(prefix)) return {};
    return text->substr(prefix.size(), text->find('\n') - prefix.size());
}

void remove_key(std::string const& directory) {
    std::error_code ignored;  // in the run directory, which does not survive a boot
    std::filesystem::remove_all(directory, ignored);
}

std::string key_object(std::string const& migration_id) { return "sidecar-key-" + migration_id; }

Task<Result<>> add_key_object(qmp::Client& client, std::string directory, std::string endpoint,
                              std::string migration_id, Deadline deadline) {
    auto properties = Json::object({{"qom-type", "tls-creds-psk"},
                                    {"id", key_object(migration_id)},
                                    {"endpoint", endpoint},
                                    {"dir", directory}});
    if (endpoint == "client") properties.set("username", key_user);
    if (endpoint == "server") properties.set("priority", server_priority);
    (void)co_await qmp::object_del(client, key_object(migration_id),
                                   deadline);  // of a try before this one
    co_return co_await qmp::object_add(client, properties, deadline);
}

}  // namespace sidecar
