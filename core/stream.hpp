// Stream: a connection that carries bytes both ways, plain or TLS. One reader and one writer at a
// time.
#pragma once

#include <memory>
#include <span>
#include <string>

#include "core/fd.hpp"
#include "core/loop.hpp"
#include "core/resolve.hpp"

namespace core {

class Stream {
public:
    virtual ~Stream() = default;
    /// At least one byte, at most buffer.size(). The end of the stream is an error of kind closed.
    virtual Task<Result<std::size_t>> read_some(std::span<std::byte> buffer, Deadline deadline) = 0;
    /// All of it, or an error; after an error the stream is of no more use.
    virtual Task<Result<>> write_all(std::span<std::byte const> bytes, Deadline deadline) = 0;
    /// Who is at the other end, for messages: an address or a certificate's name.
    [[nodiscard]] virtual std::string peer() const = 0;
};

/// Fills the whole buffer.
Task<Result<>> read_exactly(Stream& stream, std::span<std::byte> buffer, Deadline deadline);

/// A connected socket as a stream, without encryption.
std::unique_ptr<Stream> plain_stream(Loop& loop, Fd socket, std::string peer);

/// Listens on host:port ("" = any address, both families; port "0" = the kernel chooses). A name is
/// looked up by the system's resolver, which may block: only before the loop has anything to do.
Result<Fd> listen_tcp(std::string const& host, std::string const& port);
/// The port a listening socket got.
Result<int> local_port(int socket);
/// "192.0.2.1:1234" or "[2001:db8::1]:1234"
std::string peer_name(int socket);

Task<Result<Fd>> connect_unix(Loop& loop, std::string path, Deadline deadline);
/// Removes a stale socket file first; the new one has `mode`.
Result<Fd> listen_unix(std::string const& path, unsigned mode);

/// "host:port" or "[v6]:port" -> {host, port}; the port falls back to `default_port`.
Result<std::pair<std::string, std::string>> split_host_port(std::string const& text,
                                                            std::string const& default_port);

}  // namespace core
