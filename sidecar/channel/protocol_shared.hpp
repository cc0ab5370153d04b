// What a source asks about the images of a guest's disks before anything is touched: which of them
// the destination sees too (storage/shared_storage.hpp).
#pragma once

#include <string>
#include <vector>

#include "core/json.hpp"
#include "core/result.hpp"
#include "sidecar/channel/verb.hpp"

namespace sidecar::protocol {

using core::Json;
using core::Result;

struct FindSharedAnswer {
    std::vector<bool> shared;  ///< One for each image.
    [[nodiscard]] Json to_json() const;
    static Result<FindSharedAnswer> from_json(Json const& json);
};

struct SharedImage {
    std::string path;  ///< At the source, absolute.
    std::string inode;  ///< In decimal.
    [[nodiscard]] Json to_json() const;
    static Result<SharedImage> from_json(Json const& json);
};

/// Only if the destination has Feature::shared_storage. The source's marks are there until the
/// answer.
struct FindShared {
    static constexpr Verb verb = Verb::find_shared;
    using Answer = FindSharedAnswer;
    std::string secret;  ///< Of the marks.
    std::vector<SharedImage> images;
    [[nodiscard]] Json to_json() const;
    static Result<FindShared> from_json(Json const& json);
};

}  // namespace sidecar::protocol
