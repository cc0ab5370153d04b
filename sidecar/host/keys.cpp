#include "sidecar/host/keys.hpp"

#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>

#include "qmp/vm.hpp"
#include "sidecar/host/limits.hpp"
#include "sidecar/host/paths.hpp"
#include "sidecar/host/process_user.hpp"

namespace sidecar {

using core::Deadline;
using core::fail;
using core::fail_errno;
using core::Json;
using core::Result;
using core::Task;

namespace {

// By default GnuTLS takes the first usable cipher in the client's list. libnbd and QEMU send
// "NORMAL", and their first cipher for a SHA-256 key is CHACHA20-POLY1305. It runs at 0.28 GB/s on
// a processor that runs AES at 3.7.
constexpr char const* server_priority =
    "NORMAL:-CIPHER-ALL:+AES-128-GCM:+CHACHA20-POLY1305:%SERVER_PRECEDENCE";

// The group ffdhe2048 of RFC 7919. Without a file of DH parameters, QEMU generates its own for a
// server's key, which blocks its main loop for a second. TLS 1.3 does not use them.
constexpr char const* dh_parameters =
    "-----BEGIN DH PARAMETERS-----\n"
    "MIIBCAKCAQEA//////////+t+FRYortKmq/cViAnPTzx2LnFg84tNpWp4TZBFGQz\n"
    "+8yTnc4kmz75fS/jY2MMddj2gbICrsRhetPfHtXV/WVhJDP1H18GbtCFY2VVPe0a\n"
    "87VXE15/V8k1mE8McODmi3fipona8+/och3xWKE2rec1MKzKT0g6eXq8CrGCsyT7\n"
    "YdEIqUuyyOP7uWrat2DX9GgdT0Kj3jlN9K5W7edjcrsZCwenyO4KbXCeAvzhzffi\n"
    "7MA0BM0oNC9hkXL+nOmFg/+OTxIy7vKBg8P+OxtMb61zO7X8vC7CIAXFjvGDfRaD\n"
    "ssbzSibBsu/6iGtCOGEoXJf//////////wIBAg==\n"
    "-----END DH PARAMETERS-----\n";

/// Gives the directory of a key, RUN_DIRECTORY/GUEST/KEYS, to the user of QEMU, if that is another.
Result<> give_key(std::string const& directory, storage::UserIds const& user) {
    if (!is_other_user(user)) return {};
    std::error_code error;
    for (auto const& entry : std::filesystem::directory_iterator(directory, error)) {
        if (lchown(entry.path().c_str(), user.uid, user.gid) < 0)
            return fail_errno(errno, "cannot give {} to QEMU's user", entry.path().string());
    }
    if (error) return fail_errno(error.value(), "cannot list {}", directory);
    TRY_VOID(make_directory_of(user, directory));
    auto const guest = std::filesystem::path(directory).parent_path();
    TRY_VOID(let_pass(guest.string()));
    return let_pass(guest.parent_path().string());
}

}  // namespace

bool is_key(std::string const& hex) {
    constexpr std::size_t key_digits = 64;
    return hex.size() == key_digits &&
           hex.find_first_not_of("0123456789abcdef") == std::string::npos;
}

std::string key_file(std::string const& directory) { return directory + "/keys.psk"; }

Result<> write_key(std::string const& directory, std::string const& hex) {
    TRY_VOID(remove_if_given_away(directory));
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
    std::error_code ignored;  // it is in the run directory, which does not survive a boot
    std::filesystem::remove_all(directory, ignored);
}

std::string key_object(std::string const& migration_id) { return "sidecar-key-" + migration_id; }

Task<Result<>> add_key_object(qmp::Client& client, pid_t qemu, std::string directory,
                              std::string endpoint, std::string migration_id, Deadline deadline) {
    auto properties = Json::object({{"qom-type", "tls-creds-psk"},
                                    {"id", key_object(migration_id)},
                                    {"endpoint", endpoint},
                                    {"dir", directory}});
    if (endpoint == "client") properties.set("username", key_user);
    if (endpoint == "server") {
        properties.set("priority", server_priority);
        CO_TRY_VOID(write_replacing(directory + "/dh-params.pem", dh_parameters));
    }
    CO_TRY(auto const user, user_of(qemu));
    CO_TRY_VOID(give_key(directory, user));
    (void)co_await qmp::object_del(client, key_object(migration_id),
                                   deadline);  // of a try before this one
    auto added = co_await qmp::object_add(client, properties, deadline);
    if (!added && is_other_user(user)) {
        co_return fail(
            added.error().code,
            "{} (QEMU runs as user {}, which must be able to pass each directory above {})",
            added.error().what, user.uid, directory);
    }
    co_return added;
}

}  // namespace sidecar
