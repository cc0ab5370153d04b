// Every wait, queue and size of the program, with its unit and the reason for it.
#pragma once

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>

#include "core/port_range.hpp"
#include "storage/limits.hpp"

namespace sidecar::limits {

using std::chrono::milliseconds;
using std::chrono::seconds;

/// One message between sidecars, or on a control socket. A command line with 100 disks is 50 KiB.
constexpr std::size_t message_bytes_max = 1024 * 1024;
/// Progress messages that a slow reader has not read yet. Above this, progress lines are dropped,
/// but never the result.
constexpr std::size_t queued_messages_max = 1024;
/// The interval of heartbeats on the peer channel, and the silence after which the peer counts as
/// lost. A host whose disk delays an fsync for seconds is not lost. While the guest is stopped the
/// limit is heartbeat_silence_paused().
constexpr milliseconds heartbeat_interval{250};
constexpr milliseconds heartbeat_silence{10000};
/// How much the source's sidecar lowers its priority below the guest while it only copies disks, in
/// nice values. With 10 it gets a tenth of a guest that wants a whole core. With 19 it would get a
/// hundredth, and guests could not be moved off a full host any more.
constexpr int copy_nice_steps = 10;
/// TCP and TLS set-up with the destination.
constexpr seconds connect_timeout{10};
/// One QMP command that is not slow.
constexpr seconds qmp_timeout{10};
/// How often a migration checks whether QEMU still answers; a query takes QEMU some 0.1 ms.
constexpr seconds qmp_look_interval{2};
/// The migration is given up after reconnecting to a lost monitor has failed for so long. A QEMU
/// whose main loop waits for a disk may be silent for a few seconds.
constexpr seconds qmp_silence_max{10};
/// One question to libvirt, by a process that is started for it. libvirtd itself waits up to 30 s
/// for another job of the domain.
constexpr seconds libvirt_timeout{20};
/// A sidecar whose QEMU has ended goes within so long.
constexpr seconds ending_sidecar_timeout{5};
/// `migrate` waits no longer than this for a rollback; the sidecar continues it.
constexpr seconds rollback_patience{60};
/// The TCP ports on which the QEMUs that wait for a guest receive disks and RAM, each on two.
/// Beside 4790, the port of `serve`.
constexpr core::PortRange data_ports_default{4800, 4899};
/// A connection to one of them, which is tried during the check. A firewall may drop its packets.
constexpr seconds data_port_timeout{5};
/// The destination's answer to `check`: it starts QEMU's binary to ask for its machine types.
constexpr seconds check_timeout{30};
/// Destination: creating disks and starting QEMU.
constexpr seconds prepare_timeout{60};
/// A part of prepare_timeout: how long devices are made to read as zeroes before the copy begins.
/// The source writes the other zeroes.
constexpr seconds zero_device_timeout{15};
/// As many as the disks of a guest.
constexpr std::size_t disk_targets_max = 64;
/// One run of `serve --disk-command`: a logical volume is made in a second. It prints one path.
constexpr seconds disk_command_timeout{20};
constexpr std::size_t disk_command_bytes_max = 8192;
/// The name of a disk that becomes a word of that command, and perhaps the name of a volume.
constexpr std::size_t disk_name_bytes_max = 64;
/// How often the copying phase checks whether devices or images of the guest were added or removed.
constexpr seconds guest_look_interval{2};
/// --downtime-limit: the pause of a migration that does not commit is never longer (I3). The
/// minimum is the time that a host needs to react; with more than a minute the migration would
/// not be live.
constexpr int downtime_limit_default_ms = 1000;
constexpr int downtime_limit_min_ms = 20;
constexpr int downtime_limit_max_ms = 60000;
/// The part of the downtime limit, in percent, that the last delta of the disks and of RAM
/// together may take by prediction. The rest is for the unpredictable: device state, the
/// records, a busy host. (Guests under TCG on a busy host of two cores were stopped for 469 ms
/// when 300 were planned.)
constexpr int downtime_planned_percent = 30;
/// The minimum part of the planned downtime, in percent, that the disks leave to RAM.
constexpr int downtime_ram_percent_min = 10;
[[nodiscard]] constexpr milliseconds downtime_planned(milliseconds downtime_limit) {
    return downtime_limit * downtime_planned_percent / 100;
}
/// RAM's minimum part of the pause. QEMU counts in whole milliseconds; with 0 it would trust its
/// own estimate of dirty memory.
[[nodiscard]] constexpr milliseconds downtime_ram_min(milliseconds downtime_limit) {
    return std::max(milliseconds{1},
                    downtime_planned(downtime_limit) * downtime_ram_percent_min / 100);
}
/// The disks' maximum part of the pause.
[[nodiscard]] constexpr milliseconds downtime_disks(milliseconds downtime_limit) {
    return downtime_planned(downtime_limit) - downtime_ram_min(downtime_limit);
}
/// The silence after which the peer counts as lost while the guest is stopped. Short enough to
/// resume the guest within the limit, and at least three heartbeats.
[[nodiscard]] constexpr milliseconds heartbeat_silence_paused(milliseconds downtime_limit) {
    return std::clamp(downtime_limit * 3 / 4, 3 * heartbeat_interval, heartbeat_silence);
}
/// A step of the pause times out so long after the limit, so that the limit itself ends the pause
/// and reports it.
constexpr milliseconds downtime_step_margin{100};
/// The watchdog kills its sidecar so long after the limit. The sidecar enforces the limit itself,
/// so only a sidecar that hangs is killed.
constexpr milliseconds watchdog_margin{500};
/// How long a rollback asks for the frames that the destination caught. The guest is
/// resumed in parallel.
constexpr milliseconds return_frames_timeout{375};
/// --converge-limit: time of RAM pre-copy until STOP. A guest that dirties RAM faster than the link
/// can send it never converges. The minimum allows some passes over a small guest.
constexpr seconds converge_limit_default{600};
constexpr seconds converge_limit_min{10};
constexpr seconds converge_limit_max{86400};
/// --bandwidth and its parts, bytes per second: far above any link, far below an overflow.
constexpr std::int64_t bandwidth_max = 1'000'000'000'000'000;
/// An EVPN fabric accepts so many moves of a MAC address within so long (RFC 7432, 15.1).
constexpr std::ptrdiff_t mac_moves_max = 5;
constexpr seconds mac_moves_window{180};
/// How often a rollback announces the guest again in an EVPN fabric: once for what was under way,
/// and once more for what that met.
constexpr int evpn_claims_max = 2;
/// How long a rollback looks whether that is needed, within return_frames_timeout. FRR waits 50 ms
/// before it announces what it has learned, and other daemons need some more to follow.
constexpr milliseconds evpn_return_patience{200};
/// Other VTEPs that one migration notifies. Each needs a TLS session of the source.
constexpr std::size_t vteps_max = 64;
/// Timeout of a VTEP's answer at STOP: it sends a few netlink messages. Then the
/// request is repeated.
constexpr milliseconds vtep_answer_timeout{1000};
/// How long the source keeps notifying a VTEP that does not answer, and keeps catching the frames
/// that this VTEP sends to the guest's old place. Enough for a reconnect, and for one that loses
/// its first packets.
constexpr seconds vtep_patience{10};
/// A frame that tests whether two bridges are in one network arrives within this time, or is sent
/// again: it may meet an empty forwarding table, or a lossy line.
constexpr milliseconds adjacency_wait{250};
constexpr int adjacency_tries = 4;
/// The two ends of a new tunnel must have authenticated each other within this time, and the test
/// of the path between them may take as long. Some round trips, with lost packets repeated.
constexpr seconds anchor_established{8};
constexpr seconds anchor_path_test{8};
/// How long the far end of a probe stays: until its source has tested the path.
constexpr seconds anchor_probe_time = anchor_established + anchor_path_test + seconds{2};
/// A request to the `serve` of this host, which has no path to test.
constexpr seconds anchor_answer_timeout{10};
/// How long the source keeps asking an unreachable anchor to repoint itself, and keeps the frames
/// that still come to the guest's old place.
constexpr seconds anchor_patience{10};
/// How often `serve` counts the sessions of guests with a local address. Each is forgotten seconds
/// to minutes after its end, so the end of the last is known no more exactly.
constexpr seconds anchor_session_interval{10};
/// With --release-when-idle the anchor ends when no session through it was known for so long. Twice
/// the time after which a silent UDP session counts as ended, and the longest pause between two
/// router advertisements of a router with usual settings (RFC 4861 6.2.1).
constexpr seconds anchor_release_idle{600};
/// How often `serve` tries to make an anchor again whose bridge is not there yet after a boot.
constexpr seconds anchor_restore_interval{2};
/// Processes of this host that are connected to `serve` at the same time.
constexpr std::size_t local_connections_max = 64;
/// --dns-address: a guest has a few; twice as many must fit into one datagram.
constexpr std::size_t dns_addresses_max = 16;
/// --dns-ttl, in seconds. 0 would make every connection wait for the primary; after a week the old
/// address would be known for as long after the next move.
constexpr int dns_ttl_min_s = 1;
constexpr int dns_ttl_max_s = 604800;
/// The check of the name in the DNS: five exchanges, and two look-ups of names. One whose server is
/// silent takes six seconds.
constexpr seconds dns_check_timeout{20};
/// How long a change of the name in the DNS is tried after the move. It runs beside the source's
/// cleanup, and `migrate` waits for its end.
constexpr seconds dns_update_timeout{15};
/// One try to get the answer to COMMIT. The next try follows after a reconnect.
constexpr milliseconds commit_timeout{5000};
/// After this time in doubt the `migrate` command ends with status 4, and an operator must decide.
constexpr seconds doubt_patience{10};
/// An interrupted `migrate` that was too late to cancel waits so long for the outcome: the answer
/// to COMMIT, and the source's cleanup.
constexpr seconds outcome_patience{60};
/// Undoing one thing: a new timeout for each, not stopped by a cancel.
constexpr seconds rollback_timeout{15};
/// How long rollback waits for an unreachable destination once the guest runs on the source: longer
/// than a reconnect takes, but short for an operator who waits for the command to end.
constexpr seconds abort_patience{5};
/// The pause before a failed action is tried again; doubles up to the maximum.
constexpr milliseconds retry_pause_min{50};
constexpr milliseconds retry_pause_max{2000};
/// How often the destination is asked for one hash if the link fails meanwhile.
constexpr int hash_tries_max = 3;
/// How long the source waits for a lost peer before RAM is sent: the default of --link-timeout.
constexpr seconds peer_patience{30};
constexpr int link_timeout_min_s = 1;
constexpr int link_timeout_most_s = 3600;
/// How long a suspended copy waits for `migrate --resume`; then it is undone. Until then its blocks
/// stay dirty, and the destination's disks take space.
constexpr seconds suspended_patience{600};
/// The destination gives up (ABORTED) if the source is silent for so long before COMMIT.
constexpr seconds destination_patience{60};
/// The same while only disks are copied: the source may be waiting for `migrate --resume`.
constexpr seconds destination_patience_copying = suspended_patience + destination_patience;
/// How often a QEMU that dies while its disks are copied is started again.
constexpr unsigned qemu_restarts_max = 3;
/// How much one step of the throttle reduces a disk's write rate, in percent. Small, because a
/// guest should not be slowed more than its migration needs.
constexpr int throttle_step_percent = 25;
/// The lowest write rate of a throttled disk, as a part of its earlier rate, in percent, and in
/// bytes per second. A guest that still does not converge is not moved.
constexpr int throttle_floor_percent = 10;
constexpr std::uint64_t throttle_bytes_per_second_min = 64 * 1024;
/// Steps of the convergence that the report contains; later ones are left out.
constexpr std::size_t plan_steps_max = 64;
/// Bases of one disk, and images in its chain: far more than are used in practice.
constexpr std::size_t bases_max = 64;
constexpr std::size_t layers_max = 256;
/// Option ROMs and files of firmware of one guest: a PCI bus has 256 devices and functions.
constexpr std::size_t roms_max = 1024;
/// A file of firmware that is hashed. QEMU's flash has at most 8 MiB, unless asked for more.
constexpr std::uint64_t firmware_bytes_max = 64ULL << 20;
/// Throttle groups of one guest: one for each of its disks, and as many again.
constexpr std::size_t throttle_groups_max = 512;
/// A file is hashed on both hosts: a base of 10 TB at 150 MB/s takes so long.
constexpr std::chrono::hours file_hash_timeout{20};
/// The destination answers a request for a hash after at most so long, with its progress.
constexpr seconds file_hash_answer{3};
/// If the other host's hash makes no progress for so long, it counts as stuck.
constexpr seconds file_hash_patience{60};
/// Size of the parts of a file that are compared to find a difference, and of the block that is
/// then named, in bytes. One request takes well below a second.
constexpr std::size_t compared_part_bytes_max = 64 * 1024 * 1024;
constexpr std::size_t compared_block_bytes = 4096;
/// Files that a destination hashes or has hashed for one source: bases, and files that guests only
/// read.
constexpr std::size_t compared_files_max = 128;
/// Files of a guest that it only reads and that may be copied: CDs, seeds, a kernel. The rest must
/// be there.
constexpr std::size_t guest_files_max = 32;
/// One piece of such a file, in bytes, and how many are on their way at once, on a short and on a
/// long line. A heartbeat waits behind them: 4 MiB take 3.4 s at 10 Mbit/s.
constexpr std::size_t file_piece_bytes = 256 * 1024;
constexpr std::size_t file_pieces_near = 4;
constexpr std::size_t file_pieces_far = 16;
constexpr double far_rtt_ms = 8;
/// The destination gives up if no piece came for so long.
constexpr seconds file_patience{60};
/// All of a guest's files together: 10 TB at 150 MB/s take so long.
constexpr std::chrono::hours files_timeout{20};
/// The destination of a replication merges the blocks of one round into the images before the next
/// begins. A large round takes its disk this long.
constexpr std::chrono::hours fold_timeout{1};
/// The interval of replication rounds: the minimum is one where an fsync and two process starts are
/// no burden, the maximum is a day.
constexpr seconds replicate_every_min{1};
constexpr seconds replicate_every_max{86400};
/// Frames in one message between sidecars, in bytes. This size stays in the processor's cache while
/// the frames become a message and frames again. The destination also processes the first message
/// while the source makes the next. COMMIT to RESUME took half as long as with 512 KiB.
constexpr std::size_t frames_bytes_max = 64 * 1024;
/// Frames in one answer to a rollback, in bytes. Each answer costs a round trip; as base64 this
/// size still fits message_bytes_max.
constexpr std::size_t frames_given_back_bytes_max = 512 * 1024;
/// A frame sent to the old place may still arrive there so long after the network was fired, plus
/// two round trips: the time that a busy bridge on the way delays it.
constexpr milliseconds arrival_margin{5};
/// How long the guest's old place must have been silent, and how long the source listens to it at
/// most. Frames on their way through bridges and over a long line arrive within that.
constexpr milliseconds straggler_silence{200};
/// How long no late frame must have come before frames that take the new way pass a gate that waits
/// for that: senders of a thousand packets per second are told apart from those that have stopped.
constexpr milliseconds late_silence{5};
/// How long such a gate is closed after `cont` at most. FRR and BIRD need 70 ms.
constexpr milliseconds gate_patience{200};
constexpr seconds straggler_patience{5};
/// How long the source keeps its routes to a guest that has moved, if the routers have not told it
/// of new ones; and how often it looks. Well within straggler_patience: frames are forwarded
/// until after the routes are gone.
constexpr seconds routers_patience{3};
constexpr milliseconds routers_poll{5};
/// Timeout of QEMU's answer about a queue, in the pause and in parallel with other work: two
/// commands of 0.2 ms each.
constexpr milliseconds queue_answer{200};
/// How long a destination that owns the guest waits for frames that the source said it had sent.
/// They precede COMMIT in the same stream, so normally it does not wait.
constexpr milliseconds frames_patience{500};
/// How long a destination that is to be undone keeps its taps for the source to fetch the frames.
constexpr milliseconds give_back_patience{500};
/// Answers to `return_frames` that a rollback requests at most: all that two NICs may have caught.
constexpr int give_back_answers_max = 256;
/// Reading and sending the tracked connections of a guest before STOP: 10,000 take some 100 ms.
constexpr seconds conntrack_patience{3};
/// One more dump of them while the guest is stopped, if the kernel did not report all changes.
constexpr milliseconds conntrack_pause_max{200};
/// How many of the connections that changed meanwhile are requested at once, at 10 us each. The
/// rest follows with COMMIT.
constexpr std::size_t conntrack_changes_max = 64;
/// Addresses of the source's host that the guest may use as its router.
constexpr std::size_t conntrack_gateways_max = 64;
/// Kinds of reasons that a report names.
constexpr std::size_t conntrack_reasons_max = 8;
/// The guest agent's answer to a request that needs no waiting. An idle agent takes a millisecond,
/// one on a full host a second.
constexpr seconds agent_timeout{5};
/// The agent's answer to a freeze: the guest first writes out all its dirty data.
constexpr seconds agent_freeze_timeout{10};
/// How long a round tries to thaw the guest before it continues; it then retries in parallel.
constexpr seconds agent_thaw_patience{10};
constexpr seconds agent_thaw_interval{2};
/// The watchdog thaws the guest if its sidecar has not done so by then: the maximum of all the
/// steps, plus a second.
constexpr seconds agent_watchdog_limit = agent_freeze_timeout + storage::limits::quiescence_max +
                                         agent_thaw_patience + agent_timeout + seconds{1};
/// Bytes of the source's explanation why a point is not file-system-consistent.
constexpr std::size_t consistency_reason_bytes_max = 512;
/// Size of our file that describes a launched or prepared guest.
constexpr std::size_t manifest_bytes_max = 1024 * 1024;

}  // namespace sidecar::limits
