#include "core/library.hpp"

#include <dlfcn.h>

namespace core {

Result<Library> Library::load(std::initializer_list<char const*> files, char const* package) {
    std::string why;
    for (auto const* file : files) {
        if (void* const handle = dlopen(file, RTLD_NOW | RTLD_LOCAL)) return Library(handle, file);
        why += (why.empty() ? "" : "; ") + std::string(dlerror());
    }
    return fail(Errc::refused, "a library is missing: install {} ({})", package, why);
}

Result<void*> Library::find(char const* name) const {
    if (void* const address = dlsym(handle_, name)) return address;
    return fail(Errc::refused, "{} has no {}: it is too old", file_, name);
}

}  // namespace core
