#include "sidecar/migration/hash_request.hpp"

#include "storage/limits.hpp"

namespace sidecar {

using core::Errc;
using core::fail;
using core::Json;
using core::Result;

Json HashRequest::to_json() const {
    Json numbers = Json::array();
    for (auto const& range : ranges) numbers.add(range.offset).add(range.length);
    return Json::object({{"disk", static_cast<std::uint64_t>(disk)}, {"ranges", numbers}});
}

Result<HashRequest> HashRequest::from_json(Json const& wire) {
    HashRequest made;
    TRY(auto const disk, wire.integer("disk"));
    auto const numbers = wire["ranges"];
    if (disk < 0 || static_cast<std::uint64_t>(disk) >= storage::limits::disks_max) {
        return fail(Errc::protocol, "disk {} is none", disk);
    }
    made.disk = static_cast<std::size_t>(disk);
    if (numbers.size() % 2 != 0 || numbers.size() > 2 * storage::limits::hash_request_ranges_max) {
        return fail(Errc::protocol, "{} numbers are no ranges of a disk", numbers.size());
    }
    auto const list = numbers.elements();
    for (std::size_t i = 0; i + 1 < list.size(); i += 2) {
        auto const offset = list[i].integer_or(-1);
        auto const length = list[i + 1].integer_or(-1);
        if (offset < 0 || length <= 0) {
            return fail(Errc::protocol, "a range to hash has no offset or no length");
        }
        made.ranges.push_back(
            {static_cast<std::uint64_t>(offset), static_cast<std::uint64_t>(length), false});
    }
    if (made.ranges.empty()) return fail(Errc::protocol, "there is no range to hash");
    return made;
}

}  // namespace sidecar
