// Nbd: one libnbd handle on the loop, NbdPool: several to one export. Used by the mirror and by
// tests.
//
// Invariant: libnbd's callbacks run with the handle's lock held, so they only mark a request done;
// every coroutine is resumed by the loop. A request whose Deadline passes is walked away from: it
// stays in libnbd with its buffer until it is answered or the connection dies, and never touches
// memory that was freed.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "core/fd.hpp"
#include "core/sync.hpp"
#include "storage/buffers.hpp"
#include "storage/extents.hpp"

struct nbd_handle;

namespace storage {

/// Where an NBD server listens. Either `unix_path`, or `host` and `port`.
struct NbdAddress {
    std::string unix_path;
    std::string host;
    std::string port;
    std::string psk_username;  ///< With psk_file: TLS-PSK is required, and nothing else is
                               ///< accepted.
    std::string psk_file;      ///< Lines "username:hexkey". Empty: plaintext.

    /// For messages: "unix:/path" or "host:port".
    [[nodiscard]] std::string text() const;
};

/// One connection to one export.
class Nbd {
public:
    /// What was negotiated and never changes.
    struct Traits {
        std::uint64_t size = 0;  ///< Bytes of the export.
        std::uint64_t request_bytes_max = 0;  ///< Of one read or write; longer ones are split.
        bool read_only = false;
        bool can_flush = false;
        bool can_trim = false;
        bool can_zero = false;
        bool can_fast_zero = false;
        bool can_multi_conn = false;
        bool tls = false;
    };

    /// Connects and negotiates. `contexts` are meta contexts that must be granted, e.g.
    /// "base:allocation", "qemu:dirty-bitmap:NAME": when one is not, the connection is refused.
    /// Fails with io or timed_out (no server there), nbd (refused: no such export, wrong key,
    /// plaintext where TLS is wanted), invalid.
    static core::Task<core::Result<std::unique_ptr<Nbd>>> connect(core::Loop& loop,
                                                                  NbdAddress address,
                                                                  std::string export_name,
                                                                  std::vector<std::string> contexts,
                                                                  core::Deadline deadline);
    /// After close() or abort() and their join; asserts it.
    ~Nbd();
    Nbd(Nbd const&) = delete;
    Nbd& operator=(Nbd const&) = delete;

    [[nodiscard]] Traits const& traits() const { return traits_; }
    [[nodiscard]] bool alive() const;
    [[nodiscard]] std::size_t in_flight() const { return in_flight_; }

    // All of them: `nbd` when the server answers with an error (Error::os has its errno), `closed`
    // when the connection is or becomes dead, timed_out and cancelled from the deadline (the
    // request then goes on).

    /// Fills the first `length` bytes of `buffer`.
    core::Task<core::Result<>> pread(Buffer buffer, std::size_t length, std::uint64_t offset,
                                     core::Deadline deadline);
    /// Writes `length` bytes of `buffer`, from byte `begin` of it, at `offset` of the export.
    core::Task<core::Result<>> pwrite(Buffer buffer, std::size_t begin, std::size_t length,
                                      std::uint64_t offset, core::Deadline deadline);
    /// WRITE_ZEROES, holes allowed. `length` <= limits::zero_request_bytes_max.
    core::Task<core::Result<>> zero(std::uint64_t offset, std::uint64_t length,
                                    core::Deadline deadline);
    core::Task<core::Result<>> trim(std::uint64_t offset, std::uint64_t length,
                                    core::Deadline deadline);
    /// Everything acknowledged before, on any connection to the export (can_multi_conn), is on the
    /// disk.
    core::Task<core::Result<>> flush(core::Deadline deadline);

    /// One run of equal status, as the server reported it. Bit 0 of a dirty bitmap: dirty. Bits of
    /// base:allocation: 1 hole, 2 zero.
    struct Status {
        std::uint64_t offset;
        std::uint64_t length;
        std::uint32_t flags;
    };
    /// What `context` says of [offset, offset + length), asked again until all of it is covered.
    core::Task<core::Result<std::vector<Status>>> block_status(std::string context,
                                                               std::uint64_t offset,
                                                               std::uint64_t length,
                                                               core::Deadline deadline);

