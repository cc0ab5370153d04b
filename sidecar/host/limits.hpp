// Every wait, queue and size of the program, with its unit and the reason for it.
#pragma once

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>

#include "storage/limits.hpp"

namespace sidecar::limits {

using std::chrono::milliseconds;
using std::chrono::seconds;

/// One message between sidecars, or on a control socket. A command line with 100 disks is 50 KiB.
constexpr std::size_t message_bytes_max = 1024 * 1024;
/// Answers not yet read by a slow reader of progress; above it progress lines are dropped, never
/// the end.
constexpr std::size_t queued_messages_max = 1024;
/// Heartbeats on the peer channel, and after how long a silence the peer counts as lost: a host
/// whose disk makes an fsync wait for seconds is not lost. While the guest is stopped it is
/// heartbeat_silence_paused().
constexpr milliseconds heartbeat_interval{250};
constexpr milliseconds heartbeat_silence{10000};
/// How far the source's sidecar goes behind the guest, in nice values, while it only copies disks.
/// 10 is a tenth of a guest that wants a whole core; 19 would be a hundredth, and a full host could
/// not be emptied any more.
constexpr int copy_nice_steps = 10;
/// TCP and TLS set-up with the destination.
constexpr seconds connect_timeout{10};
/// One QMP command that changes nothing slow.
constexpr seconds qmp_timeout{10};
/// How often a migration looks whether QEMU still answers; a query takes it some 0.1 ms.
constexpr seconds qmp_look_interval{2};
/// Reconnecting to a lost monitor fails for so long: then the migration is given up. A QEMU whose
/// main loop waits for a disk may be silent for a few seconds.
constexpr seconds qmp_silence_max{10};
/// The caller of `migrate` waits no longer than this for a rollback; the sidecar goes on with it.
constexpr seconds rollback_patience{60};
/// The destination's answer to `check`: it starts QEMU's binary to ask for its machine types.
constexpr seconds check_timeout{30};
/// Destination: creating disks and starting QEMU.
constexpr seconds prepare_timeout{60};
/// How often the copying phase looks whether the guest has got or lost devices or images.
constexpr seconds guest_look_interval{2};
/// --downtime-limit: the pause of a migration that does not commit is never longer (I3). The least
/// is what a host needs to react at all; a minute would be no live migration.
constexpr int downtime_limit_default_ms = 1000;
constexpr int downtime_limit_min_ms = 20;
constexpr int downtime_limit_max_ms = 60000;
/// The part of it, in percent, that the last delta of the disks and of RAM may take together by
/// prediction. The rest is for what cannot be predicted: device state, the records, a busy host.
/// (Guests under TCG on a busy host of two cores have stood still for 469 ms of 300 planned.)
constexpr int downtime_planned_percent = 30;
/// The part of what is planned, in percent, that the disks leave to RAM at least.
constexpr int downtime_ram_percent_min = 10;
[[nodiscard]] constexpr milliseconds downtime_planned(milliseconds downtime_limit) {
    return downtime_limit * downtime_planned_percent / 100;
}
/// What RAM may take of the pause in any case. QEMU counts in whole milliseconds, and with 0 would
/// trust its estimate of what is dirty.
[[nodiscard]] constexpr milliseconds downtime_ram_min(milliseconds downtime_limit) {
    return std::max(milliseconds{1},
                    downtime_planned(downtime_limit) * downtime_ram_percent_min / 100);
}
/// What the disks may take of the pause.
[[nodiscard]] constexpr milliseconds downtime_disks(milliseconds downtime_limit) {
    return downtime_planned(downtime_limit) - downtime_ram_min(downtime_limit);
}
/// The peer is lost after so long a silence while the guest is stopped: early enough to resume the
/// guest within the limit, and not before three heartbeats were missed.
[[nodiscard]] constexpr milliseconds heartbeat_silence_paused(milliseconds downtime_limit) {
    return std::clamp(downtime_limit * 3 / 4, 3 * heartbeat_interval, heartbeat_silence);
}
/// A step of the pause ends so long after the limit: the limit itself ends the pause, and says so.
constexpr milliseconds downtime_step_margin{100};
/// The watchdog kills its sidecar so long after the limit, which the sidecar itself keeps: only one
/// that hangs gets there.
constexpr milliseconds watchdog_margin{500};
/// The frames that the destination caught are asked for so long in a rollback. The guest is resumed
/// beside it.
constexpr milliseconds return_frames_timeout{375};
/// --converge-limit: RAM pre-copy until STOP. A guest that dirties RAM faster than the link never
/// gets there. The least is some passes over a small guest.
constexpr seconds converge_limit_default{600};
constexpr seconds converge_limit_min{10};
constexpr seconds converge_limit_max{86400};
/// --bandwidth and its parts, bytes per second: far above any link, far below an overflow.
constexpr std::int64_t bandwidth_max = 1'000'000'000'000'000;
/// So often an EVPN fabric lets a MAC address move within so long (RFC 7432, 15.1).
constexpr std::ptrdiff_t mac_moves_max = 5;
constexpr seconds mac_moves_window{180};
/// Other VTEPs that one migration tells where the guest is. Each is a TLS session of the source.
constexpr std::size_t vteps_max = 64;
/// A VTEP's answer at STOP: a few netlink messages there. Then it is told again.
constexpr milliseconds vtep_answer_timeout{1000};
/// How long the source goes on telling a VTEP that does not answer, and catching what it sends to
/// the guest's old place: a reconnect, and one that loses its first packets.
constexpr seconds vtep_patience{10};
/// One try to get the answer to COMMIT. The next try follows when the peer is back.
constexpr milliseconds commit_timeout{5000};
/// In doubt for longer than this: whoever asked for the migration is told, and an operator is
/// needed.
constexpr seconds doubt_patience{10};
/// An interrupted `migrate` that came too late to cancel waits so long for the outcome: the answer
/// to COMMIT, and what the source has to tidy up.
constexpr seconds outcome_patience{60};
/// Undoing one thing: fresh for each, and not stopped by a cancel.
constexpr seconds rollback_timeout{15};
/// How long the undoing waits for a destination that cannot be reached, once the guest runs on the
/// source: longer than a reconnect takes, and short for somebody who waits for the command to end.
constexpr seconds abort_patience{5};
/// Before an action that just failed is tried again; doubles up to the second.
constexpr milliseconds retry_pause_min{50};
constexpr milliseconds retry_pause_max{2000};
/// How often the destination is asked for one hash, when the link is cut in between.
constexpr int hash_tries_max = 3;
/// How long a lost peer is waited for before RAM flows: the default of --link-timeout.
constexpr seconds peer_patience{30};
constexpr int link_timeout_min_s = 1;
constexpr int link_timeout_most_s = 3600;
/// A copy whose destination was not to be reached for so long waits for `migrate --resume` no
/// longer than this; then it is undone. Its blocks stay dirty meanwhile, and the destination's
/// disks take their room.
constexpr seconds suspended_patience{600};
/// The destination gives up (ABORTED) when the source has been silent this long before COMMIT.
constexpr seconds destination_patience{60};
/// The same while only disks are copied: the source may be waiting for `migrate --resume`.
constexpr seconds destination_patience_copying = suspended_patience + destination_patience;
/// How often a QEMU that dies while the disks are copied into it is started again.
constexpr unsigned qemu_restarts_max = 3;
/// What one step of the throttle takes off what a disk may write, in percent; small, because a
/// guest is to be slowed no more than its migration needs.
constexpr int throttle_step_percent = 25;
/// No disk is slowed below this part of what it wrote, in percent, and below this many bytes per
/// second: a guest that still does not converge then is not moved.
constexpr int throttle_floor_percent = 10;
constexpr std::uint64_t throttle_bytes_per_second_min = 64 * 1024;
/// Steps of the plan that the report tells; later ones are not told.
constexpr std::size_t plan_steps_max = 64;
/// Bases of one disk, and images in its chain: far more than anybody stacks.
constexpr std::size_t bases_max = 64;
constexpr std::size_t layers_max = 256;
/// A base is hashed on both hosts: 10 TB at 150 MB/s take so long.
constexpr std::chrono::hours base_hash_timeout{20};
/// The destination answers a question for a hash after so long at the latest, with how far it is.
constexpr seconds base_answer{3};
/// After how long without a byte more the other host's hash counts as stuck.
constexpr seconds base_patience{60};
/// Bytes of a part of a base that is asked for to find what differs, and of the block that is then
/// named: one request takes well below a second.
constexpr std::size_t base_part_bytes_max = 64 * 1024 * 1024;
constexpr std::size_t base_block_bytes = 4096;
/// Bases that a destination hashes or has hashed for one source.
constexpr std::size_t base_hashes_max = 64;
/// The destination of a replication writes the blocks of one round into the images before the next
/// begins: as long as its disk takes for all of a large one.
constexpr std::chrono::hours fold_timeout{1};
/// Rounds of a replication: as often as an fsync and two starts of a process are no burden, and at
/// least once a day.
constexpr seconds replicate_every_min{1};
constexpr seconds replicate_every_max{86400};
/// Frames in one message between sidecars, in bytes. They stay in the processor's cache while they
/// become a message and frames again, and the destination begins with the first while the source
/// makes the next: COMMIT to RESUME took half as long as with 512 KiB.
constexpr std::size_t frames_bytes_max = 64 * 1024;
/// Those that a rollback asks for cost a round trip each time: as base64 they still fit
/// message_bytes_max.
constexpr std::size_t frames_given_back_bytes_max = 512 * 1024;
/// How long after the network was fired, and two round trips, the last frame that was sent to the
/// old place may arrive there: what a busy bridge on the way holds it.
constexpr milliseconds arrival_margin{5};
/// How long the guest's old place must have been silent, and how long it is listened to at most:
/// what is on its way through bridges and over a long line comes within that.
constexpr milliseconds straggler_silence{200};
constexpr seconds straggler_patience{5};
/// What QEMU says of a queue, in the pause and beside its other work: two commands of 0.2 ms each.
constexpr milliseconds queue_answer{200};
/// How long a destination that owns the guest waits for frames the source said it had sent. They
/// are before COMMIT in the same stream, so this is for none.
constexpr milliseconds frames_patience{500};
/// How long a destination that is to be undone keeps its taps for them.
constexpr milliseconds give_back_patience{500};
/// Answers to `return_frames` that a rollback asks for at most: all that two NICs may have caught.
constexpr int give_back_answers_max = 256;
/// Reading and sending the tracked connections of a guest before STOP: 10,000 take some 100 ms.
constexpr seconds conntrack_patience{3};
/// Going through them once more while the guest stands still, where the kernel did not tell all.
constexpr milliseconds conntrack_pause_max{200};
/// Of connections that changed meanwhile, so many are asked for at once, at 10 us each; what is
/// more follows with COMMIT.
constexpr std::size_t conntrack_changes_max = 64;
/// Addresses of the source's host that the guest may have as a router.
constexpr std::size_t conntrack_gateways_max = 64;
/// Kinds of reasons that a report names.
constexpr std::size_t conntrack_reasons_max = 8;
/// The guest agent's answer to what it need not wait for. An idle one takes a millisecond, one on a
/// host that is full a second.
constexpr seconds agent_timeout{5};
/// Its answer to a freeze: the guest first writes out all that it has dirty.
constexpr seconds agent_freeze_timeout{10};
/// How long a round tries to thaw the guest before it goes on, and tries again beside it.
constexpr seconds agent_thaw_patience{10};
constexpr seconds agent_thaw_interval{2};
/// A sidecar that has not thawed the guest by then hangs, and the watchdog does it: all that may
/// take at most, and a second.
constexpr seconds agent_watchdog_limit = agent_freeze_timeout + storage::limits::quiescence_max +
                                         agent_thaw_patience + agent_timeout + seconds{1};
/// Bytes of what a source says of why a point is not file-system-consistent.
constexpr std::size_t consistency_reason_bytes_max = 512;
/// Our file of what was launched or prepared.
constexpr std::size_t manifest_bytes_max = 1024 * 1024;

}  // namespace sidecar::limits
