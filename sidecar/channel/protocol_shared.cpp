#include "sidecar/channel/protocol_shared.hpp"

#include "sidecar/channel/wire_values.hpp"

namespace sidecar::protocol {

using namespace values;

Json FindSharedAnswer::to_json() const {
    Json answers = Json::array();
    for (bool const one : shared) answers.add(Json(one));
    return Json::object({{"shared", answers}});
}

Result<FindSharedAnswer> FindSharedAnswer::from_json(Json const& json) {
    FindSharedAnswer made;
    TRY(auto const answers, list(json, "shared", exports_max));
    for (auto const& one : answers) made.shared.push_back(one.boolean_or(false));
    return made;
}

Json SharedImage::to_json() const { return Json::object({{"path", path}, {"inode", inode}}); }

Result<SharedImage> SharedImage::from_json(Json const& json) {
    SharedImage made;
    TRY(made.path, words(json, "path", words_bytes_max));
    if (!made.path.starts_with('/')) {
        return fail(Errc::protocol, "the path {} of an image is not absolute", made.path);
    }
    TRY(made.inode, words(json, "inode", name_bytes_max));
    return made;
}

Json FindShared::to_json() const {
    return Json::object({{"secret", secret}, {"images", array_of(images)}});
}

Result<FindShared> FindShared::from_json(Json const& json) {
    FindShared made;
    TRY(made.secret, words(json, "secret", name_bytes_max));
    TRY(made.images, parsed<SharedImage>(json, "images", exports_max));
    return made;
}

}  // namespace sidecar::protocol
