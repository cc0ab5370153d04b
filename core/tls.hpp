// TLS 1.3 over a connected socket, as a Stream (GnuTLS). Both ends are authenticated, always: by a
// pre-shared key, or by certificates of one authority on both sides (QEMU's own directory layout).
#pragma once

#include <memory>
#include <string>

#include "core/stream.hpp"

namespace core {

struct TlsConfig {
    enum class Mode {
        plaintext,  ///< Only when asked for by name.
        psk,  ///< `path` is a file of lines NAME:HEXKEY, as QEMU's keys.psk; a client uses the
              ///< first.
        x509,  ///< `path` is a directory: ca-cert.pem, {server,client}-cert.pem,
               ///< {server,client}-key.pem.
    };
    Mode mode = Mode::psk;
    std::string path;
};

class TlsCredentials {
public:
    enum class Side { client, server };
    /// Reads keys or certificates. Refuses a key file that others than its owner can read.
    static Result<std::shared_ptr<TlsCredentials>> load(TlsConfig const& config, Side side);
    ~TlsCredentials();

private:
    friend class TlsStream;
    TlsCredentials() = default;
    Result<> load_psk(std::string const& path, Side side);
    Result<> load_x509(std::string const& directory, Side side);
    struct Handles;
    std::unique_ptr<Handles> handles_;
    TlsConfig::Mode mode_ = TlsConfig::Mode::plaintext;
};

/// Handshakes on a connected, non-blocking socket. `host_name` is what the server's certificate
/// must be for (x509 clients). With plaintext credentials the stream is the socket itself. A
/// refused key or certificate is an error of kind refused that says which side to look at.
Task<Result<std::unique_ptr<Stream>>> secure(Loop& loop, Fd socket,
                                             std::shared_ptr<TlsCredentials> credentials,
                                             TlsCredentials::Side side, std::string host_name,
                                             Deadline deadline);

/// Fresh key material from the kernel (getrandom), as lower-case hex of 2 * bytes digits; at most
/// 256 bytes.
std::string random_hex(std::size_t bytes);

}  // namespace core
