// The peers of the benchmarks that run a guest: QEMU's own ways to move it and its disk, driven by
// events as a management layer would, without a delay of ours in the measured path.
#pragma once

#include <functional>
#include <optional>

#include "tests/support/guest.hpp"

namespace bench {

/// Two plain QEMUs without a sidecar; the second waits for the first.
struct Pair {
    lab::Lab net;
    lab::Guest guest;
    std::optional<lab::Daemon> from;
    std::optional<lab::Daemon> to;

    /// Returns once the guest is alive on host a. `shared`: both hosts can access the disk.
    /// `incoming` is appended to the destination's command line. `link_mbit`: as for lab::Lab.
    /// `furnish` runs before all else on the hosts.
    Pair(lab::GuestOptions const& options, bool shared, lab::Argv const& incoming,
         std::uint64_t link_mbit = 0, std::function<void(lab::Lab const&)> const& furnish = {});
    void start_ram(lab::Qmp& source, lab::Qmp& destination) const;

private:
    void make_empty_disk() const;
};

/// The URI of the destination's disk for writing, after serve_disk().
std::string disk_uri(Pair const& pair);
/// Has the destination export its disk for writing, by NBD.
void serve_disk(lab::Qmp& destination);
/// Starts blockdev-mirror of the disk, job "mirror", to an NBD export of the destination.
/// `copy_mode` is QEMU's: "background" or "write-blocking".
void start_mirror(Pair const& pair, lab::Qmp& source, lab::Qmp& destination,
                  std::string const& copy_mode);
/// Waits until that job has copied the disk and only follows the guest's writes.
void wait_mirror_ready(lab::Qmp& source);
/// Ends the job: the destination's disk then holds the source's disk of that moment.
void end_replication(lab::Qmp& source);

/// The switchover benchmark's guest, with that QEMU and a disk of that format.
lab::GuestOptions guest_options(std::string const& qemu, std::string const& format = "raw");

/// From the source's STOP to the destination's RESUME, by QEMU's own timestamps, in milliseconds of
/// the wall clock.
struct Standstill {
    double stopped_ms = 0;
    double resumed_ms = 0;
};
Standstill standstill(lab::Qmp& source, lab::Qmp& destination,
                      lab::Milliseconds limit = lab::Qmp::reply_limit);
/// The length of that pause.
double downtime_ms(lab::Qmp& source, lab::Qmp& destination);

/// Throws unless every byte of the guest's disk arrived: the guest checks the part that it writes,
/// and the rest is compared with the image on the old host.
void must_have_arrived(lab::Guest const& guest, lab::fs::path const& left,
                       lab::fs::path const& arrived);

/// Waits until the guest has written for a while, so that its page cache and bitmaps are warm.
void warm_up(lab::Guest const& guest);

/// As libvirt does: blockdev-mirror to an NBD export of the destination, then migrate with
/// pause-before-switchover; the mirror is ended during that pause. One migration; returns its
/// downtime.
double mirror_and_migrate(lab::GuestOptions const& guest);

/// The same between two running QEMUs: the guest of `pair`, which is warm. With `announce` the
/// destination is asked to announce itself as soon as it runs, in addition to its own
/// announcements.
Standstill mirror_and_migrate(Pair const& pair, lab::Qmp& source, lab::Qmp& destination,
                              bool announce);

/// Only `migrate`: both hosts can access the disk, and it is idle. One migration; returns its
/// downtime.
double ram_only(lab::GuestOptions guest);

}  // namespace bench
