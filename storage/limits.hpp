// Every limit of storage/, with its unit and its reason. Nothing in this room waits, retries,
// queues or allocates beyond one of these.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>

namespace storage::limits {

using std::chrono::milliseconds;
using std::chrono::seconds;

/// Bytes: granularity of our dirty bitmaps. QEMU's default of 64 KiB costs 16 times the bytes for 4
/// KiB writes.
inline constexpr std::uint64_t bitmap_granularity_bytes = 4096;
/// Bytes of one read or write. Writes to one file take turns in the kernel, and a writer
/// that waits spins: 512 KiB costs 10 to 20 % less processor time than nbdcopy's 256 KiB, 1 MiB no
/// less; QEMU refuses more than 32 MiB.
inline constexpr std::size_t request_bytes_max = 512 * 1024;
/// Bytes of one WRITE_ZEROES. Large because nothing travels; below 2^32 because libnbd 1.14 has
/// 32-bit lengths; bounded because a file system without FALLOC_FL_ZERO_RANGE works through all of
/// it in one request.
inline constexpr std::uint64_t zero_request_bytes_max = 64 * 1024 * 1024;
/// Bytes of one piece in which a device is made to read as zeroes: the kernel does not interrupt
/// one, and a device that writes them does 100 MB in a second.
inline constexpr std::uint64_t zero_device_piece_bytes = 256 * 1024 * 1024;
/// Bytes asked of one BLOCK_STATUS: libnbd 1.14 has 32-bit lengths; a multiple of every
/// granularity.
inline constexpr std::uint64_t block_status_bytes_max = 1024 * 1024 * 1024;
/// BLOCK_STATUS requests in flight for one disk: QEMU serves 16 of one connection at once.
inline constexpr std::size_t block_status_in_flight_max = 8;
/// Bytes in flight of all disks together: read and not yet acknowledged by the destination.
inline constexpr std::size_t in_flight_bytes_max = 64 * 1024 * 1024;
/// Bytes in flight on a link without delay: more only pushes the data out of the caches (measured:
/// 4 to 16 MiB copy 10 % faster than 64).
inline constexpr std::size_t in_flight_bytes_local = 8 * 1024 * 1024;
/// What a round trip adds to that: enough to keep a link of this rate busy.
inline constexpr double in_flight_bytes_per_second = 2.5e9;
/// Bytes: memory of buffers begins and ends at multiples of it, as O_DIRECT wants on every disk.
inline constexpr std::size_t buffer_alignment_bytes = 4096;
/// Requests in flight of all disks together: bounds coroutine frames; 2048 x 4 KiB at 50 ms are 160
/// MB/s.
inline constexpr std::size_t in_flight_requests_max = 2048;
/// Requests libnbd may hold for one connection (its own queue has no bound).
inline constexpr std::size_t requests_per_connection_max = 512;
/// Connections to one export. QEMU serves an export in one thread, so more help only over a long
/// RTT.
inline constexpr unsigned connections_max = 16;
inline constexpr unsigned connections_default = 4;
/// From this round trip on there are connections_max of them: each has a window of its own, and one
/// that waits for a lost packet holds only its own requests up.
inline constexpr milliseconds long_round_trip{8};
/// Zero bytes in a row, inside data, that are worth a WRITE_ZEROES of their own: it punches a hole,
/// which costs the file system more than writing a few blocks.
inline constexpr std::size_t zero_run_bytes_min = 32 * 1024;
/// Bytes: dirty runs from this length on are looked up in base:allocation, so that a discarded
/// gigabyte is not read as zeroes. Below it reading is cheaper than asking.
inline constexpr std::uint64_t allocation_lookup_bytes_min = 1024 * 1024;

/// Disks of one guest. More than QEMU guests have in practice; bounds the connections.
inline constexpr std::size_t disks_max = 64;
/// Characters of an migration_id: QEMU's bitmap names may have 1023, its node names 31, NBD export
/// names 4096.
inline constexpr std::size_t epoch_characters_max = 64;
/// Rounds before copy_until_converged() gives its verdict, however it goes.
inline constexpr unsigned rounds_max = 64;
/// How often what the bulk pass has copied is flushed, where it would else be lost with the
/// destination's QEMU: so much may have to be copied twice.
inline constexpr seconds bulk_flush_interval{5};
/// A round "shrank" when its delta is at most this share of the one before, in percent.
inline constexpr std::uint64_t shrink_percent = 80;
/// Rounds in a row that did not shrink before the delta is called not converging.
inline constexpr unsigned stagnant_rounds_max = 3;
/// Bytes of delta below which another round would only stall the guest for its transaction (about 1
/// ms).
inline constexpr std::uint64_t delta_small_bytes = 256 * 1024;
/// Bytes of extents kept in memory for one disk's round: 1 Mi extents of 24 bytes. Beyond it runs
/// are merged.
inline constexpr std::size_t extents_max = 1024 * 1024;

/// Rounds that a disk remembers to know its hot blocks: seen dirty in one of them and again now.
inline constexpr std::size_t heat_rounds_max = 3;
/// Extents remembered of each: 64 Ki extents of 24 bytes, so 4.5 MiB for one disk. What is beyond
/// is forgotten, and then counts as cold.
inline constexpr std::size_t heat_extents_max = 64 * 1024;
/// Percent of downtime_limit that the hot blocks may take in the last delta; with more of them
/// waiting would not leave room for what turns up in the last moment, so they are copied in the
/// rounds too.
inline constexpr int hot_budget_percent = 50;
/// How often a pass looks which blocks ahead of it are dirty again already.
inline constexpr milliseconds dirty_look_interval{250};
/// What one more request costs: a dirty run is left out of a pass when sending it takes longer.
inline constexpr std::chrono::microseconds request_cost{20};

/// keep_converged() begins a round when copying the delta would take longer than this: what
/// copy_final() then costs beside its flush. Shorter would mean a transaction, which drains the
/// disks, all the time.
inline constexpr milliseconds final_copy_aim{4};
/// Once the stop is expected, keep_converged() makes a last round unless the delta takes less than
/// this,
inline constexpr std::chrono::microseconds settled_copy_aim{500};
/// and then no other until the delta takes longer than this: a round in flight costs the stop more.
inline constexpr milliseconds settled_copy_max{12};
/// One round of keep_converged(): after this the destination counts as broken.
inline constexpr seconds near_round{30};
/// Requests per second assumed until a round has measured it. Low, so that nothing is promised.
inline constexpr double requests_per_second_assumed = 20'000;
/// A pass of at least so many bytes measures the rate in bytes; one of at least so many requests,
/// of less than a quarter of request_bytes_max on average, measures the rate in requests.
inline constexpr std::uint64_t rate_bytes_min = 8 * 1024 * 1024;
inline constexpr std::uint64_t rate_requests_min = 16;
/// So does a round that took so long, on a link so slow that fewer bytes do: of at least one
/// request.
inline constexpr milliseconds rate_time_min{250};
/// Bytes per second assumed until a pass has told them. Low, so that nothing is promised.
inline constexpr double bytes_per_second_assumed = 10e6;
/// Span over which progress measures the rate.
inline constexpr milliseconds rate_window{3000};

/// Bytes of disk that one request for a hash covers: half a second of a slow disk, and enough of
/// them in flight keep the destination busy over any round trip.
inline constexpr std::uint64_t hash_request_bytes_max = 64 * 1024 * 1024;
/// Ranges in it: 64 KiB of JSON, an eighth of what a message may have.
inline constexpr std::size_t hash_request_ranges_max = 4096;
/// Requests that the source has in flight, for all disks together.
inline constexpr std::size_t hash_requests_in_flight = 4;
/// Requests that the destination works on at once: those, as many that the source has given up
/// waiting for, and as many again. More are refused.
inline constexpr std::size_t hash_requests_max = 12;
/// The answer to one request, reading included.
inline constexpr seconds hash_answer{60};
/// Connections with which the destination's sidecar reads one disk of its own QEMU.
inline constexpr unsigned hash_connections = 2;
/// How long a block of the source may differ from what was sent before a bitmap says why: as long
/// as the disk there may take for a write that was under way when the block was read. Looked for
/// again after each pause.
inline constexpr seconds write_patience{10};
inline constexpr milliseconds write_look_pause{20};
/// Blocks of a table (8 bytes each) that are hashed before others get their turn: about 1 ms.
inline constexpr std::size_t digest_turn_blocks = 1024 * 1024;

/// Bytes of one read of a base that is hashed: 1 to 4 ms of processor, then others have their turn.
inline constexpr std::size_t file_read_bytes = 1024 * 1024;
/// A hash is remembered only of a file that was last changed so long before it was read: clocks of
/// file systems tick in milliseconds, some in two seconds.
inline constexpr seconds file_settled{3};
/// Hashes that a host remembers, of 250 bytes each: more bases than hosts have in practice.
inline constexpr std::size_t hashes_remembered_max = 256;

/// Pause between two turns of the FLUSH loop: 20 ms of guest writes flush in a moment, and the disk
/// can breathe.
inline constexpr milliseconds flush_pause{20};
/// How often the FLUSH loop looks at the size of the delta.
inline constexpr milliseconds delta_check_pause{100};
/// Writes in flight when the copier is stopped get this long; then their connections are cut, for a
/// write that is neither acknowledged nor dead must never be followed by another one to the same
/// bytes.
inline constexpr milliseconds wind_down{1500};
/// One QMP command of ours. They run in QEMU's main loop and take about 1 ms; a drain waits for the
/// disk.
inline constexpr seconds qmp_command{30};
/// The one QMP command for which a guest's file systems are held frozen: without an answer by then
/// the round is given up, and its programs go on. It takes some ms.
inline constexpr seconds quiescence_max{5};
/// Connecting to an NBD server, handshake included.
inline constexpr seconds connect{10};
/// QEMU's answer after we connected to it: later than this, the connection may have stuck it in a
/// drain (see mirror_connect.cpp). Doubled with each attempt, for a machine that is just busy.
inline constexpr milliseconds newborn_answer{25};
inline constexpr unsigned newborn_attempts_max = 8;
/// The same in a round of a warm copy, which comes again when it is given up.
inline constexpr milliseconds newborn_answer_round{250};
/// The same where cutting the connection could kill QEMU: only when it would be lost anyway.
inline constexpr seconds newborn_answer_iothread{10};
/// A clean goodbye of one NBD connection; then it is closed without.
inline constexpr milliseconds disconnect{500};
/// Between tries to reach a destination whose connections were cut.
inline constexpr milliseconds link_retry_min{50};
inline constexpr milliseconds link_retry_max{1000};
/// TCP_USER_TIMEOUT of connections to the destination: unacknowledged this long, the link counts as
/// dead.
inline constexpr seconds link_dead{30};
/// qemu-img info or create: they touch only headers.
inline constexpr seconds qemu_img{30};
/// Bytes of qemu-img's output that are read.
inline constexpr std::size_t qemu_img_output_bytes_max = 4 * 1024 * 1024;

}  // namespace storage::limits
