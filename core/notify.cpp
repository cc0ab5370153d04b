#include "core/notify.hpp"

#include <dlfcn.h>
#include <systemd/sd-daemon.h>

#include <cstdlib>
#include <cstring>

#include "core/log.hpp"

namespace core {

void notify_ready() {
    if (std::getenv("NOTIFY_SOCKET") == nullptr) return;
    void* const library = dlopen("libsystemd.so.0", RTLD_NOW | RTLD_LOCAL);
    auto const notify = library == nullptr
                            ? nullptr
                            : reinterpret_cast<decltype(&sd_notify)>(dlsym(library, "sd_notify"));
    if (notify == nullptr) {
        log::warning("systemd could not be notified of readiness: {}", dlerror());
        return;
    }
    int const told = notify(0, "READY=1");
    if (told < 0) log::warning("systemd could not be notified of readiness: {}", strerror(-told));
}

}  // namespace core
