// notify_ready(): tells systemd, where it started us as Type=notify, that we are ready. Used by the
// daemons.
#pragma once

namespace core {

/// sd_notify(3) with READY=1; nothing where NOTIFY_SOCKET is not set. libsystemd is loaded only
/// then: with the libraries that it needs it takes a megabyte of memory in each sidecar.
void notify_ready();

}  // namespace core
