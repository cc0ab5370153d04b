// The peers of the benchmarks that run a guest: QEMU's own ways to move it and its disk, driven
// event by event as a management layer would, without a pause of ours in the measured path.
#pragma once

#include <optional>

#include "tests/support/guest.hpp"

namespace bench {

/// Two plain QEMUs, the second waiting for the first. No sidecar.
struct Pair {
    lab::Lab net;
    lab::Guest guest;
    std::optional<lab::Daemon> from;
    std::optional<lab::Daemon> to;

    /// Returns once the guest is alive on host a. `shared`: the disk lies where both hosts reach
    /// it. `incoming`: appended to the destination's command line. `link_mbit`: as for lab::Lab.
    Pair(lab::GuestOptions const& options, bool shared, lab::Argv const& incoming,
         std::uint64_t link_mbit = 0);
    void start_ram(lab::Qmp& source, lab::Qmp& destination) const;

private:
    void make_empty_disk() const;
};

/// Where the destination's disk can be written once serve_disk() has exported it.
std::string disk_uri(Pair const& pair);
/// Has the destination export its disk for writing, by NBD.
void serve_disk(lab::Qmp& destination);
/// Starts blockdev-mirror of the disk, job "mirror", to an NBD export of the destination. QEMU's
/// own `copy_mode`: "background" or "write-blocking".
void start_mirror(Pair const& pair, lab::Qmp& source, lab::Qmp& destination,
                  std::string const& copy_mode);
/// Waits until that job has copied the disk and only follows the guest.
void wait_mirror_ready(lab::Qmp& source);
/// Ends it: from then on the destination's disk is what the source's was in that moment.
void end_replication(lab::Qmp& source);

/// What the switchover benchmark's guest is, with that QEMU and a disk of that format.
lab::GuestOptions guest_options(std::string const& qemu, std::string const& format = "raw");

/// From the source's STOP to the destination's RESUME, by QEMU's own timestamps, in milliseconds of
/// the wall's clock.
struct Standstill {
    double stopped_ms = 0;
    double resumed_ms = 0;
};
Standstill standstill(lab::Qmp& source, lab::Qmp& destination,
                      lab::Milliseconds limit = lab::Qmp::reply_limit);
/// How long that was.
double downtime_ms(lab::Qmp& source, lab::Qmp& destination);

/// Throws unless every byte of its disk arrived: where the guest writes it looks itself, the rest
/// is compared with the image it left.
void must_have_arrived(lab::Guest const& guest, lab::fs::path const& left,
                       lab::fs::path const& arrived);

/// Waits until the guest has written for a while, so that its page cache and bitmaps are warm.
void warm_up(lab::Guest const& guest);

/// blockdev-mirror to an NBD export of the destination, then migrate with pause-before-switchover,
/// the mirror ended in between: what libvirt does. One migration; its downtime.
double mirror_and_migrate(lab::GuestOptions const& guest);

/// The same between two that are there: the guest of `pair`, which is warm. With `announce` the
/// destination is asked to announce itself as soon as it runs, beside the announcements that it
/// makes by itself.
Standstill mirror_and_migrate(Pair const& pair, lab::Qmp& source, lab::Qmp& destination,
                              bool announce);

/// migrate alone: the disk lies where both hosts reach it and is idle. One migration; its downtime.
double ram_only(lab::GuestOptions guest);

}  // namespace bench
