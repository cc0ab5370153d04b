// The peers of the switchover benchmark: QEMU's own ways to move the same guest, driven event by
// event as a management layer would, without a pause of ours in the measured path.
#pragma once

#include "tests/support/guest.hpp"

namespace bench {

/// What the benchmark's guest is, with that QEMU.
lab::GuestOptions guest_options(std::string const& qemu);

/// Milliseconds from the source's STOP to the destination's RESUME, by QEMU's own timestamps.
double blackout_ms(lab::Qmp& source, lab::Qmp& destination);

/// Waits until the guest has written for a while, so that its page cache and bitmaps are warm.
void warm_up(lab::Guest const& guest);

/// blockdev-mirror to an NBD export of the destination, then migrate with pause-before-switchover,
/// the mirror ended in between: what libvirt does. One migration; its blackout.
double mirror_and_migrate(std::string const& qemu);

/// migrate alone: the disk lies where both hosts reach it and is idle. One migration; its blackout.
double ram_only(std::string const& qemu);

}  // namespace bench
