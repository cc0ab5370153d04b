#include "storage/destination_image.hpp"

#include "storage/block_device.hpp"

namespace storage {

using core::Errc;
using core::fail;
using core::Json;
using core::Result;

namespace {

constexpr std::string_view device_word = "device";

}  // namespace

Json DestinationImage::to_json() const {
    auto json = file.to_json();
    if (kind == Kind::device) {
        json.set("kind", device_word).set("was_read_only", was_read_only);
    }
    return json;
}

Result<DestinationImage> DestinationImage::from_json(Json const& json) {
    DestinationImage image;
    TRY(image.file, OwnedFile::from_json(json));
    auto const kind = json["kind"].text_or("");
    if (kind.empty()) return image;
    if (kind != device_word)
        return fail(Errc::invalid, "`{}` is no kind of an image that this release knows", kind);
    image.kind = Kind::device;
    image.was_read_only = json["was_read_only"].boolean_or(false);
    return image;
}

Result<DestinationImage> destination_image(std::string path) {
    DestinationImage image{.file = {std::move(path)}};
    if (!is_block_device(image.path())) return image;
    image.kind = DestinationImage::Kind::device;
    TRY(auto const status, look_at_device(image.path()));
    image.was_read_only = status.read_only;
    return image;
}

Result<bool> give_up(DestinationImage const& image, std::string const& id) {
    if (image.kind == DestinationImage::Kind::file) return remove_owned(image.file, id);
    if (image.was_read_only && is_block_device(image.path())) {
        TRY_VOID(set_device_read_only(image.path(), true));
    }
    return true;
}

}  // namespace storage
