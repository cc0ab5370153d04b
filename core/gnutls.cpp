#include "core/gnutls.hpp"

#include <gnutls/gnutls.h>

#include <cstdlib>

/// Found by GnuTLS when it is loaded, by its plain name.
extern "C" {
GNUTLS_SKIP_GLOBAL_INIT
}

namespace core {

void use_gnutls() {
    static bool const ready = gnutls_global_init() >= 0;
    if (!ready) std::abort();
}

}  // namespace core
