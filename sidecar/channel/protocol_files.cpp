#include "sidecar/channel/protocol_files.hpp"

#include "sidecar/channel/wire_values.hpp"

namespace sidecar::protocol {

using namespace values;

Json SendFile::to_json() const {
    return Json::object(
        {{"file", static_cast<std::uint64_t>(file)}, {"offset", offset}, {"sha256", sha256}});
}

Result<SendFile> SendFile::from_json(Json const& json, std::vector<std::uint8_t> bytes) {
    SendFile made;
    TRY(auto const file, within(json, "file", 0, limits::guest_files_max - 1));
    TRY(made.offset, count(json, "offset"));
    TRY(made.sha256, words(json, "sha256", name_bytes_max));
    made.file = static_cast<std::size_t>(file);
    made.bytes = std::move(bytes);
    if (made.sha256.empty() == made.bytes.empty())
        return fail(Errc::protocol, "a piece of a file has no bytes, or its end has some");
    return made;
}

}  // namespace sidecar::protocol
