#include "sidecar/registry/curl.hpp"

#include "core/library.hpp"

namespace sidecar::registry {

core::Result<> load_curl() {
    static bool loaded = false;
    if (loaded) return {};
    // Debian has it with one of three TLS libraries; each will do.
    TRY(auto const library,
        core::Library::load({"libcurl-gnutls.so.4", "libcurl.so.4", "libcurl-nss.so.4"},
                            "libcurl3-gnutls or libcurl4"));
#define BIND(name) TRY_VOID(library.bind(name, #name));
    CURL_FUNCTIONS(BIND)
#undef BIND
    auto const ready = curl_global_init(CURL_GLOBAL_DEFAULT);
    if (ready != CURLE_OK) {
        return core::fail(core::Errc::io, "libcurl: {}", curl_easy_strerror(ready));
    }
    loaded = true;
    return {};
}

}  // namespace sidecar::registry
