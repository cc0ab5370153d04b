// How a file that the guest only reads travels to a host that has none at its place: in pieces,
// while `prepare` is not answered (sidecar/guest/guest_files.hpp).
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "core/json.hpp"
#include "core/result.hpp"
#include "sidecar/channel/verb.hpp"

namespace sidecar::protocol {

using core::Json;
using core::Result;

/// One for each piece that was written.
struct SendFileAnswer {
    [[nodiscard]] Json to_json() const { return Json::object(); }
    static Result<SendFileAnswer> from_json(Json const&) { return SendFileAnswer{}; }
};

/// A piece of a file, as bytes after the JSON; or its end, without bytes. Only if the destination
/// has Feature::guest_files.
struct SendFile {
    static constexpr Verb verb = Verb::send_file;
    using Answer = SendFileAnswer;
    std::size_t file = 0;  ///< Index in the description.
    std::uint64_t offset = 0;
    std::string sha256 = {};  ///< Of the whole file, at its end; empty: more follows.
    std::vector<std::uint8_t> bytes = {};
    [[nodiscard]] Json to_json() const;
    static Result<SendFile> from_json(Json const& json, std::vector<std::uint8_t> bytes);
};

}  // namespace sidecar::protocol
