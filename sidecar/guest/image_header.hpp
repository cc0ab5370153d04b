// What the header of an image says about other files, which QEMU would open by their names. Used
// for images of guests of other hosts, whose contents another guest may have written. Reads a few
// bytes of the file; asks no QEMU.
#pragma once

#include <string>

#include "core/fd.hpp"
#include "qmp/launch_policy.hpp"

namespace sidecar {

struct ImageHeader {
    std::string backing_file;  ///< Of qcow2, as the image names it; empty: none.
    /// A format, or a feature of qcow2, that names files which are not looked up here.
    bool names_other_files = false;
};

/// `file`: opened in any way, also with O_PATH. `format`: how QEMU will read it; none and raw:
/// nothing is looked at. Fails with io.
core::Result<ImageHeader> read_image_header(core::Fd const& file, qmp::ImageFormat format);

}  // namespace sidecar