    /// Says goodbye (NBD_CMD_DISC) when nothing is in flight, frees the handle, joins. Whatever is
    /// still in flight fails with closed. Never to be used on an export of a QEMU whose node may
    /// live in an iothread before that export was deleted: QEMU 7.2.14 to 7.2.22 abort then.
    core::Task<void> close();
    /// Sends the goodbye and does not wait for the server's end of it. close() must still follow.
    void say_goodbye();
    /// Cuts the connection at once; everything in flight fails with closed. close() must still
    /// follow. Later requests fail with "the connection ..." followed by `why`.
    void abort(std::string_view why = {});

private:
    struct Peer;
    struct Request;
    struct Call;

    Nbd(core::Loop& loop, nbd_handle* handle, std::shared_ptr<Peer const> peer);
    core::Result<> configure(NbdAddress const& address, std::vector<std::string> const& contexts);
    core::Task<core::Result<>> negotiate(core::Fd socket, core::Deadline deadline);
    core::Result<> learn(std::vector<std::string> const& contexts);
    void start_watching();
    core::Task<core::Result<std::shared_ptr<Request>>> submit(Call call, core::Deadline deadline);
    core::Task<core::Result<>> perform(Call call, core::Deadline deadline);
    core::Task<core::Result<>> perform_in_parts(Call call, core::Deadline deadline);
    core::Task<core::Result<>> transfer(Call call, core::Deadline deadline);
    std::int64_t issue(Call const& call, std::shared_ptr<Request> const& request);
    static core::Task<void> watch_readable(Nbd& self);
    static core::Task<void> watch_writable(Nbd& self);
    void called();
    core::Error library_error(core::Errc code, std::string what) const;

    core::Loop& loop_;
    nbd_handle* handle_;
    std::shared_ptr<Peer const> peer_;  ///< For messages; outlives this while requests are waited
                                        ///< for.
    Traits traits_;
    std::string why_closed_ = "is closed";
    std::size_t in_flight_ = 0;
    core::Event wants_write_;  ///< libnbd has bytes that the socket did not take yet.
    core::Event quiet_;  ///< Nothing is in flight.
    core::Event ended_;  ///< The connection is closed or dead.
    core::Semaphore slots_;
    std::stop_source stop_;
    core::TaskGroup scope_;
};

/// Several connections to one export; each request goes to the one with the fewest in flight.
class NbdPool {
public:
    explicit NbdPool(core::Loop& loop) : loop_(loop) {}
    /// Opens the first connection, and `count - 1` more when the export allows several. When it
    /// fails, the connections that were opened stay open until close(): see Nbd::close.
    core::Task<core::Result<>> open(NbdAddress address, std::string export_name,
                                    std::vector<std::string> contexts, unsigned count,
                                    core::Deadline deadline);
    /// As many more of the same as make `count`; none when the export allows no more. They are used
    /// as soon as they are there.
    core::Task<core::Result<>> widen(NbdAddress address, std::string export_name,
                                     std::vector<std::string> contexts, unsigned count,
                                     core::Deadline deadline);
    /// The least loaded connection. A dead one is never chosen while another lives.
    [[nodiscard]] Nbd& least_loaded();
    [[nodiscard]] Nbd& first() { return *connections_.front(); }
    [[nodiscard]] Nbd::Traits const& traits() const { return connections_.front()->traits(); }
    [[nodiscard]] std::size_t size() const { return connections_.size(); }
    /// There are connections, and all are alive.
    [[nodiscard]] bool alive() const;
    core::Task<void> close();
    void say_goodbye();
    void abort(std::string_view why = {});

private:
    core::Loop& loop_;
    std::vector<std::unique_ptr<Nbd>> connections_;
    std::size_t next_ = 0;
};

}  // namespace storage
