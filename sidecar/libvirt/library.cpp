#include "sidecar/libvirt/library.hpp"

#include "core/library.hpp"

namespace sidecar::libvirt {

core::Result<> load_libvirt() {
    static bool loaded = false;
    if (loaded) return {};
    TRY(auto const library, core::Library::load({"libvirt.so.0"}, "libvirt0"));
    TRY(auto const for_qemu, core::Library::load({"libvirt-qemu.so.0"}, "libvirt0"));
#define BIND(name) TRY_VOID(library.bind(name, #name));
    LIBVIRT_FUNCTIONS(BIND)
#undef BIND
#define BIND(name) TRY_VOID(for_qemu.bind(name, #name));
    LIBVIRT_QEMU_FUNCTIONS(BIND)
#undef BIND
    // It prints each error otherwise; ours are in the results.
    virSetErrorFunc(nullptr, [](void*, virErrorPtr) {});
    loaded = true;
    return {};
}

}  // namespace sidecar::libvirt
