// Which cipher protects RAM and disks (sidecar/keys.hpp). A client with libnbd's own list of
// ciphers connects to a real QEMU that waits for RAM.
#include <gnutls/gnutls.h>

#include "core/gnutls.hpp"
#include "core/tls.hpp"
#include "qmp/vm.hpp"
#include "sidecar/host/keys.hpp"
#include "tests/process/qmp_support.hpp"
#include "tests/support/command.hpp"

namespace key_cipher_cases {

namespace {

using namespace qmp_test;

/// The priority string of libnbd 1.14. QEMU's differs only in the protocol versions.
constexpr char const* client_priority = "NORMAL:+ECDHE-PSK:+DHE-PSK:+PSK";

void must(int error) {
    if (error < 0) FAIL(gnutls_strerror(error));
}

/// Performs the TLS handshake over a blocking socket; returns the cipher that the server chose.
std::string cipher_of(int socket, std::string const& key_hex) {
    gnutls_psk_client_credentials_t credentials = nullptr;
    gnutls_session_t session = nullptr;
    core::use_gnutls();
    must(gnutls_psk_allocate_client_credentials(&credentials));
    std::string hex = key_hex;
    gnutls_datum_t const key{reinterpret_cast<unsigned char*>(hex.data()),
                             static_cast<unsigned>(hex.size())};
    must(gnutls_psk_set_client_credentials(credentials, sidecar::key_user, &key,
                                           GNUTLS_PSK_KEY_HEX));
    must(gnutls_init(&session, GNUTLS_CLIENT));
    must(gnutls_priority_set_direct(session, client_priority, nullptr));
    must(gnutls_credentials_set(session, GNUTLS_CRD_PSK, credentials));
    gnutls_transport_set_int(session, socket);
    gnutls_handshake_set_timeout(session, GNUTLS_DEFAULT_HANDSHAKE_TIMEOUT);
    int error = 0;
    do {
        error = gnutls_handshake(session);
    } while (error < 0 && gnutls_error_is_fatal(error) == 0);
    must(error);
    std::string const name = gnutls_cipher_get_name(gnutls_cipher_get(session));
    gnutls_deinit(session);
    gnutls_psk_free_client_credentials(credentials);
    return name;
}

/// The processor time of a process so far.
double processor_ms(pid_t pid) {
    auto const text = lab::read_file(fmt::format("/proc/{}/schedstat", pid));
    return std::stod(text) / 1e6;
}

}  // namespace

TEST_CASE("key: QEMU protects what it is sent by AES, which processors do themselves") {
    for (auto const& program : qemus()) {
        CAPTURE(program);
        qmp::Mapping mapping;
        {
            Qemu source(program);
            mapping.machine_type = get(source.run(qmp::machine_type(source.client(), soon())));
        }
        mapping.qmp_fd = qmp::qmp_fd_in_qemu;
        Qemu qemu(get(get(qmp::CommandLine::parse(Qemu::words(program))).for_destination(mapping)));
        auto const key = core::random_hex(32);
        auto const directory = qemu.file("keys");
        REQUIRE(sidecar::write_key(directory, key));
        REQUIRE(qemu.run(sidecar::add_key_object(qemu.client(), qemu.process().pid(), directory,
                                                 "server", "e1", soon())));
        qemu.execute("migrate-set-parameters",
                     Json::object({{"tls-creds", sidecar::key_object("e1")}}));
        auto const path = qemu.file("ram.sock");
        qemu.execute("migrate-incoming", Json::object({{"uri", "unix:" + path}}));
        auto const socket = get(qemu.run(core::connect_unix(qemu.loop(), path, soon())));
        fcntl(socket.get(), F_SETFL, fcntl(socket.get(), F_GETFL) & ~O_NONBLOCK);
        CHECK(cipher_of(socket.get(), key) == "AES-128-GCM");
    }
}

TEST_CASE("key: QEMU makes no Diffie-Hellman parameters for a server's key") {
    for (auto const& program : qemus()) {
        CAPTURE(program);
        Qemu qemu(program);
        auto const directory = qemu.file("keys");
        REQUIRE(sidecar::write_key(directory, core::random_hex(32)));
        auto const before_ms = processor_ms(qemu.process().pid());
        REQUIRE(qemu.run(sidecar::add_key_object(qemu.client(), qemu.process().pid(), directory,
                                                 "server", "e1", soon())));
        // Generating safe primes of 2048 bits takes at least 200 ms, and usually seconds.
        CHECK(processor_ms(qemu.process().pid()) - before_ms < 100);
    }
}

}  // namespace key_cipher_cases
