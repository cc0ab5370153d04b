// What the cases under real KVM share. They run in the machine of scripts/kvm-ring, whose
// processors are emulated: it shows that something works there, and nothing about its speed.
#pragma once

#include <string>

#include "tests/support/scene.hpp"

namespace kvm {

/// A guest under real KVM that is small enough for that machine. RAM is a multiple of 256 KiB,
/// which does not work under TCG (tests/support/guest.cpp).
lab::GuestOptions guest();

/// For a QEMU that ended: the ends of what the programs of both hosts printed, and of the kernel's
/// log, which is lost when this machine ends.
std::string last_words(lab::Lab const& lab);

/// `sidecar probe` from the client to the guest, in both families: as many datagrams as the machine
/// carries without loss while no guest moves.
class Probe {
public:
    explicit Probe(lab::Lab const& lab);
    /// Ends it; sessions must have been kept. Returns how many datagrams were lost.
    std::int64_t finish();

private:
    lab::Daemon client_;
};

}  // namespace kvm
