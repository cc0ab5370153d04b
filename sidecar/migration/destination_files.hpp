// DestinationFiles: the files that the guest only reads and that this host has not. The source
// sends them while the destination prepares, before QEMU starts, which opens them at once. Used by
// DestinationMigration. Invariant: as with images, the record names a file before it is created, a
// file that exists is not touched, and one that is incomplete has not its name (storage/
// owned_file.hpp).
#pragma once

#include <stop_token>
#include <vector>

#include "core/fd.hpp"
#include "core/sync.hpp"
#include "sidecar/channel/protocol.hpp"
#include "sidecar/migration/destination_context.hpp"
#include "sidecar/migration/incoming_record.hpp"
#include "storage/destination_image.hpp"

namespace sidecar {

class DestinationFiles {
public:
    template <class T = void>
    using Outcome = core::Task<core::Result<T>>;

    explicit DestinationFiles(DestinationContext context)
        : context_(context), created_(context.loop), changed_(context.loop) {}

    /// Those that create() will create.
    void name();
    /// Creates them under other names, empty. Fails with io.
    Outcome<> create();
    /// Waits until all are here. Fails with closed after give_up(), with timed_out if the source
    /// sends nothing, with cancelled by `stop`.
    Outcome<> receive(std::stop_token stop);
    /// Gives them their names. One that another migration has brought meanwhile is used if it is
    /// the same. Their identity must be recorded before. Fails with refused, or with io.
    Outcome<> publish();
    /// One piece. Fails with refused if none is expected, or if the end does not fit the pieces;
    /// with io.
    Outcome<protocol::SendFileAnswer> take(protocol::SendFile piece);
    /// The source wants no more of them: receive() ends.
    void give_up();
    /// Removes those that this migration created. One that a running guest uses stays. Fails with
    /// io.
    [[nodiscard]] core::Result<> remove();

    /// For the record of this migration.
    void add_to(IncomingRecord& record) const;

private:
    struct Incoming {
        std::size_t index = 0;  ///< In the description.
        storage::DestinationImage image;
        core::Fd file;
        std::size_t writes = 0;  ///< Under way.
        bool ended = false;  ///< No more pieces are taken.
        std::string sha256 = {};  ///< Once it is complete.
    };
    [[nodiscard]] bool complete() const;
    [[nodiscard]] std::string unfinished(Incoming const& one) const;
    Outcome<> write(Incoming& one, protocol::SendFile const& piece);
    Outcome<> finish(Incoming& one, std::string sha256);
    Outcome<> publish_one(Incoming& one);

    DestinationContext context_;
    std::vector<Incoming> incoming_;
    core::Event created_;
    core::Event changed_;  ///< One is complete, or they are given up.
    bool given_up_ = false;
    std::size_t busy_ = 0;  ///< Pieces that are written, and files that are read again.
    core::Clock::time_point heard_{};
};

}  // namespace sidecar
