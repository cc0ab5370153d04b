// libvirt, loaded when it is first needed (core/library.hpp): a host without it needs nothing of
// it. In this namespace its functions are pointers of their own names, so that they are called as
// always. Invariant: only processes that do nothing else load it, because its calls block and it
// has threads.
#pragma once

#include <libvirt/libvirt-qemu.h>
#include <libvirt/libvirt.h>
#include <libvirt/virterror.h>

#include "core/result.hpp"

namespace sidecar::libvirt {

/// Every function of libvirt that this folder calls.
#define LIBVIRT_FUNCTIONS(X)             \
    X(virConnectClose)                   \
    X(virConnectIsAlive)                 \
    X(virConnectOpen)                    \
    X(virConnectRegisterCloseCallback)   \
    X(virConnectUnregisterCloseCallback) \
    X(virConnectSetKeepAlive)            \
    X(virDomainDefineXMLFlags)           \
    X(virDomainFree)                     \
    X(virDomainGetUUIDString)            \
    X(virDomainGetXMLDesc)               \
    X(virDomainIsActive)                 \
    X(virDomainLookupByName)             \
    X(virDomainLookupByUUIDString)       \
    X(virEventAddTimeout)                \
    X(virEventRegisterDefaultImpl)       \
    X(virEventRunDefaultImpl)            \
    X(virGetLastError)                   \
    X(virGetLastErrorMessage)            \
    X(virSetErrorFunc)
/// Those of its library for QEMU.
#define LIBVIRT_QEMU_FUNCTIONS(X)                 \
    X(virConnectDomainQemuMonitorEventDeregister) \
    X(virConnectDomainQemuMonitorEventRegister)   \
    X(virDomainQemuMonitorCommandWithFiles)

#define DECLARE(name) inline decltype(&::name) name = nullptr;
LIBVIRT_FUNCTIONS(DECLARE)
LIBVIRT_QEMU_FUNCTIONS(DECLARE)
#undef DECLARE

/// Loads it. Call it before any of these; a second call does nothing. Fails with refused if it is
/// missing, or older than 8.2.
core::Result<> load_libvirt();

}  // namespace sidecar::libvirt
