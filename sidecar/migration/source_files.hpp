// SourceFiles: the files that the guest only reads, at the source: which there are, and their
// copies to a destination that has none. They do not change, so each is sent once, while the
// destination prepares. Used by SourceMigration.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "core/fd.hpp"
#include "core/sync.hpp"
#include "sidecar/migration/source_context.hpp"

namespace sidecar {

class SourceFiles {
public:
    template <class T = void>
    using Outcome = core::Task<core::Result<T>>;

    /// Bytes of the files that are copied.
    struct Progress {
        std::uint64_t total_bytes = 0;  ///< 0: none is copied.
        std::uint64_t done_bytes = 0;
    };

    explicit SourceFiles(SourceContext context) : context_(context) {}

    /// Puts them into the description, if the destination's release knows them. It is connected.
    [[nodiscard]] core::Result<> find();
    /// The destination's answer, one for each: the others are not copied. Fails with protocol.
    [[nodiscard]] core::Result<> note_missing(std::vector<bool> const& missing);
    /// Sends `prepare`, and the files while it is not answered. Fails with refused if a file
    /// changes meanwhile, with the destination's error, or with that of reading.
    Outcome<protocol::Endpoints> send_while_preparing(protocol::Prepare request);
    [[nodiscard]] Progress progress() const;
    /// For the report: the files that were copied.
    [[nodiscard]] core::Json report() const;

private:
    Outcome<> send_all(core::LinkedStop& stop);
    Outcome<> send(std::size_t index, core::Deadline deadline);
    Outcome<> send_piece(protocol::SendFile piece, core::Deadline deadline);
    core::Task<void> keep_rate(core::Clock::time_point begun, std::uint64_t sent_bytes,
                               core::Deadline deadline) const;

    SourceContext context_;
    std::uint64_t done_bytes_ = 0;
};

}  // namespace sidecar
