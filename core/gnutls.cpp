#include "core/gnutls.hpp"

#include <gnutls/gnutls.h>

#include <cstdlib>

/// GnuTLS looks for this C function when it is loaded.
extern "C" {
GNUTLS_SKIP_GLOBAL_INIT
}

namespace core {

void use_gnutls() {
    static bool const ready = gnutls_global_init() >= 0;
    if (!ready) std::abort();
}

}  // namespace core
