// GnuTLS is made ready when it is first needed, not when the program is loaded: a sidecar that
// waits for a migration does not need it, and it would take 0.7 MiB of memory. Code that
// creates a session, credentials or keys, or has a library do so (libnbd), calls this first.
#pragma once

namespace core {

/// May be repeated. Ends the process if GnuTLS cannot be used at all (no source of random numbers).
void use_gnutls();

}  // namespace core
